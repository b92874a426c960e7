//! Conditions that must not change a result: the batch a row is in, the number of threads, the activation budget, a
//! checkpoint.

mod common;

use common::*;
use quintain_core::forest::Forest;
use quintain_core::kernels::Isa;
use quintain_core::model::{AdamW, Dtype, LogprobOptions, Model, Options, Targets};

const DTYPES: [Dtype; 2] = [Dtype::F32, Dtype::Bf16];

fn gradient_bits(model: &mut Model, batch: &Batch) -> Vec<(String, Vec<u32>)> {
    gradients(model, batch, 0.9).into_iter().map(|(name, values)| (name, bits(&values))).collect()
}

fn weight_bits(model: &Model) -> Vec<(String, Vec<u32>)> {
    model.parameter_names().map(|name| (name.to_string(), bits(&model.parameter(&name, None).unwrap().1))).collect()
}

fn settings() -> AdamW {
    AdamW { lr: 1e-2, weight_decay: 0.1, ..AdamW::default() }
}

#[test]
fn tree_and_separate_sequences_give_the_same_bits() {
    for isa in Isa::supported() {
        for dtype in DTYPES {
            let mut model = model(&runtime(isa, 2), QWEN3, options(dtype, true));
            let batch = Batch::new(model.config.vocab_size);
            let settings = LogprobOptions { temperature: 0.8, entropy: true, ..LogprobOptions::default() };
            let tree = model.logprobs(&batch.forest, &batch.targets(), settings, &quiet()).unwrap();
            for (i, (&position, &token)) in batch.position.iter().zip(&batch.token).enumerate() {
                let position = position as usize;
                let segments = batch.forest.segments();
                let segment = segments.iter().rposition(|s| s.start <= position).unwrap();
                let tokens: Vec<u32> = batch
                    .forest
                    .path(segment)
                    .iter()
                    .flat_map(|&s| {
                        batch.forest.tokens()[segments[s].start..segments[s].start + segments[s].len].to_vec()
                    })
                    .collect();
                let sequence = Forest::sequences(&[&tokens]).unwrap();
                let targets = Targets { position: &[batch.forest.positions()[position]], token: &[token] };
                let alone = model.logprobs(&sequence, &targets, settings, &quiet()).unwrap();
                assert_eq!(alone.logprobs[0].to_bits(), tree.logprobs[i].to_bits(), "{isa} {dtype:?} target {i}");
                assert_eq!(alone.entropy[0].to_bits(), tree.entropy[i].to_bits(), "{isa} {dtype:?} target {i}");
            }
        }
    }
}

#[test]
fn threads_change_no_bit() {
    for (dtype, lora) in [(Dtype::F32, false), (Dtype::F32, true), (Dtype::Bf16, false), (Dtype::Bf16, true)] {
        let run = |threads| {
            let mut model = model(&runtime(best(), threads), QWEN2, options(dtype, lora));
            let batch = Batch::new(model.config.vocab_size);
            let gradients = gradient_bits(&mut model, &batch);
            let report = model.step(None, settings()).unwrap();
            (gradients, report, weight_bits(&model))
        };
        let one = run(1);
        assert!(one.1.clipped && one.1.version > 0);
        assert_eq!(one, run(2));
        assert_eq!(one, run(3));
    }
}

/// Larger than any serial threshold, so that the parallel paths run too.
#[test]
fn threads_change_no_bit_of_a_larger_model() {
    let json = r#"{"vocab_size": 700, "hidden_size": 192, "intermediate_size": 500, "num_hidden_layers": 2,
        "num_attention_heads": 6, "num_key_value_heads": 3, "tie_word_embeddings": true}"#;
    let mut dice = Dice::new(8);
    let mut segments = vec![(0, 50, -1)];
    segments.extend((0..6).map(|i| (50 + i * 40, 40, 0)));
    let forest = Forest::new((0..290).map(|_| dice.below(700) as u32).collect(), &segments).unwrap();
    let position: Vec<u32> = (49..289).collect();
    let token: Vec<u32> = position.iter().map(|_| dice.below(700) as u32).collect();
    let dlogprob: Vec<f32> = position.iter().map(|_| dice.signed()).collect();
    let batch = Batch { forest, position, token, dentropy: vec![0.0; 240], dlogprob };
    for (dtype, lora) in [(Dtype::F32, true), (Dtype::Bf16, false)] {
        let run = |threads, activation_bytes| {
            let options = Options { activation_bytes, ..options(dtype, lora) };
            gradient_bits(&mut model(&runtime(best(), threads), json, options), &batch)
        };
        let one = run(1, 0);
        assert!(one == run(2, 1 << 30), "{dtype:?}");
        assert!(one == run(3, 1 << 30), "{dtype:?}");
    }
}

#[test]
fn the_activation_budget_changes_no_bit() {
    for json in [LLAMA_TIED, QWEN2, QWEN3] {
        for lora in [false, true] {
            let run = |activation_bytes| {
                let options = Options { activation_bytes, ..options(Dtype::F32, lora) };
                let mut model = model(&runtime(best(), 2), json, options);
                let batch = Batch::new(model.config.vocab_size);
                // Twice: the second pass runs in buffers that the first has left behind.
                gradient_bits(&mut model, &batch);
                gradient_bits(&mut model, &batch)
            };
            let large = run(1 << 30);
            assert_eq!(large, run(0));
            assert_eq!(large, run(30_000));
        }
    }
}

