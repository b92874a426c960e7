//! Models in GGUF files: their metadata as a configuration, their tensors under Hugging Face names.
//!
//! Keys: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>; names and permutations are those of llama.cpp's
//! `convert_hf_to_gguf.py` and its `gguf` package.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

use crate::config::{ModelConfig, RopeScaling, frequencies};
use crate::error::{Error, Result};
use crate::formats::gguf::{Gguf, Tensor, Value};
use crate::formats::{Encoding, FileMap, Order, TensorSource};

const EMBEDDING: &str = "token_embd.weight";
const HEAD: &str = "output.weight";
/// The tensor of divisors of the rotary frequencies in llama.cpp.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Opens a GGUF file as a model: its tensors and its configuration.
pub(super) fn open(path: &Path) -> Result<(TensorSource, ModelConfig)> {
    let map = FileMap::open(path)?;
    let gguf = Gguf::parse(&map).map_err(|fault| Error::format(path, fault))?;
    let config = Reader { path, gguf: &gguf, map: &map }.config()?;
    let mut named = Vec::with_capacity(gguf.tensors.len());
    for Tensor { name, shape, encoding, range } in gguf.tensors {
        if name == ROPE_FACTORS {
            continue;
        }
        let Some(ours) = our_name(name) else {
            let message = format!("tensor {name} is none that the architecture {} has here", config.model_type);
            return Err(Error::format(path, message));
        };
        let order = order(&ours, &config);
        named.push((ours, encoding, shape, range, order));
    }
    let mut source = TensorSource::of_file(map);
    for (name, encoding, shape, range, order) in named {
        source.insert(name, encoding, shape, range, order)?;
    }
    Ok((source, config))
}

/// The Hugging Face name of a tensor.
fn our_name(name: &str) -> Option<String> {
    match name {
        EMBEDDING => return Some("model.embed_tokens.weight".into()),
        HEAD => return Some("lm_head.weight".into()),
        "output_norm.weight" => return Some("model.norm.weight".into()),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let layer = layer.parse::<u32>().ok().filter(|number| number.to_string() == layer)?;
    let (module, kind) = rest.rsplit_once('.')?;
    let module = match module {
        "attn_norm" => "input_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "ffn_norm" => "post_attention_layernorm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return None,
    };
    matches!(kind, "weight" | "bias").then(|| format!("model.layers.{layer}.{module}.{kind}"))
}

fn order(name: &str, config: &ModelConfig) -> Order {
    let turned = name.ends_with("q_proj.weight") || name.ends_with("k_proj.weight");
    match config.model_type.as_str() {
        "llama" | "mistral" if turned => Order::Interleaved { head_dim: config.head_dim() },
        _ => Order::Plain,
    }
}

struct Reader<'a> {
    path: &'a Path,
    gguf: &'a Gguf<'a>,
    map: &'a [u8],
}

impl<'a> Reader<'a> {
    fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(Error::format(self.path, message))
    }

    fn tensor(&self, name: &str) -> Option<&'a Tensor<'a>> {
        self.gguf.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// The configuration, checked as one from `config.json` is.
    fn config(&self) -> Result<ModelConfig> {
        let architecture = self.gguf.get("general.architecture").and_then(|value| value.as_str());
        let model_type = match architecture {
            Some(name @ ("llama" | "mistral" | "qwen2" | "qwen3")) => name,
            Some(name) => {
                let families = "llama (with it SmolLM2 and Mistral), qwen2 and qwen3 are";
                return self.fail(format!("general.architecture is `{name:.60}`, which is not supported: {families}"));
            }
            None => return self.fail("general.architecture is missing"),
        };
        let Some(embedding) = self.tensor(EMBEDDING).filter(|tensor| tensor.shape.len() == 2) else {
            return self.fail(format!("{EMBEDDING} is missing, or no matrix: the file holds no model"));
        };
        let keys = Keys { reader: self, architecture: model_type };
        keys.refuse_unsupported()?;
        let heads = keys.needed("attention.head_count")?;
        let mut config = Map::from_iter([
            ("model_type".to_string(), json!(model_type)),
            ("vocab_size".to_string(), json!(embedding.shape[0])),
            ("hidden_size".to_string(), json!(keys.needed("embedding_length")?)),
            ("intermediate_size".to_string(), json!(keys.needed("feed_forward_length")?)),
            ("num_hidden_layers".to_string(), json!(keys.needed("block_count")?)),
            ("num_attention_heads".to_string(), json!(heads)),
            ("num_key_value_heads".to_string(), json!(keys.count("attention.head_count_kv")?.unwrap_or(heads))),
            ("tie_word_embeddings".to_string(), json!(self.tensor(HEAD).is_none())),
        ]);
        let optional = [
            ("head_dim", keys.count("attention.key_length")?.map(Json::from)),
            ("max_position_embeddings", keys.count("context_length")?.map(Json::from)),
            ("rms_norm_eps", keys.number("attention.layer_norm_rms_epsilon")?.map(Json::from)),
            ("rope_theta", keys.number("rope.freq_base")?.map(Json::from)),
        ];
        config.extend(optional.into_iter().filter_map(|(field, value)| Some((field.to_string(), value?))));
        if let Some(scaling) = keys.rope_scaling()? {
            config.insert("rope_scaling".into(), scaling);
        }
        let mut config = ModelConfig::from_json(&Json::Object(config).to_string())?;
        for name in ["attention.value_length", "rope.dimension_count"] {
            if let Some(size) = keys.count(name)?.filter(|&size| size != config.head_dim() as u64) {
                return self.fail(format!("{model_type}.{name} is {size}, only that of a whole head is supported"));
            }
        }
        if let Some(factors) = self.tensor(ROPE_FACTORS) {
            config.rope_scaling = Some(self.llama3(factors, &config, &keys)?);
        }
        Ok(config)
    }

    /// The scaling that the factors of llama.cpp were computed from.
    fn llama3(&self, tensor: &Tensor, config: &ModelConfig, keys: &Keys) -> Result<RopeScaling> {
        let half = config.head_dim() / 2;
        if tensor.encoding != Encoding::F32 || tensor.shape != [half] || config.rope_scaling.is_some() {
            return self.fail(format!("{ROPE_FACTORS} must be {half} F32 numbers, beside no other rope scaling"));
        }
        let mut factors = vec![0.0; half];
        tensor.encoding.decode(&self.map[tensor.range.clone()], &mut factors);
        let (theta, dim) = (config.rope_theta, config.head_dim());
        let plain = frequencies(theta, dim, None);
        let longest = f64::from(factors.last().copied().unwrap_or(1.0));
        // The file seldom says what the original context was: a factor between 1 and the longest does.
        let between = plain.iter().zip(&factors).find_map(|(&frequency, &factor)| {
            let smooth = (1.0 / f64::from(factor) - 1.0 / longest) / (1.0 - 1.0 / longest);
            let wavelength = 2.0 * std::f64::consts::PI / f64::from(frequency);
            (smooth > 0.0 && smooth < 1.0).then(|| (wavelength * (1.0 + 3.0 * smooth)).round() as usize)
        });
        let stated = keys.count("rope.scaling.original_context_length")?.map(|length| length as usize);
        let usual = [Some(8192), stated, between].into_iter().flatten().chain((6..18).map(|power| 1 << power));
        let same = |scaling: &RopeScaling| {
            let scaled = frequencies(theta, dim, Some(scaling));
            let mut pairs = plain.iter().zip(scaled).zip(&factors);
            pairs.all(|((plain, scaled), factor)| (plain / scaled / factor - 1.0).abs() < 1e-4)
        };
        let found = usual
            .filter(|original| (1..=i32::MAX as usize).contains(original))
            .map(|original| RopeScaling::llama3(longest, original))
            .find(same);
        if let Some(scaling) = found.filter(|_| longest >= 1.0 && longest.is_finite()) {
            return Ok(scaling);
        }
        self.fail(format!("{ROPE_FACTORS} holds other factors than those of Llama 3, which are supported"))
    }
}

