//! Matrix products with packed weights: forward, gradient of the input, gradient of the weight.
//!
//! One driver serves all three. It cuts the output into panels of 32 lanes and ranges of rows, hands the pieces to
//! threads, and walks the reduction in blocks that fit the first-level cache. The three products differ only in what the
//! operands are: `b` is a weight panel as stored (forward), transposed on the fly (`dx`), or gathered from the output
//! gradient (`dw`).

use super::aligned::{AlignedVec, Plain};
use super::packed::{NR, PackedBf16, PackedF32, Weight};
use super::tile::{AHEAD, Tile, tile_f32, tile_widened};
use super::{Isa, Runtime, reference, transpose};
use std::cell::RefCell;
use std::ops::Range;

/// Reduction steps per block: 32 lanes of f32 over 256 steps are 32 KB.
const BLOCK: usize = 256;

/// Up to as many rows the weights are the bulk of the traffic and are fetched ahead.
const FEW_ROWS: usize = 48;

/// The output of a product: rows of lanes, panel by panel.
#[derive(Clone, Copy)]
struct Output {
    c: *mut f32,
    /// Distance between rows.
    row: usize,
    /// Distance between panels.
    panel: usize,
    /// Add to what is there.
    accumulate: bool,
}

/// The operand that is broadcast: `[m][k]` with any strides.
#[derive(Clone, Copy)]
struct Rows<A> {
    a: *const A,
    row: usize,
    step: usize,
}

/// Where a block of a panel lies.
struct Block<B> {
    b: *const B,
    step: usize,
}

struct Product<A> {
    m: usize,
    n: usize,
    k: usize,
    /// Reduction steps per block.
    block: usize,
    rows: Rows<A>,
    output: Output,
    /// Bytes to fetch ahead, 0 for none.
    ahead: usize,
}

// SAFETY: tasks read `rows` and write disjoint parts of `output`.
unsafe impl<A> Sync for Product<A> {}

thread_local! {
    static SCRATCH_F32: RefCell<Vec<AlignedVec<f32>>> = const { RefCell::new(Vec::new()) };
    static SCRATCH_U16: RefCell<Vec<AlignedVec<u16>>> = const { RefCell::new(Vec::new()) };
}

/// Numbers of which each thread keeps scratch buffers.
trait Scratch: Plain {
    fn buffers<R>(body: impl FnOnce(&mut Vec<AlignedVec<Self>>) -> R) -> R;

    /// Runs `body` with a buffer of this thread; nested uses get buffers of their own.
    fn with<R>(body: impl FnOnce(&mut AlignedVec<Self>) -> R) -> R {
        let mut buffer = Self::buffers(|buffers| buffers.pop()).unwrap_or_default();
        let result = body(&mut buffer);
        Self::buffers(|buffers| buffers.push(buffer));
        result
    }
}

impl Scratch for f32 {
    fn buffers<R>(body: impl FnOnce(&mut Vec<AlignedVec<f32>>) -> R) -> R {
        SCRATCH_F32.with(|cell| body(&mut cell.borrow_mut()))
    }
}

impl Scratch for u16 {
    fn buffers<R>(body: impl FnOnce(&mut Vec<AlignedVec<u16>>) -> R) -> R {
        SCRATCH_U16.with(|cell| body(&mut cell.borrow_mut()))
    }
}

