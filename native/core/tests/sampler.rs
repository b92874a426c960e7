//! The sampler against `Model::logprobs`, bit for bit, and its bookkeeping.

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, RwLock};

use quintain_core::config::ModelConfig;
use quintain_core::error::Error;
use quintain_core::forest::Forest;
use quintain_core::kernels::{Isa, Runtime};
use quintain_core::model::{AdamW, Dtype, Forward, LogprobOptions, LoraConfig, Model, Options, Targets};
use quintain_core::philox::philox;
use quintain_core::sampler::{Choice, Events, Options as SamplerOptions, Reason, Request, Sampler, Vocabulary};

const SMALL: SamplerOptions = SamplerOptions { cache_bytes: 64 << 20, max_sequences: 256, prefill_rows: 256 };

fn config(kind: &str) -> ModelConfig {
    let rest = match kind {
        "llama" => r#""num_attention_heads": 4, "tie_word_embeddings": true"#,
        "qwen2" => r#""model_type": "qwen2", "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8"#,
        _ => r#""model_type": "qwen3", "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 32"#,
    };
    let text = format!(
        r#"{{"vocab_size": 67, "hidden_size": 48, "intermediate_size": 100, "num_hidden_layers": 2,
            "max_position_embeddings": 200, "initializer_range": 0.3, {rest}}}"#
    );
    ModelConfig::from_json(&text).unwrap()
}

fn model(kind: &str, dtype: Dtype, lora: bool, isa: Isa, threads: usize) -> Arc<RwLock<Model>> {
    let rt = Runtime::new(Some(threads), Some(isa)).unwrap();
    let adapter = lora.then(|| LoraConfig::all(4, 8.0).into());
    let mut model = Model::random(&rt, config(kind), 5, Options { dtype, adapter, ..Options::default() }).unwrap();
    // A step of training: adapters begin as zero, biases too.
    train(&mut model);
    Arc::new(RwLock::new(model))
}

fn train(model: &mut Model) {
    let tokens: Vec<u32> = (0..24).map(|i| i * 5 % 67).collect();
    let forest = Forest::sequences(&[&tokens]).unwrap();
    let positions: Vec<u32> = (0..23).collect();
    let targets = Targets { position: &positions, token: &tokens[1..] };
    let abort = Arc::new(AtomicBool::new(false));
    let options = LogprobOptions { keep: true, ..LogprobOptions::default() };
    let forward = model.logprobs(&forest, &targets, options, &abort).unwrap();
    model.backward(forward.id, &[-1.0; 23], None, &abort).unwrap();
    model.step(None, AdamW { lr: 0.02, ..AdamW::default() }).unwrap();
}

fn isas() -> Vec<Isa> {
    Isa::supported().filter(|&isa| isa != Isa::Reference).collect()
}

fn tokens(seed: u64, count: usize) -> Vec<u32> {
    (0..count as u32).map(|at| philox(seed, 77, 0, at)[0] % 67).collect()
}

fn request(seed: u64, prompt: usize, samples: u32, max_tokens: u32, choice: Choice) -> Request {
    Request { seed, stream: seed * 3, ..Request::new(tokens(seed, prompt), samples, max_tokens, choice) }
}

/// Requests of all lengths around the page size, and of several temperatures.
fn varied() -> Vec<Request> {
    let filtered = Choice { top_k: 9, top_p: 0.9, min_p: 0.02, ..Choice::temperature(1.3) };
    vec![
        request(1, 1, 3, 5, Choice::temperature(1.0)),
        request(2, 15, 1, 20, Choice::temperature(0.7)),
        request(3, 16, 4, 17, Choice::temperature(1.0)),
        request(4, 17, 2, 1, Choice::temperature(0.0)),
        request(5, 70, 5, 9, filtered),
        request(6, 48, 2, 40, Choice::temperature(1.0)),
    ]
}

#[derive(Debug, Default, Clone, PartialEq)]
struct Sample {
    tokens: Vec<u32>,
    /// Bits, so that equality means the same number.
    logprobs: Vec<u32>,
    reason: Option<Reason>,
}

