//! Products of bf16 pairs on VDPBF16PS or AMX: both operands are bf16 with the reduction padded to whole steps.

use super::drive::{Output, Panels, Product, SMALL, Scratch, Shared, chunk, drive, stored};
use crate::kernels::aligned::AlignedVec;
use crate::kernels::blocks::PackedBlocks;
use crate::kernels::packed::{NR, PackedBf16};
use crate::kernels::tile::Tile;
use crate::kernels::tile_pairs::{STEP, TILE_ROWS, Unit, block_rows, tile_blocks, tile_pairs};
use crate::kernels::transpose::{self, TiledRows};
use crate::kernels::{Isa, Runtime};
use std::ops::Range;

/// How the rows of the broadcast operand lie in scratch. Plain rows get an odd number of cache lines, so that they
/// do not share cache sets.
fn layout(isa: Isa, k: usize) -> TiledRows {
    let steps = k.div_ceil(STEP);
    match isa {
        Isa::Amx => TiledRows { width: steps * STEP, height: TILE_ROWS },
        _ => TiledRows { width: (steps | 1) * STEP, height: 1 },
    }
}

/// Where panels come from.
enum Source {
    /// From memory as they are.
    Stored,
    /// From quantised ones.
    Unpacked,
    /// From another order.
    Rearranged,
}

/// The product of rounded rows `a` and panels of pairs.
fn product(
    rt: &Runtime,
    (m, n, k): (usize, usize, usize),
    (a, layout): (&[u16], TiledRows),
    output: Output,
    from: Source,
    panels: impl Fn(Range<usize>, Range<usize>, &mut AlignedVec<u16>) -> Panels<u16> + Sync,
) {
    let chunk = if rt.isa == Isa::Amx { 2 * TILE_ROWS } else { chunk(rt.isa) };
    let product = Product::new::<u16>(m, n, k.next_multiple_of(STEP), chunk, output);
    let product = match from {
        Source::Stored => product.streaming::<u16>(chunk),
        Source::Unpacked => product.unpacked(),
        Source::Rearranged => product,
    };
    let a = Shared(a.as_ptr());
    let rows =
        |range: Range<usize>, ks: Range<usize>, _: &mut _| a.rows(range.start, layout.width, ks.start, layout.height);
    drive(rt, &product, rows, panels, |isa| Some(Unit::new(isa)), tile_pairs);
}

/// [`super::linear`], operands checked.
pub fn linear(rt: &Runtime, x: &[f32], m: usize, ldx: usize, w: &PackedBf16, output: Output) {
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
        product(rt, (m, n, k), (a, layout), output, Source::Stored, panels);
    });
}

/// [`super::linear_dx`], operands checked.
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
        product(rt, (m, k, n), (a, layout), output, Source::Rearranged, panels);
    });
}

/// [`super::linear`] of quantised weights, operands checked.
pub fn linear_blocks(rt: &Runtime, x: &[f32], m: usize, ldx: usize, w: &PackedBlocks, output: Output) {
    let layout = layout(rt.isa, w.k);
    u16::with(|a| {
        let a = a.reserve(layout.len(m));
        transpose::round_to_bf16(rt, x, m, w.k, ldx, a, layout);
        if m <= block_rows(rt.isa) {
            return few_rows(rt, m, (a, layout), w, output);
        }
        let panels = |group: Range<usize>, ks: Range<usize>, scratch: &mut AlignedVec<u16>| {
            let panel = ks.len() * NR;
            let b = scratch.reserve(group.len() * panel);
            for (at, b) in group.zip(b.chunks_exact_mut(panel)) {
                w.unpack_pairs(rt.isa, at, ks.clone(), b);
            }
            Panels { b: b.as_ptr(), step: NR * 2, panel }
        };
        product(rt, (m, w.n, w.k), (a, layout), output, Source::Unpacked, panels);
    });
}

/// Few rows with quantised weights: panels are unpacked on the way.
fn few_rows(rt: &Runtime, m: usize, (a, layout): (&[u16], TiledRows), w: &PackedBlocks, output: Output) {
    let (panels, a) = (w.n / NR, Shared(a.as_ptr()));
    let tasks = if m * w.n * w.k < SMALL { 1 } else { panels.min(4 * rt.threads) };
    rt.parallel(tasks, |task| {
        let (output, _unit) = (&output, Unit::new(rt.isa));
        for panel in panels * task / tasks..panels * (task + 1) / tasks {
            let rows = a.rows(0, layout.width, 0, layout.height);
            let c = output.c.wrapping_add(panel * output.panel);
            let tile = Tile {
                rows: m,
                k: w.k,
                lanes: NR,
                a: rows.a,
                a_row: rows.row,
                a_step: rows.step,
                b: std::ptr::null(),
                b_step: 0,
                c,
                c_row: output.row,
                load: output.accumulate,
                ahead: 0,
            };
            let (kind, bytes) = w.panel(panel);
            // SAFETY: `a` covers the rows, `c` the panel's lanes of them (checked by the callers), which no other task has.
            unsafe { tile_blocks(rt.isa, &tile, kind, bytes) };
        }
    });
}

/// [`super::linear_dx`] of quantised weights, operands checked.
pub fn linear_dx_blocks(rt: &Runtime, dy: &[f32], m: usize, ldy: usize, w: &PackedBlocks, output: Output) {
    let layout = layout(rt.isa, w.n);
    u16::with(|a| {
        let a = a.reserve(layout.len(m));
        transpose::round_to_bf16(rt, dy, m, w.n, ldy, a, layout);
        let panels = |group: Range<usize>, ns: Range<usize>, scratch: &mut AlignedVec<u16>| {
            let panel = ns.len() * NR;
            let b = scratch.reserve(group.len() * panel);
            for (at, b) in group.zip(b.chunks_exact_mut(panel)) {
                transpose::panel_blocks_pairs(rt.isa, w, at, ns.clone(), b);
            }
            Panels { b: b.as_ptr(), step: NR * 2, panel }
        };
        product(rt, (m, w.k, w.n), (a, layout), output, Source::Rearranged, panels);
    });
}

/// A matrix: its numbers, the distance between rows, its width.
type Matrix<'a> = (&'a [f32], usize, usize);

/// [`super::linear_dw`], operands checked.
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
        product(rt, (k, n, m), (a, layout), output, Source::Rearranged, panels);
    });
}
