//! Speed of the sampler: `cargo run --release -p quintain_core --example decode [f32|bf16] [threads]`.
//!
//! A random model of the SmolLM2-135M shape: prefill, then decoding at several batch sizes, with the share of the memory
//! bandwidth (measured first) that reading the weights once for each step amounts to. Then a model so small that only the
//! overhead of the engine is left.

use std::sync::mpsc::channel;
use std::sync::{Arc, RwLock};
use std::time::Instant;

use quintain_core::config::ModelConfig;
use quintain_core::kernels::Runtime;
use quintain_core::model::{Dtype, LoraConfig, Model, Options};
use quintain_core::sampler::{Choice, Options as SamplerOptions, Request, Sampler};

const SMOL: &str = r#"{"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": true}"#;
const TINY: &str = r#"{"vocab_size": 16, "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 64}"#;

/// Bytes read per second by all threads together.
fn bandwidth(threads: usize) -> f64 {
    let blocks: Vec<Vec<u64>> = (0..threads).map(|thread| vec![thread as u64 + 1; 16 << 20]).collect();
    let read = || {
        std::thread::scope(|scope| {
            for block in &blocks {
                scope.spawn(move || {
                    std::hint::black_box(block.iter().fold(0u64, |sum, value| sum.wrapping_add(*value)))
                });
            }
        });
    };
    let best = (0..5).map(|_| seconds(read)).fold(f64::INFINITY, f64::min);
    (threads * (16 << 20) * 8) as f64 / best
}

fn seconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

fn start(config: &str, dtype: Dtype, threads: Option<usize>, lora: bool) -> Sampler {
    let rt = Runtime::new(threads, None).expect("runtime");
    let config = ModelConfig::from_json(config).expect("config");
    let adapter = lora.then(|| LoraConfig::all(16, 32.0).into());
    let model = Model::random(&rt, config, 1, Options { dtype, adapter, ..Options::default() }).expect("model");
    Sampler::start(Arc::new(RwLock::new(model)), SamplerOptions::default()).expect("sampler")
}

/// Runs the requests at once and waits for all.
fn run(sampler: &Sampler, requests: impl IntoIterator<Item = Request>) {
    let (sender, done) = channel();
    let mut left = 0;
    for request in requests {
        left += 1;
        let sender = sender.clone();
        let sink = Box::new(move |events: quintain_core::sampler::Events| {
            assert_eq!(events.error, None);
            if events.done {
                let _ = sender.send(());
            }
        });
        sampler.submit(request, sink).expect("request");
    }
    (0..left).for_each(|_| done.recv().expect("engine"));
}

/// Prompts nobody has seen before: the prefix cache must not help.
fn request(stream: u64, prompt: usize, samples: u32, max_tokens: u32) -> Request {
    let tokens = (0..prompt as u64).map(|at| ((stream * 7919 + at * 31) % 49152) as u32).collect();
    Request { stream, ..Request::new(tokens, samples, max_tokens, Choice::temperature(1.0)) }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let dtypes = match arguments.next().as_deref() {
        Some("f32") => vec![Dtype::F32],
        Some("bf16") => vec![Dtype::Bf16],
        _ => vec![Dtype::F32, Dtype::Bf16],
    };
    let threads: Option<usize> = arguments.next().and_then(|threads| threads.parse().ok());
    let cores = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
    let memory = bandwidth(cores);
    println!("memory: {:.1} GB/s with {cores} threads", memory / 1e9);
    for dtype in dtypes {
        for lora in [false, true] {
            smol(dtype, threads, lora, memory);
        }
    }
    tiny(threads);
}

fn smol(dtype: Dtype, threads: Option<usize>, lora: bool, memory: f64) {
    let sampler = start(SMOL, dtype, threads, lora);
    let name = format!("{dtype:?}{}", if lora { " LoRA 16" } else { "" });
    let weights = 134_515_008.0 * if dtype == Dtype::F32 { 4.0 } else { 2.0 };
    run(&sampler, [request(0, 16, 1, 2)]);
    let prefill = seconds(|| run(&sampler, (1..3).map(|stream| request(stream, 128, 1, 1))));
    println!("{name}: prefill 2 x 128: {:.0} tokens/s", 256.0 / prefill);
    for (prompts, samples) in [(1, 1), (1, 8), (2, 8)] {
        const TOKENS: u32 = 64;
        let batch = prompts * u64::from(samples);
        let stream = 10 * batch;
        // The second request finds its prompt in the cache: nothing but decoding is timed.
        let requests = |tokens| (stream..stream + prompts).map(move |stream| request(stream, 128, samples, tokens));
        run(&sampler, requests(1));
        let step = seconds(|| run(&sampler, requests(TOKENS))) / f64::from(TOKENS);
        println!(
            "{name}: decode {batch:2}: {:6.1} tokens/s, {:5.2} ms a step, weights at {:.1} GB/s = {:.0} % of memory",
            batch as f64 / step,
            step * 1e3,
            weights / step / 1e9,
            weights / step / memory * 100.0
        );
    }
    println!("{name}: cache taken {:.0} MB", sampler.cache_taken() as f64 / 1e6);
}

fn tiny(threads: Option<usize>) {
    let sampler = start(TINY, Dtype::F32, threads, false);
    let tokens = |stream: u64| vec![stream as u32 % 16, 3];
    let requests =
        || (0..10).map(|stream| Request { stream, ..Request::new(tokens(stream), 8, 3, Choice::temperature(1.0)) });
    run(&sampler, requests());
    let mut times: Vec<f64> = (0..200).map(|_| seconds(|| run(&sampler, requests()))).collect();
    times.sort_by(f64::total_cmp);
    println!("2 layers x 64, 10 prompts x 8 samples x 3 tokens: {:.2} ms (median of 200)", times[100] * 1e3);
}
