//! A model's base in each form side by side: memory, prefill and decoding.
//!
//! `cargo run --release -p quintain_core --example forms -- model.gguf [threads] [repetitions] [f32,bf16,blocks]`
//!
//! Forms take turns, and of each the best of many short runs counts: on a machine that others use too, a run is disturbed
//! only upwards.

use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::sync::{Arc, RwLock};
use std::time::Instant;

use quintain_core::kernels::Runtime;
use quintain_core::model::{Blocks, Dtype, Model, Options};
use quintain_core::sampler::{Choice, Events, Options as SamplerOptions, Request, Sampler};

const TOKENS: u32 = 8;

struct Form {
    name: &'static str,
    sampler: Sampler,
    /// Counts requests: no prompt is met twice.
    stream: u64,
}

impl Form {
    /// Seconds until all of `samples` samples of an unseen prompt have `tokens` tokens.
    fn run(&mut self, stream: u64, prompt: usize, samples: u32, tokens: u32) -> f64 {
        let prompt = (0..prompt as u64).map(|at| 17 + ((stream * 7919 + at * 31) % 40_000) as u32).collect();
        let request = Request { stream, ..Request::new(prompt, samples, tokens, Choice::temperature(1.0)) };
        let (sender, done) = channel();
        let start = Instant::now();
        let sink = Box::new(move |events: Events| {
            assert_eq!(events.error, None);
            if events.done {
                let _ = sender.send(());
            }
        });
        self.sampler.submit(request, sink).expect("request");
        done.recv().expect("engine");
        start.elapsed().as_secs_f64()
    }

    fn prefill(&mut self, prompt: usize) -> f64 {
        self.stream += 1;
        self.run(self.stream, prompt, 1, 1)
    }

    /// A step with a batch of samples of one prompt, which is in the cache.
    fn step(&mut self, samples: u32) -> f64 {
        self.stream += 1;
        self.run(self.stream, 64, samples, 1);
        let begun = self.run(self.stream, 64, samples, 2);
        let more = self.run(self.stream, 64, samples, 2 + TOKENS);
        (more - begun) / f64::from(TOKENS)
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let path = PathBuf::from(arguments.next().expect("the path of a model"));
    let threads = arguments.next().and_then(|n| n.parse().ok());
    let repetitions: usize = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(10);
    let rt = Runtime::new(threads, None).expect("runtime");
    println!("{} on {} threads", rt.isa, rt.threads);
    let forms = [("f32", Dtype::F32, None), ("bf16", Dtype::Bf16, None), ("blocks", Dtype::Bf16, Some(Blocks::File))];
    let wanted = arguments.next().unwrap_or_else(|| "f32,bf16,blocks".into());
    let forms = forms.into_iter().filter(|(name, ..)| wanted.split(',').any(|wanted| wanted == *name));
    let open = |(name, dtype, blocks)| {
        let options = Options { dtype, blocks, frozen: true, ..Options::default() };
        let start = Instant::now();
        let model = Model::open(&rt, &path, 0, options).expect("model");
        let weights = model.memory().weights;
        println!("{name}: weights {:.1} MB, opened in {:.2} s", weights as f64 / 1e6, start.elapsed().as_secs_f64());
        let sampler = Sampler::start(Arc::new(RwLock::new(model)), SamplerOptions::default()).expect("sampler");
        Form { name, sampler, stream: 0 }
    };
    let mut forms: Vec<Form> = forms.map(open).collect();
    let mut compare = |what: &str, tokens: f64, repetitions: usize, work: &dyn Fn(&mut Form) -> f64| {
        let mut best = vec![f64::INFINITY; forms.len()];
        for _ in 0..repetitions {
            for (form, best) in forms.iter_mut().zip(&mut best) {
                *best = best.min(work(form));
            }
        }
        for (form, seconds) in forms.iter().zip(best) {
            println!("{what} {:>6}: {:8.2} ms, {:8.1} tokens/s", form.name, seconds * 1e3, tokens / seconds);
        }
    };
    for prompt in [256, 1024] {
        let what = format!("prefill {prompt:4}");
        compare(&what, prompt as f64, repetitions.div_ceil(3), &|form| form.prefill(prompt));
    }
    for samples in [1, 8, 32] {
        compare(&format!("decode {samples:5}"), f64::from(samples), repetitions, &|form| form.step(samples));
    }
}
