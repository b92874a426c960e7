//! Bytes by category: what a model holds, and the formula that says so beforehand.

use crate::adapter::{Adapter, DEFAULT};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::kernels::NR;
use crate::model::{Model, Options};
use crate::network::{Shape, chunk_rows};
use crate::params::{Parameter, Params};
use crate::passes::first_kept;

/// Bytes by category. The kernels' own scratch (transposed panels, rounded inputs) comes on top: it grows with the
/// widest product, not with the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// Parameters of the base: f32 masters of what is trained, and what products read.
    pub weights: usize,
    /// Parameters of all adapters.
    pub adapters: usize,
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
        self.weights + self.adapters + self.reference + self.gradients + self.moments + self.activations + self.buffers
    }

    /// Bytes that training takes, without running it: one kept forward, backward and step over `rows` tokens with targets at
    /// `positions` of them. With [`Blocks::File`](crate::params::Blocks::File) weights are counted in the dtype: only the file
    /// knows better.
    pub fn plan(config: &ModelConfig, options: &Options, rows: usize, positions: usize) -> Result<Memory> {
        let params = Params::empty(config, options.dtype, options.trains_base(), options.blocks)?;
        let settings = options.adapter.clone();
        let adapter =
            settings.map(|settings| Adapter::empty(config, options.dtype, DEFAULT, settings, 0)).transpose()?;
        let factors = adapter.as_ref().map_or(&[][..], |adapter| &adapter.list);
        let panels = |p: &Parameter| (p.n.div_ceil(NR) * NR, p.k);
        let f32_bytes = |p: &Parameter| panels(p).0 * panels(p).1 * 4;
        let trained: usize = params.list.iter().chain(factors).filter(|p| p.trainable).map(f32_bytes).sum();
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let layers = config.num_hidden_layers;
        let shape = Shape::new(config, adapter.as_ref());
        let first = first_kept(hidden, &shape, rows, options.activation_bytes);
        let low = shape.0.iter().flat_map(|widths| &widths[6..]).max().unwrap_or(&0);
        let chunk = chunk_rows(config.vocab_size, positions);
        let one_layer = hidden                                  // normed
            + inner                                             // silu(gate) * up
            + config.kv_width()                                 // transposed keys
            + hidden                                            // gradient of the stream,
            + hidden.max(config.q_width())                      // of what a product read,
            + inner                                             // of the activated,
            + (2 * inner).max(config.qkv_width())               // of gate|up or q|k|v,
            + low; // of an adapter's inside
        Ok(Memory {
            weights: params.list.iter().map(Parameter::planned_bytes).sum(),
            adapters: factors.iter().map(Parameter::planned_bytes).sum(),
            reference: 0,
            gradients: trained,
            moments: 2 * trained,
            activations: 4 * rows * ((layers + 1) * hidden + shape.kept(first)),
            buffers: 4 * (rows * one_layer + chunk * (config.vocab_size + 3 * hidden)),
        })
    }
}

impl Model {
    /// Bytes that the model holds now.
    pub fn memory(&self) -> Memory {
        let (activations, buffers) = self.work.bytes();
        let trainings = std::iter::once(&self.base).chain(self.adapters.iter().map(|adapter| &adapter.training));
        Memory {
            weights: self.params.bytes(),
            adapters: self.adapters.iter().map(Adapter::bytes).sum(),
            reference: self.reference.as_ref().map_or(0, Params::bytes),
            gradients: trainings.clone().map(|training| training.gradients.bytes()).sum(),
            moments: trainings.map(|training| training.moments.bytes()).sum(),
            activations: activations + self.recordings().bytes(),
            buffers,
        }
    }
}
