//! Attention of query rows over spans of keys and values, forward and backward.
//!
//! Scores are addressed by absolute position, so neither the cut into spans nor the number of rows worked on at once
//! changes a result. Everything but the softmax is a product on the tiles of `gemm`: keys or dimensions are the lanes,
//! and positions that a row must not see have weight zero, which adds nothing.

mod naive;

use super::tile::{Tile, tile_f32};
use super::{Isa, rows, transpose};
use std::ops::Range;

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
    assert!(isa.is_supported());
    check(queries, spans);
    for block in blocks(queries) {
        // SAFETY: promised by the caller.
        unsafe {
            match isa {
                Isa::Reference => naive::forward(queries, block, spans, out, out_stride, lse, lse_stride),
                _ => forward(isa, queries, block, spans, scratch, out, out_stride, lse, lse_stride),
            }
        }
    }
}

/// As many query vectors are worked on at once: enough to share what is read, few enough that scores stay in cache.
const VECTORS: usize = 96;

fn check(queries: &Queries, spans: &[KeySpan]) {
    let positions: usize = spans.iter().map(|span| span.len).sum();
    let fits = queries.visible.iter().all(|visible| (1..=positions).contains(visible));
    assert!(fits, "attend: a row sees nothing, or more than the {positions} positions given");
}

fn blocks(queries: &Queries) -> impl Iterator<Item = Range<usize>> {
    let rows = queries.visible.len();
    let most = (VECTORS / queries.heads.max(1)).max(1);
    (0..rows).step_by(most).map(move |first| first..rows.min(first + most))
}

/// The spans cut at `visible` positions: `(index, first position, positions)`.
fn visible_spans(spans: &[KeySpan], visible: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let mut first = 0;
    spans.iter().enumerate().map_while(move |(index, span)| {
        let at = first;
        first += span.len;
        (at < visible).then(|| (index, at, span.len.min(visible - at)))
    })
}

/// Copies heads between rows `stride` apart and `[row][head][dim]`.
unsafe fn pack(queries: &Queries, block: &Range<usize>, from: *const f32, stride: usize, to: &mut [f32]) {
    let width = queries.heads * queries.head_dim;
    for (row, to) in block.clone().zip(to.chunks_exact_mut(width)) {
        // SAFETY: the caller vouches for the rows.
        to.copy_from_slice(unsafe { std::slice::from_raw_parts(from.add(row * stride), width) });
    }
}

/// Cuts scratch into parts of the given lengths.
fn parts<const N: usize>(scratch: &mut Vec<f32>, lengths: [usize; N]) -> [&mut [f32]; N] {
    let total = lengths.iter().sum();
    if scratch.len() < total {
        scratch.resize(total, 0.0);
    }
    let mut rest = &mut scratch[..];
    lengths.map(|length| {
        let (part, tail) = std::mem::take(&mut rest).split_at_mut(length);
        rest = tail;
        part
    })
}

/// `c[rows, lanes] (+)= a · b`, see [`Tile`].
#[derive(Clone, Copy)]
struct Factor<'a> {
    from: &'a [f32],
    row: usize,
    step: usize,
}

unsafe fn multiply(
    isa: Isa,
    (rows, k, lanes): (usize, usize, usize),
    a: Factor,
    (b, b_step): (*const f32, usize),
    (c, c_row): (*mut f32, usize),
    load: bool,
) {
    let reach = (rows - 1) * a.row + (k - 1) * a.step;
    assert!(reach < a.from.len(), "attend: operand too short");
    let tile =
        Tile { rows, k, lanes, a: a.from.as_ptr(), a_row: a.row, a_step: a.step, b, b_step, c, c_row, load, ahead: 0 };
    // SAFETY: `a` was checked; the caller vouches for `b` and `c`.
    unsafe { tile_f32(isa, &tile) }
}

