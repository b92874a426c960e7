//! The shape of a model, read from the fields of a Hugging Face `config.json` and checked before anything is allocated.

mod rope;
mod unsupported;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};

pub use rope::{RopeScaling, frequencies};

const MAX_LAYERS: usize = 4096;
const MODEL_TYPES: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];

/// Llama, Mistral, Qwen2 and Qwen3 in the names of Hugging Face. Fields this kernel does not know are ignored, except
/// those that would change the arithmetic: they are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// `llama`, `mistral`, `qwen2` or `qwen3`. It decides the defaults of `attention_bias` and `qk_norm`.
    #[serde(default = "llama")]
    pub model_type: String,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// Absent: as many as query heads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_key_value_heads: Option<usize>,
    /// Absent: `hidden_size / num_attention_heads`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    #[serde(default = "default_positions")]
    pub max_position_embeddings: usize,
    #[serde(default = "default_eps")]
    pub rms_norm_eps: f32,
    #[serde(default = "default_theta")]
    pub rope_theta: f32,
    #[serde(default)]
    pub tie_word_embeddings: bool,
    #[serde(default = "default_range")]
    pub initializer_range: f32,
    /// Bias on q, k and v. Absent: true for `qwen2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention_bias: Option<bool>,
    /// RMSNorm over each head of q and k. Absent: true for `qwen3`. (Not a Hugging Face field: there the type decides.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qk_norm: Option<bool>,
    #[serde(default = "silu")]
    pub hidden_act: String,
    /// Read from `rope_scaling` or `rope_parameters`, written as `rope_scaling`, which every version of transformers reads.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeScaling>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mlp_bias: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    use_sliding_window: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sliding_window: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    architectures: Option<Vec<String>>,
}

fn llama() -> String {
    "llama".into()
}
fn silu() -> String {
    "silu".into()
}
fn default_positions() -> usize {
    2048
}
fn default_eps() -> f32 {
    1e-6
}
fn default_theta() -> f32 {
    10_000.0
}
fn default_range() -> f32 {
    0.02
}

impl ModelConfig {
    /// Parses and checks the text of a `config.json`.
    pub fn from_json(text: &str) -> Result<Self> {
        let mut fields: serde_json::Map<String, Value> =
            serde_json::from_str(text).map_err(|e| Error::config("config.json", e.to_string()))?;
        unsupported::refuse(&fields)?;
        let (theta, rope_scaling) = rope::take(&mut fields)?;
        if let Some(theta) = theta {
            fields.insert("rope_theta".into(), theta.into());
        }
        let config: ModelConfig =
            serde_json::from_value(fields.into()).map_err(|e| Error::config("config.json", e.to_string()))?;
        let config = ModelConfig { rope_scaling, ..config };
        config.validate()?;
        Ok(config)
    }

    /// The text of a `config.json` that transformers reads.
    pub fn to_json(&self) -> String {
        let mut config = self.clone();
        config.architectures.get_or_insert_with(|| {
            vec![
                match self.model_type.as_str() {
                    "mistral" => "MistralForCausalLM",
                    "qwen2" => "Qwen2ForCausalLM",
                    "qwen3" => "Qwen3ForCausalLM",
                    _ => "LlamaForCausalLM",
                }
                .to_string(),
            ]
        });
        serde_json::to_string_pretty(&config).expect("a config holds only numbers and text")
    }

