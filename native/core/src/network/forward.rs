//! One decoder layer forward over rows of tokens. Training and sampling run the same code; they differ in the [`KeyValues`]
//! that attention reads and in what is kept for the gradient.

use super::activations::{Activations, Widths, widths};
use super::{KeyValues, Net, Projections};
use crate::error::Result;
use crate::kernels::{SharedMut, linear, rmsnorm, rope, silu_mul};
use crate::params::Linear;
use crate::scratch::{ROW_GRAIN, sized};

/// Buffers of a forward pass that are free again after it; keep one per thread.
#[derive(Default)]
pub(crate) struct Scratch {
    pub x: [Vec<f32>; 2],
    pub normed: Vec<f32>,
    pub act: Vec<f32>,
    pub layer: Activations,
}

impl Scratch {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let rest = [&self.x[0], &self.x[1], &self.normed, &self.act];
        self.layer.bytes() + rest.iter().map(|buffer| buffer.capacity()).sum::<usize>() * size_of::<f32>()
    }
}

impl Net<'_> {
    /// Numbers per row in each buffer of a layer's activations; buffers of adapters are as wide as the widest.
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
            let (low, y) = (&low[range.start * stride..], &mut y[range.start * width..]);
            adapter.add_product(self.rt, linear_, range.len(), (low, stride), y);
        }
    }

    /// The inner activation of the adapters.
    pub fn low(&self, linear_: &Linear, x: &[f32], rows: usize, low: &mut [f32]) {
        let (stride, inputs) = (self.adapted.low_width(linear_), linear_.inputs);
        for (range, adapter) in self.adapted.runs(rows) {
            let (x, low) = (&x[range.start * inputs..range.end * inputs], &mut low[range.start * stride..]);
            adapter.inner(self.rt, linear_, (range.start, x), self.dropout.as_ref(), (low, stride));
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

    /// Computes what [`Net::down`] leaves in `a`, without the product itself.
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
