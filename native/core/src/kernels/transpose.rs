//! Rearranging operands: rounding rows, turning panels of `W` into panels of its transpose.

use super::blocks::PackedBlocks;
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

/// Where bf16 rows of `width` numbers (whole steps of [`NR`]) lie: `[rows / height][width / 32][height][32]`, so that a
/// tile of `height` rows by one step is contiguous. With height 1 these are plain rows.
#[derive(Clone, Copy)]
pub struct TiledRows {
    pub width: usize,
    pub height: usize,
}

impl TiledRows {
    /// Numbers in `rows` rows, whole tiles.
    pub fn len(&self, rows: usize) -> usize {
        rows.next_multiple_of(self.height) * self.width
    }

    /// Distance between steps of one row.
    pub fn step(&self) -> usize {
        self.height * NR
    }

    /// Where `row` starts within its tiles' numbers.
    fn start(&self, row: usize) -> usize {
        row / self.height * self.height * self.width + row % self.height * NR
    }
}

/// Rounds rows of `k` numbers, `ldx` apart, to bf16, zero beyond `k`. Rows beyond `m` to the end of the tile are left as
/// they are: what is computed of them is not kept.
pub fn round_to_bf16(rt: &Runtime, x: &[f32], m: usize, k: usize, ldx: usize, out: &mut [u16], to: TiledRows) {
    let out = SharedMut::new(out);
    rt.parallel_ranges(m.div_ceil(to.height), grain(k * to.height), |tiles| {
        for tile in tiles {
            let len = to.height * to.width;
            // SAFETY: each tile of rows is written by one task.
            let out = unsafe { out.range(tile * len..(tile + 1) * len) };
            for row in 0..to.height.min(m - tile * to.height) {
                let x = &x[(tile * to.height + row) * ldx..][..k];
                let out = &mut out[to.start(row)..];
                // SAFETY: the runtime's instruction set is supported; a tile holds the steps of its rows.
                unsafe { rows::round_row(rt.isa, x, to.width / NR, out.as_mut_ptr(), to.step()) };
            }
        }
    });
}

