//! Helpers of the kernel tests.

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

/// Every instruction set but the oracle.
pub fn isas() -> impl Iterator<Item = Isa> {
    Isa::supported().filter(|isa| *isa != Isa::Reference)
}

/// Within `tolerance`, relative to values above 1.
pub fn assert_close(fast: &[f32], slow: &[f32], tolerance: f32, what: &str) {
    assert_eq!(fast.len(), slow.len(), "{what}");
    for (i, (a, b)) in fast.iter().zip(slow).enumerate() {
        let allowed = tolerance * b.abs().max(1.0);
        assert!((a - b).abs() <= allowed, "{what} [{i}]: {a} against {b}, allowed {allowed:e}");
    }
}

/// Central differences in f64: with step 1e-5 and values of order 1 they err by about 1e-10.
pub fn check_gradient(x: &[f64], gradient: &[f64], loss: impl Fn(&[f64]) -> f64) {
    const STEP: f64 = 1e-5;
    for i in 0..x.len() {
        let mut moved = x.to_vec();
        moved[i] = x[i] + STEP;
        let above = loss(&moved);
        moved[i] = x[i] - STEP;
        let slope = (above - loss(&moved)) / (2.0 * STEP);
        assert!((slope - gradient[i]).abs() < 1e-7 * slope.abs().max(1.0), "[{i}]: {} against {slope}", gradient[i]);
    }
}
