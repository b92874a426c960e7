//! What the kernel tests share.

use quintain_core::kernels::{Isa, Runtime};
use std::sync::Arc;

/// A small seeded generator (SplitMix64).
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// A non-empty range within `0..n` as `(first, len)`.
    pub fn range(&mut self, n: usize) -> (usize, usize) {
        let first = self.below(n);
        (first, 1 + self.below(n - first))
    }

    /// Mean 0, variance 1 (the sum of twelve uniforms).
    pub fn one(&mut self) -> f32 {
        (0..12).map(|_| (self.bits() >> 40) as f32 / (1 << 24) as f32).sum::<f32>() - 6.0
    }

    pub fn normal(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.one()).collect()
    }
}

/// One and two threads of every instruction set but the oracle.
pub fn every_runtime() -> Vec<Arc<Runtime>> {
    let isas = Isa::supported().filter(|isa| *isa != Isa::Reference);
    isas.flat_map(|isa| [1, 2].map(|threads| Runtime::new(Some(threads), Some(isa)).unwrap())).collect()
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}