/// Computes a product: `panel` yields a block of a panel, using the scratch it is given where it has to rearrange, and
/// `tile` multiplies. Where panels are too few for the threads, rows are cut too.
fn drive<A, B: Scratch>(
    rt: &Runtime,
    product: &Product<A>,
    panel: impl Fn(usize, Range<usize>, &mut AlignedVec<B>) -> Block<B> + Sync,
    tile: unsafe fn(Isa, &Tile<A, B>),
) {
    let p = product;
    let panels = p.n.div_ceil(NR);
    if p.m == 0 || panels == 0 {
        return;
    }
    let small = p.m * p.n * p.k < 64 * 1024;
    let wanted = if rt.threads == 1 || small { 1 } else { rt.threads * 4 };
    let group = panels.div_ceil(wanted);
    let groups = panels.div_ceil(group);
    let cuts = if p.m > FEW_ROWS { wanted.div_ceil(groups).min(p.m.div_ceil(FEW_ROWS)) } else { 1 };
    rt.parallel(groups * cuts, |task| {
        let (first, cut) = (task / cuts * group, task % cuts);
        let rows = p.m * cut / cuts..p.m * (cut + 1) / cuts;
        B::with(|scratch| {
            for start in (0..p.k.max(1)).step_by(p.block) {
                let ks = start..p.k.min(start + p.block);
                for at in first..panels.min(first + group) {
                    let block = panel(at, ks.clone(), scratch);
                    // SAFETY: operands cover `m x k` and `k x n` (checked by the callers), and no other task has these
                    // rows of these panels.
                    unsafe {
                        let c = p.output.c.add(at * p.output.panel + rows.start * p.output.row);
                        tile(
                            rt.isa,
                            &Tile {
                                rows: rows.len(),
                                k: ks.len(),
                                lanes: NR.min(p.n - at * NR),
                                a: p.rows.a.add(rows.start * p.rows.row + start * p.rows.step),
                                a_row: p.rows.row,
                                a_step: p.rows.step,
                                b: block.b,
                                b_step: block.step,
                                c,
                                c_row: p.output.row,
                                load: p.output.accumulate || start > 0,
                                ahead: p.ahead,
                            },
                        );
                    }
                }
            }
        });
    });
}

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
    let ahead = if m <= FEW_ROWS { AHEAD } else { 0 };
    let block = if m <= 12 { k.max(1) } else { BLOCK };
    match w {
        _ if rt.isa == Isa::Reference => naive::linear(x, m, ldx, w, y, ldy, accumulate),
        Weight::F32(w) => {
            let rows = Rows { a: x.as_ptr(), row: ldx, step: 1 };
            let product = Product { m, n, k, block, rows, output, ahead };
            let panel = |at, ks: Range<usize>, _: &mut AlignedVec<f32>| Block {
                b: w.panel(at)[ks.start * NR..].as_ptr(),
                step: NR,
            };
            drive(rt, &product, panel, tile_f32);
        }
        Weight::Bf16(w) if rt.isa < Isa::Avx512Bf16 => f32::with(|rounded| {
            let rounded = rounded.reserve(m * k);
            transpose::round_rows(rt, x, m, k, ldx, rounded);
            let rows = Rows { a: rounded.as_ptr(), row: k, step: 1 };
            let product = Product { m, n, k, block, rows, output, ahead };
            let panel = |at, ks: Range<usize>, _: &mut AlignedVec<u16>| Block {
                b: w.panel(at)[ks.start * NR..].as_ptr(),
                step: 0,
            };
            drive(rt, &product, panel, tile_widened);
        }),
        Weight::Bf16(w) => pairs::linear(rt, x, m, ldx, w, output, ahead),
    }
}

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
    let product = |a, row| {
        let rows = Rows { a, row, step: 1 };
        Product { m, n: k, k: n, block: BLOCK, rows, output, ahead: 0 }
    };
    match w {
        _ if rt.isa == Isa::Reference => naive::linear_dx(dy, m, ldy, w, dx, ldx, accumulate),
        Weight::F32(w) => {
            let panel = |at, ns: Range<usize>, scratch: &mut AlignedVec<f32>| {
                let b = scratch.reserve(BLOCK * NR);
                transpose::panel_f32(rt.isa, w, at, ns, b);
                Block { b: b.as_ptr(), step: NR }
            };
            drive(rt, &product(dy.as_ptr(), ldy), panel, tile_f32);
        }
        Weight::Bf16(w) if rt.isa < Isa::Avx512Bf16 => f32::with(|rounded| {
            let rounded = rounded.reserve(m * n);
            transpose::round_rows(rt, dy, m, n, ldy, rounded);
            let panel = |at, ns: Range<usize>, scratch: &mut AlignedVec<f32>| {
                let b = scratch.reserve(BLOCK * NR);
                transpose::panel_widened(w, at, ns, b);
                Block { b: b.as_ptr(), step: NR }
            };
            drive(rt, &product(rounded.as_ptr(), n), panel, tile_f32);
        }),
        Weight::Bf16(w) => pairs::linear_dx(rt, dy, m, ldy, w, output),
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
        let rows = Rows { a: x.as_ptr(), row: 1, step: ldx };
        let product = Product { m: k, n, k: m, block: BLOCK, rows, output, ahead: 0 };
        let panel = |at: usize, ms: Range<usize>, scratch: &mut AlignedVec<f32>| {
            let lanes = NR.min(n - at * NR);
            let b = scratch.reserve(BLOCK * NR);
            for (row, b) in ms.zip(b.chunks_exact_mut(NR)) {
                b[..lanes].copy_from_slice(&dy[row * ldy + at * NR..][..lanes]);
            }
            Block { b: b.as_ptr(), step: NR }
        };
        drive(rt, &product, panel, tile_f32);
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

/// Products of bf16 pairs on VDPBF16PS or AMX: both operands are bf16 with the reduction padded to whole steps.
#[cfg(target_arch = "x86_64")]
mod pairs {
    use super::*;
    use crate::kernels::tile_pairs::{STEP, TILE_ROWS, tile_pairs};

    /// Reduction steps per block: 32 lanes of bf16 over 512 steps are 32 KB.
    const PAIR_BLOCK: usize = 512;

    /// Row length in scratch: whole steps, an odd number of cache lines so that rows do not share cache sets.
    fn padded(k: usize) -> usize {
        k.div_ceil(STEP) * STEP + if k.div_ceil(STEP).is_multiple_of(2) { STEP } else { 0 }
    }

    fn product(m: usize, n: usize, k: usize, a: &[u16], output: Output, ahead: usize) -> Product<u16> {
        let rows = Rows { a: a.as_ptr(), row: padded(k), step: 1 };
        Product { m, n, k: k.next_multiple_of(STEP), block: PAIR_BLOCK, rows, output, ahead }
    }

    pub fn linear(rt: &Runtime, x: &[f32], m: usize, ldx: usize, w: &PackedBf16, output: Output, ahead: usize) {
        let (n, k) = (w.n, w.k);
        u16::with(|a| {
            let a = a.reserve(m.next_multiple_of(TILE_ROWS) * padded(k));
            transpose::round_to_bf16(rt, x, m, k, ldx, a, padded(k));
            let panel = |at, ks: Range<usize>, scratch: &mut AlignedVec<u16>| {
                let have = &w.panel(at)[ks.start * NR..w.panel_len().min(ks.end * NR)];
                let b = if have.len() == ks.len() * NR {
                    have.as_ptr()
                } else {
                    let b = scratch.reserve(PAIR_BLOCK * NR);
                    b[..have.len()].copy_from_slice(have);
                    b[have.len()..ks.len() * NR].fill(0);
                    b.as_ptr()
                };
                Block { b, step: NR * 2 }
            };
            drive(rt, &product(m, n, k, a, output, ahead), panel, tile_pairs);
        });
    }

    pub fn linear_dx(rt: &Runtime, dy: &[f32], m: usize, ldy: usize, w: &PackedBf16, output: Output) {
        let (n, k) = (w.n, w.k);
        u16::with(|a| {
            let a = a.reserve(m.next_multiple_of(TILE_ROWS) * padded(n));
            transpose::round_to_bf16(rt, dy, m, n, ldy, a, padded(n));
            let panel = |at, ns: Range<usize>, scratch: &mut AlignedVec<u16>| {
                let b = scratch.reserve(PAIR_BLOCK * NR);
                transpose::panel_pairs(rt.isa, w, at, ns, b);
                Block { b: b.as_ptr(), step: NR * 2 }
            };
            drive(rt, &product(m, k, n, a, output, 0), panel, tile_pairs);
        });
    }

    type Matrix<'a> = (&'a [f32], usize, usize);

    pub fn linear_dw(rt: &Runtime, (dy, ldy, n): Matrix, (x, ldx, k): Matrix, m: usize, output: Output) {
        u16::with(|a| {
            let a = a.reserve(k.next_multiple_of(TILE_ROWS) * padded(m));
            transpose::columns_to_bf16(rt, x, m, k, ldx, a, padded(m));
            let panel = |at: usize, ms: Range<usize>, scratch: &mut AlignedVec<u16>| {
                let b = scratch.reserve(PAIR_BLOCK * NR);
                transpose::rows_to_pairs(rt.isa, dy, ms, m, at * NR..n.min(at * NR + NR), ldy, b);
                Block { b: b.as_ptr(), step: NR * 2 }
            };
            drive(rt, &product(k, n, m, a, output, 0), panel, tile_pairs);
        });
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod pairs {
    use super::*;

    pub fn linear(_: &Runtime, _: &[f32], _: usize, _: usize, _: &PackedBf16, _: Output, _: usize) {
        unreachable!("no such instruction set here");
    }

    pub fn linear_dx(_: &Runtime, _: &[f32], _: usize, _: usize, _: &PackedBf16, _: Output) {
        unreachable!("no such instruction set here");
    }

    type Matrix<'a> = (&'a [f32], usize, usize);

    pub fn linear_dw(_: &Runtime, _: Matrix, _: Matrix, _: usize, _: Output) {
        unreachable!("no such instruction set here");
    }
}

/// The products by the oracle.
mod naive {
    use super::*;
    use crate::kernels::packed::{bf16_from_f32, f32_from_bf16};

    fn rounded(values: &[f32], bf16: bool) -> Vec<f32> {
        let round = |value: &f32| if bf16 { f32_from_bf16(bf16_from_f32(*value)) } else { *value };
        values.iter().map(round).collect()
    }

    fn dense(w: Weight) -> (Vec<f32>, bool) {
        match w {
            Weight::F32(w) => (w.to_rows(), false),
            Weight::Bf16(w) => (w.to_rows(), true),
        }
    }

    pub fn linear(x: &[f32], m: usize, ldx: usize, w: Weight, y: &mut [f32], ldy: usize, accumulate: bool) {
        let (n, k) = w.shape();
        let (w, bf16) = dense(w);
        for row in 0..m {
            let y = &mut y[row * ldy..][..n];
            if !accumulate {
                y.fill(0.0);
            }
            reference::linear(&rounded(&x[row * ldx..][..k], bf16), &w, y, n, k);
        }
    }

    pub fn linear_dx(dy: &[f32], m: usize, ldy: usize, w: Weight, dx: &mut [f32], ldx: usize, accumulate: bool) {
        let (n, k) = w.shape();
        let (w, bf16) = dense(w);
        for row in 0..m {
            let dx = &mut dx[row * ldx..][..k];
            if !accumulate {
                dx.fill(0.0);
            }
            reference::linear_dx(&rounded(&dy[row * ldy..][..n], bf16), &w, dx, n, k);
        }
    }

    pub fn linear_dw(dy: &[f32], ldy: usize, x: &[f32], ldx: usize, m: usize, dw: &mut PackedF32, bf16: bool) {
        let (n, k) = (dw.n, dw.k);
        let mut rows = dw.to_rows();
        for row in 0..m {
            let dy = rounded(&dy[row * ldy..][..n], bf16);
            reference::linear_dw(&dy, &rounded(&x[row * ldx..][..k], bf16), &mut rows, n, k);
        }
        *dw = PackedF32::from_rows(&rows, n, k);
    }
}
