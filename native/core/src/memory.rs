//! Bytes by category: what a model holds, and the formula that says so beforehand.

use crate::config::ModelConfig;
use crate::error::Result;
use crate::forward::Activations;
use crate::head::chunk_rows;
use crate::kernels::NR;
use crate::model::{Model, Options};
use crate::params::{Linear, Parameter, Params};
use crate::passes::first_kept;

/// Bytes by category. The kernels' own scratch (transposed panels, rounded inputs) comes on top: it grows with the
/// widest product, not with the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// Parameters: f32 masters and bf16 copies.
    pub weights: usize,
    /// The frozen copy of a fully trained model.
    pub reference: usize,
    /// Gradients of what is trained; allocated by the first `backward`.
    pub gradients: usize,
    /// AdamW moments; allocated by the first `step`.
    pub moments: usize,
    /// Residual streams and activations of the largest kept forward so far, and what sampling has kept.
    pub activations: usize,
    /// Everything else that a call reuses: one layer's work, one chunk of logits.
    pub buffers: usize,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> usize {
        self.weights + self.reference + self.gradients + self.moments + self.activations + self.buffers
    }

    /// What training takes, without running it: one kept forward, backward and step over `rows` tokens with targets at
    /// `positions` of them. With [`Blocks::File`](crate::params::Blocks::File) weights are counted in the dtype: only the file
    /// knows better.
    pub fn plan(config: &ModelConfig, options: &Options, rows: usize, positions: usize) -> Result<Memory> {
        let params = Params::empty(config, options.dtype, options.lora.as_ref(), options.blocks)?;
        let panels = |p: &Parameter| (p.n.div_ceil(NR) * NR, p.k);
        let f32_bytes = |p: &Parameter| panels(p).0 * panels(p).1 * 4;
        let trained: usize = params.list.iter().filter(|p| p.trainable).map(f32_bytes).sum();
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let layers = &params.layout.layers;
        let sets = layers.len() - first_kept(config, options, &layers[0], rows);
        let low = [&layers[0].qkv, &layers[0].o, &layers[0].gate_up, &layers[0].down].map(Linear::low_width);
        let chunk = chunk_rows(config.vocab_size, positions);
        let one_layer = hidden                                  // normed
            + inner                                             // silu(gate) * up
            + config.kv_width()                                 // transposed keys
            + hidden                                            // gradient of the stream,
            + hidden.max(config.q_width())                      // of what a product read,
            + inner                                             // of the activated,
            + (2 * inner).max(config.qkv_width())               // of gate|up or q|k|v,
            + low.into_iter().max().unwrap_or(0); // of an adapter's inside
        Ok(Memory {
            weights: params.list.iter().map(Parameter::planned_bytes).sum(),
            reference: 0,
            gradients: trained,
            moments: 2 * trained,
            activations: 4 * rows * ((layers.len() + 1) * hidden + sets * Activations::width(config, &layers[0])),
            buffers: 4 * (rows * one_layer + chunk * (config.vocab_size + 3 * hidden)),
        })
    }
}

impl Model {
    /// What the model holds now.
    pub fn memory(&self) -> Memory {
        let (activations, buffers) = self.work.bytes();
        Memory {
            weights: self.params.bytes(),
            reference: self.reference.as_ref().map_or(0, Params::bytes),
            gradients: self.gradients.bytes(),
            moments: self.moments.bytes(),
            activations: activations + self.recording().bytes(),
            buffers,
        }
    }
}