#[allow(clippy::too_many_arguments)]
unsafe fn forward(
    isa: Isa,
    queries: &Queries,
    block: Range<usize>,
    spans: &[KeySpan],
    scratch: &mut Vec<f32>,
    out: *mut f32,
    out_stride: usize,
    lse: *mut f32,
    lse_stride: usize,
) {
    let (heads, dim) = (queries.heads, queries.head_dim);
    let vectors = block.len() * heads;
    let visible = queries.visible[block.clone()].iter().copied().max().unwrap_or(0);
    let [q, result, scores] = parts(scratch, [vectors * dim, vectors * dim, vectors * visible]);
    // SAFETY: the caller vouches for rows and spans; tiles stay within the parts.
    unsafe {
        pack(queries, &block, queries.q, queries.q_stride, q);
        let rows_of_q = Factor { from: q, row: dim, step: 1 };
        for (index, first, len) in visible_spans(spans, visible) {
            let keys = (spans[index].kt, spans[index].kt_stride);
            let c = (scores[first..].as_mut_ptr(), visible);
            multiply(isa, (vectors, dim, len), rows_of_q, keys, c, false);
        }
        let mut norms = [0.0; VECTORS];
        let norms = if vectors <= VECTORS { &mut norms[..vectors] } else { &mut vec![0.0; vectors][..] };
        for (vector, scores) in scores.chunks_exact_mut(visible).enumerate() {
            let row = block.start + vector / heads;
            let (seen, unseen) = scores.split_at_mut(queries.visible[row]);
            let (norm, log_sum) = rows::softmax(isa, seen, queries.scale);
            unseen.fill(0.0);
            norms[vector] = norm;
            *lse.add(row * lse_stride + vector % heads) = log_sum;
        }
        for (index, first, len) in visible_spans(spans, visible) {
            let weights = Factor { from: &scores[first..], row: visible, step: 1 };
            let values = (spans[index].v, spans[index].v_stride);
            multiply(isa, (vectors, len, dim), weights, values, (result.as_mut_ptr(), dim), first > 0);
        }
        for (vector, (result, norm)) in result.chunks_exact(dim).zip(norms).enumerate() {
            let row = block.start + vector / heads;
            let out = std::slice::from_raw_parts_mut(out.add(row * out_stride + vector % heads * dim), dim);
            out.iter_mut().zip(result).for_each(|(out, result)| *out = result * *norm);
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
    assert!(isa.is_supported());
    assert_eq!(spans.len(), dspans.len(), "attend_backward: one gradient per span");
    check(queries, spans);
    let given = Given { dout, out, stride: out_stride, lse, lse_stride, spans, dspans };
    for block in blocks(queries) {
        // SAFETY: promised by the caller.
        unsafe {
            match isa {
                Isa::Reference => naive::backward(queries, block, &given, dq, dq_stride),
                _ => backward(isa, queries, block, &given, scratch, dq, dq_stride),
            }
        }
    }
}

/// Results of the forward pass, and the gradients given to the backward pass.
struct Given<'a> {
    dout: *const f32,
    out: *const f32,
    stride: usize,
    lse: *const f32,
    lse_stride: usize,
    spans: &'a [KeySpan],
    dspans: &'a [GradSpan],
}

unsafe fn backward(
    isa: Isa,
    queries: &Queries,
    block: Range<usize>,
    given: &Given,
    scratch: &mut Vec<f32>,
    dq: *mut f32,
    dq_stride: usize,
) {
    let (heads, dim) = (queries.heads, queries.head_dim);
    let vectors = block.len() * heads;
    let visible = queries.visible[block.clone()].iter().copied().max().unwrap_or(0);
    let longest = given.spans.iter().map(|span| span.len).max().unwrap_or(0).min(visible);
    let (size, square, turned) = (vectors * dim, vectors * visible, longest * dim);
    let [q, dout, out, dq_sum, scores, dp, turned] = parts(scratch, [size, size, size, size, square, square, turned]);
    // SAFETY: the caller vouches for rows and spans; tiles stay within the parts.
    unsafe {
        pack(queries, &block, queries.q, queries.q_stride, q);
        pack(queries, &block, given.dout, given.stride, dout);
        pack(queries, &block, given.out, given.stride, out);
        pack(queries, &block, dq, dq_stride, dq_sum);
        for (index, first, len) in visible_spans(given.spans, visible) {
            let span = given.spans[index];
            let rows_of_q = Factor { from: q, row: dim, step: 1 };
            let c = (scores[first..].as_mut_ptr(), visible);
            multiply(isa, (vectors, dim, len), rows_of_q, (span.kt, span.kt_stride), c, false);
            transpose::matrix(isa, (len, dim), span.v, span.v_stride, turned.as_mut_ptr(), len);
            let rows_of_dout = Factor { from: dout, row: dim, step: 1 };
            let c = (dp[first..].as_mut_ptr(), visible);
            multiply(isa, (vectors, dim, len), rows_of_dout, (turned.as_ptr(), len), c, false);
        }
        let pairs = scores.chunks_exact_mut(visible).zip(dp.chunks_exact_mut(visible));
        for (vector, (scores, dp)) in pairs.enumerate() {
            let row = block.start + vector / heads;
            let at = vector * dim..(vector + 1) * dim;
            let delta = rows::dot(isa, &dout[at.clone()], &out[at]);
            let lse = *given.lse.add(row * given.lse_stride + vector % heads);
            let (seen, unseen) = scores.split_at_mut(queries.visible[row]);
            let (dseen, dunseen) = dp.split_at_mut(queries.visible[row]);
            rows::softmax_backward(isa, seen, dseen, queries.scale, lse, delta);
            unseen.fill(0.0);
            dunseen.fill(0.0);
        }
        for (index, first, len) in visible_spans(given.spans, visible) {
            let (span, grad) = (given.spans[index], given.dspans[index]);
            transpose::matrix(isa, (dim, len), span.kt, span.kt_stride, turned.as_mut_ptr(), dim);
            let by_row = Factor { from: &dp[first..], row: visible, step: 1 };
            let keys = (turned.as_ptr(), dim);
            multiply(isa, (vectors, len, dim), by_row, keys, (dq_sum.as_mut_ptr(), dim), true);
            let by_position = Factor { from: &dp[first..], row: 1, step: visible };
            multiply(isa, (len, vectors, dim), by_position, (q.as_ptr(), dim), (grad.dk, grad.dk_stride), true);
            let by_position = Factor { from: &scores[first..], row: 1, step: visible };
            multiply(isa, (len, vectors, dim), by_position, (dout.as_ptr(), dim), (grad.dv, grad.dv_stride), true);
        }
        for (row, sum) in block.zip(dq_sum.chunks_exact(heads * dim)) {
            std::slice::from_raw_parts_mut(dq.add(row * dq_stride), heads * dim).copy_from_slice(sum);
        }
    }
}
