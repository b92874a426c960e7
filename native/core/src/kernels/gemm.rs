//! Matrix products with packed weights: forward, gradient of the input, gradient of the weight.

use super::packed::{PackedF32, Weight, bf16_from_f32, f32_from_bf16};
use super::{Runtime, reference};

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

/// `y[m, n] = x[m, k] · W^T`, or `+=` with `accumulate`. Row `i` of `x` starts at `i * ldx`, of `y` at `i * ldy`.
/// bf16 weights round `x` to bf16 first. Row `i` of the result depends on row `i` of `x` alone, bit for bit.
#[allow(clippy::too_many_arguments)]
pub fn linear(rt: &Runtime, x: &[f32], m: usize, ldx: usize, w: Weight, y: &mut [f32], ldy: usize, accumulate: bool) {
    let _ = rt;
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
    let _ = rt;
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
    let _ = rt;
    let (n, k) = (dw.n, dw.k);
    let mut rows = dw.to_rows();
    for row in 0..m {
        let dy = rounded(&dy[row * ldy..][..n], bf16);
        reference::linear_dw(&dy, &rounded(&x[row * ldx..][..k], bf16), &mut rows, n, k);
    }
    *dw = PackedF32::from_rows(&rows, n, k);
}
