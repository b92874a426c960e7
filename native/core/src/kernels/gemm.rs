//! Matrix products with packed weights: forward, gradient of the input, gradient of the weight.
//!
//! One driver serves all three. It cuts the output into groups of panels of 32 lanes that fit the second-level cache,
//! hands them to threads, and walks a few rows at a time through a group, so that each row of the output is written
//! once and in order. The three products differ only in what the operands are: `b` is the weight as stored (forward),
//! transposed on the fly (`dx`), or gathered from the output gradient (`dw`).

use super::aligned::{AlignedVec, Plain};
use super::packed::{NR, PackedBf16, PackedF32, Weight};
use super::tile::{AHEAD, Tile, tile_f32, tile_widened};
use super::{Isa, Runtime, reference, transpose};
use std::cell::RefCell;
use std::ops::Range;

/// Up to as many rows the weights are the bulk of the traffic and are fetched ahead.
const FEW_ROWS: usize = 48;

/// Reduction steps per block for few rows that need several tiles: 32 lanes of f32 over 128 steps stay in the
/// first-level cache for the second tile.
const FEW_BLOCK: usize = 128;

/// Most reduction steps per block otherwise; more would leave no room for several panels.
const BLOCK: usize = 2048;

/// Bytes of `b` that a group of panels may have: part of a second-level cache.
const GROUP_BYTES: usize = 768 << 10;

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

/// The operand that is broadcast, from some row and step on: `[m][k]` with any strides.
#[derive(Clone, Copy)]
struct Rows<A> {
    a: *const A,
    row: usize,
    step: usize,
}

/// The operand whose lanes are multiplied at once, from some panel and step on.
struct Panels<B> {
    b: *const B,
    /// Distance between steps.
    step: usize,
    /// Distance between panels.
    panel: usize,
}

/// The extents of a product and how it is cut.
struct Product {
    m: usize,
    n: usize,
    k: usize,
    /// Reduction steps per block.
    block: usize,
    /// Rows that walk through a group of panels together.
    chunk: usize,
    output: Output,
    /// Bytes to fetch ahead, 0 for none.
    ahead: usize,
}

// SAFETY: tasks write disjoint parts of `output`.
unsafe impl Sync for Product {}

impl Product {
    /// Few rows take a panel at a time and fetch ahead; many rows are cut into chunks of `chunk`.
    fn new(m: usize, n: usize, k: usize, chunk: usize, output: Output) -> Self {
        let few = m <= FEW_ROWS;
        let most = if few && m > chunk { FEW_BLOCK } else { BLOCK };
        let block = k.div_ceil(k.div_ceil(most).max(1)).next_multiple_of(NR).max(NR);
        Product { m, n, k, block, chunk: if few { FEW_ROWS } else { chunk }, output, ahead: 0 }
    }
}

/// Rows of a chunk: what the widest kernels hold in registers, a few tiles of the others.
fn chunk(isa: Isa) -> usize {
    if isa >= Isa::Avx512 { 12 } else { 24 }
}

/// A matrix that tasks may read through a pointer.
#[derive(Clone, Copy)]
struct Shared<T>(*const T);

// SAFETY: only read while the slice it was made from is borrowed.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// The matrix from `row` and `step` on.
    fn rows(&self, row: usize, row_stride: usize, step: usize, step_stride: usize) -> Rows<T> {
        Rows { a: self.0.wrapping_add(row * row_stride + step * step_stride), row: row_stride, step: step_stride }
    }
}

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

