//! Gradients of every kind of parameter against finite differences of an independent model in f64.

mod common;

use common::*;
use quintain_core::forest::Forest;
use quintain_core::kernels::Isa;
use quintain_core::model::{Dtype, LoraConfig, Model, Options};
use quintain_core::philox::philox;

/// f32 gradients may differ from the f64 slope by this share of the tensor's gradient norm.
const TOLERANCE: f64 = 3e-5;
const STEP: f64 = 1e-5;

/// Per tensor: the slope along a random direction through all of its entries, and along three single entries.
fn check(json: &str, lora: bool, temperature: f32, isa: Isa) {
    check_model(model(&runtime(isa, 2), json, options(Dtype::F32, lora)), temperature, None);
}

fn check_model(mut model: Model, temperature: f32, dropout: Option<Mask>) {
    let isa = model.rt.isa;
    // Rows of a mask are counted in the batch: with dropout they must be those of one sequence.
    let batch = if dropout.is_some() { sequence(&model) } else { Batch::new(model.config.vocab_size) };
    let mut mirror = Mirror::of(&model);
    mirror.dropout = dropout;
    let (logprobs, entropy) = mirror.logprobs(&batch, f64::from(temperature));
    let forward = model.logprobs(&batch.forest, &batch.targets(), keep(temperature), &quiet()).unwrap();
    model.backward(forward.id, &batch.dlogprob, Some(&batch.dentropy), &quiet()).unwrap();
    let gradients = all_gradients(&model);
    for (ours, theirs) in forward.logprobs.iter().zip(&logprobs).chain(forward.entropy.iter().zip(&entropy)) {
        assert!((f64::from(*ours) - theirs).abs() < 1e-4, "{isa} {ours} {theirs}");
    }
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

/// One sequence with a target everywhere.
fn sequence(model: &Model) -> Batch {
    let batch = Batch::new(model.config.vocab_size);
    let tokens = batch.forest.tokens()[..13].to_vec();
    Batch { forest: Forest::sequences(&[&tokens]).unwrap(), position: (0..13).collect(), ..batch }
}

/// The first training forward of the adapter `default` under seed 5, a quarter dropped: written from the definition.
fn quarter(layer: usize, product: usize, row: usize, column: usize) -> f64 {
    let stream = |name: &str, numbers: [u64; 3]| {
        let bytes = name.bytes().chain([0]).chain(numbers.into_iter().flat_map(u64::to_le_bytes));
        bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    };
    let stream = stream("default", [0; 3]) ^ stream("", [layer as u64, product as u64, 1]);
    let word = philox(5, stream, row as u32, column as u32 / 8)[column % 8 / 2];
    if word >> (16 * (column % 2)) & 0xffff < 16384 { 0.0 } else { 4.0 / 3.0 }
}

#[test]
fn adapters_that_differ_from_layer_to_layer_with_and_without_dropout() {
    let entries = ["layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj", "o_proj", "layers.0.mlp.down_proj"];
    let targets = |entries: &[&str]| entries.iter().map(|entry| entry.to_string()).collect::<Vec<_>>();
    for (dropout, mask) in [(0.0, None), (0.25, Some(quarter as Mask))] {
        for (targets, activation_bytes) in [
            (targets(&entries), 1 << 20),
            (targets(&entries), 0),
            // Below the lowest adapter nothing is computed backward.
            (targets(&["layers.1.mlp.gate_proj", "layers.1.self_attn.k_proj"]), 1 << 20),
            (targets(&["all-linear"]), 0),
        ] {
            let lora = LoraConfig { targets, dropout, rs_lora: true, ..LoraConfig::all(3, 5.0) };
            let options = Options { adapter: Some(lora.into()), activation_bytes, ..Options::default() };
            for (json, isa) in [(QWEN2, Isa::Reference), (LLAMA_TIED, best())] {
                check_model(model(&runtime(isa, 2), json, options.clone()), 1.2, mask);
            }
        }
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
