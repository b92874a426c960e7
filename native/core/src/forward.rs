//! The forward pass over rows of tokens. Training and sampling run the same code; they differ in the [`KeyValues`] that
//! attention reads and in what is kept for the gradient.

use crate::activations::{Activations, Widths, widths};
use crate::adapter::{Adapted, Dropout, Run};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::kernels::{RopeTable, Runtime, SharedMut, linear, rmsnorm, rope, silu_mul};
use crate::model::Model;
use crate::params::{Linear, Params};
use crate::recording::{Plan, Recordings};

/// The projections of some rows: row `r` of each starts at `r * stride`; q and k are rotated.
pub struct Projections<'a> {
    /// `[rows][heads * head_dim]`
    pub q: &'a [f32],
    /// `[rows][kv_heads * head_dim]`
    pub k: &'a [f32],
    /// `[rows][kv_heads * head_dim]`
    pub v: &'a [f32],
    pub stride: usize,
    pub rows: usize,
}

/// Where attention finds keys and values: a token forest, or the paged cache of the sampler.
pub trait KeyValues {
    /// Stores k and v of these rows for `layer` and writes what their queries attend to.
    ///
    /// `out` is `[rows][heads * head_dim]`; `lse` is `[rows][heads]`, the log-sum-exp of the scaled scores.
    fn attend(
        &mut self,
        rt: &Runtime,
        layer: usize,
        rows: &Projections,
        out: &mut [f32],
        lse: &mut [f32],
    ) -> Result<()>;
}

/// Weights and constants of one forward pass.
#[derive(Clone, Copy)]
pub(crate) struct Net<'a> {
    pub rt: &'a Runtime,
    pub config: &'a ModelConfig,
    pub params: &'a Params,
    pub rope: &'a RopeTable,
    pub adapted: Adapted<'a>,
    /// What the adapters' inputs lose: in training forwards.
    pub dropout: Option<Dropout>,
}

/// Buffers of a forward pass that are free again after it; keep one per thread that calls [`forward_rows`].
#[derive(Default)]
pub struct Scratch {
    pub(crate) x: [Vec<f32>; 2],
    pub(crate) normed: Vec<f32>,
    pub(crate) act: Vec<f32>,
    pub(crate) layer: Activations,
}

/// At least `len` numbers of unspecified value, allocated only when the buffer has to grow.
pub(crate) fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        // Not `resize`: that would copy what nobody reads; this takes fresh zero pages from the system.
        *buffer = Vec::new();
        *buffer = vec![0.0; len];
    }
    &mut buffer[..len]
}

impl Scratch {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let rest = [&self.x[0], &self.x[1], &self.normed, &self.act];
        self.layer.bytes() + rest.iter().map(|buffer| buffer.capacity()).sum::<usize>() * size_of::<f32>()
    }
}

