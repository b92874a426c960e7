//! The state of training by name: copied to another model, it is what a run of that model itself would have left.

mod common;

use std::fs;
use std::path::PathBuf;

use common::*;
use quintain_core::model::{AdamW, BASE, Counters, Dtype, LogprobOptions, LoraConfig, Model, Options};

fn train(model: &mut Model, adapter: &str) {
    let batch = Batch::new(model.config.vocab_size);
    let options = LogprobOptions { keep: true, adapter: Some(adapter), ..LogprobOptions::default() };
    let forward = model.logprobs(&batch.forest, &batch.targets(), options, &quiet()).unwrap();
    model.backward(forward.id, &batch.dlogprob, None, &quiet()).unwrap();
    model.step(Some(adapter), AdamW { lr: 0.05, ..AdamW::default() }).unwrap();
}

fn names(model: &Model, adapter: &str) -> Vec<String> {
    model.names_of(adapter).unwrap().map(String::from).collect()
}

/// The files of a save, by name.
fn saved(model: &Model, adapter: &str, name: &str) -> Vec<(String, Vec<u8>)> {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("store-{}-{adapter}-{name}", std::process::id()));
    model.save(&dir, Some(adapter), true).unwrap();
    let files = fs::read_dir(&dir).unwrap().map(|file| file.unwrap());
    let mut files: Vec<_> =
        files.map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap())).collect();
    files.sort();
    fs::remove_dir_all(dir).unwrap();
    files
}

fn copy(from: &Model, to: &mut Model, adapter: &str) {
    for name in names(from, adapter) {
        let values = from.parameter(&name, Some(adapter)).unwrap().1;
        to.set_parameter(&name, Some(adapter), &values).unwrap();
        let [first, second] = from.moments(&name, Some(adapter)).unwrap().unwrap();
        to.set_moments(&name, Some(adapter), [&first, &second]).unwrap();
    }
    to.set_counters(Some(adapter), from.counters(Some(adapter)).unwrap()).unwrap();
}

/// Saves of both are equal, and stay so after another step.
fn equal_runs(mut own: Model, mut copied: Model, adapter: &str) {
    assert_ne!(saved(&own, adapter, "own"), saved(&copied, adapter, "copied"));
    copy(&own, &mut copied, adapter);
    for _ in 0..2 {
        let (own_files, files) = (saved(&own, adapter, "own"), saved(&copied, adapter, "copied"));
        assert!(own_files.iter().any(|(name, _)| name == "optimizer.safetensors"));
        assert!(own_files == files, "{adapter}: the files differ");
        train(&mut own, adapter);
        train(&mut copied, adapter);
    }
}

#[test]
fn the_copied_state_of_a_base_is_saved_as_that_of_its_own_run() {
    for json in [LLAMA_TIED, QWEN2, QWEN3] {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let fresh = || model(&runtime(best(), 2), json, options(dtype, false));
            let mut own = fresh();
            (0..2).for_each(|_| train(&mut own, BASE));
            equal_runs(own, fresh(), BASE);
        }
    }
}

#[test]
fn so_is_that_of_each_adapter_by_its_name() {
    let some = ["layers.1.self_attn.q_proj", "up_proj"].map(String::from).to_vec();
    let fresh = || {
        let options = Options { dtype: Dtype::Bf16, frozen: true, ..Options::default() };
        let mut model = Model::random(&runtime(best(), 1), config(QWEN2), 5, options).unwrap();
        for name in ["default", "dropped"] {
            model.add_adapter(name, LoraConfig { dropout: 0.25, ..LoraConfig::all(3, 7.0) }).unwrap();
        }
        model.add_adapter("some", LoraConfig { targets: some.clone(), ..LoraConfig::all(5, 4.0) }).unwrap();
        model
    };
    for adapter in ["default", "dropped", "some"] {
        let mut own = fresh();
        (0..2).for_each(|_| train(&mut own, adapter));
        equal_runs(own, fresh(), adapter);
    }
}

