//! Fuzzes what reads files from outside: `cargo run --release -p quintain_core --example fuzz_checkpoints -- seconds=60 seed=1`.
//!
//! Mutated files go through both parsers and, every few rounds, through `Model::open`: each must be accepted (and then be
//! consistent) or refused with a typed error, in bounded time and memory. Files that were accepted are mutated further. What
//! fails is written to `fuzz-failure.bin`, and the program ends with 1.

#[path = "../tests/checkpoints/files.rs"]
mod files;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use files::*;
use quintain_core::config::ModelConfig;
use quintain_core::formats::gguf::Gguf;
use quintain_core::formats::safetensors::Header;
use quintain_core::kernels::Runtime;
use quintain_core::model::{Model, Options};

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

const SHAPE: &str = r#"{"model_type": "qwen3", "vocab_size": 24, "hidden_size": 32, "intermediate_size": 32,
    "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8, "tie_word_embeddings": true,
    "rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
    "original_max_position_embeddings": 64}}"#;
/// No input takes longer, however slow the machine: the longest is a few kilobytes.
const SLOW: Duration = Duration::from_secs(5);
const POOL: usize = 256;

/// Kind of an input.
enum Outcome {
    Accepted,
    Refused,
}

/// A failure, and the bytes that caused it.
type Failure = (String, Vec<u8>);

type Run<'a> = Box<dyn Fn(&[u8]) -> Outcome + 'a>;

/// One thing to fuzz: files to start from, and what reads them.
struct Target<'a> {
    name: &'static str,
    pool: Vec<Vec<u8>>,
    /// How much of a file is worth changing.
    header: usize,
    run: Run<'a>,
    accepted: u64,
    refused: u64,
    slowest: Duration,
    peak: usize,
}

impl<'a> Target<'a> {
    fn new(name: &'static str, pool: Vec<Vec<u8>>, header: usize, run: impl Fn(&[u8]) -> Outcome + 'a) -> Self {
        let (slowest, run) = (Duration::ZERO, Box::new(run));
        Target { name, pool, header, run, accepted: 0, refused: 0, slowest, peak: 0 }
    }

    /// One mutated file. What went wrong with it, if anything did.
    fn round(&mut self, seed: u64) -> Result<(), Failure> {
        let mut mutator = Mutator::new(seed);
        let mut bytes = self.pool[mutator.below(self.pool.len())].clone();
        mutator.mutate(&mut bytes, self.header);
        if bytes.len() > 1 << 16 {
            return Ok(());
        }
        let start = Instant::now();
        let run = &self.run;
        let (outcome, peak) = counting::peak(|| catch_unwind(AssertUnwindSafe(|| run(&bytes))));
        let took = start.elapsed();
        self.slowest = self.slowest.max(took);
        self.peak = self.peak.max(peak);
        if took > SLOW {
            return Err((format!("took {took:?}"), bytes));
        }
        match outcome {
            Err(_) => return Err(("panicked".into(), bytes)),
            Ok(Outcome::Refused) => self.refused += 1,
            Ok(Outcome::Accepted) => {
                self.accepted += 1;
                if self.pool.len() < POOL {
                    self.pool.push(bytes);
                } else {
                    let place = mutator.below(POOL);
                    // The files it began with stay.
                    if place > 8 {
                        self.pool[place] = bytes;
                    }
                }
            }
        }
        Ok(())
    }
}

/// A GGUF file of the model in `SHAPE`, and its safetensors file.
fn seeds(rt: &Arc<Runtime>, dir: &Path) -> (GgufFile, Vec<u8>) {
    let model = Model::random(rt, ModelConfig::from_json(SHAPE).unwrap(), 1, Options::default()).unwrap();
    model.save_base(dir).unwrap();
    let mut gguf = GgufFile::new().text("general.architecture", "qwen3").u32("qwen3.block_count", 1);
    for (key, value) in [("embedding_length", 32), ("feed_forward_length", 32), ("attention.head_count", 2)] {
        gguf = gguf.u32(&format!("qwen3.{key}"), value);
    }
    gguf = gguf.u32("qwen3.attention.key_length", 8).f32("qwen3.rope.freq_base", 10_000.0);
    let q8 = |rows: usize| (8, vec![32, rows as u64], vec![1; rows * 34]);
    let q4 = |rows: usize| (3, vec![32, rows as u64], vec![1; rows * 20]);
    let norm = |size: usize| (0, vec![size as u64], vec![0; size * 4]);
    let half = (1, vec![16, 32], vec![1; 16 * 32 * 2]);
    for (name, (kind, dims, data)) in [
        ("token_embd", q8(24)),
        ("output_norm", norm(32)),
        ("blk.0.attn_norm", norm(32)),
        ("blk.0.ffn_norm", norm(32)),
        ("blk.0.attn_q_norm", norm(8)),
        ("blk.0.attn_k_norm", norm(8)),
        ("blk.0.attn_q", q4(16)),
        ("blk.0.attn_k", q8(16)),
        ("blk.0.attn_v", q8(16)),
        ("blk.0.attn_output", half),
        ("blk.0.ffn_gate", q4(32)),
        ("blk.0.ffn_up", q4(32)),
        ("blk.0.ffn_down", q8(32)),
    ] {
        gguf = gguf.tensor(&format!("{name}.weight"), &dims, kind, data);
    }
    (gguf, fs::read(dir.join("model.safetensors")).unwrap())
}

