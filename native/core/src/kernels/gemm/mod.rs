//! Matrix products with packed weights: forward, gradient of the input, gradient of the weight.
//!
//! One driver serves all three. It cuts the output into groups of panels of 32 lanes that fit the second-level cache,
//! hands them to threads, and walks a few rows at a time through a group, so that each row of the output is written
//! once and in order. The three products differ only in what the operands are: `b` is the weight as stored (forward),
//! transposed on the fly (`dx`), or gathered from the output gradient (`dw`). Quantised weights are unpacked into the
//! operand of the dtype, a group at a time, so that they give what that dtype gives.

mod blocks;
mod drive;
mod naive;
mod pairs;

use super::aligned::AlignedVec;
use super::packed::{NR, PackedF32};
use super::tile::{tile_f32, tile_widened};
use super::weight::Weight;
use super::{Isa, Runtime, transpose};
use drive::{FEW_ROWS, Output, Panels, Product, Rows, Scratch, Shared, chunk, drive, stored};
use std::ops::Range;

/// Checks that a matrix of `rows x width`, rows `stride` apart, lies within `len` numbers.
fn check(op: &str, len: usize, rows: usize, width: usize, stride: usize) {
    let fits = rows == 0 || (width <= stride && (rows - 1) * stride + width <= len);
    assert!(fits, "{op}: {rows} rows of {width}, {stride} apart, do not fit {len} numbers");
}

/// `y[m, n] = x[m, k] · W^T`, or `+=` with `accumulate`. Row `i` of `x` starts at `i * ldx`, of `y` at `i * ldy`.
/// bf16 weights round `x` to bf16 first. Row `i` of the result depends on row `i` of `x` alone, bit for bit.
#[allow(clippy::too_many_arguments)]
pub fn linear(rt: &Runtime, x: &[f32], m: usize, ldx: usize, w: Weight, y: &mut [f32], ldy: usize, accumulate: bool) {
    let (n, k) = w.shape();
    check("linear x", x.len(), m, k, ldx);
    check("linear y", y.len(), m, n, ldy);
    let output = Output { c: y.as_mut_ptr(), row: ldy, panel: NR, accumulate };
    let chunk = chunk(rt.isa);
    match w {
        _ if rt.isa == Isa::Reference => naive::linear(x, m, ldx, w, y, ldy, accumulate),
        Weight::F32(w) => {
            let x = Shared(x.as_ptr());
            let rows = |range: Range<usize>, ks: Range<usize>, _: &mut _| x.rows(range.start, ldx, ks.start, 1);
            let panels = stored(&w.data, k * NR, NR);
            let product = Product::new::<f32>(m, n, k, chunk, output).streaming::<f32>(chunk);
            drive(rt, &product, rows, |group, ks, _: &mut _| panels(group, ks), |_| None, tile_f32);
        }
        Weight::Bf16(w) if rt.isa < Isa::Avx512Bf16 => f32::with(|rounded| {
            let rounded = rounded.reserve(m * k);
            transpose::round_rows(rt, x, m, k, ldx, rounded);
            let x = Shared(rounded.as_ptr());
            let rows = |range: Range<usize>, ks: Range<usize>, _: &mut _| x.rows(range.start, k, ks.start, 1);
            let panels = stored(&w.data, w.panel_len(), NR);
            let product = Product::new::<u16>(m, n, k, chunk, output).streaming::<u16>(chunk);
            drive(rt, &product, rows, |group, ks, _: &mut _| panels(group, ks), |_| None, tile_widened);
        }),
        Weight::Bf16(w) => pairs::linear(rt, x, m, ldx, w, output),
        Weight::Blocks(w) if w.bf16 && rt.isa >= Isa::Avx512Bf16 => pairs::linear_blocks(rt, x, m, ldx, w, output),
        Weight::Blocks(w) => blocks::linear(rt, x, m, ldx, w, output),
    }
}

/// Writes a panel of the transposed weight, given its number and a range of steps.
type Transpose<'a> = dyn Fn(usize, Range<usize>, &mut [f32]) + Sync + 'a;

