//! Rearranging operands: rounding rows, turning panels of `W` into panels of its transpose.

use super::packed::{NR, PackedBf16, PackedF32, f32_from_bf16};
use super::{Isa, Runtime, SharedMut, rows};
use std::ops::Range;

/// The side of a transposed block.
const SIDE: usize = 16;

/// Rows one task should at least rearrange.
fn grain(width: usize) -> usize {
    (32 * 1024_usize).div_ceil(width.max(1))
}

/// Rounds rows of `k` numbers, `ldx` apart, to bf16 values kept as f32, rows `k` apart.
pub fn round_rows(rt: &Runtime, x: &[f32], m: usize, k: usize, ldx: usize, out: &mut [f32]) {
    let out = SharedMut::new(out);
    rt.parallel_ranges(m, grain(k), |range| {
        for row in range {
            // SAFETY: each row is written by one task.
            let out = unsafe { out.range(row * k..(row + 1) * k) };
            // SAFETY: the runtime's instruction set is supported.
            unsafe { rows::round_keep(rt.isa, &x[row * ldx..][..k], out) };
        }
    });
}

/// Rounds rows of `k` numbers, `ldx` apart, to bf16 rows `width` apart, zero beyond `k`. `out` may have further rows.
pub fn round_to_bf16(rt: &Runtime, x: &[f32], m: usize, k: usize, ldx: usize, out: &mut [u16], width: usize) {
    out[m * width..].fill(0);
    let out = SharedMut::new(out);
    rt.parallel_ranges(m, grain(k), |range| {
        for row in range {
            // SAFETY: each row is written by one task.
            let (out, rest) = unsafe { out.range(row * width..(row + 1) * width) }.split_at_mut(k);
            rest.fill(0);
            // SAFETY: the runtime's instruction set is supported.
            unsafe { rows::round(rt.isa, &x[row * ldx..][..k], out) };
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
        out.chunks_exact_mut(width).for_each(|column| column[m..].fill(0));
        let mut pairs = [[0_u32; SIDE]; SIDE];
        for start in (0..m).step_by(2 * SIDE) {
            for first in columns.clone().step_by(SIDE) {
                let some = SIDE.min(columns.end - first);
                for (row, pairs) in (start..m).step_by(2).zip(&mut pairs) {
                    let even = &x[row * ldx + first..][..some];
                    let odd = if row + 1 < m { &x[(row + 1) * ldx + first..][..some] } else { &[0.0; SIDE][..some] };
                    // SAFETY: the runtime's instruction set is supported.
                    unsafe { rows::round_pairs(rt.isa, even, odd, pairs) };
                }
                let mut turned = [[0_u32; SIDE]; SIDE];
                // SAFETY: both are blocks of 16 x 16 numbers of 32 bits.
                unsafe { rows::transpose(rt.isa, pairs.as_ptr().cast(), SIDE, turned.as_mut_ptr().cast(), SIDE) };
                let used = (m - start).min(2 * SIDE);
                for (column, turned) in out[(first - columns.start) * width..].chunks_mut(width).zip(&turned).take(some)
                {
                    for (at, pair) in turned.iter().enumerate().take(used.div_ceil(2)) {
                        column[start + at * 2] = *pair as u16;
                        if at * 2 + 1 < used {
                            column[start + at * 2 + 1] = (pair >> 16) as u16;
                        }
                    }
                }
            }
        }
    });
}

/// `to[c][r] = from[r][c]` for a matrix of `(rows, columns)`.
///
/// # Safety
/// `isa` is supported; both matrices are valid for their extents and do not overlap.
pub unsafe fn matrix(
    isa: Isa,
    (rows, columns): (usize, usize),
    from: *const f32,
    from_row: usize,
    to: *mut f32,
    to_row: usize,
) {
    for row in (0..rows).step_by(SIDE) {
        for column in (0..columns).step_by(SIDE) {
            // SAFETY: the caller's promise.
            unsafe {
                let (from, to) = (from.add(row * from_row + column), to.add(column * to_row + row));
                if row + SIDE <= rows && column + SIDE <= columns {
                    rows::transpose(isa, from, from_row, to, to_row);
                    continue;
                }
                for r in 0..SIDE.min(rows - row) {
                    for c in 0..SIDE.min(columns - column) {
                        *to.add(c * to_row + r) = *from.add(r * from_row + c);
                    }
                }
            }
        }
    }
}

/// Panel `at` of the transpose of `w`, reduction steps `ns`: `[ns][32]` of `W[n][at * 32 + lane]`.
pub fn panel_f32(isa: Isa, w: &PackedF32, at: usize, ns: Range<usize>, out: &mut [f32]) {
    let lanes = NR.min(w.k - at * NR);
    for n in ns.clone().step_by(NR) {
        let source = &w.panel(n / NR)[at * NR * NR..][..lanes * NR];
        let out = &mut out[(n - ns.start) * NR..][..NR * NR];
        if lanes == NR {
            for (row, column) in [(0, 0), (0, SIDE), (SIDE, 0), (SIDE, SIDE)] {
                let (from, to) = (&source[row * NR + column..], &mut out[column * NR + row..]);
                // SAFETY: `isa` is supported; both squares are 32 x 32.
                unsafe { rows::transpose(isa, from.as_ptr(), NR, to.as_mut_ptr(), NR) };
            }
            continue;
        }
        for (lane, source) in source.chunks_exact(NR).enumerate() {
            for (step, value) in source.iter().enumerate() {
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
pub fn panel_pairs(isa: Isa, w: &PackedBf16, at: usize, ns: Range<usize>, out: &mut [u16]) {
    let pairs = (NR / 2).min(w.k.div_ceil(2) - at * NR / 2);
    for n in ns.clone().step_by(NR) {
        let source = &w.panel(n / NR)[at * NR * NR..][..pairs * NR * 2];
        let out = &mut out[(n - ns.start) * NR..][..NR * NR];
        // Two outputs by two inputs, transposed; then rows are inputs, columns pairs of outputs.
        let mut turned = [[0_u32; SIDE]; NR];
        for (source, turned) in source.chunks_exact(NR * 2).zip(turned.chunks_exact_mut(2)) {
            for (at, square) in source.chunks_exact(4).enumerate() {
                turned[0][at] = u32::from(square[0]) | u32::from(square[2]) << 16;
                turned[1][at] = u32::from(square[1]) | u32::from(square[3]) << 16;
            }
        }
        for half in [0, SIDE] {
            // SAFETY: `isa` is supported; `turned` is 32 x 16, `out` 16 x 32 pairs.
            unsafe {
                let to = out.as_mut_ptr().cast::<f32>().add(half);
                rows::transpose(isa, turned[half].as_ptr().cast(), SIDE, to, NR);
            }
        }
    }
}

/// Lanes `lanes` of rows `ms` of `dy` (of `m`), rounded, as a panel of pairs `[ms / 2][32][2]`; zero elsewhere.
pub fn rows_to_pairs(
    isa: Isa,
    dy: &[f32],
    ms: Range<usize>,
    m: usize,
    lanes: Range<usize>,
    ldy: usize,
    out: &mut [u16],
) {
    const ZEROS: [f32; NR] = [0.0; NR];
    for (row, out) in ms.step_by(2).zip(out.chunks_exact_mut(NR * 2)) {
        let lane = |row: usize| if row < m { &dy[row * ldy..][lanes.clone()] } else { &ZEROS[..lanes.len()] };
        let mut pairs = [0; NR];
        // SAFETY: `isa` is supported.
        unsafe { rows::round_pairs(isa, lane(row), lane(row + 1), &mut pairs) };
        for (out, pair) in out.chunks_exact_mut(2).zip(pairs) {
            (out[0], out[1]) = (pair as u16, (pair >> 16) as u16);
        }
    }
}
