//! Matrix products: every instruction set against the oracle, and rows that do not depend on their company.

use crate::common::{Rng, bits, every_runtime};
use quintain_core::kernels::{Isa, PackedBf16, PackedF32, Runtime, Weight, linear, linear_dw, linear_dx};

/// Shapes `(m, n, k)`: whole tiles, tails in each direction, single elements, more rows than a block of any kernel.
const SHAPES: [(usize, usize, usize); 14] = [
    (1, 32, 32),
    (1, 1, 1),
    (3, 31, 7),
    (12, 64, 256),
    (13, 33, 257),
    (16, 96, 64),
    (17, 40, 33),
    (32, 576, 96),
    (33, 70, 300),
    (47, 65, 513),
    (64, 16, 576),
    (65, 320, 16),
    (130, 100, 1025),
    (301, 48, 40),
];

struct Case {
    m: usize,
    n: usize,
    k: usize,
    /// Rows of `x` and `y` are this much longer than needed.
    pad: usize,
    x: Vec<f32>,
    y: Vec<f32>,
    w: PackedF32,
    w16: PackedBf16,
}

impl Case {
    fn new((m, n, k): (usize, usize, usize), seed: u64) -> Case {
        let mut rng = Rng::new(seed);
        let pad = (seed % 3) as usize * 5;
        let w = PackedF32::from_rows(&rng.normal(n * k), n, k);
        let w16 = PackedBf16::from_packed_f32(&w);
        Case { m, n, k, pad, x: rng.normal(m * (k + pad)), y: rng.normal(m * (n + pad)), w, w16 }
    }

    fn weight(&self, bf16: bool) -> Weight<'_> {
        if bf16 { Weight::Bf16(&self.w16) } else { Weight::F32(&self.w) }
    }

    fn forward(&self, rt: &Runtime, bf16: bool, accumulate: bool) -> Vec<f32> {
        let (ldx, ldy) = (self.k + self.pad, self.n + self.pad);
        let mut y = self.y.clone();
        linear(rt, &self.x, self.m, ldx, self.weight(bf16), &mut y, ldy, accumulate);
        y
    }

    fn dx(&self, rt: &Runtime, bf16: bool, accumulate: bool) -> Vec<f32> {
        let (ldx, ldy) = (self.k + self.pad, self.n + self.pad);
        let mut dx = self.x.clone();
        linear_dx(rt, &self.y, self.m, ldy, self.weight(bf16), &mut dx, ldx, accumulate);
        dx
    }

    fn dw(&self, rt: &Runtime, bf16: bool) -> Vec<f32> {
        let mut dw = self.w.clone();
        linear_dw(rt, &self.y, self.n + self.pad, &self.x, self.k + self.pad, self.m, &mut dw, bf16);
        assert!(dw.data.len() == dw.n.div_ceil(32) * 32 * dw.k);
        dw.to_rows()
    }
}

/// The fused kernels follow the oracle's order step by step, so they must agree bit for bit. Others differ by at most
/// one rounding per step (unfused product, pairwise sum) of a partial sum no larger than `s`, the sum of the magnitudes
/// of the `k` products: `|error| <= 2 k u s`, `u = 2^-24`. For inputs of unit variance `s` is about `k`; such errors
/// add up like a random walk, so `4 sqrt(k) u s` leaves room for the tail.
fn close(isa: Isa, bf16: bool, fast: &[f32], slow: &[f32], k: usize, what: &str) {
    let fused = isa >= Isa::Avx2 || cfg!(target_arch = "aarch64");
    if fused && !(bf16 && isa >= Isa::Avx512Bf16) {
        assert_eq!(bits(fast), bits(slow), "{what}");
        return;
    }
    let tolerance = 4.0 * (k as f32).sqrt() * 2f32.powi(-24) * (k as f32 + 4.0);
    for (i, (a, b)) in fast.iter().zip(slow).enumerate() {
        assert!((a - b).abs() <= tolerance, "{what} [{i}]: {a} against {b}, tolerance {tolerance:e}");
    }
}