/// Computes a product: `rows` and `panels` yield the operands for a range of rows or panels and of steps, using the
/// scratch they are given where they have to rearrange; `tile` multiplies. Where panels are too few for the threads,
/// rows are cut too.
fn drive<A: Scratch, B: Scratch>(
    rt: &Runtime,
    p: &Product,
    rows: impl Fn(Range<usize>, Range<usize>, &mut AlignedVec<A>) -> Rows<A> + Sync,
    panels: impl Fn(Range<usize>, Range<usize>, &mut AlignedVec<B>) -> Panels<B> + Sync,
    tile: unsafe fn(Isa, &Tile<A, B>),
) {
    let count = p.n.div_ceil(NR);
    if p.m == 0 || count == 0 {
        return;
    }
    let small = p.m * p.n * p.k < 64 * 1024;
    let wanted = if rt.threads == 1 || small { 1 } else { rt.threads * 4 };
    let fit = (GROUP_BYTES / (p.block * NR * size_of::<B>())).max(1);
    let group = count.div_ceil(wanted).min(fit);
    let groups = count.div_ceil(group);
    let chunks = p.m.div_ceil(p.chunk);
    let cuts = wanted.div_ceil(groups).min(chunks);
    rt.parallel(groups * cuts, |task| {
        let first = task / cuts * group;
        let group = first..count.min(first + group);
        let cut = task % cuts;
        let chunks = chunks * cut / cuts..chunks * (cut + 1) / cuts;
        A::with(|rows_scratch| {
            B::with(|panels_scratch| {
                for start in (0..p.k.max(1)).step_by(p.block) {
                    let ks = start..p.k.min(start + p.block);
                    let panels = panels(group.clone(), ks.clone(), panels_scratch);
                    for chunk in chunks.clone() {
                        let range = chunk * p.chunk..p.m.min((chunk + 1) * p.chunk);
                        let rows = rows(range.clone(), ks.clone(), rows_scratch);
                        // SAFETY: operands cover `m x k` and `k x n` (checked by the callers), and no other task has
                        // these rows of these panels.
                        unsafe { walk(rt.isa, p, &range, &ks, &group, &rows, &panels, tile) };
                    }
                }
            });
        });
    });
}

/// Takes a chunk of rows through a group of panels.
///
/// # Safety
/// As for [`Tile`]; the operands start at the ranges' starts.
#[allow(clippy::too_many_arguments)]
unsafe fn walk<A, B>(
    isa: Isa,
    p: &Product,
    range: &Range<usize>,
    ks: &Range<usize>,
    group: &Range<usize>,
    rows: &Rows<A>,
    panels: &Panels<B>,
    tile: unsafe fn(Isa, &Tile<A, B>),
) {
    for (at, panel) in group.clone().enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            let tiled = Tile {
                rows: range.len(),
                k: ks.len(),
                lanes: NR.min(p.n - panel * NR),
                a: rows.a,
                a_row: rows.row,
                a_step: rows.step,
                b: panels.b.add(at * panels.panel),
                b_step: panels.step,
                c: p.output.c.add(panel * p.output.panel + range.start * p.output.row),
                c_row: p.output.row,
                load: p.output.accumulate || ks.start > 0,
                ahead: p.ahead,
            };
            tile(isa, &tiled);
        }
    }
}

