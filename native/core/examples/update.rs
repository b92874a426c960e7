//! Times one policy update of a SmolLM2-135M-shaped random model: LoRA rank 16 on all linear layers, 2 prompts of 128
//! tokens with 8 completions of 64 each. `cargo run --release --example update [f32|bf16] [lora|full] [activation MiB]`

use std::time::Instant;

use quintain_core::config::ModelConfig;
use quintain_core::error::Result;
use quintain_core::forest::Forest;
use quintain_core::kernels::Runtime;
use quintain_core::model::{AbortFlag, AdamW, Dtype, LogprobOptions, LoraConfig, Model, Options, Targets};

const SMOLLM2: &str = r#"{"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192, "rope_theta": 100000,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": true}"#;
const TINY: &str = r#"{"vocab_size": 16, "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2,
    "num_attention_heads": 4}"#;

/// Peak resident memory in MB, where the system tells.
fn peak_mb() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<usize>().ok()).unwrap_or(0) / 1024
}

/// Time that all threads have computed: on a machine that is not idle, what to compare.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Prompts with their completions; every completion token is a target.
fn batch(
    prompts: u32,
    prompt: u32,
    completions: u32,
    completion: u32,
    vocab: u32,
) -> Result<(Forest, Vec<u32>, Vec<u32>)> {
    let (mut segments, mut tokens) = (Vec::new(), Vec::new());
    let (mut positions, mut targets) = (Vec::new(), Vec::new());
    let next = |tokens: &mut Vec<u32>| {
        let token = (tokens.len() as u32).wrapping_mul(2_654_435_761) % vocab;
        tokens.push(token);
        token
    };
    for _ in 0..prompts {
        let parent = segments.len() as i32;
        let start = tokens.len() as u32;
        segments.push((start, prompt, -1));
        (0..prompt).for_each(|_| _ = next(&mut tokens));
        for _ in 0..completions {
            let first = tokens.len() as u32;
            segments.push((first, completion, parent));
            for i in 0..completion {
                positions.push(if i == 0 { start + prompt - 1 } else { first + i - 1 });
                targets.push(next(&mut tokens));
            }
        }
    }
    Ok((Forest::new(tokens, &segments)?, positions, targets))
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    let dtype = if has("bf16") { Dtype::Bf16 } else { Dtype::F32 };
    let adapter = (!has("full")).then(|| LoraConfig::all(16, 32.0).into());
    let mib = arguments.iter().find_map(|argument| argument.parse::<usize>().ok()).unwrap_or(768);
    let options = Options { dtype, adapter, activation_bytes: mib << 20, ..Options::default() };
    let rt = Runtime::new(None, None)?;
    let (config, rounds) = if has("tiny") { (TINY, 200) } else { (SMOLLM2, 3) };
    let config = ModelConfig::from_json(config)?;
    let (forest, position, token) =
        if has("tiny") { batch(10, 2, 8, 3, 16)? } else { batch(2, 128, 8, 64, config.vocab_size as u32)? };
    println!("{} x {} threads, {dtype:?}, {} tokens, {} targets", rt.isa, rt.threads, forest.len(), token.len());
    let mut model = Model::random(&rt, config, 1, options)?;
    println!("weights made, peak {} MB", peak_mb());
    let gradient: Vec<f32> = (0..token.len()).map(|i| if i % 3 == 0 { -1e-3 } else { 2e-3 }).collect();
    let abort = AbortFlag::default();
    let keep = LogprobOptions { keep: true, ..LogprobOptions::default() };
    let mut best = [f64::MAX; 4];
    let mut busy = f64::MAX;
    for _ in 0..rounds {
        let mut marks = [0.0; 4];
        let (start, cpu) = (Instant::now(), cpu_seconds());
        let forward = model.logprobs(&forest, &Targets { position: &position, token: &token }, keep, &abort)?;
        marks[0] = start.elapsed().as_secs_f64();
        model.backward(forward.id, &gradient, None, &abort)?;
        marks[1] = start.elapsed().as_secs_f64() - marks[0];
        model.step(None, AdamW { lr: 1e-5, ..AdamW::default() })?;
        marks[3] = start.elapsed().as_secs_f64();
        marks[2] = marks[3] - marks[1] - marks[0];
        busy = busy.min(cpu_seconds() - cpu);
        best.iter_mut().zip(marks).for_each(|(best, mark)| *best = best.min(mark));
    }
    let [logprobs, backward, step, update] = best.map(|seconds| seconds * 1e3);
    println!("best of {rounds}: logprobs {logprobs:.2} ms, backward {backward:.2} ms, step {step:.2} ms");
    println!("update {update:.2} ms ({:.2} ms of all threads' time), peak {} MB", busy * 1e3, peak_mb());
    println!("{:#?}", model.memory());
    Ok(())
}
