//! Attention of query rows over spans of keys and values, forward and backward.
//!
//! Scores are addressed by absolute position, so neither the cut into spans nor the number of rows worked on at once
//! changes a result.

use super::{Isa, reference};

/// A run of consecutive positions: keys transposed, values row by row.
#[derive(Clone, Copy)]
pub struct KeySpan {
    /// Keys `[head_dim][kt_stride]`.
    pub kt: *const f32,
    /// Distance between two dimensions of `kt`.
    pub kt_stride: usize,
    /// Values `[len][v_stride]`.
    pub v: *const f32,
    /// Distance between two positions of `v`.
    pub v_stride: usize,
    /// Positions.
    pub len: usize,
}

/// Where the gradients of a [`KeySpan`] are added, both row by row.
#[derive(Clone, Copy)]
pub struct GradSpan {
    /// Gradient of the keys `[len][dk_stride]`.
    pub dk: *mut f32,
    /// Distance between two positions of `dk`.
    pub dk_stride: usize,
    /// Gradient of the values `[len][dv_stride]`.
    pub dv: *mut f32,
    /// Distance between two positions of `dv`.
    pub dv_stride: usize,
}

/// Query rows that read the same spans, each up to its own position, and the heads that share one key-value head.
#[derive(Clone, Copy)]
pub struct Queries<'a> {
    /// Row `r`, head `h` starts at `q + r * q_stride + h * head_dim`.
    pub q: *const f32,
    /// Distance between two rows.
    pub q_stride: usize,
    /// Row `r` sees positions `0..visible[r]` of the concatenated spans. Never zero.
    pub visible: &'a [usize],
    /// Query heads.
    pub heads: usize,
    /// Length of a head.
    pub head_dim: usize,
    /// Factor on the scores.
    pub scale: f32,
}

impl Queries<'_> {
    unsafe fn head(&self, row: usize, head: usize) -> &[f32] {
        // SAFETY: within the rows that the caller of `attend_rows` vouches for.
        unsafe { std::slice::from_raw_parts(self.q.add(row * self.q_stride + head * self.head_dim), self.head_dim) }
    }
}

unsafe fn gather(spans: &[KeySpan], dim: usize, visible: usize) -> (Vec<f32>, Vec<f32>) {
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for span in spans {
        for position in 0..span.len.min(visible - keys.len() / dim) {
            // SAFETY: the caller vouches for the spans.
            unsafe {
                keys.extend((0..dim).map(|d| *span.kt.add(d * span.kt_stride + position)));
                values.extend((0..dim).map(|d| *span.v.add(position * span.v_stride + d)));
            }
        }
    }
    (keys, values)
}

/// [`attend_rows`] for one row that sees all of `spans`: `q` and `out` are `[g][head_dim]`, `lse` is `[g]`.
///
/// # Safety
/// `spans` point to readable memory of the stated extent.
#[allow(clippy::too_many_arguments)]
pub unsafe fn attend(
    isa: Isa,
    q: &[f32],
    g: usize,
    head_dim: usize,
    scale: f32,
    spans: &[KeySpan],
    scratch: &mut Vec<f32>,
    out: &mut [f32],
    lse: &mut [f32],
) {
    assert!(q.len() == g * head_dim && out.len() == q.len() && lse.len() == g, "attend: {g} x {head_dim}");
    let visible = [spans.iter().map(|span| span.len).sum()];
    let queries = Queries { q: q.as_ptr(), q_stride: q.len(), visible: &visible, heads: g, head_dim, scale };
    // SAFETY: the slices hold one row each; the caller vouches for the spans.
    unsafe { attend_rows(isa, &queries, spans, scratch, out.as_mut_ptr(), q.len(), lse.as_mut_ptr(), g) }
}