struct Pending {
    samples: u32,
    events: Receiver<Events>,
}

fn submit(sampler: &Sampler, request: &Request) -> (u64, Pending) {
    let (sender, events) = channel();
    let sink = Box::new(move |events| drop(sender.send(events)));
    let id = sampler.submit(request.clone(), sink).unwrap();
    (id, Pending { samples: request.samples, events })
}

impl Pending {
    fn finish(self) -> Result<Vec<Sample>, Error> {
        let mut samples = vec![Sample::default(); self.samples as usize];
        let mut done = false;
        for events in self.events {
            assert!(!done, "events after the last");
            for ((&sample, &token), logprob) in events.samples.iter().zip(&events.tokens).zip(&events.logprobs) {
                samples[sample as usize].tokens.push(token);
                samples[sample as usize].logprobs.push(logprob.to_bits());
            }
            for (sample, reason) in events.finished {
                assert_eq!(samples[sample as usize].reason.replace(reason), None);
            }
            if let Some(error) = events.error {
                return Err(error);
            }
            done = events.done;
        }
        assert!(done);
        Ok(samples)
    }
}

fn run(model: &Arc<RwLock<Model>>, options: SamplerOptions, requests: &[Request]) -> Vec<Vec<Sample>> {
    let sampler = Sampler::start(model.clone(), options).unwrap();
    let pending: Vec<Pending> = requests.iter().map(|request| submit(&sampler, request).1).collect();
    let results = pending.into_iter().map(|pending| pending.finish().unwrap()).collect();
    assert_eq!(sampler.counts().unwrap().used, 0, "pages are still held");
    results
}

/// Samples as a batch to train on.
struct Packed {
    forest: Forest,
    position: Vec<u32>,
    token: Vec<u32>,
}

impl Packed {
    /// All samples of some requests: a tree each.
    fn new<'a>(groups: impl IntoIterator<Item = (&'a Request, &'a Vec<Sample>)>) -> Self {
        let (mut all, mut segments) = (Vec::new(), Vec::new());
        let (mut position, mut token) = (Vec::new(), Vec::new());
        for (request, samples) in groups {
            let (root, prompt) = (segments.len() as i32, all.len() + request.prompt.len());
            segments.push((all.len() as u32, request.prompt.len() as u32, -1));
            all.extend_from_slice(&request.prompt);
            for sample in samples {
                for (at, &drawn) in sample.tokens.iter().enumerate() {
                    let before = if at == 0 { prompt } else { all.len() + at };
                    position.push(before as u32 - 1);
                    token.push(drawn);
                }
                segments.push((all.len() as u32, sample.tokens.len() as u32, root));
                all.extend_from_slice(&sample.tokens);
            }
        }
        Packed { forest: Forest::new(all, &segments).unwrap(), position, token }
    }

    fn logprobs(&self, model: &mut Model, temperature: f32, keep: bool) -> Forward {
        let targets = Targets { position: &self.position, token: &self.token };
        let options = LogprobOptions { temperature, keep, entropy: keep, ..LogprobOptions::default() };
        model.logprobs(&self.forest, &targets, options, &Arc::new(AtomicBool::new(false))).unwrap()
    }

    /// Whether sampling had kept the rows, and the bits of log-probabilities, entropies and every gradient.
    fn gradients(&self, model: &RwLock<Model>) -> (bool, Vec<(String, Vec<u32>)>) {
        let mut model = model.write().unwrap();
        let forward = self.logprobs(&mut model, 1.0, true);
        let gradient: Vec<f32> = (0..self.token.len()).map(|at| (at % 5) as f32 - 1.5).collect();
        model.backward(forward.id, &gradient, None, &Arc::new(AtomicBool::new(false))).unwrap();
        let names: Vec<String> = model.parameter_names().map(String::from).collect();
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect();
        let gradients =
            names.into_iter().filter_map(|name| model.gradient(&name, None).ok().map(|values| (name, bits(&values))));
        let head = [("logprobs", &forward.logprobs), ("entropy", &forward.entropy)];
        let head = head.map(|(name, values)| (name.to_string(), bits(values)));
        (forward.recorded, head.into_iter().chain(gradients).collect())
    }
}