/// Rounds the `k` columns of `x[m, k]` to bf16 rows of `m` numbers, zero beyond `m` and beyond `k` to the end of the
/// tile.
pub fn columns_to_bf16(rt: &Runtime, x: &[f32], m: usize, k: usize, ldx: usize, out: &mut [u16], to: TiledRows) {
    let out = SharedMut::new(out);
    rt.parallel_ranges(k.next_multiple_of(to.height).div_ceil(SIDE), grain(m * SIDE), |blocks| {
        for first in blocks.map(|block| block * SIDE) {
            let some = SIDE.min(k.saturating_sub(first));
            let rows = SIDE.min(k.next_multiple_of(to.height) - first);
            // SAFETY: `first` is a multiple of the height: each tile of rows is written by one task.
            let out = unsafe { out.range(to.start(first)..to.start(first) + rows * to.width) };
            for start in (0..to.width).step_by(NR) {
                let mut pairs = [[0_u32; SIDE]; SIDE];
                for (row, pairs) in (start..m).step_by(2).zip(&mut pairs) {
                    let columns = |row: usize| if row < m { &x[row * ldx + first..][..some] } else { &[] };
                    // SAFETY: the runtime's instruction set is supported; room for sixteen pairs.
                    unsafe { rows::pair_rows(rt.isa, columns(row), columns(row + 1), 1, pairs.as_mut_ptr().cast(), 0) };
                }
                let mut turned = [[0_u32; SIDE]; SIDE];
                // SAFETY: both are blocks of 16 x 16 numbers of 32 bits.
                unsafe { rows::transpose(rt.isa, pairs.as_ptr().cast(), SIDE, turned.as_mut_ptr().cast(), SIDE) };
                for (row, turned) in turned.iter().enumerate().take(rows) {
                    let out = &mut out[to.start(row) + start / NR * to.step()..][..NR];
                    for (out, pair) in out.chunks_exact_mut(2).zip(turned) {
                        (out[0], out[1]) = (*pair as u16, (pair >> 16) as u16);
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

/// A square of a panel transposed: `lanes` steps of 32 outputs to 32 steps of as many lanes.
fn square_f32(isa: Isa, source: &[f32], lanes: usize, out: &mut [f32]) {
    if lanes == NR {
        for (row, column) in [(0, 0), (0, SIDE), (SIDE, 0), (SIDE, SIDE)] {
            let (from, to) = (&source[row * NR + column..], &mut out[column * NR + row..]);
            // SAFETY: `isa` is supported; both squares are 32 x 32.
            unsafe { rows::transpose(isa, from.as_ptr(), NR, to.as_mut_ptr(), NR) };
        }
        return;
    }
    for (lane, source) in source.chunks_exact(NR).enumerate() {
        for (step, value) in source.iter().enumerate() {
            out[step * NR + lane] = *value;
        }
    }
}

/// The same of `pairs` pairs of steps of bf16, widened; only the first `steps` outputs.
fn square_widened(source: &[u16], pairs: usize, steps: usize, out: &mut [f32]) {
    for (pair, source) in source.chunks_exact(NR * 2).enumerate().take(pairs) {
        for (step, values) in source.chunks_exact(2).enumerate().take(steps) {
            out[step * NR + pair * 2] = f32_from_bf16(values[0]);
            out[step * NR + pair * 2 + 1] = f32_from_bf16(values[1]);
        }
    }
}

/// The same of up to sixteen pairs of steps of bf16, to pairs: `[16][32][2]`.
fn square_pairs(isa: Isa, source: &[u16], out: &mut [u16]) {
    // Two outputs by two inputs, transposed; then rows are inputs, columns pairs of outputs.
    let mut turned = [[0_u32; SIDE]; NR];
    for (source, turned) in source.chunks_exact(NR * 2).zip(turned.chunks_exact_mut(2)) {
        let (even, odd) = turned.split_at_mut(1);
        // SAFETY: `isa` is supported; a row of pairs is NR aligned numbers of 32 bits, low halves first.
        unsafe {
            let squares = std::slice::from_raw_parts(source.as_ptr().cast::<u32>(), NR);
            rows::split_pairs(isa, squares, &mut even[0], &mut odd[0]);
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

/// Panel `at` of the transpose of `w`, reduction steps `ns`: `[ns][32]` of `W[n][at * 32 + lane]`.
pub fn panel_f32(isa: Isa, w: &PackedF32, at: usize, ns: Range<usize>, out: &mut [f32]) {
    let lanes = NR.min(w.k - at * NR);
    for n in ns.clone().step_by(NR) {
        let source = &w.panel(n / NR)[at * NR * NR..][..lanes * NR];
        square_f32(isa, source, lanes, &mut out[(n - ns.start) * NR..][..NR * NR]);
    }
}

/// [`panel_f32`] of bf16 weights, widened.
pub fn panel_widened(w: &PackedBf16, at: usize, ns: Range<usize>, out: &mut [f32]) {
    let lanes = NR.min(w.k - at * NR);
    for n in ns.clone().step_by(NR) {
        let source = &w.panel(n / NR)[at * NR * NR..];
        square_widened(source, lanes.div_ceil(2), NR.min(ns.end - n), &mut out[(n - ns.start) * NR..]);
    }
}

/// Panel `at` of the transpose of `w` in pairs: `[ns / 2][32][2]`; `ns` is a range of whole steps that may reach
/// beyond `w.n`, where the padding of `w` gives zeros.
pub fn panel_pairs(isa: Isa, w: &PackedBf16, at: usize, ns: Range<usize>, out: &mut [u16]) {
    let pairs = (NR / 2).min(w.k.div_ceil(2) - at * NR / 2);
    for n in ns.clone().step_by(NR) {
        let source = &w.panel(n / NR)[at * NR * NR..][..pairs * NR * 2];
        square_pairs(isa, source, &mut out[(n - ns.start) * NR..][..NR * NR]);
    }
}

/// A square of values, aligned to cache lines.
#[repr(align(64))]
struct Square<T>([T; NR * NR]);

/// [`panel_f32`] of quantised weights; rounded to bf16 where those are its products.
pub fn panel_blocks_f32(isa: Isa, w: &PackedBlocks, at: usize, ns: Range<usize>, out: &mut [f32]) {
    let ks = at * NR..(at + 1) * NR;
    for n in ns.clone().step_by(NR) {
        let out = &mut out[(n - ns.start) * NR..][..NR * NR];
        if w.bf16 {
            let mut source = Square([0_u16; NR * NR]);
            w.unpack_pairs(isa, n / NR, ks.clone(), &mut source.0);
            square_widened(&source.0, NR / 2, NR, out);
        } else {
            let mut source = Square([0_f32; NR * NR]);
            w.unpack_f32(isa, n / NR, ks.clone(), &mut source.0);
            square_f32(isa, &source.0, NR, out);
        }
    }
}

/// [`panel_pairs`] of quantised weights.
pub fn panel_blocks_pairs(isa: Isa, w: &PackedBlocks, at: usize, ns: Range<usize>, out: &mut [u16]) {
    for n in ns.clone().step_by(NR) {
        let mut source = Square([0_u16; NR * NR]);
        w.unpack_pairs(isa, n / NR, at * NR..(at + 1) * NR, &mut source.0);
        square_pairs(isa, &source.0, &mut out[(n - ns.start) * NR..][..NR * NR]);
    }
}

/// Lanes `lanes` of rows `ms` of `dy` (of `m`), rounded, as panels of pairs `[ms / 2][32][2]`, `panel` apart; zero
/// elsewhere.
#[allow(clippy::too_many_arguments)]
pub fn rows_to_pairs(
    isa: Isa,
    dy: &[f32],
    ms: Range<usize>,
    m: usize,
    lanes: Range<usize>,
    ldy: usize,
    out: &mut [u16],
    panel: usize,
) {
    let blocks = lanes.len().div_ceil(NR) * 2;
    for (at, row) in ms.step_by(2).enumerate() {
        let part = |row: usize| if row < m { &dy[row * ldy..][lanes.clone()] } else { &[] };
        let out = &mut out[at * NR * 2..][..(blocks / 2 - 1) * panel + NR * 2];
        // SAFETY: `isa` is supported; `out` reaches from the first panel's pairs to the last's.
        unsafe { rows::pair_rows(isa, part(row), part(row + 1), blocks, out.as_mut_ptr(), panel) };
    }
}