/// Metadata of an architecture.
struct Keys<'a> {
    reader: &'a Reader<'a>,
    architecture: &'a str,
}

impl Keys<'_> {
    fn get(&self, name: &str) -> Option<Value<'_>> {
        self.reader.gguf.get(&format!("{}.{name}", self.architecture))
    }

    fn fail<T>(&self, name: &str, message: &str) -> Result<T> {
        self.reader.fail(format!("metadata key {}.{name} {message}", self.architecture))
    }

    /// A count; one for each layer if they are all the same.
    fn count(&self, name: &str) -> Result<Option<u64>> {
        let value = match self.get(name) {
            None => return Ok(None),
            Some(Value::Array(array)) => {
                let mut values = array.iter().map(|value| value.as_u64());
                let first = values.next().flatten();
                first.filter(|&first| values.all(|value| value == Some(first)))
            }
            Some(value) => value.as_u64(),
        };
        match value {
            Some(value) => Ok(Some(value)),
            None => self.fail(name, "is no count, or differs between layers, which is not supported"),
        }
    }

    fn needed(&self, name: &str) -> Result<u64> {
        self.count(name)?.map_or_else(|| self.fail(name, "is missing"), Ok)
    }

    fn number(&self, name: &str) -> Result<Option<f64>> {
        match self.get(name).map(|value| value.as_f64()) {
            None => Ok(None),
            Some(Some(value)) if value.is_finite() => Ok(Some(value)),
            Some(_) => self.fail(name, "is no finite number"),
        }
    }

    fn rope_scaling(&self) -> Result<Option<Json>> {
        // The second is the key of old files; 0 stands for none.
        let factor =
            self.number("rope.scaling.factor")?.map_or_else(|| self.number("rope.scale_linear"), |f| Ok(Some(f)))?;
        let factor = factor.filter(|&factor| factor != 0.0);
        match (self.get("rope.scaling.type").map(|value| value.as_str()), factor) {
            (Some(Some("none")), _) | (None, None | Some(1.0)) => Ok(None),
            (None | Some(Some("linear")), Some(factor)) => Ok(Some(json!({ "rope_type": "linear", "factor": factor }))),
            (Some(Some("linear")), None) => self.fail("rope.scaling.factor", "is missing"),
            (Some(kind), _) => {
                let message = format!("is `{:.40}`, only none and linear are supported", kind.unwrap_or("?"));
                self.fail("rope.scaling.type", &message)
            }
        }
    }

    /// Keys that would change the arithmetic in a way this kernel does not compute.
    fn refuse_unsupported(&self) -> Result<()> {
        let neutral = [
            ("expert_count", 0.0),
            ("attention.sliding_window", 0.0),
            ("attn_logit_softcapping", 0.0),
            ("final_logit_softcapping", 0.0),
            ("attention.max_alibi_bias", 0.0),
            ("attention.clamp_kqv", 0.0),
            ("attention.scale", 0.0),
            ("logit_scale", 1.0),
            ("embedding_scale", 1.0),
            ("residual_scale", 1.0),
            ("rope.scaling.attn_factor", 1.0),
        ];
        for (name, none) in neutral {
            let Some(value) = self.get(name) else { continue };
            match value.as_f64() {
                Some(value) if value == none || value == 0.0 => {}
                Some(value) => return self.fail(name, &format!("is {value}, which is not supported")),
                None => return self.fail(name, "is set, which is not supported"),
            }
        }
        Ok(())
    }
}