/// `logprobs` of the same tokens.
fn check_logprobs(model: &Arc<RwLock<Model>>, requests: &[Request], results: &[Vec<Sample>]) {
    let mut model = model.write().unwrap();
    for group in requests.iter().zip(results) {
        let (request, samples) = group;
        let temperature = if request.choice.temperature == 0.0 { 1.0 } else { request.choice.temperature };
        let forward = Packed::new([group]).logprobs(&mut model, temperature, false);
        let expected: Vec<u32> = forward.logprobs.iter().map(|logprob| logprob.to_bits()).collect();
        let got: Vec<u32> = samples.iter().flat_map(|sample| sample.logprobs.iter().copied()).collect();
        assert_eq!(got, expected, "logprobs differ for a prompt of {}", request.prompt.len());
    }
}

#[test]
fn logprobs_are_those_of_training_bit_for_bit() {
    let requests = varied();
    for isa in isas() {
        for (kind, dtype, lora) in [
            ("llama", Dtype::F32, false),
            ("qwen2", Dtype::Bf16, false),
            ("qwen3", Dtype::F32, true),
            ("llama", Dtype::Bf16, true),
            ("qwen2", Dtype::F32, true),
            ("qwen3", Dtype::Bf16, false),
        ] {
            let mut first: Option<Vec<Vec<Sample>>> = None;
            for threads in [1, 2] {
                let model = model(kind, dtype, lora, isa, threads);
                let results = run(&model, SMALL, &requests);
                check_logprobs(&model, &requests, &results);
                let first = first.get_or_insert_with(|| results.clone());
                assert_eq!(first, &results, "{isa} {kind} {dtype:?} lora {lora}: threads change a sample");
            }
        }
    }
}

fn for_training(requests: Vec<Request>) -> Vec<Request> {
    requests.into_iter().map(|request| Request { for_training: true, ..request }).collect()
}

#[test]
fn what_sampling_keeps_gives_the_gradient_of_a_computed_forward_bit_for_bit() {
    // At the temperature of the update, the head is not computed either.
    let at_one = |request| Request { choice: Choice::temperature(1.0), ..request };
    let [several, one] = [varied(), varied().into_iter().map(at_one).collect()].map(for_training);
    for isa in isas() {
        for (kind, dtype, lora, requests) in [
            ("llama", Dtype::F32, false, &one),
            ("qwen2", Dtype::Bf16, true, &one),
            ("qwen3", Dtype::F32, true, &several),
            ("qwen3", Dtype::Bf16, false, &several),
        ] {
            let model = || model(kind, dtype, lora, isa, 2);
            let (recorded, computed) = (model(), model());
            // Several samplers: prompts in chunks, sequences that are evicted, prefixes found in the cache.
            let page = 2 * 4 * 2 * 16 * 32 * 4;
            let narrow = SamplerOptions { cache_bytes: 8 * page, max_sequences: 3, prefill_rows: 5 };
            for options in [SMALL, narrow] {
                let samples = run(&recorded, options, requests);
                assert_eq!(samples, run(&recorded, SMALL, requests));
                let packed = Packed::new(requests.iter().zip(&samples));
                let (used, gradients) = packed.gradients(&recorded);
                assert!(used, "{isa} {kind} {dtype:?} {options:?}");
                let (used, expected) = packed.gradients(&computed);
                assert!(!used);
                assert_eq!(gradients, expected, "{isa} {kind} {dtype:?} {options:?}");
                for model in [&recorded, &computed] {
                    model.write().unwrap().step(None, AdamW { lr: 0.02, ..AdamW::default() }).unwrap();
                }
                // They are activations of the old weights now.
                let (used, gradients) = packed.gradients(&recorded);
                assert!(!used);
                assert_eq!(gradients, packed.gradients(&computed).1);
                [&recorded, &computed].iter().for_each(|model| model.write().unwrap().zero_grad(None).unwrap());
            }
        }
    }
}

