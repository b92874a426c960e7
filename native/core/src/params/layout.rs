//! The structure of the network as indices into the parameter list, and the names its tensors have in checkpoints.

use std::ops::Range;

use super::{Dtype, Init, LoraConfig, Parameter, Slice};
use crate::config::ModelConfig;

/// Where everything is.
#[derive(Debug, Clone)]
pub struct Layout {
    pub embed: usize,
    pub layers: Vec<Layer>,
    pub norm: usize,
    /// The same as `embed` if tied.
    pub head: usize,
}

/// One decoder layer.
#[derive(Debug, Clone)]
pub struct Layer {
    pub attn_norm: usize,
    /// q|k|v, fused along the outputs.
    pub qkv: Linear,
    /// Norms of the heads of q and k.
    pub qk_norms: Option<(usize, usize)>,
    pub o: Linear,
    pub mlp_norm: usize,
    /// gate|up, fused along the outputs.
    pub gate_up: Linear,
    pub down: Linear,
}

/// One product, with what may be added to it.
#[derive(Debug, Clone)]
pub struct Linear {
    pub base: usize,
    pub outputs: usize,
    pub inputs: usize,
    pub bias: Option<usize>,
    pub lora: Option<Lora>,
}

impl Linear {
    /// Width of the adapter's inner activation, all targets of a fused product side by side; 0 without one.
    pub fn low_width(&self) -> usize {
        self.lora.as_ref().map_or(0, |lora| lora.parts.len() * lora.rank)
    }
}

/// `y[rows of part] += scale · (x · Aᵀ)[columns of part] · Bᵀ`; the A's of a fused product are one matrix.
#[derive(Debug, Clone)]
pub struct Lora {
    pub rank: usize,
    pub scale: f32,
    pub a: usize,
    pub parts: Vec<LoraPart>,
}

/// The B of one target.
#[derive(Debug, Clone)]
pub struct LoraPart {
    pub b: usize,
    /// Outputs of the fused product that it adds to.
    pub outputs: Range<usize>,
}

struct Builder<'a> {
    list: Vec<Parameter>,
    deviation: f32,
    dtype: Dtype,
    lora: Option<&'a LoraConfig>,
}

/// The list (still without values) and the layout of a model.
pub(super) fn build(config: &ModelConfig, dtype: Dtype, lora: Option<&LoraConfig>) -> (Vec<Parameter>, Layout) {
    let mut b = Builder { list: Vec::new(), deviation: config.initializer_range, dtype, lora };
    let hidden = config.hidden_size;
    let embed = b.matrix(&[("model.embed_tokens.weight".into(), config.vocab_size)], hidden);
    let layers = (0..config.num_hidden_layers).map(|i| b.layer(config, &format!("model.layers.{i}"))).collect();
    let norm = b.vector("model.norm.weight".into(), hidden, Init::Ones);
    let head = if config.tie_word_embeddings {
        embed
    } else {
        b.matrix(&[("lm_head.weight".into(), config.vocab_size)], hidden)
    };
    (b.list, Layout { embed, layers, norm, head })
}

/// Row ranges of tensors that lie one after the other.
fn stack(parts: &[(String, usize)]) -> Vec<Slice> {
    let mut start = 0;
    parts
        .iter()
        .map(|(name, rows)| {
            start += rows;
            Slice { name: name.clone(), rows: start - rows..start }
        })
        .collect()
}

impl Builder<'_> {
    fn push(&mut self, parameter: Parameter) -> usize {
        self.list.push(parameter);
        self.list.len() - 1
    }

    /// Under adapters everything else is frozen.
    fn matrix(&mut self, parts: &[(String, usize)], k: usize) -> usize {
        self.push(Parameter::matrix(stack(parts), k, Init::Normal(self.deviation), self.lora.is_none(), self.dtype))
    }

    fn vector(&mut self, name: String, n: usize, init: Init) -> usize {
        self.push(Parameter::vector(stack(&[(name, n)]), init, self.lora.is_none()))
    }

    fn layer(&mut self, config: &ModelConfig, prefix: &str) -> Layer {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (q, kv, dim) = (config.q_width(), config.kv_width(), config.head_dim());
        let attention = format!("{prefix}.self_attn");
        let mlp = format!("{prefix}.mlp");
        Layer {
            attn_norm: self.vector(format!("{prefix}.input_layernorm.weight"), hidden, Init::Ones),
            qkv: self.linear(&attention, &[("q_proj", q), ("k_proj", kv), ("v_proj", kv)], hidden, config.qkv_bias()),
            qk_norms: config.has_qk_norm().then(|| {
                let mut norm = |name| self.vector(format!("{attention}.{name}.weight"), dim, Init::Ones);
                (norm("q_norm"), norm("k_norm"))
            }),
            o: self.linear(&attention, &[("o_proj", hidden)], q, false),
            mlp_norm: self.vector(format!("{prefix}.post_attention_layernorm.weight"), hidden, Init::Ones),
            gate_up: self.linear(&mlp, &[("gate_proj", inner), ("up_proj", inner)], hidden, false),
            down: self.linear(&mlp, &[("down_proj", hidden)], inner, false),
        }
    }

    fn linear(&mut self, prefix: &str, modules: &[(&str, usize)], inputs: usize, bias: bool) -> Linear {
        let named = |kind: &str| -> Vec<_> {
            modules.iter().map(|(module, rows)| (format!("{prefix}.{module}.{kind}"), *rows)).collect()
        };
        let base = self.matrix(&named("weight"), inputs);
        let outputs = self.list[base].n;
        let bias = bias.then(|| self.push(Parameter::vector(stack(&named("bias")), Init::Zeros, self.lora.is_none())));
        Linear { base, outputs, inputs, bias, lora: self.lora(prefix, modules, inputs) }
    }

    fn lora(&mut self, prefix: &str, modules: &[(&str, usize)], inputs: usize) -> Option<Lora> {
        let config = self.lora?;
        let rank = config.rank;
        let mut start = 0;
        let mut targets = Vec::new();
        for (module, rows) in modules {
            if config.targets.iter().any(|target| target == module) {
                targets.push((format!("base_model.model.{prefix}.{module}"), start..start + rows));
            }
            start += rows;
        }
        if targets.is_empty() {
            return None;
        }
        let a: Vec<_> = targets.iter().map(|(name, _)| (format!("{name}.lora_A.weight"), rank)).collect();
        let a = self.push(Parameter::matrix(stack(&a), inputs, Init::Kaiming, true, self.dtype));
        let parts = targets
            .into_iter()
            .map(|(name, outputs)| {
                let slices = stack(&[(format!("{name}.lora_B.weight"), outputs.len())]);
                LoraPart { b: self.push(Parameter::matrix(slices, rank, Init::Zeros, true, self.dtype)), outputs }
            })
            .collect();
        Some(Lora { rank, scale: config.alpha / rank as f32, a, parts })
    }
}
