//! Several adapters on one base: they share its weights, its batches and its cache, and nothing else.

mod common;

use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Arc, RwLock};

use common::*;
use quintain_core::checkpoint::ExportOptions;
use quintain_core::error::{Error, Result};
use quintain_core::forest::Forest;
use quintain_core::formats::FileDtype;
use quintain_core::kernels::BlockKind;
use quintain_core::model::{AdamW, BASE, Blocks, Dtype, LogprobOptions, LoraConfig, Model, Options, Targets};
use quintain_core::sampler::{Choice, Options as SamplerOptions, Request, Sampler};

/// An adapter on everything, one that differs from layer to layer, one with dropout.
fn configs() -> [(&'static str, LoraConfig); 3] {
    let entries = ["layers.1.self_attn.q_proj", "layers.0.mlp.up_proj", "o_proj"];
    let some = entries.map(String::from).to_vec();
    [
        ("default", LoraConfig::all(3, 7.0)),
        ("some", LoraConfig { targets: some, rs_lora: true, ..LoraConfig::all(5, 4.0) }),
        ("dropped", LoraConfig { dropout: 0.5, ..LoraConfig::all(2, 9.0) }),
    ]
}

fn shared(json: &str, dtype: Dtype, threads: usize) -> Model {
    let options = Options { dtype, frozen: true, ..Options::default() };
    let mut model = Model::random(&runtime(best(), threads), config(json), 5, options).unwrap();
    for (name, lora) in configs() {
        model.add_adapter(name, lora).unwrap();
        train(&mut model, name);
    }
    model
}

fn keep(adapter: &str) -> LogprobOptions<'_> {
    LogprobOptions { keep: true, adapter: Some(adapter), ..LogprobOptions::default() }
}

fn accumulate(model: &mut Model, name: &str) {
    let batch = Batch::new(model.config.vocab_size);
    let forward = model.logprobs(&batch.forest, &batch.targets(), keep(name), &quiet()).unwrap();
    model.backward(forward.id, &batch.dlogprob, None, &quiet()).unwrap();
}

fn train(model: &mut Model, name: &str) {
    accumulate(model, name);
    model.step(Some(name), AdamW { lr: 0.05, ..AdamW::default() }).unwrap();
}

fn logprobs(model: &mut Model, adapter: &str) -> Vec<u32> {
    let batch = Batch::new(model.config.vocab_size);
    let options = LogprobOptions { adapter: Some(adapter), ..LogprobOptions::default() };
    bits(&model.logprobs(&batch.forest, &batch.targets(), options, &quiet()).unwrap().logprobs)
}

fn factor_bits(model: &Model, adapter: &str) -> Vec<Vec<u32>> {
    let ours = |name: &str| match adapter {
        "default" => name.ends_with("lora_A.weight") || name.ends_with("lora_B.weight"),
        _ => name.ends_with(&format!(".{adapter}.weight")),
    };
    let names: Vec<String> = model.parameter_names().filter(|name| ours(name)).map(String::from).collect();
    assert!(!names.is_empty());
    names.iter().map(|name| bits(&model.parameter(name, None).unwrap().1)).collect()
}

fn folder(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("quintain-adapters-{}-{name}", std::process::id()))
}

/// Tokens and log-probabilities (as bits) of each sample.
type Samples = Vec<(Vec<u32>, Vec<u32>)>;

fn submit(sampler: &Sampler, request: &Request) -> impl FnOnce() -> Result<Samples> {
    let (sender, events) = channel();
    sampler.submit(request.clone(), Box::new(move |events| drop(sender.send(events)))).unwrap();
    let mut samples = vec![(Vec::new(), Vec::new()); request.samples as usize];
    move || {
        for event in events {
            for ((&sample, &token), logprob) in event.samples.iter().zip(&event.tokens).zip(&event.logprobs) {
                samples[sample as usize].0.push(token);
                samples[sample as usize].1.push(logprob.to_bits());
            }
            if let Some(error) = event.error {
                return Err(error);
            }
        }
        Ok(samples)
    }
}

fn run(sampler: &Sampler, requests: &[Request]) -> Vec<Samples> {
    let pending: Vec<_> = requests.iter().map(|request| submit(sampler, request)).collect();
    pending.into_iter().map(|finish| finish().unwrap()).collect()
}