#[test]
fn what_sampling_keeps_is_bounded_and_may_be_incomplete() {
    let requests = for_training(varied());
    let rt = Runtime::new(Some(2), None).unwrap();
    let make = |activation_bytes| {
        let options = Options { activation_bytes, ..Options::default() };
        let mut model = Model::random(&rt, config("llama"), 5, options).unwrap();
        train(&mut model);
        Arc::new(RwLock::new(model))
    };
    let whole = make(1 << 30);
    let samples = run(&whole, SMALL, &requests);
    let packed = Packed::new(requests.iter().zip(&samples));
    let (used, expected) = packed.gradients(&whole);
    assert!(used);
    for activation_bytes in [0, 20_000, 300_000] {
        let model = make(activation_bytes);
        let activations = || model.read().unwrap().memory().activations;
        let trained = activations();
        assert_eq!(run(&model, SMALL, &requests), samples);
        let kept = activations() - trained;
        assert!(kept <= activation_bytes, "{kept} bytes with room for {activation_bytes}");
        let (used, gradients) = packed.gradients(&model);
        assert!(!used, "{activation_bytes}");
        assert_eq!(gradients, expected);
    }
    // Half of a batch comes from elsewhere.
    let model = make(1 << 30);
    let samples = run(&model, SMALL, &requests[..3]);
    assert!(Packed::new(requests.iter().zip(&samples)).gradients(&model).0);
    model.write().unwrap().zero_grad(None).unwrap();
    let (used, gradients) = packed.gradients(&model);
    assert!(!used);
    assert_eq!(gradients, expected);
}

#[test]
fn samples_do_not_depend_on_their_company() {
    let requests = varied();
    let model = model("qwen3", Dtype::Bf16, true, Isa::detect().unwrap(), 2);
    let together = run(&model, SMALL, &requests);
    let alone: Vec<Vec<Sample>> =
        requests.iter().flat_map(|request| run(&model, SMALL, std::slice::from_ref(request))).collect();
    assert_eq!(together, alone);

    // Other orders, tiny prompt chunks, few sequences at once.
    for (turn, options) in [
        (1, SamplerOptions { prefill_rows: 5, ..SMALL }),
        (4, SamplerOptions { prefill_rows: 16, max_sequences: 2, ..SMALL }),
        (5, SamplerOptions { prefill_rows: 1, max_sequences: 1, ..SMALL }),
    ] {
        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.rotate_left(turn);
        let shuffled: Vec<Request> = order.iter().map(|&at| requests[at].clone()).collect();
        let results = run(&model, options, &shuffled);
        for (&at, result) in order.iter().zip(&results) {
            assert_eq!(result, &together[at], "request {at} with {options:?}");
        }
    }

    // A part of a group is that part of the group.
    let parts = [0, 2].map(|first_index| Request { first_index, samples: 2, ..requests[2].clone() });
    assert_eq!(run(&model, SMALL, &parts).concat(), together[2]);
}

#[test]
fn a_small_cache_only_costs_time() {
    let requests = varied();
    let model = model("llama", Dtype::F32, false, Isa::detect().unwrap(), 1);
    let together = run(&model, SMALL, &requests);
    // 2 layers x 4 heads x 2 x 16 x 12 floats a page; the longest sample takes 6 of them.
    let page = 2 * 4 * 2 * 16 * 12 * 4;
    for pages in [6, 7, 9, 14] {
        let options = SamplerOptions { cache_bytes: pages * page, ..SMALL };
        assert_eq!(run(&model, options, &requests), together, "{pages} pages");
    }
    let sampler = Sampler::start(model, SamplerOptions { cache_bytes: 5 * page, ..SMALL }).unwrap();
    let error = sampler.submit(requests[5].clone(), Box::new(|_| ())).unwrap_err();
    let expected =
        Error::OutOfMemory { op: "sample: key-value cache for one sample", needed: 6 * page, limit: 5 * page };
    assert_eq!(error, expected);
}

