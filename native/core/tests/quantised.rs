//! Models whose base stays quantised: they compute what the same model computes whose base holds the blocks' values.

mod common;

use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Arc, RwLock};

use common::*;
use quintain_core::forest::Forest;
use quintain_core::kernels::{BlockKind, Isa, f16_from_f32};
use quintain_core::memory::Memory;
use quintain_core::model::{Blocks, Dtype, LogprobOptions, LoraConfig, Model, Options, Targets};
use quintain_core::sampler::{Choice, Options as SamplerOptions, Request, Sampler};

/// Every matrix in whole panels and blocks.
const FITS: &str = r#"{"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": true, "initializer_range": 0.3,
    "max_position_embeddings": 64}"#;
/// Neither the embedding and the head (rows) nor down (inputs) does.
const PARTLY: &str = r#"{"vocab_size": 90, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3, "max_position_embeddings": 64}"#;

fn with(dtype: Dtype, blocks: Option<Blocks>) -> Options {
    Options { blocks, ..options(dtype, true) }
}

/// Log-probabilities, then every gradient.
fn everything(model: &mut Model, vocab: usize) -> Vec<(String, Vec<u32>)> {
    let batch = Batch::new(vocab);
    let forward = model.logprobs(&batch.forest, &batch.targets(), keep(0.8), &quiet()).unwrap();
    let mut all = vec![("logprobs".into(), bits(&forward.logprobs)), ("entropy".into(), bits(&forward.entropy))];
    model.backward(forward.id, &batch.dlogprob, Some(&batch.dentropy), &quiet()).unwrap();
    let gradients = all_gradients(model);
    assert!(gradients.iter().all(|(name, _)| name.contains("lora")) && !gradients.is_empty());
    assert!(gradients.iter().any(|(_, values)| values.iter().any(|value| *value != 0.0)));
    all.extend(gradients.into_iter().map(|(name, values)| (name, bits(&values))));
    all
}

