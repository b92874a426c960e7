//! The settings of an adapter, by its kind.

use serde::Deserialize;
use serde_json::{Value, json};

use super::lora::{LoraConfig, LoraSettings};
use crate::config::ModelConfig;
use crate::error::{Error, Result};

/// The settings of an adapter. The kinds are PEFT's `peft_type`s; variants of a kind are settings of it.
#[derive(Debug, Clone, PartialEq)]
pub enum AdapterConfig {
    Lora(LoraConfig),
}

impl From<LoraConfig> for AdapterConfig {
    fn from(lora: LoraConfig) -> Self {
        AdapterConfig::Lora(lora)
    }
}

/// The settings as JSON has them, tagged by `kind`.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Settings {
    Lora(LoraSettings),
}

impl AdapterConfig {
    /// Reads `{ "kind": "lora", "rank": 16, ... }`. Settings without a kind are those of LoRA.
    ///
    /// # Errors
    /// `Config` where the kind is unknown, or a field is missing, unknown or of another type.
    pub fn from_json(mut settings: Value) -> Result<Self> {
        if let Some(fields) = settings.as_object_mut() {
            fields.entry("kind").or_insert_with(|| json!("lora"));
        }
        match serde_json::from_value(settings) {
            Ok(Settings::Lora(lora)) => Ok(LoraConfig::from(lora).into()),
            Err(error) => Err(Error::config("adapter", error.to_string())),
        }
    }

    /// The settings as JSON, complete, tagged by `kind`.
    pub fn to_json(&self) -> Value {
        let (kind, mut settings) = match self {
            AdapterConfig::Lora(lora) => ("lora", lora.to_json()),
        };
        settings["kind"] = json!(kind);
        settings
    }

    /// Refuses what cannot be computed, and targets that match no module of the model.
    pub(super) fn validate(&self, model: &ModelConfig) -> Result<()> {
        match self {
            AdapterConfig::Lora(lora) => lora.validate(model),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_tagged_by_kind() {
        let parse = AdapterConfig::from_json;
        let lora = LoraConfig { dropout: 0.1, rs_lora: true, ..LoraConfig::all(4, 8.0) };
        let settings = json!({ "kind": "lora", "rank": 4, "dropout": 0.1, "rsLora": true });
        assert_eq!(parse(settings.clone()).unwrap(), lora.clone().into());
        let complete = AdapterConfig::from(lora).to_json();
        assert_eq!((&complete["kind"], &complete["dropout"]), (&settings["kind"], &settings["dropout"]));
        assert_eq!(parse(complete.clone()).unwrap().to_json(), complete);
        // LoRA's settings alone.
        assert_eq!(parse(json!({ "rank": 4 })).unwrap(), LoraConfig::all(4, 8.0).into());
        for (wrong, named) in [
            (json!({ "kind": "ia3", "rank": 4 }), "ia3"),
            (json!({ "kind": "lora", "rank": 4, "rnk": 4 }), "rnk"),
            (json!({ "kind": "lora" }), "rank"),
            (json!(4), "integer `4`"),
        ] {
            let error = parse(wrong).unwrap_err();
            assert!(error.code() == "Config" && error.to_string().contains(named), "{error}");
        }
    }
}
