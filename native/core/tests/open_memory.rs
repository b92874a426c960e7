//! Opening a checkpoint takes the memory of its weights, not that and the file's.
//!
//! A test binary of its own: the peak of a process is what is measured.
#![cfg(target_os = "linux")]

use std::fs;

use quintain_core::config::ModelConfig;
use quintain_core::kernels::Runtime;
use quintain_core::model::{AdapterConfig, Dtype, LoraConfig, Model, Options};

/// A line of `/proc/self/status`, in bytes.
fn status(field: &str) -> usize {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// The embedding has 8192 x 512 weights, a layer 4 x 512² + 3 x 512 x 2048: 20.9 million, 84 MB as f32, in the file and in
/// memory. While a tensor is read, 4 MiB of it are resident, and a row as numbers; the rest of the slack is the allocator's.
/// With the whole file resident it would be 84 MB more, with one tensor twice 17 MB (the embedding).
#[test]
fn opening_does_not_double_memory() {
    const SLACK: usize = 12 << 20;
    let config = r#"{"vocab_size": 8192, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 4,
        "num_attention_heads": 8, "tie_word_embeddings": true, "max_position_embeddings": 64}"#;
    let dir = std::env::temp_dir().join(format!("quintain-open-memory-{}", std::process::id()));
    let rt = Runtime::new(Some(1), None).unwrap();
    // Nothing is freed before the end: an allocator that has memory left over would hide what is taken.
    let mut models = vec![Model::random(&rt, ModelConfig::from_json(config).unwrap(), 1, Options::default()).unwrap()];
    models[0].save(&dir, None, false).unwrap();
    let lora = LoraConfig { targets: vec!["q_proj".into()], ..LoraConfig::all(1, 1.0) };
    let adapter = Some(AdapterConfig::from(lora));
    for dtype in [Dtype::F32, Dtype::Bf16] {
        // The peak so far does not count: 5 sets it to what is resident now.
        fs::write("/proc/self/clear_refs", "5").unwrap();
        let before = status("VmRSS");
        let model =
            Model::open(&rt, &dir, 0, Options { dtype, adapter: adapter.clone(), ..Options::default() }).unwrap();
        let (weights, grown) = (model.memory().weights, status("VmHWM") - before);
        assert!(grown < weights + SLACK, "{dtype:?}: {grown} bytes for {weights} of weights");
        assert!(grown > weights / 2, "{dtype:?}: {grown} bytes for {weights} of weights: nothing was measured");
        models.push(model);
    }
    fs::remove_dir_all(dir).unwrap();
}
