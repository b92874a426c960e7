//! The contract of the model: what it refuses, how it starts, what a step does.

mod common;

use std::sync::atomic::Ordering;

use common::*;
use quintain_core::error::Error;
use quintain_core::model::{AdamW, Dtype, LogprobOptions, LoraConfig, Model, Options, Targets};

fn small() -> Model {
    model(&runtime(best(), 1), LLAMA_TIED, options(Dtype::F32, true))
}

#[test]
fn starts_as_transformers_and_peft_do() {
    let json = r#"{"vocab_size": 500, "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2,
        "num_attention_heads": 4, "model_type": "qwen2"}"#;
    let adapter = Some(LoraConfig::all(8, 16.0).into());
    let model = Model::random(&runtime(best(), 2), config(json), 7, Options { adapter, ..Options::default() }).unwrap();
    let plain = Model::random(&runtime(best(), 1), config(json), 7, Options::default()).unwrap();
    for name in model.parameter_names() {
        let (shape, values) = model.parameter(&name, None).unwrap();
        assert_eq!(shape.iter().product::<usize>(), values.len());
        let count = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
        let deviation = norm(values.iter().map(|&v| f64::from(v) - mean)) / count.sqrt();
        if name.contains("norm") {
            assert!(values.iter().all(|&v| v == 1.0), "{name}");
        } else if name.contains("bias") || name.contains("lora_B") {
            assert!(values.iter().all(|&v| v == 0.0), "{name}");
        } else if name.contains("lora_A") {
            let bound = 1.0 / (shape[1] as f64).sqrt();
            assert!(values.iter().all(|&v| f64::from(v.abs()) <= bound), "{name}");
            assert!((deviation / (bound / 3f64.sqrt()) - 1.0).abs() < 0.1, "{name} {deviation}");
        } else {
            assert!((deviation / 0.02 - 1.0).abs() < 0.05 && mean.abs() < 0.001, "{name} {mean} {deviation}");
            assert_eq!(values, plain.parameter(&name, None).unwrap().1, "adapters do not change the base");
        }
    }
}

#[test]
fn a_step_is_adamw() {
    let mut model = model(&runtime(best(), 2), QWEN2, options(Dtype::F32, false));
    let batch = Batch::new(model.config.vocab_size);
    let settings = AdamW { lr: 0.01, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, max_grad_norm: Some(0.5) };
    let names = ["model.layers.1.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight"];
    let mut expected: Vec<(Vec<f64>, Vec<f64>, Vec<f64>)> = names
        .iter()
        .map(|name| {
            let values: Vec<f64> = model.parameter(name, None).unwrap().1.iter().map(|&v| f64::from(v)).collect();
            (values.clone(), vec![0.0; values.len()], vec![0.0; values.len()])
        })
        .collect();
    for step in 1..=3 {
        let gradients = gradients(&mut model, &batch, 1.0);
        let total = norm(gradients.iter().flat_map(|(_, g)| g.iter().map(|&g| f64::from(g))));
        let report = model.step(None, settings).unwrap();
        assert!((report.grad_norm / total - 1.0).abs() < 1e-9 && report.clipped && !report.skipped);
        for (name, (values, first, second)) in names.iter().zip(&mut expected) {
            let gradient = &gradients.iter().find(|(n, _)| n == name).unwrap().1;
            let decay = if name.contains("norm") { 0.0 } else { 0.1 };
            for i in 0..values.len() {
                let g = f64::from(gradient[i]) * 0.5 / (total + 1e-6);
                first[i] = 0.9 * first[i] + 0.1 * g;
                second[i] = 0.95 * second[i] + 0.05 * g * g;
                let (m, v) = (first[i] / (1.0 - 0.9f64.powi(step)), second[i] / (1.0 - 0.95f64.powi(step)));
                values[i] -= 0.01 * decay * values[i] + 0.01 * m / (v.sqrt() + 1e-8);
            }
            for (ours, theirs) in model.parameter(name, None).unwrap().1.iter().zip(values.iter()) {
                assert!((f64::from(*ours) - theirs).abs() < 2e-5, "{name}: {ours} {theirs}");
            }
        }
        assert!(model.gradient(names[0], None).unwrap().iter().all(|&g| g == 0.0));
    }
}

#[test]
fn a_non_finite_gradient_skips_the_step() {
    let mut model = small();
    let batch = Batch::new(model.config.vocab_size);
    let name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    let before = model.parameter(name, None).unwrap().1;
    let forward = model.logprobs(&batch.forest, &batch.targets(), keep(1.0), &quiet()).unwrap();
    let huge = vec![f32::MAX; batch.dlogprob.len()];
    model.backward(forward.id, &huge, None, &quiet()).unwrap();
    let version = model.version();
    let report = model.step(None, AdamW::default()).unwrap();
    assert!(report.skipped && !report.grad_norm.is_finite() && report.version == version);
    assert_eq!(model.parameter(name, None).unwrap().1, before);
    assert_eq!(model.step(None, AdamW::default()).unwrap_err().code(), "State", "its gradients are gone");
}