fn argument(name: &str, default: u64) -> u64 {
    let prefix = format!("{name}=");
    let given = std::env::args().find_map(|argument| argument.strip_prefix(&prefix).map(str::to_string));
    given.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")))
}

fn bounded(what: &str, peak: usize, limit: usize) {
    assert!(peak <= limit, "{what}: {peak} bytes allocated, {limit} allowed");
}

fn main() -> ExitCode {
    let (seconds, mut seed) = (argument("seconds", 60), argument("seed", 1) << 32);
    let dir = std::env::temp_dir().join(format!("quintain-fuzz-{}", std::process::id()));
    let rt = Runtime::new(Some(1), None).unwrap();
    let (gguf, weights) = seeds(&rt, &dir);
    let config = fs::read(dir.join("config.json")).unwrap();
    let index = br#"{"metadata":{"total_size":1},"weight_map":{"model.norm.weight":"model-1.safetensors"}}"#.to_vec();
    let file = dir.join("model.gguf");
    let open = |path: &Path| {
        let (result, peak) = counting::peak(|| Model::open(&rt, path, 0, Options::default()));
        bounded("Model::open", peak, 32 << 20);
        match result {
            Ok(_) => Outcome::Accepted,
            Err(error) => {
                assert!(matches!(error.code(), "Format" | "Config" | "Io"), "{error:?}");
                Outcome::Refused
            }
        }
    };
    let in_folder = |name: &'static str, good: Vec<u8>| {
        let (dir, open) = (&dir, &open);
        move |bytes: &[u8]| {
            fs::write(dir.join(name), bytes).unwrap();
            let outcome = open(dir);
            fs::write(dir.join(name), &good).unwrap();
            outcome
        }
    };
    let header = 8 + u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    let kinds = every_kind();
    let mut targets = [
        Target::new("gguf parser", vec![kinds.bytes(), gguf.bytes()], kinds.header().len(), |bytes| {
            let (result, peak) = counting::peak(|| Gguf::parse(bytes));
            bounded("Gguf::parse", peak, 16 * bytes.len() + 4096);
            result.map_or(Outcome::Refused, |file| {
                check_gguf(bytes, &file);
                Outcome::Accepted
            })
        }),
        Target::new("safetensors parser", vec![some_tensors(), weights.clone()], header, |bytes| {
            let (result, peak) = counting::peak(|| Header::parse(bytes));
            bounded("Header::parse", peak, 16 * bytes.len() + 4096);
            result.map_or(Outcome::Refused, |header| {
                check_safetensors(bytes, &header);
                Outcome::Accepted
            })
        }),
        Target::new("open model.gguf", vec![gguf.bytes()], gguf.header().len(), |bytes| {
            fs::write(&file, bytes).unwrap();
            open(&file)
        }),
        Target::new("open model.safetensors", vec![weights.clone()], header, in_folder("model.safetensors", weights)),
        Target::new("open config.json", vec![config.clone()], config.len(), in_folder("config.json", config)),
        Target::new("open index", vec![index.clone()], index.len(), |bytes| {
            // The index counts where there is no single file.
            fs::rename(dir.join("model.safetensors"), dir.join("model-1.safetensors")).unwrap();
            fs::write(dir.join("model.safetensors.index.json"), bytes).unwrap();
            let outcome = open(&dir);
            fs::rename(dir.join("model-1.safetensors"), dir.join("model.safetensors")).unwrap();
            outcome
        }),
    ];
    let (start, mut failed) = (Instant::now(), false);
    while start.elapsed().as_secs() < seconds && !failed {
        for (index, target) in targets.iter_mut().enumerate() {
            // Files are slower than bytes.
            let rounds = if index < 2 { 50 } else { 1 };
            for _ in 0..rounds {
                seed += 1;
                if let Err((fault, bytes)) = target.round(seed) {
                    fs::write("fuzz-failure.bin", bytes).unwrap();
                    eprintln!("{}: {fault}; the input is in fuzz-failure.bin, its seed was {seed}", target.name);
                    failed = true;
                }
            }
        }
    }
    println!("{:24} {:>10} {:>10} {:>14} {:>14}", "target", "accepted", "refused", "slowest", "largest peak");
    for target in &targets {
        let (slowest, peak) = (format!("{:.1?}", target.slowest), format!("{} kB", target.peak / 1000));
        println!("{:24} {:>10} {:>10} {slowest:>14} {peak:>14}", target.name, target.accepted, target.refused);
    }
    fs::remove_dir_all(&dir).unwrap();
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