/// Requests of random lengths for random adapters; some prompts are shared among adapters.
fn requests(seed: u64, vocab: usize) -> Vec<Request> {
    let mut dice = Dice::new(seed);
    let prompts: Vec<Vec<u32>> =
        [1, 9, 17, 33].iter().map(|&length| (0..length).map(|_| dice.below(vocab) as u32).collect()).collect();
    (0..10)
        .map(|stream| {
            let adapter = [None, Some(BASE), Some("default"), Some("some"), Some("dropped")][dice.below(5)];
            let prompt = prompts[dice.below(4)].clone();
            let (samples, length) = (1 + dice.below(3) as u32, 1 + dice.below(20) as u32);
            let choice = Choice::temperature(1.0);
            let request = Request::new(prompt, samples, length, choice);
            Request { adapter: adapter.map(String::from), stream, for_training: dice.below(2) == 0, ..request }
        })
        .collect()
}

fn packed(request: &Request, samples: &Samples) -> (Forest, Vec<u32>, Vec<u32>) {
    let mut tokens = request.prompt.clone();
    let mut segments = vec![(0, tokens.len() as u32, -1)];
    let (mut position, mut target) = (Vec::new(), Vec::new());
    for (drawn, _) in samples {
        for (at, &token) in drawn.iter().enumerate() {
            position.push(if at == 0 { request.prompt.len() } else { tokens.len() + at } as u32 - 1);
            target.push(token);
        }
        segments.push((tokens.len() as u32, drawn.len() as u32, 0));
        tokens.extend(drawn);
    }
    (Forest::new(tokens, &segments).unwrap(), position, target)
}

#[test]
fn batches_of_several_adapters_give_what_each_gives_alone_and_what_training_sees() {
    for (json, dtype) in [(QWEN2, Dtype::F32), (QWEN3, Dtype::Bf16), (LLAMA_TIED, Dtype::Bf16)] {
        let mut first: Option<Vec<Samples>> = None;
        for threads in [1, 2] {
            let model = Arc::new(RwLock::new(shared(json, dtype, threads)));
            let sampler = Sampler::start(model.clone(), SamplerOptions::default()).unwrap();
            let requests: Vec<Request> =
                (0..4).flat_map(|seed| requests(seed, model.read().unwrap().config.vocab_size)).collect();
            let together: Vec<Samples> = requests.chunks(10).flat_map(|chunk| run(&sampler, chunk)).collect();
            assert_eq!(first.get_or_insert_with(|| together.clone()), &together, "threads change a sample");
            for (request, samples) in requests.iter().zip(&together) {
                let fresh = Sampler::start(model.clone(), SamplerOptions::default()).unwrap();
                assert_eq!(&run(&fresh, std::slice::from_ref(request))[0], samples, "{:?}", request.adapter);
                let (forest, position, token) = packed(request, samples);
                let targets = Targets { position: &position, token: &token };
                let options = LogprobOptions { adapter: request.adapter.as_deref(), ..LogprobOptions::default() };
                let forward = model.write().unwrap().logprobs(&forest, &targets, options, &quiet()).unwrap();
                let got: Vec<u32> = samples.iter().flat_map(|(_, logprobs)| logprobs.clone()).collect();
                assert_eq!(got, bits(&forward.logprobs), "{:?}", request.adapter);
            }
            // The adapters say different things.
            let mut model = model.write().unwrap();
            let all = ["base", "default", "some", "dropped"].map(|name| logprobs(&mut model, name));
            assert!((0..4).all(|a| (0..a).all(|b| all[a] != all[b])));
        }
    }
}

#[test]
fn a_step_of_one_adapter_leaves_the_others_and_what_is_cached_of_them() {
    let model = Arc::new(RwLock::new(shared(QWEN3, Dtype::F32, 2)));
    let sampler = Sampler::start(model.clone(), SamplerOptions::default()).unwrap();
    let of = |adapter: &str| {
        let prompt = (0..40).map(|i| i * 7 % 40).collect();
        Request {
            adapter: Some(adapter.into()),
            for_training: true,
            ..Request::new(prompt, 2, 6, Choice::temperature(1.0))
        }
    };
    let before = run(&sampler, &[of("default"), of("some"), of(BASE)]);
    let cached = sampler.counts().unwrap().cached;
    assert!(cached >= 6, "two full pages of each: {cached}");
    let factors = factor_bits(&model.read().unwrap(), "some");
    train(&mut model.write().unwrap(), "default");
    assert_eq!(factor_bits(&model.read().unwrap(), "some"), factors);
    let after = run(&sampler, &[of("some"), of(BASE), of("default")]);
    assert_eq!((&after[0], &after[1]), (&before[1], &before[2]));
    assert_ne!(after[2], before[0]);
    assert_eq!(sampler.counts().unwrap().cached, cached, "pages of the others are still there, the old ones are gone");
    // Samples of both are recorded for both.
    for (request, samples) in [(of("default"), &after[2]), (of("some"), &after[0])] {
        let (forest, position, token) = packed(&request, samples);
        let targets = Targets { position: &position, token: &token };
        let name = request.adapter.as_deref().unwrap();
        assert!(model.write().unwrap().logprobs(&forest, &targets, keep(name), &quiet()).unwrap().recorded, "{name}");
    }
}

