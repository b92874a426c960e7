//! Rearranging operands: rounding rows, turning panels of `W` into panels of its transpose.

use super::packed::{NR, PackedBf16, PackedF32, bf16_from_f32, f32_from_bf16};
use super::{Runtime, SharedMut};
use std::ops::Range;

/// Rows one task should at least rearrange.
fn grain(width: usize) -> usize {
    (32 * 1024_usize).div_ceil(width.max(1))
}

/// Rounds rows of `k` numbers, `ldx` apart, to bf16 values kept as f32, rows `k` apart.
pub fn round_rows(rt: &Runtime, x: &[f32], m: usize, k: usize, ldx: usize, out: &mut [f32]) {
    let out = SharedMut::new(out);
    rt.parallel_ranges(m, grain(k), |rows| {
        for row in rows {
            // SAFETY: each row is written by one task.
            let out = unsafe { out.range(row * k..(row + 1) * k) };
            for (out, x) in out.iter_mut().zip(&x[row * ldx..]) {
                *out = f32_from_bf16(bf16_from_f32(*x));
            }
        }
    });
}

/// Rounds rows of `k` numbers, `ldx` apart, to bf16 rows `width` apart, zero beyond `k`. `out` may have further rows.
pub fn round_to_bf16(rt: &Runtime, x: &[f32], m: usize, k: usize, ldx: usize, out: &mut [u16], width: usize) {
    out[m * width..].fill(0);
    let out = SharedMut::new(out);
    rt.parallel_ranges(m, grain(k), |rows| {
        for row in rows {
            // SAFETY: each row is written by one task.
            let (out, rest) = unsafe { out.range(row * width..(row + 1) * width) }.split_at_mut(k);
            rest.fill(0);
            for (out, x) in out.iter_mut().zip(&x[row * ldx..]) {
                *out = bf16_from_f32(*x);
            }
        }
    });
}

/// Rounds the `k` columns of `x[m, k]` to bf16 rows of `m` numbers, `width` apart, zero beyond `m`.
/// `out` may have further rows, which are zeroed.
pub fn columns_to_bf16(rt: &Runtime, x: &[f32], m: usize, k: usize, ldx: usize, out: &mut [u16], width: usize) {
    out[k * width..].fill(0);
    let out = SharedMut::new(out);
    rt.parallel_ranges(k, grain(m).next_multiple_of(NR), |columns| {
        // SAFETY: each column is written by one task.
        let out = unsafe { out.range(columns.start * width..columns.end * width) };
        for start in (0..m).step_by(NR) {
            for row in start..m.min(start + NR) {
                for (at, x) in x[row * ldx..][columns.clone()].iter().enumerate() {
                    out[at * width + row] = bf16_from_f32(*x);
                }
            }
        }
        out.chunks_exact_mut(width).for_each(|column| column[m..].fill(0));
    });
}

/// Panel `at` of the transpose of `w`, reduction steps `ns`: `[ns][32]` of `W[n][at * 32 + lane]`.
pub fn panel_f32(w: &PackedF32, at: usize, ns: Range<usize>, out: &mut [f32]) {
    let lanes = NR.min(w.k - at * NR);
    for n in ns.clone().step_by(NR) {
        let source = &w.panel(n / NR)[at * NR * NR..][..lanes * NR];
        let out = &mut out[(n - ns.start) * NR..];
        let steps = NR.min(ns.end - n);
        for (lane, source) in source.chunks_exact(NR).enumerate() {
            for (step, value) in source.iter().enumerate().take(steps) {
                out[step * NR + lane] = *value;
            }
        }
    }
}

/// [`panel_f32`] of bf16 weights, widened.
pub fn panel_widened(w: &PackedBf16, at: usize, ns: Range<usize>, out: &mut [f32]) {
    let lanes = NR.min(w.k - at * NR);
    for n in ns.clone().step_by(NR) {
        let source = &w.panel(n / NR)[at * NR * NR..];
        let out = &mut out[(n - ns.start) * NR..];
        let steps = NR.min(ns.end - n);
        for (pair, source) in source.chunks_exact(NR * 2).enumerate().take(lanes.div_ceil(2)) {
            for (step, values) in source.chunks_exact(2).enumerate().take(steps) {
                out[step * NR + pair * 2] = f32_from_bf16(values[0]);
                out[step * NR + pair * 2 + 1] = f32_from_bf16(values[1]);
            }
        }
    }
}

/// Panel `at` of the transpose of `w` in pairs: `[ns / 2][32][2]`; `ns` is a range of whole steps that may reach
/// beyond `w.n`, where the padding of `w` gives zeros.
pub fn panel_pairs(w: &PackedBf16, at: usize, ns: Range<usize>, out: &mut [u16]) {
    let pairs = (NR / 2).min(w.k.div_ceil(2) - at * NR / 2);
    for n in ns.clone().step_by(NR) {
        let source = &w.panel(n / NR)[at * NR * NR..][..pairs * NR * 2];
        let out = &mut out[(n - ns.start) * NR..][..NR * NR];
        for (pair, source) in source.chunks_exact(NR * 2).enumerate() {
            for (step, square) in source.chunks_exact(4).enumerate() {
                // Two outputs by two inputs, transposed.
                let out = &mut out[step * NR * 2 + pair * 4..][..4];
                (out[0], out[1], out[2], out[3]) = (square[0], square[2], square[1], square[3]);
            }
        }
    }
}

/// Lanes `lanes` of rows `ms` of `dy` (of `m`), rounded, as a panel of pairs `[ms / 2][32][2]`; zero elsewhere.
pub fn rows_to_pairs(dy: &[f32], ms: Range<usize>, m: usize, lanes: Range<usize>, ldy: usize, out: &mut [u16]) {
    for (row, at) in ms.clone().step_by(2).zip(0..) {
        let out = &mut out[at * NR * 2..][..NR * 2];
        let lane = |row: usize, lane: usize| {
            if row < m && lane < lanes.end { bf16_from_f32(dy[row * ldy + lane]) } else { 0 }
        };
        for (at, pair) in out.chunks_exact_mut(2).enumerate() {
            (pair[0], pair[1]) = (lane(row, lanes.start + at), lane(row + 1, lanes.start + at));
        }
    }
}
