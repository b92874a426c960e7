//! The gradient of the forward pass, layer by layer. Frozen weights get no products of their own.

use super::activations::Activations;
use super::attention::ForestAttention;
use super::{Net, Projections};
use crate::adapter::{Adapter, Product};
use crate::kernels::{
    PackedF32, SharedMut, column_sum, linear_dw, linear_dx, rmsnorm_backward, rope, silu_mul_backward,
};
use crate::params::{Dtype, Gradients, Layer, Linear, Params};
use crate::scratch::{ROW_GRAIN, sized};

/// Where gradients go: into the base, or into the adapter that the pass went through.
pub(crate) struct Sink<'a> {
    pub gradients: &'a mut Gradients,
    pub adapted: bool,
}

impl Sink<'_> {
    /// The accumulator of a parameter of the base, if it is trained.
    pub fn of(&mut self, params: &Params, index: usize) -> Option<&mut PackedF32> {
        if self.adapted { None } else { self.gradients.of(&params.list, index) }
    }
}

/// Buffers of the backward pass.
#[derive(Default)]
pub(crate) struct BackwardScratch {
    /// Gradient of the residual stream.
    pub dx: Vec<f32>,
    /// Gradient of whatever a product read.
    dnarrow: Vec<f32>,
    dact: Vec<f32>,
    /// Gradient of gate|up, then of q|k|v.
    dwide: Vec<f32>,
    dlow: Vec<f32>,
}

impl BackwardScratch {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let buffers = [&self.dx, &self.dnarrow, &self.dact, &self.dwide, &self.dlow];
        buffers.iter().map(|buffer| buffer.capacity()).sum::<usize>() * size_of::<f32>()
    }
}

