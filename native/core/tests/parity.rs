//! The same numbers as transformers and PEFT, on the fixtures of `tests/fixtures/checkpoints` (see its `make.py`).
//!
//! `npm run bench -- parity` prints the differences.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::*;
use quintain_core::adapter::DEFAULT;
use quintain_core::forest::Forest;
use quintain_core::kernels::Runtime;
use quintain_core::model::{Blocks, Dtype, Model, Options, Targets};
use safetensors::SafeTensors;

const ARCHITECTURES: [&str; 6] = ["llama", "mistral", "qwen2", "qwen3", "llama3", "llama-linear"];
/// Tolerance of f32 logits; other figures of f32 are held to the same.
const F32: f64 = 1e-4;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/checkpoints")
}

/// The tensors of an `expected.safetensors`, and the sequences asked about.
struct Expected {
    tensors: BTreeMap<String, Vec<f32>>,
    sequences: Vec<Vec<u32>>,
}

impl Expected {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let words = |name: &str| -> Vec<[u8; 4]> {
            file.tensor(name).unwrap().data().chunks_exact(4).map(|word| word.try_into().unwrap()).collect()
        };
        let count = file.names().into_iter().filter(|name| name.starts_with("tokens.")).count();
        let token = |word: [u8; 4]| u32::try_from(i32::from_le_bytes(word)).unwrap();
        let sequences =
            (0..count).map(|i| words(&format!("tokens.{i}")).into_iter().map(token).collect()).collect::<Vec<_>>();
        let floats = file.names().into_iter().filter(|name| !name.starts_with("tokens."));
        let values = |name: &str| words(name).into_iter().map(f32::from_le_bytes).collect();
        Expected { tensors: floats.map(|name| (name.to_string(), values(name))).collect(), sequences }
    }

    /// A tensor of every sequence, one after the other.
    fn joined(&self, name: &str) -> Vec<f32> {
        (0..self.sequences.len()).flat_map(|i| self.tensors[&format!("{name}.{i}")].iter().copied()).collect()
    }

    /// All sequences as roots of one forest, and where each begins.
    fn forest(&self) -> (Forest, Vec<usize>) {
        let mut starts = vec![0];
        for sequence in &self.sequences {
            starts.push(starts.last().unwrap() + sequence.len());
        }
        let segments: Vec<_> = starts.windows(2).map(|pair| (pair[0] as u32, (pair[1] - pair[0]) as u32, -1)).collect();
        (Forest::new(self.sequences.concat(), &segments).unwrap(), starts)
    }
}

/// How far `make.py` found transformers' own bf16 from its f32.
fn bf16_of_transformers(folder: &Path) -> BTreeMap<String, f64> {
    let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
    let json: BTreeMap<String, BTreeMap<String, f64>> = serde_json::from_str(&text).unwrap();
    json["bf16"].clone()
}

fn largest_difference(ours: &[f32], theirs: &[f32]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    // A NaN would lose against every number.
    assert!(ours.iter().all(|value| value.is_finite()));
    ours.iter().zip(theirs).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs()).fold(0.0, f64::max)
}

/// Largest differences; gradients as the norm of the difference over the norm.
#[derive(Debug)]
struct Differences {
    logits: f64,
    logprobs: f64,
    entropy: f64,
    /// All gradients as one vector.
    gradient: f64,
    /// The tensor that is furthest off.
    worst: (f64, String),
}

impl Differences {
    fn print(&self, name: &str, dtype: &str) {
        let Differences { logits, logprobs, entropy, gradient, worst: (worst, tensor) } = self;
        println!(
            "{name:24} {dtype:5} {logits:9.1e} {logprobs:9.1e} {entropy:9.1e} {gradient:9.1e} {worst:9.1e}  {tensor}"
        );
    }
}

fn header() {
    println!(
        "{:24} {:5} {:>9} {:>9} {:>9} {:>9} {:>9}  worst tensor",
        "largest difference", "dtype", "logits", "logprobs", "entropy", "gradient", "worst"
    );
}

fn all_logits(model: &mut Model, expected: &Expected) -> Vec<f32> {
    let (forest, _) = expected.forest();
    let positions: Vec<u32> = (0..forest.len() as u32).collect();
    model.logits(&forest, &positions, None, &quiet()).unwrap()
}

fn logits_difference(model: &mut Model, expected: &Expected) -> f64 {
    largest_difference(&all_logits(model, expected), &expected.joined("logits"))
}

/// Every figure of a fixture; with an adapter the gradients are those of its factors.
fn compare(model: &mut Model, expected: &Expected) -> Differences {
    let (forest, starts) = expected.forest();
    let (mut position, mut token) = (Vec::new(), Vec::new());
    for (sequence, start) in expected.sequences.iter().zip(&starts) {
        position.extend((0..sequence.len() - 1).map(|at| (start + at) as u32));
        token.extend(&sequence[1..]);
    }
    let targets = Targets { position: &position, token: &token };
    let forward = model.logprobs(&forest, &targets, keep(1.0), &quiet()).unwrap();
    let (weights, entropy_weights) = (expected.joined("weights"), expected.joined("entropy_weights"));
    model.backward(forward.id, &weights, Some(&entropy_weights), &quiet()).unwrap();
    let adapted = !model.adapters().is_empty();
    let gradients: BTreeMap<String, Vec<f32>> =
        all_gradients(model).into_iter().filter(|(name, _)| !adapted || name.contains(".lora_")).collect();
    model.zero_grad(None).unwrap();
    let theirs: BTreeMap<&str, &Vec<f32>> =
        expected.tensors.iter().filter_map(|(name, values)| Some((name.strip_prefix("grad.")?, values))).collect();
    let names = |of: &mut dyn Iterator<Item = &str>| of.map(String::from).collect::<Vec<_>>();
    assert_eq!(names(&mut gradients.keys().map(String::as_str)), names(&mut theirs.keys().copied()));
    let (mut worst, mut off, mut total) = ((0.0, String::new()), 0.0, 0.0);
    for (name, ours) in &gradients {
        let theirs = theirs[name.as_str()];
        assert_eq!(ours.len(), theirs.len(), "{name}");
        let difference = norm(ours.iter().zip(theirs).map(|(a, b)| f64::from(*a) - f64::from(*b)));
        let size = norm(theirs.iter().map(|&value| f64::from(value)));
        assert!(difference.is_finite() && size > 0.0, "{name}");
        if difference / size > worst.0 {
            worst = (difference / size, name.clone());
        }
        off += difference * difference;
        total += size * size;
    }
    Differences {
        logits: logits_difference(model, expected),
        logprobs: largest_difference(&forward.logprobs, &expected.joined("logprobs")),
        entropy: largest_difference(&forward.entropy, &expected.joined("entropy")),
        gradient: (off / total).sqrt(),
        worst,
    }
}

