//! Products of quantised weights in f32, or in bf16 widened: unpacked into panels of the dtype.

use super::drive::{Output, Panels, Product, Scratch, Shared, chunk, drive};
use crate::kernels::aligned::AlignedVec;
use crate::kernels::blocks::PackedBlocks;
use crate::kernels::packed::NR;
use crate::kernels::tile::{tile_f32, tile_widened};
use crate::kernels::{Runtime, transpose};
use std::ops::Range;

/// [`super::linear`], operands checked.
pub fn linear(rt: &Runtime, x: &[f32], m: usize, ldx: usize, w: &PackedBlocks, output: Output) {
    if !w.bf16 {
        return in_f32(rt, x, m, ldx, w, output);
    }
    f32::with(|rounded| {
        let rounded = rounded.reserve(m * w.k);
        transpose::round_rows(rt, x, m, w.k, ldx, rounded);
        let x = Shared(rounded.as_ptr());
        let rows = |range: Range<usize>, ks: Range<usize>, _: &mut _| x.rows(range.start, w.k, ks.start, 1);
        let panels = |group: Range<usize>, ks: Range<usize>, scratch: &mut AlignedVec<u16>| {
            let panel = ks.len() * NR;
            let b = scratch.reserve(group.len() * panel);
            for (at, b) in group.zip(b.chunks_exact_mut(panel)) {
                w.unpack_pairs(rt.isa, at, ks.clone(), b);
            }
            Panels { b: b.as_ptr(), step: NR, panel }
        };
        let product = Product::new::<u16>(m, w.n, w.k, chunk(rt.isa), output).unpacked();
        drive(rt, &product, rows, panels, |_| None, tile_widened);
    });
}

fn in_f32(rt: &Runtime, x: &[f32], m: usize, ldx: usize, w: &PackedBlocks, output: Output) {
    let x = Shared(x.as_ptr());
    let rows = |range: Range<usize>, ks: Range<usize>, _: &mut _| x.rows(range.start, ldx, ks.start, 1);
    let panels = |group: Range<usize>, ks: Range<usize>, scratch: &mut AlignedVec<f32>| {
        let panel = ks.len() * NR;
        let b = scratch.reserve(group.len() * panel);
        for (at, b) in group.zip(b.chunks_exact_mut(panel)) {
            w.unpack_f32(rt.isa, at, ks.clone(), b);
        }
        Panels { b: b.as_ptr(), step: NR, panel }
    };
    let product = Product::new::<f32>(m, w.n, w.k, chunk(rt.isa), output).unpacked();
    drive(rt, &product, rows, panels, |_| None, tile_f32);
}
