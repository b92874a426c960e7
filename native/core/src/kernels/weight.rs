//! A weight in any of its forms.

use super::blocks::PackedBlocks;
use super::packed::{PackedBf16, PackedF32};

/// A weight as products read it.
#[derive(Clone, Copy)]
pub enum Weight<'a> {
    /// Full precision: products are f32 throughout.
    F32(&'a PackedF32),
    /// Half the memory: inputs are rounded to bf16, sums stay f32.
    Bf16(&'a PackedBf16),
    /// Quantised, and frozen: what either of the above gives for the values the blocks stand for, bit for bit.
    Blocks(&'a PackedBlocks),
}

impl Weight<'_> {
    /// `(n, k)`: outputs, inputs.
    pub fn shape(&self) -> (usize, usize) {
        match self {
            Weight::F32(w) => (w.n, w.k),
            Weight::Bf16(w) => (w.n, w.k),
            Weight::Blocks(w) => (w.n, w.k),
        }
    }
}