#[test]
fn tensors_are_called_by_an_adapter_or_by_a_name_that_says_it() {
    let mut model = model(&runtime(best(), 1), LLAMA_TIED, options(Dtype::F32, true));
    model.add_adapter("other", LoraConfig { targets: vec!["o_proj".into()], ..LoraConfig::all(2, 4.0) }).unwrap();
    let all: Vec<String> = model.parameter_names().map(String::from).collect();
    let own = [BASE, "default", "other"].map(|adapter| names(&model, adapter));
    assert_eq!(own[2][0], "base_model.model.model.layers.0.self_attn.o_proj.lora_A.weight");
    assert_eq!(all.len(), own.iter().map(Vec::len).sum::<usize>());
    for (adapter, names) in [BASE, "default", "other"].into_iter().zip(&own) {
        for name in names {
            let whole = if adapter == "other" { name.replace(".weight", ".other.weight") } else { name.clone() };
            let (shape, values) = model.parameter(name, Some(adapter)).unwrap();
            assert_eq!(model.parameter(&whole, None).unwrap(), (shape, values.clone()), "{whole}");
            let changed: Vec<f32> = values.iter().map(|value| value + 1.0).collect();
            let others = model.parameter(&own[1][0], Some("default")).unwrap();
            let version = model.counters(Some(adapter)).unwrap().version;
            model.set_parameter(name, Some(adapter), &changed).unwrap();
            assert_eq!(model.parameter(&whole, None).unwrap().1, changed);
            assert!(model.counters(Some(adapter)).unwrap().version > version);
            if adapter == "other" {
                assert_eq!(model.parameter(&own[1][0], Some("default")).unwrap(), others);
            }
        }
    }
    let refused = |name: &str, adapter| model.parameter(name, Some(adapter)).unwrap_err().to_string();
    assert!(refused(&own[2][0].replace(".weight", ".other.weight"), "other").contains("adapter `other` has no tensor"));
    assert!(refused(&own[1][0], BASE).contains("the base has no tensor"));
    assert!(refused(&own[0][0], "nobody").contains("there is no adapter `nobody`"));
}

#[test]
fn moments_and_counters_that_cannot_be_are_refused() {
    let mut model = model(&runtime(best(), 1), LLAMA_TIED, options(Dtype::F32, true));
    let (base, name) = (names(&model, BASE)[0].clone(), names(&model, "default")[0].clone());
    let (_, zeros) = model.parameter(&name, None).map(|(shape, values)| (shape, vec![0.0; values.len()])).unwrap();
    assert_eq!(model.moments(&name, None).unwrap(), None);
    assert_eq!(model.moments(&base, None).unwrap(), None);
    let mut code =
        |name: &str, first: &[f32], second: &[f32]| model.set_moments(name, None, [first, second]).unwrap_err().code();
    assert_eq!(code(&name, &zeros[1..], &zeros), "Shape");
    assert_eq!(code(&name, &zeros, &zeros[1..]), "Shape");
    assert_eq!(code(&base, &zeros, &zeros), "State");
    assert_eq!(code("nothing", &zeros, &zeros), "Shape");
    for bad in [f32::NAN, f32::INFINITY, -1.0] {
        let mut second = zeros.clone();
        second[1] = bad;
        assert_eq!(code(&name, &zeros, &second), "NonFinite");
    }
    assert_eq!(model.moments(&name, None).unwrap(), None, "nothing was changed");
    assert_eq!(model.set_counters(Some(BASE), Counters::default()).unwrap_err().code(), "State", "it is frozen");

    model.set_counters(None, Counters { steps: 4, version: 9, forwards: 0 }).unwrap();
    assert_eq!((model.steps(), model.version()), (4, 9));
    assert_eq!(
        model.moments(&name, None).unwrap(),
        Some([zeros.clone(), zeros.clone()]),
        "what is saved can be loaded"
    );
    model.set_counters(None, Counters { steps: 0, version: 3, forwards: 0 }).unwrap();
    assert_eq!((model.steps(), model.version(), model.moments(&name, None).unwrap()), (0, 3, None));
}

#[test]
fn a_base_counts_no_forwards() {
    let mut model = model(&runtime(best(), 1), LLAMA_TIED, options(Dtype::F32, false));
    let before = model.counters(None).unwrap();
    let error = model.set_counters(None, Counters { forwards: 1, ..before }).unwrap_err();
    assert_eq!((error.code(), model.counters(None).unwrap()), ("State", before));
}
