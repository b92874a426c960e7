//! What an adapter is made of.

use crate::error::{Error, Result};

/// Low-rank adapters, in PEFT's terms.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    pub rank: usize,
    pub alpha: f32,
    /// Module names: `q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj`, `down_proj`.
    pub targets: Vec<String>,
}

impl LoraConfig {
    /// Every module an adapter can sit on.
    pub const MODULES: [&'static str; 7] =
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

    /// Adapters on all linear layers.
    pub fn all(rank: usize, alpha: f32) -> Self {
        LoraConfig { rank, alpha, targets: Self::MODULES.map(String::from).to_vec() }
    }

    pub(super) fn validate(&self) -> Result<()> {
        if self.rank == 0 || self.rank > 4096 {
            return Err(Error::config("lora.rank", format!("is {}, must lie between 1 and 4096", self.rank)));
        }
        if !self.alpha.is_finite() {
            return Err(Error::config("lora.alpha", format!("is {}, must be finite", self.alpha)));
        }
        if self.targets.is_empty() {
            return Err(Error::config("lora.targets", "is empty, name at least one module"));
        }
        match self.targets.iter().find(|t| !Self::MODULES.contains(&t.as_str())) {
            Some(unknown) => {
                let message = format!("`{unknown}` is unknown, use some of {}", Self::MODULES.join(", "));
                Err(Error::config("lora.targets", message))
            }
            None => Ok(()),
        }
    }
}
