//! The settings of LoRA, in PEFT's terms.

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::modules::{PRODUCTS, matches, module_paths, path};
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

impl LoraConfig {
    /// An adapter on all linear layers.
    pub fn all(rank: usize, alpha: f32) -> Self {
        LoraConfig { rank, alpha, targets: vec!["all-linear".into()], rs_lora: false, dropout: 0.0 }
    }

    /// The factor of the product of A and B.
    pub fn scale(&self) -> f32 {
        let rank = self.rank as f32;
        self.alpha / if self.rs_lora { rank.sqrt() } else { rank }
    }

    /// Refuses what cannot be computed, and targets that match no module of `config`.
    pub fn validate(&self, config: &ModelConfig) -> Result<()> {
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
    pub fn covers(&self, path: &str) -> bool {
        self.targets.iter().any(|entry| matches(entry, path))
    }

    /// The shortest list of targets that stands for the modules covered: a name where all layers have it, else paths.
    pub fn listed(&self, config: &ModelConfig) -> Vec<String> {
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

/// The settings as JSON has them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::adapter) struct LoraSettings {
    rank: usize,
    alpha: Option<f32>,
    targets: Option<Vec<String>>,
    #[serde(default)]
    rs_lora: bool,
    #[serde(default)]
    dropout: f32,
}

impl From<LoraSettings> for LoraConfig {
    fn from(settings: LoraSettings) -> Self {
        let all = LoraConfig::all(settings.rank, settings.alpha.unwrap_or(2.0 * settings.rank as f32));
        let targets = settings.targets.unwrap_or(all.targets);
        LoraConfig { targets, rs_lora: settings.rs_lora, dropout: settings.dropout, ..all }
    }
}

/// The shortest decimal that rounds to the number: 0.1, not its binary expansion.
pub(super) fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

impl LoraConfig {
    /// The settings as JSON, complete.
    pub fn to_json(&self) -> Value {
        json!({
            "rank": self.rank,
            "alpha": decimal(self.alpha),
            "targets": self.targets,
            "rsLora": self.rs_lora,
            "dropout": decimal(self.dropout),
        })
    }
}