#[test]
fn a_prefix_seen_before_gives_the_same_bits() {
    let model = model("qwen2", Dtype::F32, false, Isa::detect().unwrap(), 2);
    let sampler = Sampler::start(model.clone(), SMALL).unwrap();
    let first = request(1, 50, 2, 30, Choice::temperature(1.0));
    let fresh = submit(&sampler, &first).1.finish().unwrap();
    let cached = sampler.counts().unwrap().cached;
    assert!(cached >= 3, "{cached} pages cached");
    assert_eq!(submit(&sampler, &first).1.finish().unwrap(), fresh);

    // The next turn: what was said, an answer of the environment, and on.
    let prompt = [&first.prompt[..], &fresh[1].tokens, &tokens(9, 21)].concat();
    let next = Request { prompt, ..request(2, 1, 3, 20, Choice::temperature(1.0)) };
    let continued = submit(&sampler, &next).1.finish().unwrap();
    assert_eq!(vec![continued], run(&model, SMALL, std::slice::from_ref(&next)));

    // After an update nothing of it is used.
    train(&mut model.write().unwrap());
    let updated = submit(&sampler, &next).1.finish().unwrap();
    check_logprobs(&model, std::slice::from_ref(&next), std::slice::from_ref(&updated));
    assert_eq!(vec![updated], run(&model, SMALL, &[next]));
}

#[test]
fn training_meanwhile_disturbs_nobody() {
    let model = model("llama", Dtype::F32, false, Isa::detect().unwrap(), 2);
    let sampler = Sampler::start(model.clone(), SMALL).unwrap();
    let pending: Vec<Pending> =
        (0..6).map(|seed| submit(&sampler, &request(seed, 40, 4, 100, Choice::temperature(1.0))).1).collect();
    for _ in 0..5 {
        train(&mut model.write().unwrap());
    }
    for pending in pending {
        let samples = pending.finish().unwrap();
        assert!(samples.iter().all(|sample| sample.tokens.len() == 100 && sample.reason == Some(Reason::Length)));
    }
    assert_eq!(sampler.counts().unwrap().used, 0);
}

#[test]
fn cancelled_requests_leave_no_page_behind() {
    let model = model("llama", Dtype::F32, false, Isa::detect().unwrap(), 2);
    let options = SamplerOptions { cache_bytes: 20 * 2 * 4 * 2 * 16 * 12 * 4, prefill_rows: 7, ..SMALL };
    let sampler = Sampler::start(model, options).unwrap();
    for round in 0..30 {
        let pending: Vec<(u64, Pending)> =
            (0..5).map(|seed| submit(&sampler, &request(seed, 30, 3, 90, Choice::temperature(1.0)))).collect();
        for _ in 0..round {
            // Let the engine go a little further each round.
            sampler.counts().unwrap();
        }
        for (id, pending) in pending {
            sampler.cancel(id);
            let samples = pending.finish().unwrap();
            let ended = |sample: &Sample| matches!(sample.reason, Some(Reason::Abort | Reason::Length));
            assert!(samples.iter().all(ended));
        }
        let counts = sampler.counts().unwrap();
        assert_eq!((counts.used, counts.total), (0, 20));
    }
    sampler.cancel(12345);
    let (_, pending) = submit(&sampler, &request(1, 30, 3, 100, Choice::temperature(1.0)));
    sampler.close();
    assert_eq!(pending.finish().unwrap_err().code(), "State");
    assert_eq!(sampler.counts().unwrap_err().code(), "State");
}