#[test]
fn calls_out_of_turn_are_refused() {
    let mut model = small();
    let batch = Batch::new(model.config.vocab_size);
    let run = |model: &mut Model| model.logprobs(&batch.forest, &batch.targets(), keep(1.0), &quiet()).unwrap().id;
    let code = |result: Result<(), Error>| result.unwrap_err().code();
    assert_eq!(model.step(None, AdamW::default()).unwrap_err().code(), "State");
    let (first, second) = (run(&mut model), run(&mut model));
    assert_eq!(code(model.backward(first, &batch.dlogprob, None, &quiet())), "State");
    assert_eq!(code(model.backward(second, &batch.dlogprob[1..], None, &quiet())), "Shape");
    let mut poisoned = batch.dlogprob.clone();
    poisoned[2] = f32::NAN;
    assert_eq!(code(model.backward(second, &poisoned, None, &quiet())), "NonFinite");
    model.backward(second, &batch.dlogprob, None, &quiet()).unwrap();
    assert_eq!(code(model.backward(second, &batch.dlogprob, None, &quiet())), "State");
    let third = run(&mut model);
    model.step(None, AdamW::default()).unwrap();
    assert_eq!(code(model.backward(third, &batch.dlogprob, None, &quiet())), "State", "weights have moved");
}

#[test]
fn bad_arguments_are_refused() {
    let mut model = small();
    let batch = Batch::new(model.config.vocab_size);
    let mut code = |position: &[u32], token: &[u32], options: LogprobOptions| {
        model.logprobs(&batch.forest, &Targets { position, token }, options, &quiet()).map_err(|e| e.code()).err()
    };
    let plain = LogprobOptions::default();
    assert_eq!(code(&[], &[], plain), None);
    assert_eq!(code(&[24], &[0], plain), Some("Shape"));
    assert_eq!(code(&[0], &[23], plain), Some("Shape"));
    assert_eq!(code(&[0, 1], &[0], plain), Some("Shape"));
    assert_eq!(code(&[0], &[0], LogprobOptions { temperature: 0.0, ..plain }), Some("Config"));
    assert_eq!(code(&[0], &[0], LogprobOptions { keep: true, reference: true, ..plain }), Some("State"));
    assert!(AdamW { eps: 0.0, ..AdamW::default() }.validate().is_err());
    assert!(AdamW { lr: f32::NAN, ..AdamW::default() }.validate().is_err());
    for lora in [
        LoraConfig { rank: 0, ..LoraConfig::all(1, 1.0) },
        LoraConfig { targets: vec!["lm_head".into()], ..LoraConfig::all(1, 1.0) },
        LoraConfig { targets: vec![], ..LoraConfig::all(1, 1.0) },
    ] {
        let options = Options { adapter: Some(lora.into()), ..Options::default() };
        assert_eq!(Model::random(&runtime(best(), 1), config(QWEN2), 0, options).err().unwrap().code(), "Config");
    }
}

#[test]
fn an_abort_ends_a_call_and_leaves_a_usable_model() {
    let mut model = small();
    let batch = Batch::new(model.config.vocab_size);
    let calm = gradients(&mut model, &batch, 1.0);
    let forward = model.logprobs(&batch.forest, &batch.targets(), keep(1.0), &quiet()).unwrap();
    let abort = quiet();
    abort.store(true, Ordering::Relaxed);
    let error = model.backward(forward.id, &batch.dlogprob, None, &abort).unwrap_err();
    assert_eq!(error.code(), "Aborted");
    assert_eq!(model.logprobs(&batch.forest, &batch.targets(), keep(1.0), &abort).unwrap_err().code(), "Aborted");
    assert_eq!(gradients(&mut model, &batch, 1.0), calm, "the aborted pass left no gradient");
}

#[test]
fn damaged_checkpoints_are_refused_and_change_nothing() {
    let dir = std::env::temp_dir().join(format!("quintain-damaged-{}", std::process::id()));
    let rt = runtime(best(), 1);
    let mut trained = model(&rt, QWEN3, options(Dtype::F32, false));
    gradients(&mut trained, &Batch::new(40), 1.0);
    trained.step(None, AdamW::default()).unwrap();
    trained.save(&dir, None, true).unwrap();
    let weights = |model: &Model| model.parameter("model.norm.weight", None).unwrap().1;
    let mut other = model(&rt, QWEN3, options(Dtype::F32, false));
    let before = weights(&other);
    let (file, optimizer) = (dir.join("model.safetensors"), dir.join("optimizer.safetensors"));
    let (good, moments) = (std::fs::read(&file).unwrap(), std::fs::read(&optimizer).unwrap());
    let mut refused = |code: &str| {
        let error = other.load(&dir, None).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert_eq!(weights(&other), before);
    };
    for length in [0, 7, 100, good.len() - 1] {
        std::fs::write(&file, &good[..length]).unwrap();
        refused("Format");
    }
    std::fs::write(&file, &good).unwrap();
    std::fs::write(&optimizer, &moments[..moments.len() / 2]).unwrap();
    refused("Format");
    // Moments of another step than the weights.
    let later = dir.join("later");
    gradients(&mut trained, &Batch::new(40), 1.0);
    trained.step(None, AdamW::default()).unwrap();
    trained.save(&later, None, true).unwrap();
    std::fs::copy(later.join("optimizer.safetensors"), &optimizer).unwrap();
    refused("Format");
    std::fs::write(&optimizer, &moments).unwrap();
    other.load(&dir, None).unwrap();
    assert_ne!(weights(&other), before);
    let mut smaller = Model::random(&rt, config(QWEN2), 0, options(Dtype::F32, false)).unwrap();
    assert_eq!(smaller.load(&dir, None).unwrap_err().code(), "Format");
    std::fs::remove_file(&file).unwrap();
    assert_eq!(other.load(&dir, None).unwrap_err().code(), "Io");
    std::fs::remove_dir_all(dir).unwrap();
}