/// A loss is a sum over targets, so two micro-batches accumulate the gradient of one batch, up to the order of sums.
#[test]
fn micro_batches_accumulate_the_gradient_of_the_batch() {
    for (dtype, tolerance) in [(Dtype::F32, 2e-6), (Dtype::Bf16, 2e-2)] {
        let mut model = model(&runtime(best(), 2), QWEN3, options(dtype, false));
        let batch = Batch::new(model.config.vocab_size);
        let whole = gradients(&mut model, &batch, 1.0);
        model.zero_grad(None).unwrap();
        for half in 0..2 {
            let mut part = Batch::new(model.config.vocab_size);
            let keep: Vec<usize> = (0..part.position.len()).filter(|i| i % 2 == half).collect();
            part.position = keep.iter().map(|&i| batch.position[i]).collect();
            part.token = keep.iter().map(|&i| batch.token[i]).collect();
            part.dlogprob = keep.iter().map(|&i| batch.dlogprob[i]).collect();
            part.dentropy = keep.iter().map(|&i| batch.dentropy[i]).collect();
            gradients(&mut model, &part, 1.0);
        }
        for ((name, whole), (_, split)) in whole.iter().zip(&all_gradients(&model)) {
            let difference = norm(whole.iter().zip(split).map(|(a, b)| f64::from(a - b)));
            let size = norm(whole.iter().map(|&g| f64::from(g)));
            assert!(difference <= tolerance * size, "{dtype:?} {name}: {}", difference / size);
        }
    }
}

fn train(model: &mut Model, steps: usize) {
    let batch = Batch::new(model.config.vocab_size);
    for _ in 0..steps {
        gradients(model, &batch, 1.0);
        model.step(None, settings()).unwrap();
    }
}

#[test]
fn saved_loaded_and_continued_equals_uninterrupted() {
    for (dtype, lora) in [(Dtype::F32, false), (Dtype::F32, true), (Dtype::Bf16, false), (Dtype::Bf16, true)] {
        let dir = std::env::temp_dir().join(format!("quintain-resume-{}-{dtype:?}-{lora}", std::process::id()));
        let rt = runtime(best(), 2);
        let mut whole = model(&rt, QWEN2, options(dtype, lora));
        if lora {
            whole.save_base(&dir).unwrap();
        }
        train(&mut whole, 3);
        whole.save(&dir, None, true).unwrap();
        train(&mut whole, 2);

        let mut resumed = if lora {
            // The base holds biases and norms that no seed draws.
            Model::open(&rt, &dir, 1, options(dtype, lora)).unwrap()
        } else {
            Model::random(&rt, config(QWEN2), 99, options(dtype, lora)).unwrap()
        };
        resumed.load(&dir, None).unwrap();
        assert_eq!(resumed.steps(), 3);
        train(&mut resumed, 2);
        assert_eq!(weight_bits(&whole), weight_bits(&resumed));
        assert_eq!(whole.steps(), resumed.steps());
        std::fs::remove_dir_all(dir).unwrap();
    }
}

#[test]
fn equal_models_write_equal_files() {
    let dirs = [0, 1].map(|i| std::env::temp_dir().join(format!("quintain-bytes-{}-{i}", std::process::id())));
    for dir in &dirs {
        let mut model = model(&runtime(best(), 2), QWEN3, options(Dtype::F32, true));
        train(&mut model, 1);
        model.save(dir, None, true).unwrap();
        let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["adapter_config.json", "adapter_model.safetensors", "optimizer.safetensors"]);
    }
    for name in ["adapter_config.json", "adapter_model.safetensors", "optimizer.safetensors"] {
        assert_eq!(std::fs::read(dirs[0].join(name)).unwrap(), std::fs::read(dirs[1].join(name)).unwrap());
    }
    dirs.iter().for_each(|dir| std::fs::remove_dir_all(dir).unwrap());
}

#[test]
fn the_reference_policy_stays_while_the_policy_moves() {
    for lora in [false, true] {
        let mut model = model(&runtime(best(), 2), QWEN3, options(Dtype::F32, lora));
        let batch = Batch::new(model.config.vocab_size);
        let reference = LogprobOptions { reference: true, ..LogprobOptions::default() };
        if !lora {
            let early = model.logprobs(&batch.forest, &batch.targets(), reference, &quiet()).unwrap_err();
            assert_eq!(early.code(), "State");
        }
        model.freeze_reference();
        let before = model.logprobs(&batch.forest, &batch.targets(), reference, &quiet()).unwrap().logprobs;
        // A reference forward between a kept forward and its backward disturbs neither.
        let kept = model.logprobs(&batch.forest, &batch.targets(), keep(1.0), &quiet()).unwrap();
        model.logprobs(&batch.forest, &batch.targets(), reference, &quiet()).unwrap();
        model.backward(kept.id, &batch.dlogprob, Some(&batch.dentropy), &quiet()).unwrap();
        let disturbed = all_gradients(&model);
        model.zero_grad(None).unwrap();
        assert_eq!(disturbed, gradients(&mut model, &batch, 1.0));
        model.step(None, settings()).unwrap();
        let after = model.logprobs(&batch.forest, &batch.targets(), reference, &quiet()).unwrap().logprobs;
        assert_eq!(bits(&before), bits(&after));
        let policy = model.logprobs(&batch.forest, &batch.targets(), LogprobOptions::default(), &quiet()).unwrap();
        assert_ne!(policy.logprobs, after);
    }
}