#[test]
fn forwards_of_two_adapters_may_be_kept_at_once() {
    for activation_bytes in [0, 1 << 24] {
        let options = Options { frozen: true, activation_bytes, ..Options::default() };
        let mut model = Model::random(&runtime(best(), 2), config(QWEN3), 5, options).unwrap();
        for (name, lora) in configs() {
            model.add_adapter(name, lora).unwrap();
            train(&mut model, name);
        }
        let dir = folder(&format!("kept-{activation_bytes}"));
        model.save(&dir, Some("dropped"), true).unwrap();
        ["some", "dropped"].iter().for_each(|name| accumulate(&mut model, name));
        let alone = all_gradients(&model);
        model.zero_grad(Some("some")).unwrap();
        // The same masks again.
        model.load(&dir, Some("dropped")).unwrap();
        let batch = Batch::new(model.config.vocab_size);
        let [some, dropped] = ["some", "dropped"]
            .map(|name| model.logprobs(&batch.forest, &batch.targets(), keep(name), &quiet()).unwrap().id);
        model.backward(some, &batch.dlogprob, None, &quiet()).unwrap();
        model.backward(dropped, &batch.dlogprob, None, &quiet()).unwrap();
        for ((name, alone), (_, mixed)) in alone.iter().zip(all_gradients(&model)) {
            assert_eq!(bits(alone), bits(&mixed), "{name}");
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
}

#[test]
fn dropout_is_another_in_each_forward_and_the_same_in_a_resumed_run() {
    let dir = folder("dropout");
    let mut model = shared(QWEN2, Dtype::F32, 2);
    let batch = Batch::new(model.config.vocab_size);
    let forward = |model: &mut Model| {
        bits(&model.logprobs(&batch.forest, &batch.targets(), keep("dropped"), &quiet()).unwrap().logprobs)
    };
    assert_ne!(forward(&mut model), forward(&mut model));
    assert_eq!(logprobs(&mut model, "dropped"), logprobs(&mut model, "dropped"), "only where a gradient follows");
    model.save(&dir, Some("dropped"), true).unwrap();
    (0..3).for_each(|_| train(&mut model, "dropped"));
    let mut resumed = shared(QWEN2, Dtype::F32, 1);
    resumed.load(&dir, Some("dropped")).unwrap();
    (0..3).for_each(|_| train(&mut resumed, "dropped"));
    assert_eq!(factor_bits(&model, "dropped"), factor_bits(&resumed, "dropped"));
    assert_eq!(model.adapters()[2].steps, resumed.adapters()[2].steps);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn adapters_come_and_go() {
    let mut model = shared(QWEN3, Dtype::F32, 1);
    let code = |result: Result<()>| result.unwrap_err().code();
    assert_eq!(code(model.add_adapter("some", LoraConfig::all(2, 2.0))), "Config");
    for name in ["", "base", "a.b", "a/b", "\u{e9}", &"x".repeat(65)] {
        assert_eq!(code(model.add_adapter(name, LoraConfig::all(2, 2.0))), "Config", "{name}");
    }
    let unknown =
        LoraConfig { targets: vec!["q_proj".into(), "layers.9.mlp.up_proj".into()], ..LoraConfig::all(2, 2.0) };
    let error = model.add_adapter("new", unknown).unwrap_err();
    assert!(error.to_string().contains("`layers.9.mlp.up_proj` matches no module"), "{error}");
    let kept =
        model.logprobs(&forest(40), &Targets { position: &[4], token: &[1] }, keep("some"), &quiet()).unwrap().id;
    let others = logprobs(&mut model, "dropped");
    model.remove_adapter("default").unwrap();
    assert_eq!(logprobs(&mut model, "dropped"), others);
    model.backward(kept, &[1.0], None, &quiet()).unwrap();
    assert_eq!(model.step(Some("default"), AdamW::default()).unwrap_err().code(), "State");
    // Without the adapter that serves calls without a name there is the frozen base.
    let error = model.step(None, AdamW::default()).unwrap_err();
    assert!(error.to_string().contains("the base is frozen: name an adapter"), "{error}");
    let unnamed = LogprobOptions { keep: true, ..LogprobOptions::default() };
    let error = model.logprobs(&forest(40), &Targets { position: &[4], token: &[1] }, unnamed, &quiet()).unwrap_err();
    assert_eq!(error.code(), "State");
    assert_eq!(code(model.remove_adapter(BASE)), "State");
    assert_eq!(code(model.remove_adapter("nobody")), "State");

    let model = Arc::new(RwLock::new(model));
    let sampler = Sampler::start(model.clone(), SamplerOptions::default()).unwrap();
    let request = Request { adapter: Some("nobody".into()), ..Request::new(vec![1], 1, 3, Choice::temperature(1.0)) };
    assert_eq!(submit(&sampler, &request)().unwrap_err().code(), "State");
    let long = Request { adapter: Some("some".into()), ..Request::new(vec![1], 1, 60, Choice::temperature(1.0)) };
    let pending = submit(&sampler, &long);
    model.write().unwrap().remove_adapter("some").unwrap();
    // Whether it was done before or not: never the weights of another.
    if let Err(error) = pending() {
        assert_eq!(error.code(), "State");
    }
    assert_eq!(sampler.counts().unwrap().used, 0);
}

/// Rewrites the header of a safetensors file.
fn rename(path: &Path, change: impl Fn(&str) -> String) {
    let bytes = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = change(std::str::from_utf8(&bytes[8..8 + length]).unwrap());
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(&bytes[8 + length..]);
    std::fs::write(path, out).unwrap();
}

#[test]
fn folders_of_peft_are_read_and_what_cannot_be_is_refused_by_name() {
    let dir = folder("peft");
    let mut model = shared(QWEN2, Dtype::F32, 1);
    let expected = logprobs(&mut model, "some");
    model.save(&dir, Some("some"), false).unwrap();
    model.add_adapter_from("copy", &dir).unwrap();
    assert_eq!(logprobs(&mut model, "copy"), expected);
    let (config, factors) = (dir.join("adapter_config.json"), dir.join("adapter_model.safetensors"));
    let good = std::fs::read_to_string(&config).unwrap();
    assert!(good.contains("\"o_proj\"") && good.contains("\"model.layers.1.self_attn.q_proj\""), "{good}");
    // Names as older versions wrote them.
    rename(&factors, |header| header.replace(".lora_A.weight", ".lora_A.default.weight"));
    model.add_adapter_from("old", &dir).unwrap();
    assert_eq!(logprobs(&mut model, "old"), expected);
    for (field, value) in [
        ("use_dora", "true"),
        ("bias", "\"all\""),
        ("modules_to_save", "[\"lm_head\"]"),
        ("rank_pattern", "{\"q_proj\": 4}"),
        ("alpha_pattern", "{\"q_proj\": 4}"),
        ("fan_in_fan_out", "true"),
        ("peft_type", "\"IA3\""),
        ("layer_replication", "[[0, 1]]"),
        ("trainable_token_indices", "[1]"),
        ("init_lora_weights", "\"pissa\""),
        ("lora_bias", "true"),
        ("some_new_field", "\"on\""),
        ("r", "0"),
        ("lora_alpha", "\"much\""),
        ("lora_dropout", "2"),
        ("target_modules", "[\"v_proj\"]"),
        ("target_modules", "7"),
    ] {
        let mut fields: serde_json::Value = serde_json::from_str(&good).unwrap();
        fields[field] = serde_json::from_str(value).unwrap();
        std::fs::write(&config, fields.to_string()).unwrap();
        let error = model.add_adapter_from("bad", &dir).unwrap_err();
        assert!(matches!(error.code(), "Format" | "Config"), "{field}: {error}");
        assert!(error.to_string().contains(field.trim_start_matches("lora_")), "{field}: {error}");
    }
    for broken in ["[]", "{", "{\"peft_type\": \"LORA\", \"r\": 5, \"lora_alpha\": 4.0}"] {
        std::fs::write(&config, broken).unwrap();
        assert_eq!(model.add_adapter_from("bad", &dir).unwrap_err().code(), "Format", "{broken}");
    }
    std::fs::write(&config, good.replace("\"r\": 5", "\"r\": 6")).unwrap();
    assert_eq!(model.add_adapter_from("bad", &dir).unwrap_err().code(), "Format", "factors of another rank");
    std::fs::write(&config, &good).unwrap();
    for (from, to) in [("self_attn.o_proj.lora_B.", "self_attn.x_proj.lora_B."), ("lora_B.weight", "lora_magnitude")] {
        let saved = std::fs::read(&factors).unwrap();
        rename(&factors, |header| header.replacen(from, to, 1));
        assert_eq!(model.add_adapter_from("bad", &dir).unwrap_err().code(), "Format", "{to}");
        std::fs::write(&factors, saved).unwrap();
    }
    assert_eq!(model.add_adapter_from("bad", &folder("nowhere")).unwrap_err().code(), "Io");
    // Another adapter's factors are not read into this one.
    let error = model.load(&dir, Some("default")).unwrap_err();
    assert!(matches!(error, Error::Format { .. }), "{error}");
    assert_eq!(model.adapters().len(), 5);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_merged_model_is_a_folder_like_any_other() {
    let dir = folder("merged");
    for json in [QWEN2, LLAMA_TIED] {
        let mut model = shared(json, Dtype::F32, 2);
        let expected = logprobs(&mut model, "some");
        let open = || Model::open(&model.rt, &dir, 0, Options::default()).unwrap();
        model.export(&dir, &ExportOptions { adapter: Some("some"), ..ExportOptions::default() }).unwrap();
        let whole = logprobs(&mut open(), BASE);
        for (merged, adapted) in whole.iter().zip(&expected) {
            let (merged, adapted) = (f32::from_bits(*merged), f32::from_bits(*adapted));
            assert!((merged - adapted).abs() < 2e-5, "{merged} {adapted}");
        }
        // In shards, the same; nothing of the one file is left.
        let sharded = ExportOptions { adapter: Some("some"), shard_bytes: 4000, ..ExportOptions::default() };
        model.export(&dir, &sharded).unwrap();
        assert!(!dir.join("model.safetensors").exists());
        assert_eq!(logprobs(&mut open(), BASE), whole);
        // Without an adapter it is the base; sixteen bits are rounded once.
        for (dtype, kind) in [(FileDtype::F32, "float32"), (FileDtype::Bf16, "bfloat16"), (FileDtype::F16, "float16")] {
            model.export(&dir, &ExportOptions { adapter: Some(BASE), dtype, ..ExportOptions::default() }).unwrap();
            let saved: serde_json::Value =
                serde_json::from_str(&std::fs::read_to_string(dir.join("config.json")).unwrap()).unwrap();
            assert_eq!(saved["torch_dtype"], kind);
            let again = open();
            for name in again.parameter_names() {
                let (ours, theirs) = (model.parameter(&name, None).unwrap().1, again.parameter(&name, None).unwrap().1);
                let share = [0.0, 1.0 / 256.0, 1.0 / 2048.0][dtype as usize];
                assert!(ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() <= share * a.abs() + 1e-7), "{name}");
            }
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

#[test]
fn a_quantised_base_carries_adapters_and_is_exported_as_the_numbers_it_stands_for() {
    let dir = folder("quantised");
    let json = r#"{"vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2, "max_position_embeddings": 64}"#;
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let options = Options { dtype, blocks: Some(Blocks::Make(BlockKind::Q4_1)), ..Options::default() };
        let mut model = Model::random(&runtime(best(), 2), config(json), 5, options).unwrap();
        let batch = Batch::new(64);
        let refused = model.logprobs(&batch.forest, &batch.targets(), keep(BASE), &quiet()).unwrap_err();
        assert_eq!(refused.code(), "State", "{refused}");
        model.add_adapter("x", LoraConfig::all(4, 8.0)).unwrap();
        let base = logprobs(&mut model, BASE);
        (0..3).for_each(|_| train(&mut model, "x"));
        assert_eq!(logprobs(&mut model, BASE), base);
        let adapted = logprobs(&mut model, "x");
        assert_ne!(adapted, base);
        model.export(&dir, &ExportOptions { adapter: Some(BASE), ..ExportOptions::default() }).unwrap();
        let plain = Model::open(&model.rt, &dir, 0, Options { dtype, ..Options::default() }).unwrap();
        for name in plain.parameter_names() {
            assert_eq!(
                bits(&plain.parameter(&name, None).unwrap().1),
                bits(&model.parameter(&name, None).unwrap().1),
                "{name}"
            );
        }
        model.export(&dir, &ExportOptions { adapter: Some("x"), ..ExportOptions::default() }).unwrap();
        if dtype == Dtype::F32 {
            let merged = logprobs(&mut Model::open(&model.rt, &dir, 0, Options::default()).unwrap(), BASE);
            for (merged, adapted) in merged.iter().zip(&adapted) {
                let (merged, adapted) = (f32::from_bits(*merged), f32::from_bits(*adapted));
                assert!((merged - adapted).abs() < 5e-5, "{merged} {adapted}");
            }
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
