//! The factors' part in a product, and their gradient.

use super::super::dropout::Dropout;
use super::super::product::Product;
use super::Lora;
use crate::kernels::{Runtime, linear, linear_dw, linear_dx};
use crate::params::{Dtype, Gradients, Linear, Parameter};
use crate::scratch::sized;

impl Lora {
    /// The inner activation, scaled: `low = scale · dropout(x) · Aᵀ`; `x` is the rows from `first` on of what the product
    /// reads.
    pub fn inner(
        &self,
        rt: &Runtime,
        list: &[Parameter],
        linear_: &Linear,
        (first, x): (usize, &[f32]),
        dropout: Option<&Dropout>,
        (low, stride): (&mut [f32], usize),
    ) {
        let Some(lora) = self.place(linear_) else { return };
        let (a, inputs) = (list[lora.a].weight(), linear_.inputs);
        let rows = x.len() / inputs;
        match dropout {
            None => linear(rt, x, rows, inputs, a, low, stride, false),
            Some(dropout) => {
                let block = Dropout::rows(inputs).min(rows);
                let mut masked = vec![0.0; block * inputs];
                for (at, x) in x.chunks(block * inputs).enumerate() {
                    let count = x.len() / inputs;
                    dropout.mask(rt, linear_, first + at * block, x, &mut masked, false);
                    linear(rt, &masked, count, inputs, a, &mut low[at * block * stride..], stride, false);
                }
            }
        }
        for row in low[..rows * stride].chunks_exact_mut(stride) {
            row[..lora.width()].iter_mut().for_each(|value| *value *= lora.scale);
        }
    }

    /// `y += low · Bᵀ` for each part of the product.
    pub fn add(
        &self,
        rt: &Runtime,
        list: &[Parameter],
        linear_: &Linear,
        rows: usize,
        (low, stride): (&[f32], usize),
        y: &mut [f32],
    ) {
        let Some(lora) = self.place(linear_) else { return };
        for (part, b) in lora.parts.iter().enumerate() {
            let (x, y) = (&low[part * lora.rank..], &mut y[b.outputs.start..]);
            linear(rt, x, rows, stride, list[b.b].weight(), y, linear_.outputs, true);
        }
    }

    /// Gradients of the factors into `gradients`, that of the input added to `dx`.
    #[allow(clippy::too_many_arguments)]
    pub fn backward(
        &self,
        rt: &Runtime,
        list: &[Parameter],
        p: &Product,
        dropout: Option<&Dropout>,
        dy: &[f32],
        (gradients, dlow): (&mut Gradients, &mut Vec<f32>),
        mut dx: Option<&mut [f32]>,
    ) {
        let Some(lora) = self.place(p.linear) else { return };
        let (rows, width, inputs) = (p.rows, p.linear.outputs, p.linear.inputs);
        let low_width = lora.width();
        let dlow = sized(dlow, rows * low_width);
        let a = &list[lora.a];
        let bf16 = a.dtype() == Dtype::Bf16;
        for (part, b) in lora.parts.iter().enumerate() {
            let (dy, at) = (&dy[b.outputs.start..], part * lora.rank);
            if let Some(db) = gradients.of(list, b.b) {
                linear_dw(rt, dy, width, &p.low[at..], low_width, rows, db, bf16);
            }
            linear_dx(rt, dy, rows, width, list[b.b].weight(), &mut dlow[at..], low_width, false);
        }
        dlow.iter_mut().for_each(|value| *value *= lora.scale);
        let Some(dropout) = dropout else {
            if let Some(da) = gradients.of(list, lora.a) {
                linear_dw(rt, dlow, low_width, p.x, inputs, rows, da, bf16);
            }
            if let Some(dx) = dx {
                linear_dx(rt, dlow, rows, low_width, a.weight(), dx, inputs, true);
            }
            return;
        };
        let block = Dropout::rows(inputs).min(rows);
        let mut masked = vec![0.0; block * inputs];
        for first in (0..rows).step_by(block) {
            let count = block.min(rows - first);
            let (at, dlow) = (first * inputs..(first + count) * inputs, &dlow[first * low_width..]);
            if let Some(da) = gradients.of(list, lora.a) {
                dropout.mask(rt, p.linear, first, &p.x[at.clone()], &mut masked, false);
                linear_dw(rt, dlow, low_width, &masked, inputs, count, da, bf16);
            }
            if let Some(dx) = dx.as_deref_mut() {
                linear_dx(rt, dlow, count, low_width, a.weight(), &mut masked, inputs, false);
                dropout.mask(rt, p.linear, first, &masked[..count * inputs], &mut dx[at], true);
            }
        }
    }
}
