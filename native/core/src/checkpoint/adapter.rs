//! Adapters in the format of PEFT.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use super::file::read_json;
use crate::error::{Error, Result};
use crate::params::LoraConfig;

/// The factors.
pub(super) const ADAPTER: &str = "adapter_model.safetensors";
/// Their shape, scale and place.
pub(super) const ADAPTER_CONFIG: &str = "adapter_config.json";

/// What PEFT needs to open the adapter.
pub(super) fn adapter_config(lora: &LoraConfig) -> String {
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": null,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "target_modules": lora.targets,
    });
    format!("{config:#}")
}

pub(super) fn check_adapter_config(lora: &LoraConfig, path: &Path) -> Result<()> {
    let saved = read_json(path)?;
    let wrong =
        |field: &str, own: Value| Err(Error::format(path, format!("{field} is {}, the model has {own}", saved[field])));
    if saved["r"].as_u64() != Some(lora.rank as u64) {
        return wrong("r", json!(lora.rank));
    }
    if saved["lora_alpha"].as_f64().map(|alpha| alpha as f32) != Some(lora.alpha) {
        return wrong("lora_alpha", json!(lora.alpha));
    }
    let targets: BTreeSet<&str> =
        saved["target_modules"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if targets != lora.targets.iter().map(String::as_str).collect() {
        return wrong("target_modules", json!(lora.targets));
    }
    Ok(())
}