impl Net<'_> {
    /// Gradients of one product: parameters into `grads`, input into `dx` (overwritten) if wanted.
    fn linear_backward(
        &self,
        p: &Product,
        dy: &[f32],
        grads: &mut Sink,
        dlow: &mut Vec<f32>,
        mut dx: Option<&mut [f32]>,
    ) {
        let (rt, rows, width, inputs) = (self.rt, p.rows, p.linear.outputs, p.linear.inputs);
        let base = self.params.get(p.linear.base);
        let bf16 = base.dtype() == Dtype::Bf16;
        if let Some(dw) = grads.of(self.params, p.linear.base) {
            linear_dw(rt, dy, width, p.x, inputs, rows, dw, bf16);
        }
        if let Some(db) = p.linear.bias.and_then(|bias| grads.of(self.params, bias)) {
            column_sum(rt, dy, rows, width, &mut db.data[..width]);
        }
        if let Some(dx) = dx.as_deref_mut() {
            linear_dx(rt, dy, rows, width, base.weight(), dx, inputs, false);
        }
        if let Some(adapter) = self.adapted.one() {
            adapter.backward(rt, p, self.dropout.as_ref(), dy, (grads.gradients, dlow), dx);
        }
    }

    /// Adds the gradient of the norm at `index` over `x` to `dx`.
    fn norm_backward(&self, index: usize, dy: &[f32], x: &[f32], rows: usize, dx: &mut [f32], grads: &mut Sink) {
        let hidden = self.config.hidden_size;
        let dweight = grads.of(self.params, index).map(|g| &mut g.data[..hidden]);
        let weight = self.params.get(index).values();
        rmsnorm_backward(self.rt, dy, x, weight, self.config.rms_norm_eps, dx, dweight, rows, hidden);
    }

    /// Whether the gradient of a product's parameters needs what the product read.
    fn needs_input(&self, linear: &Linear) -> bool {
        match self.adapted.one() {
            Some(adapter) => adapter.adapts(linear),
            None => self.trains(linear.base),
        }
    }

    /// Whether the gradient of a parameter of the base is wanted.
    fn trains(&self, index: usize) -> bool {
        self.adapted.one().is_none() && self.params.get(index).trainable
    }

    /// The first layer whose input's gradient nobody wants.
    pub fn lowest(&self) -> usize {
        self.adapted.one().map_or(0, Adapter::first_layer)
    }

    /// The gradient of one layer: `s.dx` is the gradient of its output and becomes that of its input `x`.
    /// The input of the lowest layer that is trained has a gradient only if embeddings are trained.
    #[allow(clippy::too_many_arguments)]
    pub fn layer_backward(
        &self,
        index: usize,
        x: &[f32],
        positions: &[u32],
        a: &Activations,
        attention: &mut ForestAttention,
        (normed, act): (&mut Vec<f32>, &mut Vec<f32>),
        s: &mut BackwardScratch,
        grads: &mut Sink,
    ) {
        let layer = &self.params.layout.layers[index];
        self.feed_forward_backward(layer, positions.len(), a, (normed, act), s, grads);
        let wants_input = index > self.lowest() || self.trains(self.params.layout.embed);
        self.attention_backward(layer, x, positions, a, attention, normed, s, grads, wants_input);
    }

    fn feed_forward_backward(
        &self,
        layer: &Layer,
        rows: usize,
        a: &Activations,
        (normed, act): (&mut Vec<f32>, &mut Vec<f32>),
        s: &mut BackwardScratch,
        grads: &mut Sink,
    ) {
        let (hidden, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let act = sized(act, rows * inner);
        if self.needs_input(&layer.down) {
            self.activate(rows, &a.gate_up, act);
        }
        let dact = sized(&mut s.dact, rows * inner);
        let down = Product { linear: &layer.down, rows, x: act, low: &a.low[3] };
        self.linear_backward(&down, &s.dx, grads, &mut s.dlow, Some(dact));

        let dwide = sized(&mut s.dwide, rows * 2 * inner);
        let shared = SharedMut::new(dwide);
        self.rt.parallel_ranges(rows, ROW_GRAIN.div_ceil(inner), |range| {
            for row in range {
                let (gate, up) = a.gate_up[row * 2 * inner..(row + 1) * 2 * inner].split_at(inner);
                // SAFETY: each row is written by one task.
                let (dgate, dup) = unsafe { shared.range(row * 2 * inner..(row + 1) * 2 * inner) }.split_at_mut(inner);
                silu_mul_backward(self.rt, gate, up, &dact[row * inner..(row + 1) * inner], dgate, dup);
            }
        });

        let normed = sized(normed, rows * hidden);
        if self.needs_input(&layer.gate_up) {
            self.norm(layer.mlp_norm, &a.mid, rows, normed);
        }
        let dnormed = sized(&mut s.dnarrow, rows * hidden);
        let gate_up = Product { linear: &layer.gate_up, rows, x: normed, low: &a.low[2] };
        self.linear_backward(&gate_up, dwide, grads, &mut s.dlow, Some(dnormed));
        self.norm_backward(layer.mlp_norm, dnormed, &a.mid, rows, &mut s.dx, grads);
    }

    #[allow(clippy::too_many_arguments)]
    fn attention_backward(
        &self,
        layer: &Layer,
        x: &[f32],
        positions: &[u32],
        a: &Activations,
        attention: &mut ForestAttention,
        normed: &mut Vec<f32>,
        s: &mut BackwardScratch,
        grads: &mut Sink,
        wants_input: bool,
    ) {
        let (config, rows) = (self.config, positions.len());
        let (hidden, stride) = (config.hidden_size, config.qkv_width());
        let (q_width, kv_width, heads) = (config.q_width(), config.kv_width(), config.num_attention_heads);
        let dattn = sized(&mut s.dnarrow, rows * q_width);
        let o = Product { linear: &layer.o, rows, x: &a.attn, low: &a.low[1] };
        self.linear_backward(&o, &s.dx, grads, &mut s.dlow, Some(dattn));

        let dqkv = sized(&mut s.dwide, rows * stride);
        let qkv = &a.qkv[..rows * stride];
        let projections = Projections { q: qkv, k: &qkv[q_width..], v: &qkv[q_width + kv_width..], stride, rows };
        attention.backward(self.rt, &projections, (&a.attn, &a.lse), dattn, dqkv);
        rope(self.rt, dqkv, stride, heads, positions, self.rope, true);
        rope(self.rt, &mut dqkv[q_width..], stride, config.kv_heads(), positions, self.rope, true);
        if let Some((q_norm, k_norm)) = layer.qk_norms {
            let width = q_width + kv_width;
            for (row, raw) in dqkv.chunks_exact_mut(stride).zip(a.raw.chunks_exact(width)) {
                let (dq, dk) = row[..width].split_at_mut(q_width);
                self.head_norm_backward(q_norm, dq, &raw[..q_width], grads);
                self.head_norm_backward(k_norm, dk, &raw[q_width..], grads);
            }
        }

        let normed = sized(normed, rows * hidden);
        if self.needs_input(&layer.qkv) {
            self.norm(layer.attn_norm, x, rows, normed);
        }
        let trains_norm = self.trains(layer.attn_norm);
        let dnormed = sized(&mut s.dnarrow, rows * hidden);
        let product = Product { linear: &layer.qkv, rows, x: normed, low: &a.low[0] };
        let dx = (wants_input || trains_norm).then_some(&mut *dnormed);
        self.linear_backward(&product, dqkv, grads, &mut s.dlow, dx);
        if wants_input || trains_norm {
            self.norm_backward(layer.attn_norm, dnormed, x, rows, &mut s.dx, grads);
        }
    }

    /// Replaces `dy`, the gradient of normalised heads, by that of the raw ones.
    fn head_norm_backward(&self, index: usize, dy: &mut [f32], raw: &[f32], grads: &mut Sink) {
        let (dim, eps) = (self.config.head_dim(), self.config.rms_norm_eps);
        let weight = self.params.get(index).values();
        let mut dx = vec![0.0; dy.len()];
        let dweight = grads.of(self.params, index).map(|g| &mut g.data[..dim]);
        rmsnorm_backward(self.rt, dy, raw, weight, eps, &mut dx, dweight, dy.len() / dim, dim);
        dy.copy_from_slice(&dx);
    }

    /// The gradient of the embedding lookup.
    pub fn embed_backward(&self, tokens: &[u32], dx: &[f32], grads: &mut Sink) {
        let Some(dw) = grads.of(self.params, self.params.layout.embed) else { return };
        for (token, dx) in tokens.iter().zip(dx.chunks_exact(self.config.hidden_size)) {
            dw.add_to_row(*token as usize, dx);
        }
    }
}