#[test]
fn a_quantised_base_computes_what_its_values_do() {
    for (json, vocab) in [(FITS, 96), (PARTLY, 90)] {
        for kind in [BlockKind::Q8_0, BlockKind::Q4_0, BlockKind::Q4_1] {
            for (isa, threads) in Isa::supported().zip([1, 2].into_iter().cycle()) {
                let rt = runtime(isa, threads);
                for dtype in [Dtype::F32, Dtype::Bf16] {
                    let mut quantised = model(&rt, json, with(dtype, Some(Blocks::Make(kind))));
                    let mut plain = model(&rt, json, with(dtype, None));
                    let names: Vec<String> = quantised.parameter_names().map(String::from).collect();
                    let mut changed = 0;
                    for name in names {
                        let (shape, values) = quantised.parameter(&name, None).unwrap();
                        assert_eq!(shape, plain.parameter(&name, None).unwrap().0, "{name}");
                        changed += usize::from(values != plain.parameter(&name, None).unwrap().1);
                        plain.set_parameter(&name, None, &values).unwrap();
                    }
                    assert!(changed > 2, "{kind}: nothing was quantised");
                    assert_eq!(
                        everything(&mut quantised, vocab),
                        everything(&mut plain, vocab),
                        "{kind} {isa} {dtype:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn memory_is_that_of_the_blocks() {
    let rt = runtime(best(), 1);
    let weights = |blocks: Option<Blocks>| {
        let options = with(Dtype::Bf16, blocks);
        let model = Model::random(&rt, config(FITS), 1, options.clone()).unwrap();
        assert_eq!(model.memory().weights, Memory::plan(&model.config, &options, 24, 10).unwrap().weights);
        model.memory().weights
    };
    let (layer, embedding) = (64 * (64 + 2 * 32 + 64 + 3 * 96), 96 * 64);
    let vectors = 5 * 64 * 4;
    assert_eq!(weights(None), (2 * layer + embedding) * 2 + vectors);
    for (kind, bits) in [(BlockKind::Q8_0, 17), (BlockKind::Q4_0, 9), (BlockKind::Q4_1, 10)] {
        // In halves of bits; the embedding is Q8_0 always.
        assert_eq!(weights(Some(Blocks::Make(kind))), (2 * layer * bits + embedding * 17) / 16 + vectors, "{kind}");
    }
    assert_eq!(weights(Some(Blocks::File)), weights(None), "a model that is not from a quantised file");
}

#[test]
fn a_quantised_base_is_frozen() {
    let rt = runtime(best(), 1);
    let options = Options { blocks: Some(Blocks::Make(BlockKind::Q4_0)), ..Options::default() };
    let mut model = Model::random(&rt, config(FITS), 1, options).unwrap();
    assert_eq!(model.parameter_counts().1, 0);
    let batch = Batch::new(96);
    let forward = model.logprobs(&batch.forest, &batch.targets(), LogprobOptions::default(), &quiet()).unwrap();
    assert!(forward.logprobs.iter().all(|logprob| logprob.is_finite()));
    let refused = model
        .logprobs(&batch.forest, &batch.targets(), keep(1.0), &quiet())
        .and_then(|forward| model.backward(forward.id, &batch.dlogprob, None, &quiet()));
    assert!(refused.unwrap_err().to_string().contains("adapter"), "says what would help");
    let options = Options { blocks: Some(Blocks::Make(BlockKind::Q5K)), ..Options::default() };
    let refused = Model::random(&rt, config(FITS), 1, options).err().unwrap().to_string();
    assert!(refused.contains("Q5_K") && refused.contains("q4_1"), "{refused}");
}

#[test]
fn the_sampler_draws_what_logprobs_says() {
    for (isa, threads) in Isa::supported().skip(1).zip([1, 2].into_iter().cycle()) {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let rt = runtime(isa, threads);
            let options = with(dtype, Some(Blocks::Make(BlockKind::Q4_1)));
            let model = Arc::new(RwLock::new(model(&rt, FITS, options)));
            let sampler = Sampler::start(model.clone(), SamplerOptions::default()).unwrap();
            let prompt: Vec<u32> = (0..19).map(|at| at * 7 % 96).collect();
            let (sender, events) = channel();
            let sink = Box::new(move |events| drop(sender.send(events)));
            // As many rows as take one tile, several, and none that unpack on the way.
            let samples = 40;
            sampler.submit(Request::new(prompt.clone(), samples, 12, Choice::temperature(1.0)), sink).unwrap();
            let mut drawn = vec![(prompt.clone(), Vec::new()); samples as usize];
            for events in events {
                assert_eq!(events.error, None);
                for ((&sample, &token), logprob) in events.samples.iter().zip(&events.tokens).zip(&events.logprobs) {
                    drawn[sample as usize].0.push(token);
                    drawn[sample as usize].1.push(*logprob);
                }
            }
            for (tokens, logprobs) in drawn {
                let forest = Forest::sequences(&[&tokens]).unwrap();
                let position: Vec<u32> = (prompt.len() as u32 - 1..tokens.len() as u32 - 1).collect();
                let targets = Targets { position: &position, token: &tokens[prompt.len()..] };
                let mut model = model.write().unwrap();
                let forward = model.logprobs(&forest, &targets, LogprobOptions::default(), &quiet()).unwrap();
                assert_eq!(bits(&forward.logprobs), bits(&logprobs), "{isa} {dtype:?}");
            }
        }
    }
}

/// A GGUF file of one Llama layer with a kind of blocks for each tensor, and one tensor that is not quantised.
fn gguf(path: &Path) {
    const HIDDEN: u64 = 256;
    let kinds: [(&str, u64, Option<BlockKind>); 8] = [
        ("token_embd", 64, Some(BlockKind::Q6K)),
        ("blk.0.attn_q", 256, Some(BlockKind::Q4K)),
        ("blk.0.attn_k", 128, Some(BlockKind::Q4_1)),
        ("blk.0.attn_v", 128, Some(BlockKind::Q5K)),
        ("blk.0.attn_output", 256, Some(BlockKind::Q5_0)),
        ("blk.0.ffn_gate", 256, Some(BlockKind::Q5_1)),
        ("blk.0.ffn_up", 256, Some(BlockKind::Q8_0)),
        ("blk.0.ffn_down", 256, None),
    ];
    let mut dice = Dice::new(31);
    let (mut infos, mut data, mut count) = (Vec::new(), Vec::new(), 0_u64);
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    let mut tensor = |name: &str, dimensions: &[u64], id: u32, bytes: Vec<u8>| {
        text(&mut infos, &format!("{name}.weight"));
        infos.extend((dimensions.len() as u32).to_le_bytes());
        dimensions.iter().for_each(|size| infos.extend(size.to_le_bytes()));
        infos.extend(id.to_le_bytes());
        infos.extend((data.len() as u64).to_le_bytes());
        data.extend(bytes);
        data.resize(data.len().next_multiple_of(32), 0);
        count += 1;
    };
    for (name, rows, kind) in kinds {
        let half = |dice: &mut Dice| f16_from_f32(dice.signed() * 0.01).to_le_bytes();
        let Some(kind) = kind else {
            tensor(name, &[HIDDEN, rows], 1, (0..HIDDEN * rows).flat_map(|_| half(&mut dice)).collect());
            continue;
        };
        let size = rows as usize * kind.row_bytes(HIDDEN as usize).unwrap();
        let mut bytes: Vec<u8> = (0..size).map(|_| dice.below(256) as u8).collect();
        for block in bytes.chunks_exact_mut(kind.block_bytes()) {
            let halves = match kind {
                BlockKind::Q6K => 208..210,
                BlockKind::Q8_0 | BlockKind::Q5_0 => 0..2,
                _ => 0..4,
            };
            block[halves].chunks_exact_mut(2).for_each(|at| at.copy_from_slice(&half(&mut dice)));
        }
        tensor(name, &[HIDDEN, rows], kind.ggml(), bytes);
    }
    for name in ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"] {
        tensor(name, &[HIDDEN], 0, (0..HIDDEN).flat_map(|_| (1.0 + 0.3 * dice.signed()).to_le_bytes()).collect());
    }
    let mut file = Vec::from(*b"GGUF");
    file.extend(3_u32.to_le_bytes());
    file.extend(count.to_le_bytes());
    let numbers = [
        ("llama.block_count", 1),
        ("llama.embedding_length", HIDDEN as u32),
        ("llama.feed_forward_length", 256),
        ("llama.attention.head_count", 4),
        ("llama.attention.head_count_kv", 2),
        ("llama.context_length", 64),
    ];
    file.extend((numbers.len() as u64 + 2).to_le_bytes());
    text(&mut file, "general.architecture");
    file.extend(8_u32.to_le_bytes());
    text(&mut file, "llama");
    text(&mut file, "llama.attention.layer_norm_rms_epsilon");
    file.extend(6_u32.to_le_bytes());
    file.extend(1e-5_f32.to_le_bytes());
    for (name, number) in numbers {
        text(&mut file, name);
        file.extend(4_u32.to_le_bytes());
        file.extend(number.to_le_bytes());
    }
    file.extend(infos);
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend(data);
    std::fs::write(path, file).unwrap();
}

#[test]
fn a_gguf_file_keeps_its_blocks() {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("quantised-{}.gguf", std::process::id()));
    gguf(&path);
    for isa in [best(), Isa::Portable] {
        let rt = runtime(isa, 2);
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let open = |blocks| {
                let adapter = Some(LoraConfig::all(4, 8.0).into());
                let options = Options { dtype, adapter, blocks, ..Options::default() };
                let mut model = Model::open(&rt, &path, 7, options).unwrap();
                let mut dice = Dice::new(8);
                let names: Vec<String> = model.parameter_names().map(String::from).collect();
                for name in names.iter().filter(|name| name.contains("lora_B")) {
                    let (_, values) = model.parameter(name, None).unwrap();
                    let values: Vec<f32> = values.iter().map(|_| 0.1 * dice.signed()).collect();
                    model.set_parameter(name, None, &values).unwrap();
                }
                model
            };
            let (mut kept, mut read) = (open(Some(Blocks::File)), open(None));
            for name in ["model.embed_tokens", "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"] {
                let name = format!("{name}.weight");
                let (kept, read) = (kept.parameter(&name, None).unwrap(), read.parameter(&name, None).unwrap());
                if dtype == Dtype::F32 {
                    assert_eq!(kept, read, "{name}");
                }
            }
            assert_eq!(everything(&mut kept, 64), everything(&mut read, 64), "{isa} {dtype:?}");
            // Bits per weight: 8.5625, 4.625, 5, 8.625, 8.5, 9, 8.5; down is in the dtype.
            let weights = 256 * (64 * 137 + 256 * 74 + 128 * 80 + 128 * 138 + 256 * 136 + 256 * 144 + 256 * 136) / 128;
            let down = 256 * 256 * if dtype == Dtype::F32 { 4 } else { 2 };
            assert_eq!(kept.memory().weights, weights + down + 3 * 256 * 4);
            // The tensors of a fused product have their own kinds.
            let kind = |name: &str| kept.blocks(&format!("{name}.weight"), None).unwrap().map(|(_, rows)| rows.kind);
            assert_eq!(kind("model.layers.0.self_attn.q_proj"), Some(BlockKind::Q4K));
            assert_eq!(kind("model.layers.0.self_attn.k_proj"), Some(BlockKind::Q4_1));
            assert_eq!(kind("model.layers.0.self_attn.v_proj"), Some(BlockKind::Q5K));
            assert_eq!((kind("model.layers.0.mlp.down_proj"), kind("model.norm")), (None, None));
            // Only ggml makes Q4_K blocks.
            let name = "model.layers.0.self_attn.q_proj.weight";
            let values = kept.parameter(name, None).unwrap().1;
            let refused = kept.set_parameter(name, None, &values).unwrap_err().to_string();
            assert!(refused.contains("Q4_K"), "{refused}");
            // Or made of what the file has.
            let made = open(Some(Blocks::Make(BlockKind::Q4_0)));
            assert!(made.memory().weights < kept.memory().weights);
        }
    }
    std::fs::remove_file(path).unwrap();
}