impl Net<'_> {
    /// What each buffer of a layer's activations takes a row, those of adapters as wide as the widest.
    pub fn widths(&self, layer: usize) -> Widths {
        widths(self.config, self.adapted.low_widths(layer))
    }

    /// `y = linear(x)`, or `y += linear(x)`, with bias and adapters. `low` receives the adapters' inner activation.
    pub fn linear(&self, linear_: &Linear, x: &[f32], rows: usize, y: &mut [f32], accumulate: bool, low: &mut [f32]) {
        let width = linear_.outputs;
        linear(self.rt, x, rows, linear_.inputs, self.params.get(linear_.base).weight(), y, width, accumulate);
        if let Some(bias) = linear_.bias {
            let bias = self.params.get(bias).values();
            for row in y[..rows * width].chunks_exact_mut(width) {
                row.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
            }
        }
        self.low(linear_, x, rows, low);
        let stride = self.adapted.low_width(linear_);
        for (range, adapter) in self.adapted.runs(rows) {
            let Some(lora) = adapter.lora(linear_) else { continue };
            let low = &low[range.start * stride..];
            for (part, b) in lora.parts.iter().enumerate() {
                let (x, y) = (&low[part * lora.rank..], &mut y[range.start * width + b.outputs.start..]);
                linear(self.rt, x, range.len(), stride, adapter.list[b.b].weight(), y, width, true);
            }
        }
    }

    /// The inner activation of the adapters, scaled: `low = scale · dropout(x) · Aᵀ`.
    pub fn low(&self, linear_: &Linear, x: &[f32], rows: usize, low: &mut [f32]) {
        let (stride, inputs) = (self.adapted.low_width(linear_), linear_.inputs);
        for (range, adapter) in self.adapted.runs(rows) {
            let Some(lora) = adapter.lora(linear_) else { continue };
            let a = adapter.list[lora.a].weight();
            let (x, low) = (&x[range.start * inputs..range.end * inputs], &mut low[range.start * stride..]);
            match self.dropout {
                None => linear(self.rt, x, range.len(), inputs, a, low, stride, false),
                Some(dropout) => {
                    let block = Dropout::rows(inputs).min(range.len());
                    let mut masked = vec![0.0; block * inputs];
                    for (at, x) in x.chunks(block * inputs).enumerate() {
                        let count = x.len() / inputs;
                        dropout.mask(self.rt, linear_, range.start + at * block, x, &mut masked, false);
                        linear(self.rt, &masked, count, inputs, a, &mut low[at * block * stride..], stride, false);
                    }
                }
            }
            for row in low[..range.len() * stride].chunks_exact_mut(stride) {
                row[..lora.width()].iter_mut().for_each(|value| *value *= lora.scale);
            }
        }
    }

    /// RMSNorm with the weight at `index`.
    pub fn norm(&self, index: usize, x: &[f32], rows: usize, y: &mut [f32]) {
        let hidden = self.config.hidden_size;
        rmsnorm(self.rt, x, self.params.get(index).values(), self.config.rms_norm_eps, y, rows, hidden);
    }

    /// Embeddings of `tokens`.
    pub fn embed(&self, tokens: &[u32], x: &mut [f32]) {
        let embed = self.params.get(self.params.layout.embed);
        for (token, x) in tokens.iter().zip(x.chunks_exact_mut(self.config.hidden_size)) {
            embed.row(*token as usize, x);
        }
    }

    /// The first half of layer `index`: from the residual stream `x` to `a.mid`.
    pub fn attention(
        &self,
        index: usize,
        x: &[f32],
        positions: &[u32],
        kv: &mut dyn KeyValues,
        a: &mut Activations,
        normed: &mut Vec<f32>,
    ) -> Result<()> {
        let (config, layer, rows) = (self.config, &self.params.layout.layers[index], positions.len());
        a.prepare(&self.widths(index), rows);
        let (hidden, stride) = (config.hidden_size, config.qkv_width());
        let (q_width, kv_width) = (config.q_width(), config.kv_width());
        let normed = sized(normed, rows * hidden);
        self.norm(layer.attn_norm, x, rows, normed);
        self.linear(&layer.qkv, normed, rows, &mut a.qkv, false, &mut a.low[0]);
        if let Some((q_norm, k_norm)) = layer.qk_norms {
            self.head_norms(rows, q_norm, k_norm, a);
        }
        let heads = config.num_attention_heads;
        rope(self.rt, &mut a.qkv[..rows * stride], stride, heads, positions, self.rope, false);
        rope(self.rt, &mut a.qkv[q_width..rows * stride], stride, config.kv_heads(), positions, self.rope, false);
        let projections = Projections {
            q: &a.qkv[..rows * stride],
            k: &a.qkv[q_width..rows * stride],
            v: &a.qkv[q_width + kv_width..rows * stride],
            stride,
            rows,
        };
        let (out, lse) = (&mut a.attn[..rows * q_width], &mut a.lse[..rows * heads]);
        kv.attend(self.rt, index, &projections, out, lse)?;
        a.mid[..rows * hidden].copy_from_slice(&x[..rows * hidden]);
        self.linear(&layer.o, &a.attn, rows, &mut a.mid, true, &mut a.low[1]);
        Ok(())
    }

    /// Normalises the heads of q and k, leaving their raw values in `a.raw`.
    fn head_norms(&self, rows: usize, q_norm: usize, k_norm: usize, a: &mut Activations) {
        let (config, stride) = (self.config, self.config.qkv_width());
        let (dim, eps) = (config.head_dim(), config.rms_norm_eps);
        let (q_width, width) = (config.q_width(), config.q_width() + config.kv_width());
        let raws = a.raw[..rows * width].chunks_exact_mut(width);
        for (row, raw) in a.qkv[..rows * stride].chunks_exact_mut(stride).zip(raws) {
            raw.copy_from_slice(&row[..width]);
            let (q, k) = row[..width].split_at_mut(q_width);
            rmsnorm(self.rt, &raw[..q_width], self.params.get(q_norm).values(), eps, q, q_width / dim, dim);
            rmsnorm(self.rt, &raw[q_width..], self.params.get(k_norm).values(), eps, k, (width - q_width) / dim, dim);
        }
    }

    /// The gate|up half of the feed-forward: from `a.mid` to `a.gate_up`.
    pub fn gate_up(&self, index: usize, rows: usize, a: &mut Activations, normed: &mut Vec<f32>) {
        let layer = &self.params.layout.layers[index];
        let normed = sized(normed, rows * self.config.hidden_size);
        self.norm(layer.mlp_norm, &a.mid, rows, normed);
        self.linear(&layer.gate_up, normed, rows, &mut a.gate_up, false, &mut a.low[2]);
    }

    /// `act = silu(gate) * up`.
    pub fn activate(&self, rows: usize, gate_up: &[f32], act: &mut [f32]) {
        let inner = self.config.intermediate_size;
        let act = SharedMut::new(act);
        self.rt.parallel_ranges(rows, ROW_GRAIN.div_ceil(inner), |range| {
            for row in range {
                let (gate, up) = gate_up[row * 2 * inner..(row + 1) * 2 * inner].split_at(inner);
                // SAFETY: each row is written by one task.
                silu_mul(self.rt, gate, up, unsafe { act.range(row * inner..(row + 1) * inner) });
            }
        });
    }

    /// The down half of the feed-forward: from `a.mid` and `a.gate_up` to the next residual stream `y`.
    pub fn down(&self, index: usize, rows: usize, a: &mut Activations, act: &mut Vec<f32>, y: &mut [f32]) {
        let layer = &self.params.layout.layers[index];
        let hidden = self.config.hidden_size;
        let act = sized(act, rows * self.config.intermediate_size);
        self.activate(rows, &a.gate_up, act);
        y[..rows * hidden].copy_from_slice(&a.mid[..rows * hidden]);
        self.linear(&layer.down, act, rows, y, true, &mut a.low[3]);
    }

    /// What [`Net::down`] leaves in `a`, without the product itself.
    pub fn low_of_down(&self, index: usize, rows: usize, a: &mut Activations, act: &mut Vec<f32>) {
        let layer = &self.params.layout.layers[index];
        if self.adapted.low_width(&layer.down) > 0 {
            let act = sized(act, rows * self.config.intermediate_size);
            self.activate(rows, &a.gate_up, act);
            self.low(&layer.down, act, rows, &mut a.low[3]);
        }
    }

    /// Logits of rows that have passed the final norm.
    pub fn logits(&self, hidden: &[f32], rows: usize, logits: &mut [f32]) {
        let head = self.params.get(self.params.layout.head).weight();
        linear(self.rt, hidden, rows, self.config.hidden_size, head, logits, self.config.vocab_size, false);
    }
}