/// For each row and head: `out = softmax(scale * q · K^T) · V` and the log-sum-exp of the scaled scores.
/// Row `r`, head `h` of `out` starts at `r * out_stride + h * head_dim`; its `lse` is at `r * lse_stride + h`.
///
/// # Safety
/// All pointers are valid for the stated extents; `out` and `lse` are not shared with another thread.
#[allow(clippy::too_many_arguments)]
pub unsafe fn attend_rows(
    isa: Isa,
    queries: &Queries,
    spans: &[KeySpan],
    scratch: &mut Vec<f32>,
    out: *mut f32,
    out_stride: usize,
    lse: *mut f32,
    lse_stride: usize,
) {
    let _ = (isa, scratch);
    let dim = queries.head_dim;
    for (row, visible) in queries.visible.iter().enumerate() {
        // SAFETY: promised by the caller.
        unsafe {
            let (keys, values) = gather(spans, dim, *visible);
            for head in 0..queries.heads {
                let out = std::slice::from_raw_parts_mut(out.add(row * out_stride + head * dim), dim);
                *lse.add(row * lse_stride + head) =
                    reference::attend(queries.head(row, head), &keys, &values, queries.scale, out);
            }
        }
    }
}

/// [`attend_rows_backward`] for one row that sees all of `spans`.
///
/// # Safety
/// `spans` and `dspans` point to memory of the stated extent, `dspans` not shared with another thread.
#[allow(clippy::too_many_arguments)]
pub unsafe fn attend_backward(
    isa: Isa,
    q: &[f32],
    dout: &[f32],
    out: &[f32],
    lse: &[f32],
    g: usize,
    head_dim: usize,
    scale: f32,
    spans: &[KeySpan],
    dspans: &[GradSpan],
    scratch: &mut Vec<f32>,
    dq: &mut [f32],
) {
    let len = g * head_dim;
    assert!(q.len() == len && dout.len() == len && out.len() == len && dq.len() == len && lse.len() == g);
    let visible = [spans.iter().map(|span| span.len).sum()];
    let queries = Queries { q: q.as_ptr(), q_stride: len, visible: &visible, heads: g, head_dim, scale };
    // SAFETY: the slices hold one row each; the caller vouches for the spans.
    unsafe {
        attend_rows_backward(
            isa,
            &queries,
            dout.as_ptr(),
            out.as_ptr(),
            len,
            lse.as_ptr(),
            g,
            spans,
            dspans,
            scratch,
            dq.as_mut_ptr(),
            len,
        )
    }
}

/// Gradients of [`attend_rows`]: adds to `dq` (rows `dq_stride` apart) and to `dspans`, rows in ascending order.
/// `dout` and `out` have the strides that `out` had.
///
/// # Safety
/// All pointers are valid for the stated extents; `dq` and `dspans` are not shared with another thread.
#[allow(clippy::too_many_arguments)]
pub unsafe fn attend_rows_backward(
    isa: Isa,
    queries: &Queries,
    dout: *const f32,
    out: *const f32,
    out_stride: usize,
    lse: *const f32,
    lse_stride: usize,
    spans: &[KeySpan],
    dspans: &[GradSpan],
    scratch: &mut Vec<f32>,
    dq: *mut f32,
    dq_stride: usize,
) {
    let _ = (isa, scratch);
    assert_eq!(spans.len(), dspans.len(), "attend_backward: one gradient per span");
    let dim = queries.head_dim;
    for (row, visible) in queries.visible.iter().enumerate() {
        // SAFETY: promised by the caller.
        unsafe {
            let (keys, values) = gather(spans, dim, *visible);
            let (mut dk, mut dv) = (vec![0.0; keys.len()], vec![0.0; values.len()]);
            for head in 0..queries.heads {
                let at = row * out_stride + head * dim;
                let out = std::slice::from_raw_parts(out.add(at), dim);
                let dout = std::slice::from_raw_parts(dout.add(at), dim);
                let dq = std::slice::from_raw_parts_mut(dq.add(row * dq_stride + head * dim), dim);
                let lse = *lse.add(row * lse_stride + head);
                let q = (queries.head(row, head), &keys[..], &values[..]);
                reference::attend_backward(q, (out, lse, dout), queries.scale, (dq, &mut dk, &mut dv));
            }
            let mut position = 0;
            for (span, grad) in spans.iter().zip(dspans) {
                for at in 0..span.len.min(visible - position) {
                    for d in 0..dim {
                        *grad.dk.add(at * grad.dk_stride + d) += dk[(position + at) * dim + d];
                        *grad.dv.add(at * grad.dv_stride + d) += dv[(position + at) * dim + d];
                    }
                }
                position += span.len.min(visible - position);
            }
        }
    }
}
