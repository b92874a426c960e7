//! Kept forwards, and the buffers of forward and backward.

use crate::adapter::Dropout;
use crate::forest::Forest;
use crate::kernels::RowStats;
use crate::network::{Activations, BackwardScratch, HeadPlan, HeadScratch, Scratch, Shape};

/// A forward that waits for its backward.
pub(crate) struct Kept {
    pub id: u64,
    /// The owner of the weights it went through.
    pub owner: u64,
    pub forest: Forest,
    pub plan: HeadPlan,
    pub stats: Vec<RowStats>,
    pub inverse_temperature: f32,
    pub pass: Pass,
}

/// How the layers of a kept forward are computed.
#[derive(Clone, Copy)]
pub(crate) struct Pass {
    /// Layers before this one are computed again in backward.
    pub first_kept: usize,
    pub dropout: Option<Dropout>,
    /// Sampling has recorded its rows: no layer was computed.
    pub recorded: bool,
}

/// Buffers that live as long as the model, so that a call allocates only when a batch is larger than all before.
#[derive(Default)]
pub(crate) struct Work {
    pub(super) scratch: Scratch,
    pub(super) head: HeadScratch,
    pub(super) backward: BackwardScratch,
    pub(super) keys: Vec<f32>,
    /// The residual stream before each layer and after the last, of the kept forward.
    pub(super) streams: Vec<Vec<f32>>,
    /// Activations of the last layers of the kept forward; the first set also serves the recomputed layers.
    pub(super) layers: Vec<Activations>,
    /// The kept forward that `streams` and `layers` belong to; another's backward computes its own again.
    pub holds: u64,
}

impl Work {
    /// Frees what the kept forward holds.
    pub fn drop_kept(&mut self) {
        (self.streams, self.layers, self.holds) = (Vec::new(), Vec::new(), 0);
    }

    /// Bytes of the kept forward, and of everything else.
    pub fn bytes(&self) -> (usize, usize) {
        let size = |buffer: &Vec<f32>| buffer.capacity() * size_of::<f32>();
        let streams = self.streams.iter().map(size).sum::<usize>();
        let layers = self.layers.iter().map(Activations::bytes).sum::<usize>();
        (streams + layers, self.scratch.bytes() + self.head.bytes() + self.backward.bytes() + size(&self.keys))
    }
}

/// The first layer whose activations fit into the budget, beside the inputs of all.
pub(crate) fn first_kept(hidden: usize, shape: &Shape, rows: usize, activation_bytes: usize) -> usize {
    let streams = rows * hidden * size_of::<f32>() * (shape.0.len() + 1);
    shape.first_kept(rows, activation_bytes.saturating_sub(streams))
}

/// The targets and settings of a forward's head.
pub(crate) struct Wanted<'a> {
    pub plan: &'a HeadPlan,
    pub inverse_temperature: f32,
    pub entropy: bool,
}
