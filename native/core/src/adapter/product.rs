//! A product of the network, as its gradient and its adapters see it.

use crate::params::Linear;

/// A product and its rows.
pub(crate) struct Product<'a> {
    pub linear: &'a Linear,
    pub rows: usize,
    /// Its input.
    pub x: &'a [f32],
    /// Its adapter's inner activation.
    pub low: &'a [f32],
}