#[test]
fn every_isa_agrees_with_the_oracle() {
    let oracle = Runtime::new(Some(1), Some(Isa::Reference)).unwrap();
    for (seed, shape) in SHAPES.into_iter().enumerate() {
        let case = Case::new(shape, seed as u64);
        for bf16 in [false, true] {
            for accumulate in [false, true] {
                let (y, dx) = (case.forward(&oracle, bf16, accumulate), case.dx(&oracle, bf16, accumulate));
                for rt in every_runtime() {
                    let what = format!("{shape:?} bf16 {bf16} += {accumulate} {} x{}", rt.isa, rt.threads);
                    close(rt.isa, bf16, &case.forward(&rt, bf16, accumulate), &y, case.k, &format!("linear {what}"));
                    close(rt.isa, bf16, &case.dx(&rt, bf16, accumulate), &dx, case.n, &format!("dx {what}"));
                }
            }
            let dw = case.dw(&oracle, bf16);
            for rt in every_runtime() {
                let what = format!("dw {shape:?} bf16 {bf16} {} x{}", rt.isa, rt.threads);
                close(rt.isa, bf16, &case.dw(&rt, bf16), &dw, case.m, &what);
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_batch() {
    for (seed, shape) in SHAPES.into_iter().enumerate() {
        let case = Case::new(shape, 100 + seed as u64);
        for bf16 in [false, true] {
            for rt in every_runtime() {
                let (y, dx) = (case.forward(&rt, bf16, false), case.dx(&rt, bf16, false));
                let mut rng = Rng::new(seed as u64);
                for _ in 0..6 {
                    let (first, len) = rng.range(case.m);
                    let (ldx, ldy) = (case.k + case.pad, case.n + case.pad);
                    let part = Case {
                        m: len,
                        x: case.x[first * ldx..][..len * ldx].to_vec(),
                        y: case.y[first * ldy..][..len * ldy].to_vec(),
                        w: case.w.clone(),
                        w16: case.w16.clone(),
                        ..case
                    };
                    let what = format!("{shape:?} rows {first}+{len} bf16 {bf16} {} x{}", rt.isa, rt.threads);
                    let at = first * ldy..(first + len) * ldy;
                    assert_eq!(bits(&part.forward(&rt, bf16, false)), bits(&y[at]), "linear {what}");
                    let at = first * ldx..(first + len) * ldx;
                    assert_eq!(bits(&part.dx(&rt, bf16, false)), bits(&dx[at]), "dx {what}");
                }
            }
        }
    }
}

#[test]
fn thread_count_changes_nothing() {
    for (seed, shape) in SHAPES.into_iter().enumerate() {
        let case = Case::new(shape, 200 + seed as u64);
        for isa in Isa::supported().skip(1) {
            for bf16 in [false, true] {
                let results = [1, 2, 5].map(|threads| {
                    let rt = Runtime::new(Some(threads), Some(isa)).unwrap();
                    (bits(&case.forward(&rt, bf16, true)), bits(&case.dx(&rt, bf16, true)), bits(&case.dw(&rt, bf16)))
                });
                assert!(results[0] == results[1] && results[0] == results[2], "{shape:?} {isa} bf16 {bf16}");
            }
        }
    }
}

/// Splitting the rows of `dw` between calls is a split between micro-batches. The f32 kernels carry on where they
/// stopped; paired ones do so when the split falls on a whole step.
#[test]
fn dw_continues_over_micro_batches() {
    let case = Case::new((96, 70, 33), 5);
    for rt in every_runtime() {
        for bf16 in [false, true] {
            let whole = case.dw(&rt, bf16);
            let mut dw = case.w.clone();
            for first in [0, 64] {
                let (ldx, ldy) = (case.k + case.pad, case.n + case.pad);
                let m = if first == 0 { 64 } else { 32 };
                linear_dw(&rt, &case.y[first * ldy..], ldy, &case.x[first * ldx..], ldx, m, &mut dw, bf16);
            }
            assert_eq!(bits(&whole), bits(&dw.to_rows()), "{} bf16 {bf16}", rt.isa);
        }
    }
}

#[test]
fn packing_keeps_every_number() {
    for (n, k) in [(1, 1), (32, 8), (33, 7), (100, 65)] {
        let rows = Rng::new(n as u64).normal(n * k);
        let packed = PackedF32::from_rows(&rows, n, k);
        assert_eq!(packed.to_rows(), rows);
        let packed16 = PackedBf16::from_rows(&rows, n, k);
        let mut row = vec![0.0; k];
        for at in 0..n {
            packed16.get_row(at, &mut row);
            for (rounded, exact) in row.iter().zip(&rows[at * k..]) {
                assert!((rounded - exact).abs() <= exact.abs() * 2f32.powi(-8), "{rounded} for {exact}");
            }
        }
    }
}
