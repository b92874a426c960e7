//! The products by the oracle.

use crate::kernels::packed::{PackedF32, bf16_from_f32, f32_from_bf16};
use crate::kernels::reference;
use crate::kernels::weight::Weight;

fn rounded(values: &[f32], bf16: bool) -> Vec<f32> {
    let round = |value: &f32| if bf16 { f32_from_bf16(bf16_from_f32(*value)) } else { *value };
    values.iter().map(round).collect()
}

fn dense(w: Weight) -> (Vec<f32>, bool) {
    match w {
        Weight::F32(w) => (w.to_rows(), false),
        Weight::Bf16(w) => (w.to_rows(), true),
        Weight::Blocks(w) => {
            let mut rows = vec![0.0; w.n * w.k];
            rows.chunks_exact_mut(w.k).enumerate().for_each(|(row, out)| w.get_row_rounded(row, out));
            (rows, w.bf16)
        }
    }
}

/// [`super::linear`].
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

/// [`super::linear_dx`].
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

/// [`super::linear_dw`].
pub fn linear_dw(dy: &[f32], ldy: usize, x: &[f32], ldx: usize, m: usize, dw: &mut PackedF32, bf16: bool) {
    let (n, k) = (dw.n, dw.k);
    let mut rows = dw.to_rows();
    for row in 0..m {
        let dy = rounded(&dy[row * ldy..][..n], bf16);
        reference::linear_dw(&dy, &rounded(&x[row * ldx..][..k], bf16), &mut rows, n, k);
    }
    *dw = PackedF32::from_rows(&rows, n, k);
}