/// The panels of a weight as stored.
fn stored<T: Plain>(data: &[T], panel_len: usize, step: usize) -> impl Fn(Range<usize>, Range<usize>) -> Panels<T> {
    let data = Shared(data.as_ptr());
    move |group, ks| {
        let data = data;
        Panels { b: data.0.wrapping_add(group.start * panel_len + ks.start * NR), step, panel: panel_len }
    }
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
    let product = Product { ahead, ..Product::new(m, n, k, chunk(rt.isa), output) };
    match w {
        _ if rt.isa == Isa::Reference => naive::linear(x, m, ldx, w, y, ldy, accumulate),
        Weight::F32(w) => {
            let x = Shared(x.as_ptr());
            let rows = |range: Range<usize>, ks: Range<usize>, _: &mut _| x.rows(range.start, ldx, ks.start, 1);
            let panels = stored(&w.data, k * NR, NR);
            drive(rt, &product, rows, |group, ks, _: &mut _| panels(group, ks), tile_f32);
        }
        Weight::Bf16(w) if rt.isa < Isa::Avx512Bf16 => f32::with(|rounded| {
            let rounded = rounded.reserve(m * k);
            transpose::round_rows(rt, x, m, k, ldx, rounded);
            let x = Shared(rounded.as_ptr());
            let rows = |range: Range<usize>, ks: Range<usize>, _: &mut _| x.rows(range.start, k, ks.start, 1);
            let panels = stored(&w.data, w.panel_len(), NR);
            drive(rt, &product, rows, |group, ks, _: &mut _| panels(group, ks), tile_widened);
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
    let product = Product::new(m, k, n, chunk(rt.isa), output);
    let compute = |dy: &[f32], ldy: usize, transpose: &(dyn Fn(usize, Range<usize>, &mut [f32]) + Sync)| {
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
        drive(rt, &product, rows, panels, tile_f32);
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
        let product = Product::new(k, n, m, FEW_ROWS, output);
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
        drive(rt, &product, rows, panels, tile_f32);
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
    use crate::kernels::transpose::TiledRows;

    /// How the rows of the broadcast operand lie in scratch. Plain rows get an odd number of cache lines, so that they
    /// do not share cache sets.
    fn layout(isa: Isa, k: usize) -> TiledRows {
        let steps = k.div_ceil(STEP);
        match isa {
            Isa::Amx => TiledRows { width: steps * STEP, height: TILE_ROWS },
            _ => TiledRows { width: (steps | 1) * STEP, height: 1 },
        }
    }

    /// The product of rounded rows `a` and panels of pairs.
    fn product(
        rt: &Runtime,
        (m, n, k): (usize, usize, usize),
        (a, layout): (&[u16], TiledRows),
        output: Output,
        ahead: usize,
        panels: impl Fn(Range<usize>, Range<usize>, &mut AlignedVec<u16>) -> Panels<u16> + Sync,
    ) {
        let chunk = if rt.isa == Isa::Amx { 2 * TILE_ROWS } else { chunk(rt.isa) };
        let product = Product { ahead, ..Product::new(m, n, k.next_multiple_of(STEP), chunk, output) };
        let a = Shared(a.as_ptr());
        let rows = |range: Range<usize>, ks: Range<usize>, _: &mut _| {
            a.rows(range.start, layout.width, ks.start, layout.height)
        };
        drive(rt, &product, rows, panels, tile_pairs);
    }

    pub fn linear(rt: &Runtime, x: &[f32], m: usize, ldx: usize, w: &PackedBf16, output: Output, ahead: usize) {
        let (n, k, layout) = (w.n, w.k, layout(rt.isa, w.k));
        u16::with(|a| {
            let a = a.reserve(layout.len(m));
            transpose::round_to_bf16(rt, x, m, k, ldx, a, layout);
            let whole = stored(&w.data, w.panel_len(), NR * 2);
            let panels = |group: Range<usize>, ks: Range<usize>, scratch: &mut AlignedVec<u16>| {
                if ks.end * NR <= w.panel_len() {
                    return whole(group, ks);
                }
                let panel = ks.len() * NR;
                let b = scratch.reserve(group.len() * panel);
                for (at, b) in group.zip(b.chunks_exact_mut(panel)) {
                    let (have, padding) = b.split_at_mut(w.panel_len() - ks.start * NR);
                    have.copy_from_slice(&w.panel(at)[ks.start * NR..]);
                    padding.fill(0);
                }
                Panels { b: b.as_ptr(), step: NR * 2, panel }
            };
            product(rt, (m, n, k), (a, layout), output, ahead, panels);
        });
    }

    pub fn linear_dx(rt: &Runtime, dy: &[f32], m: usize, ldy: usize, w: &PackedBf16, output: Output) {
        let (n, k, layout) = (w.n, w.k, layout(rt.isa, w.n));
        u16::with(|a| {
            let a = a.reserve(layout.len(m));
            transpose::round_to_bf16(rt, dy, m, n, ldy, a, layout);
            let panels = |group: Range<usize>, ns: Range<usize>, scratch: &mut AlignedVec<u16>| {
                let panel = ns.len() * NR;
                let b = scratch.reserve(group.len() * panel);
                for (at, b) in group.zip(b.chunks_exact_mut(panel)) {
                    transpose::panel_pairs(rt.isa, w, at, ns.clone(), b);
                }
                Panels { b: b.as_ptr(), step: NR * 2, panel }
            };
            product(rt, (m, k, n), (a, layout), output, 0, panels);
        });
    }

    type Matrix<'a> = (&'a [f32], usize, usize);

    pub fn linear_dw(rt: &Runtime, (dy, ldy, n): Matrix, (x, ldx, k): Matrix, m: usize, output: Output) {
        let layout = layout(rt.isa, m);
        u16::with(|a| {
            let a = a.reserve(layout.len(k));
            transpose::columns_to_bf16(rt, x, m, k, ldx, a, layout);
            let panels = |group: Range<usize>, ms: Range<usize>, scratch: &mut AlignedVec<u16>| {
                let panel = ms.len() * NR;
                let b = scratch.reserve(group.len() * panel);
                let lanes = group.start * NR..n.min(group.end * NR);
                transpose::rows_to_pairs(rt.isa, dy, ms, m, lanes, ldy, b, panel);
                Panels { b: b.as_ptr(), step: NR * 2, panel }
            };
            product(rt, (k, n, m), (a, layout), output, 0, panels);
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