#[test]
fn samples_end_where_they_should() {
    let model = model("llama", Dtype::F32, false, Isa::detect().unwrap(), 1);
    let sampler = Sampler::start(model, SMALL).unwrap();
    let base = request(3, 20, 4, 60, Choice::temperature(1.0));
    let free = submit(&sampler, &base).1.finish().unwrap();

    let stop = free[0].tokens[7];
    let stopped = submit(&sampler, &Request { stop_tokens: vec![66, stop], ..base.clone() }).1.finish().unwrap();
    for (sample, free) in stopped.iter().zip(&free) {
        let end = free.tokens.iter().position(|&token| token == stop || token == 66);
        let (end, reason) = end.map_or((60, Reason::Length), |end| (end + 1, Reason::Stop));
        assert_eq!((&sample.tokens[..], sample.reason), (&free.tokens[..end], Some(reason)));
    }

    let strings = Request { stop_strings: vec![b"never".to_vec(), b"aab".to_vec()], ..base.clone() };
    let refused = sampler.submit(strings.clone(), Box::new(|_| ())).unwrap_err();
    assert_eq!(refused.code(), "State");
    // Token 3i is "a", 3i + 1 is "ab", 3i + 2 is "b".
    let text = |token: u32| ["a", "ab", "b"][token as usize % 3];
    let offsets = (0..67).scan(0, |sum, token| Some(std::mem::replace(sum, *sum + text(token).len() as u32)));
    let mut offsets: Vec<u32> = offsets.collect();
    let bytes = (0..67).map(text).collect::<String>().into_bytes();
    offsets.push(bytes.len() as u32);
    sampler.set_vocabulary(Vocabulary::new(bytes, offsets).unwrap());
    for (sample, free) in submit(&sampler, &strings).1.finish().unwrap().iter().zip(&free) {
        let mut said = String::new();
        let end = free.tokens.iter().position(|&token| {
            said += text(token);
            said.contains("aab")
        });
        let (end, reason) = end.map_or((60, Reason::Length), |end| (end + 1, Reason::Stop));
        assert_eq!((&sample.tokens[..], sample.reason), (&free.tokens[..end], Some(reason)));
    }

    let long = submit(&sampler, &request(4, 190, 2, 1000, Choice::temperature(1.0))).1.finish().unwrap();
    assert!(long.iter().all(|sample| sample.tokens.len() == 10 && sample.reason == Some(Reason::Context)));
}

#[test]
fn nonsense_is_refused() {
    let model = model("llama", Dtype::F32, false, Isa::detect().unwrap(), 1);
    let sampler = Sampler::start(model, SMALL).unwrap();
    let good = request(1, 4, 1, 4, Choice::temperature(1.0));
    let wrong_choice = |choice: Choice| Request { choice, ..good.clone() };
    for bad in [
        Request { prompt: vec![], ..good.clone() },
        Request { prompt: vec![1, 67], ..good.clone() },
        Request { prompt: vec![1; 200], ..good.clone() },
        Request { samples: 0, ..good.clone() },
        Request { samples: u32::MAX, ..good.clone() },
        Request { max_tokens: 0, ..good.clone() },
        Request { first_index: u32::MAX, samples: 2, ..good.clone() },
        Request { stop_strings: vec![vec![]], ..good.clone() },
        wrong_choice(Choice::temperature(f32::NAN)),
        wrong_choice(Choice::temperature(-1.0)),
        wrong_choice(Choice::temperature(f32::INFINITY)),
        wrong_choice(Choice { top_p: 0.0, ..good.choice }),
        wrong_choice(Choice { top_p: f32::NAN, ..good.choice }),
        wrong_choice(Choice { min_p: 1.5, ..good.choice }),
    ] {
        assert_eq!(sampler.submit(bad.clone(), Box::new(|_| ())).unwrap_err().code(), "Shape", "{bad:?}");
    }
}

#[test]
fn diverged_weights_are_an_error() {
    let model = model("llama", Dtype::F32, false, Isa::detect().unwrap(), 1);
    let sampler = Sampler::start(model.clone(), SMALL).unwrap();
    // The first norm: what is not a number gets into the pages too, and must not come out of them later.
    let name = "model.layers.0.input_layernorm.weight";
    let size = model.read().unwrap().config.hidden_size;
    model.write().unwrap().set_parameter(name, None, &vec![f32::NAN; size]).unwrap();
    let (_, pending) = submit(&sampler, &request(1, 20, 3, 5, Choice::temperature(1.0)));
    assert_eq!(pending.finish().unwrap_err().code(), "NonFinite");
    model.write().unwrap().set_parameter(name, None, &vec![1.0; size]).unwrap();
    let good = request(1, 21, 3, 30, Choice::temperature(1.0));
    let (_, pending) = submit(&sampler, &good);
    assert_eq!(vec![pending.finish().unwrap()], run(&model, SMALL, &[good]));
    assert_eq!(sampler.counts().unwrap().used, 0);
}