    /// Refuses every shape the kernel cannot compute, naming the field.
    pub fn validate(&self) -> Result<()> {
        let positive = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("head_dim", self.head_dim()),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.kv_heads()),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        for (field, value) in positive {
            if value == 0 || value > i32::MAX as usize {
                return Err(Error::config(field, format!("is {value}, must lie between 1 and {}", i32::MAX)));
            }
        }
        // Names of tensors are made for every layer before a file is looked at.
        if !(1..=MAX_LAYERS).contains(&self.num_hidden_layers) {
            let message = format!("is {}, must lie between 1 and {MAX_LAYERS}", self.num_hidden_layers);
            return Err(Error::config("num_hidden_layers", message));
        }
        if !MODEL_TYPES.contains(&self.model_type.as_str()) {
            let message = format!("`{}` is not supported, {} are", self.model_type, MODEL_TYPES.join(", "));
            return Err(Error::config("model_type", message));
        }
        if self.head_dim.is_none() && !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let message = format!("{} is not a multiple of num_attention_heads, give head_dim", self.hidden_size);
            return Err(Error::config("hidden_size", message));
        }
        if !self.head_dim().is_multiple_of(2) {
            return Err(Error::config(
                "head_dim",
                format!("is {}, rotary embeddings need an even one", self.head_dim()),
            ));
        }
        if !self.num_attention_heads.is_multiple_of(self.kv_heads()) {
            let message = format!("{} must divide num_attention_heads {}", self.kv_heads(), self.num_attention_heads);
            return Err(Error::config("num_key_value_heads", message));
        }
        for (field, value) in [("rms_norm_eps", self.rms_norm_eps), ("rope_theta", self.rope_theta)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::config(field, format!("is {value}, must be positive and finite")));
            }
        }
        if !(self.initializer_range.is_finite() && self.initializer_range >= 0.0) {
            return Err(Error::config("initializer_range", format!("is {}, must be finite", self.initializer_range)));
        }
        if !["silu", "swish"].contains(&self.hidden_act.as_str()) {
            return Err(Error::config("hidden_act", format!("`{}` is not supported, only silu", self.hidden_act)));
        }
        if self.mlp_bias == Some(true) {
            return Err(Error::config("mlp_bias", "biases in the feed-forward are not supported"));
        }
        if self.model_type != "qwen2" && self.attention_bias == Some(true) {
            // transformers then also puts a bias on o_proj (and ignores the field for mistral).
            let message = format!("is not supported for {} (it adds one to o_proj); use qwen2", self.model_type);
            return Err(Error::config("attention_bias", message));
        }
        let slides = match self.model_type.as_str() {
            "mistral" => self.sliding_window.is_some(),
            _ => self.use_sliding_window == Some(true),
        };
        if slides {
            return Err(Error::config("sliding_window", "sliding-window attention is not supported"));
        }
        Ok(())
    }

    /// Dimension of one head.
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Number of key/value heads.
    pub fn kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Query heads per key/value head.
    pub fn group(&self) -> usize {
        self.num_attention_heads / self.kv_heads()
    }

    /// Width of the query projection.
    pub fn q_width(&self) -> usize {
        self.num_attention_heads * self.head_dim()
    }

    /// Width of the key (and of the value) projection.
    pub fn kv_width(&self) -> usize {
        self.kv_heads() * self.head_dim()
    }

    /// Width of the fused q|k|v projection.
    pub fn qkv_width(&self) -> usize {
        self.q_width() + 2 * self.kv_width()
    }

    /// The angle that each pair of a head turns by from one position to the next.
    pub fn rope_frequencies(&self) -> Vec<f32> {
        frequencies(self.rope_theta, self.head_dim(), self.rope_scaling.as_ref())
    }

    /// The first field in which `other` computes something else, with the values of both. Names, the context length and
    /// how a model starts make no difference.
    pub fn difference(&self, other: &Self) -> Option<(&'static str, Value, Value)> {
        let facts = |config: &ModelConfig| {
            [
                ("vocab_size", config.vocab_size.into()),
                ("hidden_size", config.hidden_size.into()),
                ("intermediate_size", config.intermediate_size.into()),
                ("num_hidden_layers", config.num_hidden_layers.into()),
                ("num_attention_heads", config.num_attention_heads.into()),
                ("num_key_value_heads", config.kv_heads().into()),
                ("head_dim", config.head_dim().into()),
                ("rms_norm_eps", Value::from(config.rms_norm_eps)),
                ("rope_theta", Value::from(config.rope_theta)),
                ("rope_scaling", serde_json::to_value(config.rope_scaling).unwrap_or_default()),
                ("tie_word_embeddings", config.tie_word_embeddings.into()),
                ("attention_bias", config.qkv_bias().into()),
                ("qk_norm", config.has_qk_norm().into()),
            ]
        };
        let pairs = facts(self).into_iter().zip(facts(other));
        pairs.map(|((field, own), (_, other))| (field, own, other)).find(|(_, own, other)| own != other)
    }

    /// Whether q, k and v have a bias.
    pub fn qkv_bias(&self) -> bool {
        self.attention_bias.unwrap_or(self.model_type == "qwen2")
    }

    /// Whether the heads of q and k are normalised.
    pub fn has_qk_norm(&self) -> bool {
        self.qk_norm.unwrap_or(self.model_type == "qwen3")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: &str = r#"{"vocab_size": 16, "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2,
        "num_attention_heads": 4"#;

    fn parse(extra: &str) -> Result<ModelConfig> {
        ModelConfig::from_json(&format!("{TINY}{extra}}}"))
    }

    #[test]
    fn defaults_follow_transformers() {
        let config = parse("").unwrap();
        assert_eq!(
            (config.head_dim(), config.kv_heads(), config.qkv_bias(), config.has_qk_norm()),
            (16, 4, false, false)
        );
        let qwen = parse(r#", "model_type": "qwen3", "head_dim": 32, "num_key_value_heads": 2"#).unwrap();
        assert_eq!((qwen.qkv_width(), qwen.has_qk_norm()), (256, true));
        assert!(parse(r#", "model_type": "qwen2""#).unwrap().qkv_bias());
    }

    #[test]
    fn rope_parameters_of_both_generations_are_read() {
        assert_eq!(
            parse(r#", "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}"#).unwrap().rope_theta,
            1e6
        );
        let old = r#", "rope_theta": 500000.0, "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0,
            "low_freq_factor": 1.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"}"#;
        let new = r#", "rope_parameters": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_theta": 500000.0, "rope_type": "llama3"}"#;
        let (old, new) = (parse(old).unwrap(), parse(new).unwrap());
        assert_eq!((old.rope_scaling, new.difference(&old)), (Some(RopeScaling::llama3(8.0, 8192)), None));
        assert_ne!(parse("").unwrap().difference(&old), None);
        let linear = parse(r#", "rope_scaling": {"type": "linear", "factor": 4.0}"#).unwrap();
        assert_eq!(linear.rope_scaling, Some(RopeScaling::Linear { factor: 4.0 }));
        for config in [old, linear] {
            assert_eq!(ModelConfig::from_json(&config.to_json()).unwrap().difference(&config), None);
        }
    }

    #[test]
    fn impossible_shapes_name_their_field() {
        for (extra, field) in [
            (r#", "num_key_value_heads": 3"#, "num_key_value_heads"),
            (r#", "head_dim": 3"#, "head_dim"),
            (r#", "hidden_act": "gelu""#, "hidden_act"),
            (r#", "rms_norm_eps": 0"#, "rms_norm_eps"),
            (r#", "model_type": "gpt2""#, "model_type"),
            (r#", "model_type": "gemma3_text""#, "model_type"),
            (r#", "head_dim": 18446744073709551614"#, "head_dim"),
            (r#", "layer_types": ["full_attention", "sliding_attention"]"#, "layer_types"),
            (r#", "partial_rotary_factor": 0.5"#, "partial_rotary_factor"),
            (r#", "rope_scaling": {"rope_type": "yarn", "factor": 4.0}"#, "rope_scaling.rope_type"),
            (r#", "rope_scaling": {"rope_type": "llama3", "factor": 4.0}"#, "rope_scaling.low_freq_factor"),
            (r#", "rope_scaling": {"rope_type": "linear", "factor": 0}"#, "rope_scaling.factor"),
            (r#", "rope_scaling": {"rope_type": "linear", "factor": "x"}"#, "rope_scaling.factor"),
            (r#", "rope_parameters": {"full_attention": {"rope_type": "default"}}"#, "rope_parameters"),
            (
                r#", "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}"#,
                "rope_parameters.partial_rotary_factor",
            ),
            (r#", "num_local_experts": 8"#, "num_local_experts"),
            (r#", "attn_logit_softcapping": 50.0"#, "attn_logit_softcapping"),
            (r#", "model_type": "mistral", "sliding_window": 4096"#, "sliding_window"),
            (r#", "model_type": "qwen3", "attention_bias": true"#, "attention_bias"),
            (r#", "quantization_config": {"quant_method": "gptq"}"#, "quantization_config"),
        ] {
            let error = parse(extra).unwrap_err();
            assert!(matches!(&error, Error::Config { field: f, .. } if f == field), "{error}");
        }
    }

    #[test]
    fn json_round_trips() {
        let config = parse(r#", "tie_word_embeddings": true, "rope_theta": 500000"#).unwrap();
        // Fields that transformers writes and that change nothing.
        let noise = r#", "layer_types": ["full_attention"], "sliding_window": null, "head_dim": 16, "use_mrope": false,
            "rope_scaling": null, "num_experts": null, "use_sliding_window": false, "pretraining_tp": 1"#;
        assert_eq!(parse(noise).unwrap().difference(&parse("").unwrap()), None);
        let again = ModelConfig::from_json(&config.to_json()).unwrap();
        assert_eq!(config.to_json(), again.to_json());
    }
}