fn check(name: &str, folder: &Path, model: &mut Model) {
    let found = compare(model, &Expected::read(&folder.join("expected.safetensors")));
    let dtype = model.options().dtype;
    found.print(name, if dtype == Dtype::F32 { "f32" } else { "bf16" });
    let figures = [
        ("logits", found.logits),
        ("logprobs", found.logprobs),
        ("entropy", found.entropy),
        ("gradient", found.gradient),
        ("largestGradient", found.worst.0),
    ];
    let theirs = bf16_of_transformers(folder);
    for (figure, ours) in figures {
        // In bf16 we round the weights and what goes into a product; transformers besides every sum, norm and residual.
        // So we must lie no further from f32 than it does itself; the largest of thousands of random errors, unlike the
        // norm of all, fluctuates from one way of rounding to another by some tens of percent.
        let bound = match (dtype, figure) {
            (Dtype::F32, _) => F32,
            (Dtype::Bf16, "gradient") => theirs[figure],
            (Dtype::Bf16, _) => 1.5 * theirs[figure],
        };
        assert!(ours <= bound, "{name} {dtype:?}: {figure} is off by {ours:e}, allowed {bound:e}");
    }
}

fn open(rt: &Arc<Runtime>, path: &Path, dtype: Dtype) -> Model {
    Model::open(rt, path, 0, Options { dtype, ..Options::default() }).unwrap()
}

#[test]
fn architectures_compute_what_transformers_does() {
    let rt = runtime(best(), 2);
    header();
    for name in ARCHITECTURES {
        let folder = fixtures().join(name);
        for dtype in [Dtype::F32, Dtype::Bf16] {
            check(name, &folder, &mut open(&rt, &folder, dtype));
        }
    }
}

#[test]
fn adapters_of_peft_compute_what_peft_does() {
    let rt = runtime(best(), 2);
    let saved = std::env::temp_dir().join(format!("quintain-parity-{}", std::process::id()));
    header();
    for name in ["llama", "llama3", "mistral", "qwen2", "qwen3"] {
        let folder = fixtures().join(name);
        let adapter = folder.join("adapter");
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let mut model = open(&rt, &folder, dtype);
            model.add_adapter_from(DEFAULT, &adapter).unwrap();
            check(&format!("{name} with an adapter"), &adapter, &mut model);
            if dtype == Dtype::F32 {
                // The saved values are those that were read.
                model.save(&saved, None, false).unwrap();
                let mut again = open(&rt, &folder, dtype);
                again.add_adapter_from(DEFAULT, &saved).unwrap();
                let expected = Expected::read(&adapter.join("expected.safetensors"));
                assert!(logits_difference(&mut again, &expected) <= F32, "{name}, saved and opened");
            }
        }
    }
    std::fs::remove_dir_all(saved).unwrap();
}

#[test]
fn half_precision_and_sharded_folders_open() {
    let rt = runtime(best(), 1);
    for name in ["qwen2-bf16", "qwen2-f16"] {
        let folder = fixtures().join(name);
        let expected = Expected::read(&folder.join("expected.safetensors"));
        let found = logits_difference(&mut open(&rt, &folder, Dtype::F32), &expected);
        println!("{name:24} f32   {found:9.1e}");
        assert!(found <= F32, "{name}: {found:e}");
    }
}

#[test]
fn gguf_files_compute_what_their_weights_do_in_transformers() {
    let rt = runtime(best(), 2);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(fixtures().join("gguf")).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "gguf"));
    files.sort();
    assert_eq!(files.len(), 14);
    println!(
        "{:24} {:>9} {:>9}  logits with the base dequantised on opening, and in the file's blocks",
        "GGUF", "f32", "blocks"
    );
    for path in files {
        let expected = Expected::read(&path.with_extension("safetensors"));
        let name = path.file_stem().unwrap().display();
        let logits = |dtype, blocks| {
            all_logits(
                &mut Model::open(&rt, &path, 0, Options { dtype, blocks, ..Options::default() }).unwrap(),
                &expected,
            )
        };
        let found = [None, Some(Blocks::File)]
            .map(|blocks| largest_difference(&logits(Dtype::F32, blocks), &expected.joined("logits")));
        println!("{name:24} {:9.1e} {:9.1e}", found[0], found[1]);
        assert!(found.iter().all(|&difference| difference <= F32), "{name}: {found:?}");
        let (plain, blocks) = (logits(Dtype::Bf16, None), logits(Dtype::Bf16, Some(Blocks::File)));
        assert_eq!(
            bits(&plain),
            bits(&blocks),
            "{name}: a block's values are rounded to bf16 as those held in bf16 are"
        );
    }
}
