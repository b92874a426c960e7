//! What an adapter is made of, in PEFT's terms.

use crate::config::ModelConfig;
use crate::error::{Error, Result};

/// Low-rank adaptation of some linear layers: `y += scale · B · A · dropout(x)`.
///
/// Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021); the scale `alpha / sqrt(rank)` is that of
/// Kalajdzievski, "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA" (2023).
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    pub rank: usize,
    pub alpha: f32,
    /// Which modules carry it. An entry stands for every module whose path is the entry, or ends with `.` and the entry:
    /// `q_proj`, `layers.3.mlp.down_proj`. `all-linear` stands for all.
    pub targets: Vec<String>,
    /// Scale by `alpha / sqrt(rank)` instead of `alpha / rank`.
    pub rs_lora: bool,
    /// The share of its inputs that a training forward drops.
    pub dropout: f32,
}

/// The linear layers of a decoder layer, by the product that computes them: q|k|v, o, gate|up, down.
pub(super) const PRODUCTS: [(&str, &[&str]); 4] = [
    ("self_attn", &["q_proj", "k_proj", "v_proj"]),
    ("self_attn", &["o_proj"]),
    ("mlp", &["gate_proj", "up_proj"]),
    ("mlp", &["down_proj"]),
];

/// The path of a module.
pub(super) fn path(layer: usize, parent: &str, module: &str) -> String {
    format!("model.layers.{layer}.{parent}.{module}")
}

/// The paths of all modules that an adapter can sit on, in the order of the layers.
pub fn module_paths(config: &ModelConfig) -> Vec<String> {
    let products = (0..config.num_hidden_layers).flat_map(|layer| PRODUCTS.map(|product| (layer, product)));
    products.flat_map(|(layer, (parent, modules))| modules.iter().map(move |name| path(layer, parent, name))).collect()
}

/// PEFT's rule for an entry of a list of targets.
pub(crate) fn matches(entry: &str, path: &str) -> bool {
    entry == "all-linear" || path.strip_suffix(entry).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

impl LoraConfig {
    /// An adapter on all linear layers.
    pub fn all(rank: usize, alpha: f32) -> Self {
        LoraConfig { rank, alpha, targets: vec!["all-linear".into()], rs_lora: false, dropout: 0.0 }
    }

    /// What the product of the factors is multiplied by.
    pub fn scale(&self) -> f32 {
        let rank = self.rank as f32;
        self.alpha / if self.rs_lora { rank.sqrt() } else { rank }
    }

    /// Refuses what cannot be computed, and targets that match no module of `config`.
    pub(crate) fn validate(&self, config: &ModelConfig) -> Result<()> {
        if self.rank == 0 || self.rank > 4096 {
            return Err(Error::config("lora.rank", format!("is {}, must lie between 1 and 4096", self.rank)));
        }
        if !self.alpha.is_finite() {
            return Err(Error::config("lora.alpha", format!("is {}, must be finite", self.alpha)));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::config("lora.dropout", format!("is {}, must be at least 0 and below 1", self.dropout)));
        }
        if self.targets.is_empty() {
            return Err(Error::config("lora.targets", "is empty, name at least one module"));
        }
        let paths = module_paths(config);
        match self.targets.iter().find(|entry| !paths.iter().any(|path| matches(entry, path))) {
            Some(entry) => {
                let (first, last) = (&paths[0], &paths[paths.len() - 1]);
                let message = format!("`{entry}` matches no module: they are called {first} to {last}, or all-linear");
                Err(Error::config("lora.targets", message))
            }
            None => Ok(()),
        }
    }

    /// Whether the module at `path` carries the adapter.
    pub(crate) fn covers(&self, path: &str) -> bool {
        self.targets.iter().any(|entry| matches(entry, path))
    }

    /// The shortest list of targets that stands for the modules covered: a name where all layers have it, else paths.
    pub(crate) fn listed(&self, config: &ModelConfig) -> Vec<String> {
        let mut targets = Vec::new();
        for (parent, modules) in PRODUCTS {
            for name in modules {
                let paths = (0..config.num_hidden_layers).map(|layer| path(layer, parent, name));
                let covered: Vec<_> = paths.filter(|path| self.covers(path)).collect();
                if covered.len() == config.num_hidden_layers {
                    targets.push(name.to_string());
                } else {
                    targets.extend(covered);
                }
            }
        }
        targets
    }
}
