//! The structure of the network as indices into the parameter list, and the names its tensors have in checkpoints.

use super::{Dtype, Init, Parameter, Slice};
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

/// One product.
#[derive(Debug, Clone)]
pub struct Linear {
    pub base: usize,
    pub outputs: usize,
    pub inputs: usize,
    pub bias: Option<usize>,
    /// Its layer, and which of the layer's products it is: q|k|v, o, gate|up, down.
    pub layer: usize,
    pub product: usize,
}

struct Builder {
    list: Vec<Parameter>,
    deviation: f32,
    dtype: Dtype,
    trainable: bool,
}

/// The list (still without values) and the layout of a model.
pub(super) fn build(config: &ModelConfig, dtype: Dtype, trainable: bool) -> (Vec<Parameter>, Layout) {
    let mut b = Builder { list: Vec::new(), deviation: config.initializer_range, dtype, trainable };
    let hidden = config.hidden_size;
    let embed = b.matrix(&[("model.embed_tokens.weight".into(), config.vocab_size)], hidden);
    let layers = (0..config.num_hidden_layers).map(|i| b.layer(config, i)).collect();
    let norm = b.vector("model.norm.weight".into(), hidden, Init::Ones);
    let head = if config.tie_word_embeddings {
        embed
    } else {
        b.matrix(&[("lm_head.weight".into(), config.vocab_size)], hidden)
    };
    (b.list, Layout { embed, layers, norm, head })
}

/// Row ranges of tensors that lie one after the other.
pub(crate) fn stack(parts: &[(String, usize)]) -> Vec<Slice> {
    let mut start = 0;
    parts
        .iter()
        .map(|(name, rows)| {
            start += rows;
            Slice { name: name.clone(), rows: start - rows..start }
        })
        .collect()
}

impl Builder {
    fn push(&mut self, parameter: Parameter) -> usize {
        self.list.push(parameter);
        self.list.len() - 1
    }

    fn matrix(&mut self, parts: &[(String, usize)], k: usize) -> usize {
        self.push(Parameter::matrix(stack(parts), k, Init::Normal(self.deviation), self.trainable, self.dtype))
    }

    fn vector(&mut self, name: String, n: usize, init: Init) -> usize {
        self.push(Parameter::vector(stack(&[(name, n)]), init, self.trainable))
    }

    fn layer(&mut self, config: &ModelConfig, index: usize) -> Layer {
        let prefix = format!("model.layers.{index}");
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (q, kv, dim) = (config.q_width(), config.kv_width(), config.head_dim());
        let attention = format!("{prefix}.self_attn");
        let mlp = format!("{prefix}.mlp");
        Layer {
            attn_norm: self.vector(format!("{prefix}.input_layernorm.weight"), hidden, Init::Ones),
            qkv: self.linear(
                (index, 0),
                &attention,
                &[("q_proj", q), ("k_proj", kv), ("v_proj", kv)],
                hidden,
                config.qkv_bias(),
            ),
            qk_norms: config.has_qk_norm().then(|| {
                let mut norm = |name| self.vector(format!("{attention}.{name}.weight"), dim, Init::Ones);
                (norm("q_norm"), norm("k_norm"))
            }),
            o: self.linear((index, 1), &attention, &[("o_proj", hidden)], q, false),
            mlp_norm: self.vector(format!("{prefix}.post_attention_layernorm.weight"), hidden, Init::Ones),
            gate_up: self.linear((index, 2), &mlp, &[("gate_proj", inner), ("up_proj", inner)], hidden, false),
            down: self.linear((index, 3), &mlp, &[("down_proj", hidden)], inner, false),
        }
    }

    fn linear(
        &mut self,
        (layer, product): (usize, usize),
        prefix: &str,
        modules: &[(&str, usize)],
        inputs: usize,
        bias: bool,
    ) -> Linear {
        let named = |kind: &str| -> Vec<_> {
            modules.iter().map(|(module, rows)| (format!("{prefix}.{module}.{kind}"), *rows)).collect()
        };
        let base = self.matrix(&named("weight"), inputs);
        let outputs = self.list[base].n;
        let bias = bias.then(|| self.push(Parameter::vector(stack(&named("bias")), Init::Zeros, self.trainable)));
        Linear { base, outputs, inputs, bias, layer, product }
    }
}