/// Numbers below which element-wise work is not worth a second thread.
pub(crate) const ROW_GRAIN: usize = 16 * 1024;

/// Runs `tokens`, one row each, through the model; `hidden` receives the rows after the final norm.
/// What `record` names, by the owner of the weights, is kept for an update.
#[allow(clippy::too_many_arguments)]
pub(crate) fn forward_rows(
    model: &Model,
    runs: &[Run],
    tokens: &[u32],
    positions: &[u32],
    kv: &mut dyn KeyValues,
    scratch: &mut Scratch,
    mut record: Option<(&mut Recordings, &[(u64, Plan)])>,
    hidden: &mut Vec<f32>,
) -> Result<()> {
    let net = model.net_of(&model.params, Adapted::Runs(runs));
    let (rows, width) = (tokens.len(), net.config.hidden_size);
    if positions.len() != rows || runs.last().map(|run| run.rows.end) != Some(rows) {
        return Err(Error::shape("forward", format!("{rows} tokens, {} positions", positions.len())));
    }
    let Scratch { x: [x, next], normed, act, layer } = scratch;
    let (mut x, mut next) = (sized(x, rows * width), sized(next, rows * width));
    net.embed(tokens, x);
    for index in 0..net.config.num_hidden_layers {
        net.attention(index, x, positions, kv, layer, normed)?;
        net.gate_up(index, rows, layer, normed);
        net.down(index, rows, layer, act, next);
        if let Some((recordings, plans)) = &mut record {
            recordings.store(net.config, index, plans, x, layer, &net.widths(index));
        }
        std::mem::swap(&mut x, &mut next);
    }
    if let Some((recordings, plans)) = &mut record {
        recordings.store_last(net.config, plans, x);
    }
    net.norm(net.params.layout.norm, x, rows, sized(hidden, rows * width));
    hidden.truncate(rows * width);
    Ok(())
}

/// Logits `[m][vocab_size]` of rows that [`forward_rows`] returned.
pub(crate) fn head_logits(model: &Model, hidden: &[f32], m: usize, logits: &mut [f32]) {
    model.net_of(&model.params, Adapted::All(None)).logits(hidden, m, logits);
}