/// `dx[m, k] = dy[m, n] · W`, or `+=` with `accumulate`: the gradient of [`linear`] with respect to `x`.
/// bf16 weights round `dy` to bf16 first.
#[allow(clippy::too_many_arguments)]
pub fn linear_dx(
    rt: &Runtime,
    dy: &[f32],
    m: usize,
    ldy: usize,
    w: Weight,
    dx: &mut [f32],
    ldx: usize,
    accumulate: bool,
) {
    let (n, k) = w.shape();
    check("linear_dx dy", dy.len(), m, n, ldy);
    check("linear_dx dx", dx.len(), m, k, ldx);
    let output = Output { c: dx.as_mut_ptr(), row: ldx, panel: NR, accumulate };
    let product = Product::new::<f32>(m, k, n, chunk(rt.isa), output);
    let compute = |dy: &[f32], ldy: usize, transpose: &Transpose| {
        let dy = Shared(dy.as_ptr());
        let rows = |range: Range<usize>, ns: Range<usize>, _: &mut _| dy.rows(range.start, ldy, ns.start, 1);
        let panels = |group: Range<usize>, ns: Range<usize>, scratch: &mut AlignedVec<f32>| {
            let panel = ns.len().next_multiple_of(NR) * NR;
            let b = scratch.reserve(group.len() * panel);
            for (at, b) in group.zip(b.chunks_exact_mut(panel)) {
                transpose(at, ns.clone(), b);
            }
            Panels { b: b.as_ptr(), step: NR, panel }
        };
        drive(rt, &product, rows, panels, |_| None, tile_f32);
    };
    match w {
        _ if rt.isa == Isa::Reference => naive::linear_dx(dy, m, ldy, w, dx, ldx, accumulate),
        Weight::F32(w) => compute(dy, ldy, &|at, ns, b| transpose::panel_f32(rt.isa, w, at, ns, b)),
        Weight::Bf16(w) if rt.isa < Isa::Avx512Bf16 => f32::with(|rounded| {
            let rounded = rounded.reserve(m * n);
            transpose::round_rows(rt, dy, m, n, ldy, rounded);
            compute(rounded, n, &|at, ns, b| transpose::panel_widened(w, at, ns, b));
        }),
        Weight::Bf16(w) => pairs::linear_dx(rt, dy, m, ldy, w, output),
        Weight::Blocks(w) if w.bf16 && rt.isa >= Isa::Avx512Bf16 => pairs::linear_dx_blocks(rt, dy, m, ldy, w, output),
        Weight::Blocks(w) if w.bf16 => f32::with(|rounded| {
            let rounded = rounded.reserve(m * n);
            transpose::round_rows(rt, dy, m, n, ldy, rounded);
            compute(rounded, n, &|at, ns, b| transpose::panel_blocks_f32(rt.isa, w, at, ns, b));
        }),
        Weight::Blocks(w) => compute(dy, ldy, &|at, ns, b| transpose::panel_blocks_f32(rt.isa, w, at, ns, b)),
    }
}

/// `dW += dy^T · x` over `m` rows in ascending order: the gradient of [`linear`] with respect to `W`.
/// With `bf16`, `dy` and `x` are rounded first; the sums are f32 either way.
#[allow(clippy::too_many_arguments)]
pub fn linear_dw(
    rt: &Runtime,
    dy: &[f32],
    ldy: usize,
    x: &[f32],
    ldx: usize,
    m: usize,
    dw: &mut PackedF32,
    bf16: bool,
) {
    let (n, k) = (dw.n, dw.k);
    check("linear_dw dy", dy.len(), m, n, ldy);
    check("linear_dw x", x.len(), m, k, ldx);
    if rt.isa == Isa::Reference {
        return naive::linear_dw(dy, ldy, x, ldx, m, dw, bf16);
    }
    // The rows of this product are the inputs of the layer, its lanes the outputs, as in storage.
    let output = Output { c: dw.data.as_mut_ptr(), row: NR, panel: k * NR, accumulate: true };
    if bf16 && rt.isa >= Isa::Avx512Bf16 {
        return pairs::linear_dw(rt, (dy, ldy, n), (x, ldx, k), m, output);
    }
    let compute = |dy: &[f32], ldy: usize, x: &[f32], ldx: usize| {
        // Columns of `x` are gathered a few tiles at once, so that whole cache lines are used.
        let product = Product::new::<f32>(k, n, m, FEW_ROWS, output);
        let rows = |range: Range<usize>, ms: Range<usize>, scratch: &mut AlignedVec<f32>| {
            let a = scratch.reserve(range.len() * ms.len());
            for (row, a) in ms.zip(a.chunks_exact_mut(range.len())) {
                a.copy_from_slice(&x[row * ldx..][range.clone()]);
            }
            Rows { a: a.as_ptr(), row: 1, step: range.len() }
        };
        let panels = |group: Range<usize>, ms: Range<usize>, scratch: &mut AlignedVec<f32>| {
            let panel = ms.len() * NR;
            let b = scratch.reserve(group.len() * panel);
            for (step, row) in ms.enumerate() {
                for (at, group) in group.clone().enumerate() {
                    let lanes = NR.min(n - group * NR);
                    b[at * panel + step * NR..][..lanes].copy_from_slice(&dy[row * ldy + group * NR..][..lanes]);
                }
            }
            Panels { b: b.as_ptr(), step: NR, panel }
        };
        drive(rt, &product, rows, panels, |_| None, tile_f32);
    };
    if !bf16 {
        return compute(dy, ldy, x, ldx);
    }
    f32::with(|dy_rounded| {
        f32::with(|x_rounded| {
            let (dy_rounded, x_rounded) = (dy_rounded.reserve(m * n), x_rounded.reserve(m * k));
            transpose::round_rows(rt, dy, m, n, ldy, dy_rounded);
            transpose::round_rows(rt, x, m, k, ldx, x_rounded);
            compute(dy_rounded, n, x_rounded, k);
        });
    });
}
