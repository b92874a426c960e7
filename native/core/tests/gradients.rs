//! Gradients of every kind of parameter against finite differences of an independent model in f64.

mod common;

use common::*;
use quintain_core::kernels::Isa;
use quintain_core::model::Dtype;

/// f32 gradients may differ from the f64 slope by this share of the tensor's gradient norm.
const TOLERANCE: f64 = 3e-5;
const STEP: f64 = 1e-5;

/// Per tensor: the slope along a random direction through all of its entries, and along three single entries.
fn check(json: &str, lora: bool, temperature: f32, isa: Isa) {
    let mut model = model(&runtime(isa, 2), json, options(Dtype::F32, lora));
    let batch = Batch::new(model.config.vocab_size);
    let mut mirror = Mirror::of(&model);
    let (logprobs, entropy) = mirror.logprobs(&batch, f64::from(temperature));
    let forward = model.logprobs(&batch.forest, &batch.targets(), keep(temperature), &quiet()).unwrap();
    for (ours, theirs) in forward.logprobs.iter().zip(&logprobs).chain(forward.entropy.iter().zip(&entropy)) {
        assert!((f64::from(*ours) - theirs).abs() < 1e-4, "{json} {ours} {theirs}");
    }
    let gradients = gradients(&mut model, &batch, temperature);
    assert!(!gradients.is_empty());
    let mut dice = Dice::new(1);
    for (name, gradient) in gradients {
        let size = norm(gradient.iter().map(|&g| f64::from(g)));
        assert!(size > 1e-3, "{name} has no gradient");
        let original = mirror.tensors[&name].clone();
        let mut directions = vec![original.iter().map(|_| f64::from(dice.signed())).collect::<Vec<_>>()];
        for _ in 0..3 {
            let mut one = vec![0.0; original.len()];
            one[dice.below(original.len())] = 1.0;
            directions.push(one);
        }
        for direction in directions {
            let mut at = |step: f64| {
                let moved = original.iter().zip(&direction).map(|(v, d)| v + step * d).collect();
                mirror.tensors.insert(name.clone(), moved);
                mirror.loss(&batch, f64::from(temperature))
            };
            let slope = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            let ours: f64 = gradient.iter().zip(&direction).map(|(&g, d)| f64::from(g) * d).sum();
            let scale = size * norm(direction.iter().copied());
            assert!(
                (slope - ours).abs() <= TOLERANCE * scale,
                "{isa} {name}: slope {slope}, gradient {ours}, scale {scale}"
            );
        }
        mirror.tensors.insert(name, original);
    }
}

#[test]
fn tied_llama() {
    check(LLAMA_TIED, false, 1.0, Isa::Reference);
    check(LLAMA_TIED, false, 0.7, best());
}

#[test]
fn untied_qwen2_with_biases() {
    check(QWEN2, false, 1.3, Isa::Reference);
    check(QWEN2, false, 1.0, best());
}

#[test]
fn qwen3_with_head_norms() {
    check(QWEN3, false, 0.8, Isa::Reference);
    check(QWEN3, false, 1.0, best());
}

#[test]
fn lora_factors() {
    for json in [LLAMA_TIED, QWEN2, QWEN3] {
        check(json, true, 1.0, Isa::Reference);
        check(json, true, 1.4, best());
    }
}

/// bf16 rounds weights and inputs of products to 8 bits: gradients keep their direction.
#[test]
fn bf16_gradients_point_the_same_way() {
    for (json, lora) in [(LLAMA_TIED, false), (LLAMA_TIED, true), (QWEN2, true), (QWEN3, false)] {
        let [exact, rounded] = [Dtype::F32, Dtype::Bf16].map(|dtype| {
            let mut model = model(&runtime(best(), 2), json, options(dtype, lora));
            let batch = Batch::new(model.config.vocab_size);
            gradients(&mut model, &batch, 1.0)
        });
        for ((name, exact), (_, rounded)) in exact.iter().zip(&rounded) {
            let difference = norm(exact.iter().zip(rounded).map(|(a, b)| f64::from(a - b)));
            let size = norm(exact.iter().map(|&g| f64::from(g)));
            assert!(difference < 0.06 * size, "{name}: {}", difference / size);
        }
    }
}

/// Every supported instruction set computes what the oracle does.
#[test]
fn every_isa_agrees_with_the_reference() {
    for json in [LLAMA_TIED, QWEN2, QWEN3] {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let run = |isa| {
                let mut model = model(&runtime(isa, 2), json, options(dtype, false));
                let batch = Batch::new(model.config.vocab_size);
                gradients(&mut model, &batch, 0.9)
            };
            let oracle = run(Isa::Reference);
            for isa in Isa::supported() {
                for ((name, a), (_, b)) in run(isa).iter().zip(&oracle) {
                    let difference = norm(a.iter().zip(b).map(|(a, b)| f64::from(a - b)));
                    // In bf16 a difference in the last place of a sum may round the next input the other way.
                    let tolerance = if dtype == Dtype::F32 { 1e-5 } else { 2e-2 };
                    let size = norm(b.iter().map(|&g| f64::from(g)));
                    assert!(difference <= tolerance * size, "{isa} {dtype:?} {name}: {}", difference / size);
                }
            }
        }
    }
}
