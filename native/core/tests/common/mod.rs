//! Helpers of the model tests: small configurations, random forests, and an independent naive model in f64.
#![allow(dead_code)]

use std::collections::HashMap;
use std::sync::Arc;

use quintain_core::config::ModelConfig;
use quintain_core::forest::Forest;
use quintain_core::kernels::{Isa, Runtime};
use quintain_core::model::{AbortFlag, AdapterConfig, Dtype, LogprobOptions, LoraConfig, Model, Options, Targets};
use quintain_core::philox::{philox, uniform_f32};

/// A sequence of random numbers for tests.
pub struct Dice(pub u64, u32);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Dice(seed, 0)
    }
    pub fn uniform(&mut self) -> f32 {
        self.1 += 1;
        uniform_f32(philox(self.0, 77, 0, self.1)[0])
    }
    pub fn signed(&mut self) -> f32 {
        2.0 * self.uniform() - 1.0
    }
    pub fn below(&mut self, n: usize) -> usize {
        ((self.uniform() * n as f32) as usize).min(n - 1)
    }
}

pub const LLAMA_TIED: &str = r#"{"vocab_size": 23, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": true, "initializer_range": 0.3,
    "max_position_embeddings": 64}"#;
pub const QWEN2: &str = r#"{"model_type": "qwen2", "vocab_size": 23, "hidden_size": 16, "intermediate_size": 36,
    "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 10, "num_key_value_heads": 1, "initializer_range": 0.3,
    "max_position_embeddings": 64}"#;
pub const QWEN3: &str = r#"{"model_type": "qwen3", "vocab_size": 40, "hidden_size": 12, "intermediate_size": 20,
    "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 6, "num_key_value_heads": 4, "initializer_range": 0.3,
    "max_position_embeddings": 64, "rope_theta": 1000.0}"#;

pub fn config(json: &str) -> ModelConfig {
    ModelConfig::from_json(json).unwrap()
}

pub fn runtime(isa: Isa, threads: usize) -> Arc<Runtime> {
    Runtime::new(Some(threads), Some(isa)).unwrap()
}

/// The fastest instruction set here, and the oracle.
pub fn best() -> Isa {
    Isa::supported().last().unwrap()
}

pub fn options(dtype: Dtype, lora: bool) -> Options {
    // Not a power of two, and not all modules: fused products with a part that has no adapter.
    let targets = ["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"].map(String::from).to_vec();
    let adapter = lora.then_some(LoraConfig { targets, ..LoraConfig::all(3, 7.0) }.into());
    Options { dtype, adapter, ..Options::default() }
}

/// A model whose every parameter is away from its start: norms off 1, biases off 0, B off 0.
pub fn model(rt: &Arc<Runtime>, json: &str, options: Options) -> Model {
    let mut model = Model::random(rt, config(json), 5, options).unwrap();
    let mut dice = Dice::new(9);
    let names: Vec<String> = model.parameter_names().map(String::from).collect();
    for name in names {
        if ["norm", "bias", "lora_B"].iter().any(|kind| name.contains(kind)) {
            let (_, mut values) = model.parameter(&name, None).unwrap();
            values.iter_mut().for_each(|value| *value += 0.3 * dice.signed());
            model.set_parameter(&name, None, &values).unwrap();
        }
    }
    model
}

/// Two trees: one with a shared prompt, a branch of a branch and long leaves, and a lone sequence.
pub fn forest(vocab: usize) -> Forest {
    let mut dice = Dice::new(3);
    let segments = [(0, 5, -1), (5, 7, 0), (12, 3, 0), (15, 2, 2), (17, 1, 2), (18, 6, -1)];
    Forest::new((0..24).map(|_| dice.below(vocab) as u32).collect(), &segments).unwrap()
}

/// A batch: targets (some positions with several, some with none) and a gradient for each.
pub struct Batch {
    pub forest: Forest,
    pub position: Vec<u32>,
    pub token: Vec<u32>,
    pub dlogprob: Vec<f32>,
    pub dentropy: Vec<f32>,
}

impl Batch {
    pub fn new(vocab: usize) -> Self {
        let mut dice = Dice::new(4);
        let forest = forest(vocab);
        let mut batch = Batch { forest, position: vec![], token: vec![], dlogprob: vec![], dentropy: vec![] };
        for position in [4, 4, 4, 9, 11, 7, 13, 14, 14, 16, 17, 23, 20] {
            batch.position.push(position);
            batch.token.push(dice.below(vocab) as u32);
            batch.dlogprob.push(dice.signed());
            batch.dentropy.push(dice.signed());
        }
        batch
    }

