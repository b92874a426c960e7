//! Attention by the oracle.

use super::{Given, KeySpan, Queries, visible_spans};
use crate::kernels::reference;
use std::ops::Range;

unsafe fn head<'a>(queries: &Queries<'a>, row: usize, head: usize) -> &'a [f32] {
    // SAFETY: within the rows that the caller of `attend_rows` vouches for.
    unsafe {
        let from = queries.q.add(row * queries.q_stride + head * queries.head_dim);
        std::slice::from_raw_parts(from, queries.head_dim)
    }
}

/// Keys and values row by row.
unsafe fn gather(spans: &[KeySpan], dim: usize, visible: usize) -> (Vec<f32>, Vec<f32>) {
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for (index, _, len) in visible_spans(spans, visible) {
        let span = spans[index];
        for position in 0..len {
            // SAFETY: the caller vouches for the spans.
            unsafe {
                keys.extend((0..dim).map(|d| *span.kt.add(d * span.kt_stride + position)));
                values.extend((0..dim).map(|d| *span.v.add(position * span.v_stride + d)));
            }
        }
    }
    (keys, values)
}

/// [`super::attend_rows`] for a block of rows.
///
/// # Safety
/// As there.
pub unsafe fn forward(
    queries: &Queries,
    block: Range<usize>,
    spans: &[KeySpan],
    out: *mut f32,
    out_stride: usize,
    lse: *mut f32,
    lse_stride: usize,
) {
    let dim = queries.head_dim;
    for row in block {
        // SAFETY: promised by the caller.
        unsafe {
            let (keys, values) = gather(spans, dim, queries.visible[row]);
            for at in 0..queries.heads {
                let out = std::slice::from_raw_parts_mut(out.add(row * out_stride + at * dim), dim);
                *lse.add(row * lse_stride + at) =
                    reference::attend(head(queries, row, at), &keys, &values, queries.scale, out);
            }
        }
    }
}

/// [`super::attend_rows_backward`] for a block of rows.
///
/// # Safety
/// As there.
pub unsafe fn backward(queries: &Queries, block: Range<usize>, given: &Given, dq: *mut f32, dq_stride: usize) {
    let dim = queries.head_dim;
    for row in block {
        // SAFETY: promised by the caller.
        unsafe {
            let visible = queries.visible[row];
            let (keys, values) = gather(given.spans, dim, visible);
            let (mut dk, mut dv) = (vec![0.0; keys.len()], vec![0.0; values.len()]);
            for at in 0..queries.heads {
                let from = row * given.stride + at * dim;
                let out = std::slice::from_raw_parts(given.out.add(from), dim);
                let dout = std::slice::from_raw_parts(given.dout.add(from), dim);
                let dq = std::slice::from_raw_parts_mut(dq.add(row * dq_stride + at * dim), dim);
                let lse = *given.lse.add(row * given.lse_stride + at);
                let q = (head(queries, row, at), &keys[..], &values[..]);
                reference::attend_backward(q, (out, lse, dout), queries.scale, (dq, &mut dk, &mut dv));
            }
            for (index, first, len) in visible_spans(given.spans, visible) {
                let grad = given.dspans[index];
                for (at, d) in (0..len).flat_map(|at| (0..dim).map(move |d| (at, d))) {
                    *grad.dk.add(at * grad.dk_stride + d) += dk[(first + at) * dim + d];
                    *grad.dv.add(at * grad.dv_stride + d) += dv[(first + at) * dim + d];
                }
            }
        }
    }
}
