//! The driver: how a product is cut for threads and caches.

use crate::kernels::aligned::{AlignedVec, Plain};
use crate::kernels::packed::NR;
use crate::kernels::tile::{AHEAD, Tile};
use crate::kernels::tile_pairs::Unit;
use crate::kernels::{Isa, Runtime};
use std::cell::RefCell;
use std::ops::Range;

/// Products of fewer multiplications are not shared among threads.
pub const SMALL: usize = 64 * 1024;

/// Up to as many rows the weights are the bulk of the traffic and are fetched ahead.
pub const FEW_ROWS: usize = 48;

/// Reduction steps per block for few rows that need several tiles: 32 lanes of f32 over 128 steps stay in the
/// first-level cache for the second tile.
const FEW_BLOCK: usize = 128;

/// Reduction steps per block for few rows where panels are unpacked.
const UNPACKED_BLOCK: usize = 256;

/// Most reduction steps per block otherwise: few passes over the output, and several panels fit a group.
const BLOCK: usize = 640;

/// Bytes of `b` that a group of panels may have: part of a second-level cache.
const GROUP_BYTES: usize = 768 << 10;

/// The output of a product: rows of lanes, panel by panel.
#[derive(Clone, Copy)]
pub struct Output {
    pub c: *mut f32,
    /// Distance between rows.
    pub row: usize,
    /// Distance between panels.
    pub panel: usize,
    /// Add to what is there.
    pub accumulate: bool,
}

// SAFETY: tasks write disjoint parts.
unsafe impl Sync for Output {}

/// The operand that is broadcast, from some row and step on: `[m][k]` with any strides.
#[derive(Clone, Copy)]
pub struct Rows<A> {
    pub a: *const A,
    pub row: usize,
    pub step: usize,
}

/// The operand whose lanes are multiplied at once, from some panel and step on.
pub struct Panels<B> {
    pub b: *const B,
    /// Distance between steps.
    pub step: usize,
    /// Distance between panels.
    pub panel: usize,
}

/// The extents of a product and how it is cut.
pub struct Product {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// Reduction steps per block.
    pub block: usize,
    /// Rows that walk through panels together.
    pub chunk: usize,
    /// Most panels that they walk through in one block of steps.
    pub group: usize,
    pub output: Output,
    /// Bytes to fetch ahead, 0 for none.
    pub ahead: usize,
    /// Whether panels are copied before they are multiplied.
    pub rearranged: bool,
}

// SAFETY: tasks write disjoint parts of `output`.
unsafe impl Sync for Product {}

impl Product {
    /// Many rows are cut into chunks of `chunk`, which walk through groups of panels. Few rows take one panel after
    /// another, so that weights stream in the order of storage.
    pub fn new<B>(m: usize, n: usize, k: usize, chunk: usize, output: Output) -> Self {
        let few = m <= FEW_ROWS;
        let most = if few && m > chunk { FEW_BLOCK } else { BLOCK };
        let block = k.div_ceil(k.div_ceil(most).max(1)).next_multiple_of(NR).max(NR);
        let bytes = block * NR * size_of::<B>();
        let (chunk, group) = if few { (FEW_ROWS, 1) } else { (chunk, (GROUP_BYTES / bytes).max(1)) };
        Product { m, n, k, block, chunk, group, output, ahead: 0, rearranged: true }
    }

    /// For panels that are unpacked from less: few rows read each unpacked number once or twice, from the first-level
    /// cache.
    pub fn unpacked(self) -> Self {
        let few = self.m <= FEW_ROWS;
        Product { block: if few { self.block.min(UNPACKED_BLOCK) } else { self.block }, ..self }
    }

    /// Into how many groups of panels and cuts of rows the threads share the work. Many rows are cut, not the panels:
    /// every group reads all rows of its cut again, and those are the larger operand. Each cut of a product that
    /// rearranges its panels does so again, so there are only as many as threads.
    fn tasks(&self, threads: usize, panels: usize, chunks: usize) -> (usize, usize) {
        let small = self.m * self.n * self.k < SMALL;
        if threads == 1 || small {
            return (1, 1);
        }
        if self.m > FEW_ROWS && chunks >= 8 * threads {
            return (1, if self.rearranged { threads } else { 2 * threads });
        }
        let groups = panels.min(4 * threads);
        (groups, (4 * threads).div_ceil(groups).min(chunks))
    }