    pub fn targets(&self) -> Targets<'_> {
        Targets { position: &self.position, token: &self.token }
    }
}

pub fn quiet() -> AbortFlag {
    AbortFlag::default()
}

pub fn keep(temperature: f32) -> LogprobOptions<'static> {
    LogprobOptions { temperature, entropy: true, keep: true, ..LogprobOptions::default() }
}

/// Every trained tensor's gradient after one forward and backward.
pub fn gradients(model: &mut Model, batch: &Batch, temperature: f32) -> Vec<(String, Vec<f32>)> {
    let forward = model.logprobs(&batch.forest, &batch.targets(), keep(temperature), &quiet()).unwrap();
    model.backward(forward.id, &batch.dlogprob, Some(&batch.dentropy), &quiet()).unwrap();
    all_gradients(model)
}

pub fn all_gradients(model: &Model) -> Vec<(String, Vec<f32>)> {
    let names = model.parameter_names().map(String::from);
    names.filter_map(|name| model.gradient(&name, None).ok().map(|gradient| (name, gradient))).collect()
}

pub fn norm(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().map(|v| v * v).sum::<f64>().sqrt()
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// The naive model: f64, one sequence at a time, written from the definition.
pub struct Mirror {
    config: ModelConfig,
    pub tensors: HashMap<String, Vec<f64>>,
    lora_scale: f64,
    /// Factor of an adapter's input: a function of layer, product, row and column.
    pub dropout: Option<Mask>,
}

pub type Mask = fn(usize, usize, usize, usize) -> f64;

impl Mirror {
    pub fn of(model: &Model) -> Self {
        let tensors = model.parameter_names().map(|name| {
            (name.to_string(), model.parameter(&name, None).unwrap().1.iter().map(|&v| f64::from(v)).collect())
        });
        let lora_scale =
            model.options().adapter.as_ref().map_or(0.0, |AdapterConfig::Lora(lora)| f64::from(lora.scale()));
        Mirror { config: model.config.clone(), tensors: tensors.collect(), lora_scale, dropout: None }
    }

    /// `sum dlogprob · logprob + sum dentropy · entropy`
    pub fn loss(&self, batch: &Batch, temperature: f64) -> f64 {
        let (logprobs, entropy) = self.logprobs(batch, temperature);
        let sum = |values: &[f64], weights: &[f32]| -> f64 {
            values.iter().zip(weights).map(|(v, &w)| v * f64::from(w)).sum()
        };
        sum(&logprobs, &batch.dlogprob) + sum(&entropy, &batch.dentropy)
    }

    pub fn logprobs(&self, batch: &Batch, temperature: f64) -> (Vec<f64>, Vec<f64>) {
        let forest = &batch.forest;
        let mut cache: HashMap<usize, Vec<Vec<f64>>> = HashMap::new();
        batch
            .position
            .iter()
            .zip(&batch.token)
            .map(|(&position, &token)| {
                let position = position as usize;
                let segment = forest.segments().iter().rposition(|s| s.start <= position).unwrap();
                let logits = cache.entry(segment).or_insert_with(|| {
                    let path = forest.path(segment);
                    let tokens = path.iter().flat_map(|&s| {
                        let s = forest.segments()[s];
                        forest.tokens()[s.start..s.start + s.len].to_vec()
                    });
                    self.logits(&tokens.collect::<Vec<u32>>())
                });
                let row: Vec<f64> =
                    logits[forest.positions()[position] as usize].iter().map(|z| z / temperature).collect();
                let max = row.iter().cloned().fold(f64::MIN, f64::max);
                let lse = max + row.iter().map(|z| (z - max).exp()).sum::<f64>().ln();
                let entropy = -row.iter().map(|z| (z - lse).exp() * (z - lse)).sum::<f64>();
                (row[token as usize] - lse, entropy)
            })
            .unzip()
    }

    fn get(&self, name: &str) -> &[f64] {
        &self.tensors[name]
    }

    /// `row` is the token's place in its sequence.
    fn linear(&self, module: &str, x: &[f64], row: usize) -> Vec<f64> {
        let product = |name: &str, x: &[f64]| -> Option<Vec<f64>> {
            let w = self.tensors.get(name)?;
            Some(w.chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect())
        };
        let mut y = product(&format!("{module}.weight"), x).unwrap();
        if let Some(bias) = self.tensors.get(&format!("{module}.bias")) {
            y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
        let mut masked = x.to_vec();
        if let (Some(mask), Some(layer)) = (self.dropout, module.split('.').nth(2)) {
            let at = |names: &[&str]| names.iter().any(|name| module.ends_with(name));
            let product = match () {
                () if at(&["q_proj", "k_proj", "v_proj"]) => 0,
                () if at(&["o_proj"]) => 1,
                () if at(&["gate_proj", "up_proj"]) => 2,
                () => 3,
            };
            let layer = layer.parse().unwrap();
            masked.iter_mut().enumerate().for_each(|(column, x)| *x *= mask(layer, product, row, column));
        }
        if let Some(low) = product(&format!("base_model.model.{module}.lora_A.weight"), &masked) {
            let up = product(&format!("base_model.model.{module}.lora_B.weight"), &low).unwrap();
            y.iter_mut().zip(up).for_each(|(y, up)| *y += self.lora_scale * up);
        }
        y
    }

    fn rms(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let inverse = 1.0 / (mean + f64::from(self.config.rms_norm_eps)).sqrt();
        x.iter().zip(self.get(name)).map(|(x, w)| x * inverse * w).collect()
    }

    fn heads(&self, x: Vec<f64>, norm: &str, position: usize) -> Vec<f64> {
        let dim = self.config.head_dim();
        let mut out = Vec::new();
        for head in x.chunks(dim) {
            let head = if self.tensors.contains_key(norm) { self.rms(norm, head) } else { head.to_vec() };
            let half = dim / 2;
            let rotated = (0..dim).map(|i| {
                let angle =
                    position as f64 * f64::from(self.config.rope_theta).powf(-2.0 * (i % half) as f64 / dim as f64);
                let other = if i < half { -head[i + half] } else { head[i - half] };
                head[i] * angle.cos() + other * angle.sin()
            });
            out.extend(rotated.collect::<Vec<_>>());
        }
        out
    }

    /// Logits after each token of a sequence.
    pub fn logits(&self, tokens: &[u32]) -> Vec<Vec<f64>> {
        let c = &self.config;
        let (hidden, dim) = (c.hidden_size, c.head_dim());
        let embed = self.get("model.embed_tokens.weight");
        let mut xs: Vec<Vec<f64>> =
            tokens.iter().map(|&t| embed[t as usize * hidden..(t as usize + 1) * hidden].to_vec()).collect();
        for layer in 0..c.num_hidden_layers {
            let p = format!("model.layers.{layer}");
            let (mut keys, mut values) = (Vec::new(), Vec::new());
            for (position, x) in xs.iter_mut().enumerate() {
                let h = self.rms(&format!("{p}.input_layernorm.weight"), x);
                let at = |m: &str| format!("{p}.self_attn.{m}");
                let q = self.heads(self.linear(&at("q_proj"), &h, position), &at("q_norm.weight"), position);
                keys.push(self.heads(self.linear(&at("k_proj"), &h, position), &at("k_norm.weight"), position));
                values.push(self.linear(&at("v_proj"), &h, position));
                let mut attended = Vec::new();
                for (head, q) in q.chunks(dim).enumerate() {
                    let kv = head / c.group() * dim..(head / c.group() + 1) * dim;
                    let scores: Vec<f64> = keys
                        .iter()
                        .map(|k| q.iter().zip(&k[kv.clone()]).map(|(q, k)| q * k).sum::<f64>() / (dim as f64).sqrt())
                        .collect();
                    let max = scores.iter().cloned().fold(f64::MIN, f64::max);
                    let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                    let total: f64 = weights.iter().sum();
                    attended
                        .extend(kv.map(|i| weights.iter().zip(&values).map(|(w, v)| w / total * v[i]).sum::<f64>()));
                }
                let o = self.linear(&at("o_proj"), &attended, position);
                x.iter_mut().zip(o).for_each(|(x, o)| *x += o);
                let h = self.rms(&format!("{p}.post_attention_layernorm.weight"), x);
                let gate = self.linear(&format!("{p}.mlp.gate_proj"), &h, position);
                let up = self.linear(&format!("{p}.mlp.up_proj"), &h, position);
                let act: Vec<f64> = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                let down = self.linear(&format!("{p}.mlp.down_proj"), &act, position);
                x.iter_mut().zip(down).for_each(|(x, d)| *x += d);
            }
        }
        let head = if c.tie_word_embeddings { "model.embed_tokens" } else { "lm_head" };
        xs.iter().enumerate().map(|(row, x)| self.linear(head, &self.rms("model.norm.weight", x), row)).collect()
    }
}
