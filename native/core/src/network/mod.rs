//! The network: its layers and their gradients, over rows of tokens. It knows weights, adapters and where keys and values
//! are; whose weights they are and what a batch is for is decided by its callers.

mod activations;
mod attention;
mod backward;
mod forward;
mod head;

pub(crate) use activations::{Activations, Shape, Widths};
pub(crate) use attention::ForestAttention;
pub(crate) use backward::{BackwardScratch, Sink};
pub(crate) use forward::Scratch;
pub use head::Targets;
pub(crate) use head::{HeadPlan, HeadScratch, chunk_rows};

use crate::adapter::{Adapted, Dropout};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::kernels::{RopeTable, Runtime};
use crate::params::Params;

/// The projections of some rows: row `r` of each starts at `r * stride`; q and k are rotated.
pub(crate) struct Projections<'a> {
    /// `[rows][heads * head_dim]`
    pub q: &'a [f32],
    /// `[rows][kv_heads * head_dim]`
    pub k: &'a [f32],
    /// `[rows][kv_heads * head_dim]`
    pub v: &'a [f32],
    pub stride: usize,
    pub rows: usize,
}

/// Where attention finds keys and values: a token forest, or the block tables of the sampler's cache.
pub(crate) trait KeyValues {
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
    /// The masks of the adapters' inputs, in training forwards.
    pub dropout: Option<Dropout>,
}