    /// Fetches ahead where few rows share what they read: a whole block where several tiles of `chunk` rows share the
    /// fetching, else what memory delivers in the time of its latency.
    pub fn streaming<B>(self, chunk: usize) -> Self {
        let block = self.block * NR * size_of::<B>();
        let ahead = match self.m {
            0..=FEW_ROWS if self.m > chunk => block,
            0..=FEW_ROWS => AHEAD,
            _ => 0,
        };
        Product { ahead, rearranged: false, ..self }
    }
}

/// Rows of a chunk: what the widest kernels hold in registers, a few tiles of the others.
pub fn chunk(isa: Isa) -> usize {
    if isa >= Isa::Avx512 { 12 } else { 24 }
}

/// A matrix that tasks may read through a pointer.
#[derive(Clone, Copy)]
pub struct Shared<T>(pub *const T);

// SAFETY: only read while the slice it was made from is borrowed.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// The matrix from `row` and `step` on.
    pub fn rows(&self, row: usize, row_stride: usize, step: usize, step_stride: usize) -> Rows<T> {
        Rows { a: self.0.wrapping_add(row * row_stride + step * step_stride), row: row_stride, step: step_stride }
    }
}

thread_local! {
    static SCRATCH_F32: RefCell<Vec<AlignedVec<f32>>> = const { RefCell::new(Vec::new()) };
    static SCRATCH_U16: RefCell<Vec<AlignedVec<u16>>> = const { RefCell::new(Vec::new()) };
}

/// Numbers of which each thread keeps scratch buffers.
pub trait Scratch: Plain {
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
/// scratch they are given where they have to rearrange; `tile` multiplies, while the thread holds what `ready` gave. Where
/// panels are too few for the threads, rows are cut too.
pub fn drive<A: Scratch, B: Scratch>(
    rt: &Runtime,
    p: &Product,
    rows: impl Fn(Range<usize>, Range<usize>, &mut AlignedVec<A>) -> Rows<A> + Sync,
    panels: impl Fn(Range<usize>, Range<usize>, &mut AlignedVec<B>) -> Panels<B> + Sync,
    ready: fn(Isa) -> Option<Unit>,
    tile: unsafe fn(Isa, &Tile<A, B>),
) {
    let count = p.n.div_ceil(NR);
    if p.m == 0 || count == 0 {
        return;
    }
    let chunks = p.m.div_ceil(p.chunk);
    let (groups, cuts) = p.tasks(rt.threads, count, chunks);
    let group = count.div_ceil(groups);
    let groups = count.div_ceil(group);
    rt.parallel(groups * cuts, |task| {
        let first = task / cuts * group;
        let group = first..count.min(first + group);
        let cut = task % cuts;
        let chunks = chunks * cut / cuts..chunks * (cut + 1) / cuts;
        let _unit = ready(rt.isa);
        A::with(|rows_scratch| {
            B::with(|panels_scratch| {
                for first in group.clone().step_by(p.group) {
                    let group = first..group.end.min(first + p.group);
                    for start in (0..p.k.max(1)).step_by(p.block) {
                        let ks = start..p.k.min(start + p.block);
                        let panels = panels(group.clone(), ks.clone(), panels_scratch);
                        for chunk in chunks.clone() {
                            let range = chunk * p.chunk..p.m.min((chunk + 1) * p.chunk);
                            let rows = rows(range.clone(), ks.clone(), rows_scratch);
                            // SAFETY: operands cover `m x k` and `k x n` (checked by the callers), and no other task
                            // has these rows of these panels.
                            unsafe { walk(rt.isa, p, &range, &ks, &group, &rows, &panels, tile) };
                        }
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
pub fn stored<T: Plain>(data: &[T], panel_len: usize, step: usize) -> impl Fn(Range<usize>, Range<usize>) -> Panels<T> {
    let data = Shared(data.as_ptr());
    move |group, ks| {
        let data = data;
        Panels { b: data.0.wrapping_add(group.start * panel_len + ks.start * NR), step, panel: panel_len }
    }
}
