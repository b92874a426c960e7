//! Fields that would change the arithmetic in a way this kernel does not compute.

use serde_json::{Map, Value};

use super::MODEL_TYPES;
use crate::error::{Error, Result};

/// Families whose absence a user may ask about.
const FAMILIES: [(&str, &str); 6] = [
    ("gemma", "its layers alternate sliding windows and two rotary embeddings, with four norms each"),
    ("mixtral", "mixtures of experts are not computed"),
    ("moe", "mixtures of experts are not computed"),
    ("phi3", "its fused projections and longrope are not computed"),
    ("deepseek", "its latent attention and mixtures of experts are not computed"),
    ("_vl", "only text models are computed"),
];

/// Refuses a configuration by the first field that has no meaning here, and says what is supported.
pub(super) fn refuse(config: &Map<String, Value>) -> Result<()> {
    let get = |field: &str| config.get(field).filter(|value| !value.is_null());
    let fail = |field: &str, why: &str| {
        let mut given = config[field].to_string();
        if given.chars().count() > 60 {
            given = given.chars().take(57).chain("...".chars()).collect();
        }
        Err(Error::config(field, format!("is {given}: {why}")))
    };
    match get("model_type").map(Value::as_str) {
        None => {}
        Some(Some(kind)) if MODEL_TYPES.contains(&kind) => {}
        Some(kind) => {
            let family = FAMILIES.iter().find(|(name, _)| kind.is_some_and(|kind| kind.contains(name)));
            let why = family.map_or(String::new(), |(_, why)| format!(" ({why})"));
            return fail("model_type", &format!("not supported{why}; {} are", MODEL_TYPES.join(", ")));
        }
    }
    let full = |layer: &Value| layer.as_str() == Some("full_attention");
    if get("layer_types").is_some_and(|layers| !layers.as_array().is_some_and(|layers| layers.iter().all(full))) {
        return fail("layer_types", "only `full_attention` in every layer is supported");
    }
    if get("partial_rotary_factor").is_some_and(|share| share.as_f64() != Some(1.0)) {
        return fail("partial_rotary_factor", "only whole heads (1) can be rotated");
    }
    for field in ["num_experts", "num_local_experts", "n_routed_experts"] {
        if get(field).is_some_and(|experts| experts.as_f64() != Some(0.0)) {
            return fail(field, "mixtures of experts are not supported, dense models are");
        }
    }
    for field in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if get(field).is_some() {
            return fail(field, "capped logits are not supported");
        }
    }
    for field in ["embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"] {
        if get(field).is_some_and(|scale| scale.as_f64() != Some(1.0)) {
            return fail(field, "scaled activations (Granite) are not supported");
        }
    }
    for field in ["use_mrope", "is_encoder_decoder", "alibi"] {
        if get(field).is_some_and(|on| on.as_bool() != Some(false)) {
            return fail(field, "not supported");
        }
    }
    if get("quantization_config").is_some() {
        let why =
            "weights quantised by another library are not read; use the f32, f16 or bf16 checkpoint, or a GGUF file";
        return fail("quantization_config", why);
    }
    for field in ["text_config", "vision_config", "audio_config"] {
        if get(field).is_some() {
            return fail(field, "only text models are supported");
        }
    }
    Ok(())
}
