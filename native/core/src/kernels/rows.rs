//! Row kernels: one generic body each, compiled for every instruction set.
//!
//! Sixteen lanes at a time; the last vector is masked, not treated apart, so an element's result does not depend on
//! where in the row it lies.

use super::simd::{Simd, simd_fn};

/// Below every logarithm of a probability that f32 can tell from 0: keeps `0 * -infinity` out of sums.
const LOG_ZERO: f32 = -1000.0;

/// Runs the body for each vector of a row: its offset and how many lanes it has. A macro, because a closure would not
/// inherit the target features of the function that the kernel is inlined into.
macro_rules! vectors {
    ($len:expr, |$at:ident, $lanes:ident| $body:expr) => {
        let len = $len;
        let mut $at = 0;
        while $at + 16 <= len {
            let $lanes = 16;
            $body;
            $at += 16;
        }
        if $at < len {
            let $lanes = len - $at;
            $body;
        }
    };
}

#[inline(always)]
unsafe fn get<S: Simd>(row: &[f32], at: usize, lanes: usize) -> S::V {
    debug_assert!(at + lanes <= row.len());
    // SAFETY: callers stay within the row.
    unsafe {
        let from = row.as_ptr().add(at);
        if lanes == 16 { S::load(from) } else { S::load_first(from, lanes) }
    }
}

#[inline(always)]
unsafe fn put<S: Simd>(row: &mut [f32], at: usize, lanes: usize, value: S::V) {
    debug_assert!(at + lanes <= row.len());
    // SAFETY: callers stay within the row.
    unsafe {
        let to = row.as_mut_ptr().add(at);
        if lanes == 16 { S::store(to, value) } else { S::store_first(to, value, lanes) }
    }
}

/// `value` in lanes `0..lanes`, `other` beyond.
#[inline(always)]
unsafe fn first<S: Simd>(value: S::V, lanes: usize, other: f32) -> S::V {
    if lanes == 16 {
        return value;
    }
    let mut filled = [other; 16];
    // SAFETY: the array holds sixteen lanes.
    unsafe {
        S::store_first(filled.as_mut_ptr(), value, lanes);
        S::load(filled.as_ptr())
    }
}

#[inline(always)]
unsafe fn inverse_rms_in<S: Simd>(x: &[f32], eps: f32) -> f32 {
    // SAFETY: within the row.
    unsafe {
        let mut sum = S::zero();
        vectors!(x.len(), |at, lanes| {
            let x = get::<S>(x, at, lanes);
            sum = S::fma(x, x, sum);
        });
        1.0 / (S::sum(sum) / x.len() as f32 + eps).sqrt()
    }
}

#[inline(always)]
unsafe fn rmsnorm_in<S: Simd>(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    // SAFETY: all rows have one length, checked by the caller.
    unsafe {
        let inverse = S::splat(inverse_rms_in::<S>(x, eps));
        vectors!(x.len(), |at, lanes| {
            let scaled = S::mul(get::<S>(x, at, lanes), inverse);
            put::<S>(y, at, lanes, S::mul(scaled, get::<S>(weight, at, lanes)));
        });
    }
}

/// Returns the inverse rms, which the gradient of the weight needs too.
#[inline(always)]
unsafe fn rmsnorm_backward_in<S: Simd>(dy: &[f32], x: &[f32], weight: &[f32], eps: f32, dx: &mut [f32]) -> f32 {
    // SAFETY: all rows have one length, checked by the caller.
    unsafe {
        let inverse = inverse_rms_in::<S>(x, eps);
        let mut sum = S::zero();
        vectors!(x.len(), |at, lanes| {
            let scaled = S::mul(get::<S>(dy, at, lanes), get::<S>(weight, at, lanes));
            sum = S::fma(scaled, get::<S>(x, at, lanes), sum);
        });
        let slope = S::splat(S::sum(sum) * inverse * inverse * inverse / x.len() as f32);
        let factor = S::splat(inverse);
        vectors!(x.len(), |at, lanes| {
            let scaled = S::mul(get::<S>(dy, at, lanes), get::<S>(weight, at, lanes));
            let gradient = S::sub(S::mul(scaled, factor), S::mul(get::<S>(x, at, lanes), slope));
            put::<S>(dx, at, lanes, S::add(get::<S>(dx, at, lanes), gradient));
        });
        inverse
    }
}

#[inline(always)]
unsafe fn rope_in<S: Simd>(head: &mut [f32], cos: &[f32], sin: &[f32], inverse: bool) {
    let (low, high) = head.split_at_mut(cos.len());
    let sign = if inverse { -1.0 } else { 1.0 };
    // SAFETY: `cos`, `sin` and both halves have one length, checked by the caller.
    unsafe {
        vectors!(cos.len(), |at, lanes| {
            let (cos, sin) = (get::<S>(cos, at, lanes), S::mul(get::<S>(sin, at, lanes), S::splat(sign)));
            let (a, b) = (get::<S>(low, at, lanes), get::<S>(high, at, lanes));
            put::<S>(low, at, lanes, S::fma(a, cos, S::mul(S::mul(b, sin), S::splat(-1.0))));
            put::<S>(high, at, lanes, S::fma(b, cos, S::mul(a, sin)));
        });
    }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
unsafe fn sigmoid<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller vouches for the instruction set.
    unsafe {
        let one = S::splat(1.0);
        S::div(one, S::add(one, S::exp(S::mul(x, S::splat(-1.0)))))
    }
}

#[inline(always)]
unsafe fn silu_mul_in<S: Simd>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    // SAFETY: all rows have one length, checked by the caller.
    unsafe {
        vectors!(gate.len(), |at, lanes| {
            let gate = get::<S>(gate, at, lanes);
            let silu = S::mul(gate, sigmoid::<S>(gate));
            put::<S>(out, at, lanes, S::mul(silu, get::<S>(up, at, lanes)));
        });
    }
}

#[inline(always)]
unsafe fn silu_mul_backward_in<S: Simd>(gate: &[f32], up: &[f32], dout: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    // SAFETY: all rows have one length, checked by the caller.
    unsafe {
        vectors!(gate.len(), |at, lanes| {
            let (gate, dout) = (get::<S>(gate, at, lanes), get::<S>(dout, at, lanes));
            let sigmoid = sigmoid::<S>(gate);
            let silu = S::mul(gate, sigmoid);
            let slope = S::fma(silu, S::sub(S::splat(1.0), sigmoid), sigmoid);
            put::<S>(dgate, at, lanes, S::mul(S::mul(dout, get::<S>(up, at, lanes)), slope));
            put::<S>(dup, at, lanes, S::mul(dout, silu));
        });
    }
}

#[inline(always)]
unsafe fn largest<S: Simd>(row: &[f32], scale: f32) -> f32 {
    // SAFETY: within the row.
    unsafe {
        let mut most = S::splat(f32::NEG_INFINITY);
        vectors!(row.len(), |at, lanes| {
            let scaled = S::mul(get::<S>(row, at, lanes), S::splat(scale));
            most = S::max(most, first::<S>(scaled, lanes, f32::NEG_INFINITY));
        });
        S::largest(most)
    }
}

#[inline(always)]
unsafe fn row_stats_in<S: Simd>(logits: &[f32], inverse_temperature: f32) -> (f32, f32, f32) {
    // SAFETY: within the row.
    unsafe {
        let max = largest::<S>(logits, inverse_temperature);
        let (mut sum, mut weighted) = (S::zero(), S::zero());
        vectors!(logits.len(), |at, lanes| {
            let scaled = S::mul(get::<S>(logits, at, lanes), S::splat(inverse_temperature));
            let below = S::max(S::splat(LOG_ZERO), S::sub(scaled, S::splat(max)));
            let weight = first::<S>(S::exp(below), lanes, 0.0);
            sum = S::add(sum, weight);
            weighted = S::fma(weight, below, weighted);
        });
        let sum = S::sum(sum);
        (max, max + sum.ln(), sum.ln() - S::sum(weighted) / sum)
    }
}

/// The softmax part of the gradient; the caller adds the targets' own.
#[inline(always)]
unsafe fn dlogits_in<S: Simd>(row: &mut [f32], scale: f32, lse: f32, entropy: f32, total: f32, dentropy: f32) {
    // SAFETY: within the row.
    unsafe {
        vectors!(row.len(), |at, lanes| {
            let logp = S::sub(S::mul(get::<S>(row, at, lanes), S::splat(scale)), S::splat(lse));
            let logp = S::max(S::splat(LOG_ZERO), logp);
            let factor = S::fma(S::splat(dentropy), S::add(logp, S::splat(entropy)), S::splat(total));
            put::<S>(row, at, lanes, S::mul(S::mul(S::exp(logp), factor), S::splat(-scale)));
        });
    }
}

/// Scores to unnormalised weights in place; returns `1 / sum` and the log-sum-exp.
#[inline(always)]
unsafe fn softmax_in<S: Simd>(scores: &mut [f32], scale: f32) -> (f32, f32) {
    // SAFETY: within the row.
    unsafe {
        let max = largest::<S>(scores, scale);
        let mut sum = S::zero();
        vectors!(scores.len(), |at, lanes| {
            let scaled = S::mul(get::<S>(scores, at, lanes), S::splat(scale));
            let weight = S::exp(S::sub(scaled, S::splat(max)));
            put::<S>(scores, at, lanes, weight);
            sum = S::add(sum, first::<S>(weight, lanes, 0.0));
        });
        let sum = S::sum(sum);
        (1.0 / sum, max + sum.ln())
    }
}

/// From scores and `dout · V^T` to the softmax weights (in `scores`) and the gradient of the scores (in `dp`).
#[inline(always)]
unsafe fn softmax_backward_in<S: Simd>(scores: &mut [f32], dp: &mut [f32], scale: f32, lse: f32, delta: f32) {
    // SAFETY: both rows have one length.
    unsafe {
        vectors!(scores.len(), |at, lanes| {
            let scaled = S::mul(get::<S>(scores, at, lanes), S::splat(scale));
            let weight = S::exp(S::sub(scaled, S::splat(lse)));
            let difference = S::sub(get::<S>(dp, at, lanes), S::splat(delta));
            put::<S>(scores, at, lanes, weight);
            put::<S>(dp, at, lanes, S::mul(S::mul(weight, difference), S::splat(scale)));
        });
    }
}

#[inline(always)]
unsafe fn dot_in<S: Simd>(a: &[f32], b: &[f32]) -> f32 {
    // SAFETY: both rows have one length.
    unsafe {
        let mut sum = S::zero();
        vectors!(a.len(), |at, lanes| sum = S::fma(get::<S>(a, at, lanes), get::<S>(b, at, lanes), sum));
        S::sum(sum)
    }
}

/// Lanes `at..` of a row, zero beyond its end.
#[inline(always)]
unsafe fn get_or_zero<S: Simd>(row: &[f32], at: usize) -> S::V {
    // SAFETY: `get` is only asked for what the row has.
    unsafe { if at < row.len() { get::<S>(row, at, (row.len() - at).min(16)) } else { S::zero() } }
}

#[inline(always)]
unsafe fn round_row_in<S: Simd>(x: &[f32], steps: usize, out: *mut u16, step: usize) {
    // SAFETY: the caller vouches for `steps` times 32 numbers.
    unsafe {
        for at in 0..steps {
            S::store_bf16(out.add(at * step), get_or_zero::<S>(x, at * 32));
            S::store_bf16(out.add(at * step + 16), get_or_zero::<S>(x, at * 32 + 16));
        }
    }
}

#[inline(always)]
unsafe fn pair_rows_in<S: Simd>(even: &[f32], odd: &[f32], blocks: usize, out: *mut u16, step: usize) {
    // SAFETY: the caller vouches for `blocks` times 16 pairs.
    unsafe {
        for at in 0..blocks {
            let (even, odd) = (get_or_zero::<S>(even, at * 16), get_or_zero::<S>(odd, at * 16));
            S::store_pairs(out.add(at / 2 * step + at % 2 * 32), even, odd);
        }
    }
}

#[inline(always)]
unsafe fn round_keep_in<S: Simd>(x: &[f32], out: &mut [f32]) {
    // SAFETY: both rows have one length.
    unsafe {
        vectors!(x.len(), |at, lanes| {
            let rounded = S::round_bf16(get::<S>(x, at, lanes));
            put::<S>(out, at, lanes, S::load(rounded.as_ptr().cast()));
        });
    }
}

/// A plain loop, vectorised for the instruction set by the compiler.
#[inline(always)]
unsafe fn split_pairs_in<S: Simd>(squares: &[u32], even: &mut [u32], odd: &mut [u32]) {
    for ((square, even), odd) in squares.chunks_exact(2).zip(even).zip(odd) {
        *even = square[0] & 0xffff | square[1] << 16;
        *odd = square[0] >> 16 | square[1] & 0xffff_0000;
    }
}

#[inline(always)]
unsafe fn transpose_in<S: Simd>(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
    // SAFETY: the caller's promise.
    unsafe { S::transpose(from, from_row, to, to_row) }
}

simd_fn! {
    /// [`super::reference::rmsnorm`].
    pub fn rmsnorm(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) = rmsnorm_in
}
simd_fn! {
    /// [`super::reference::rmsnorm_backward`] without the weight; returns the inverse rms.
    pub fn rmsnorm_backward(dy: &[f32], x: &[f32], weight: &[f32], eps: f32, dx: &mut [f32]) -> f32
        = rmsnorm_backward_in
}
simd_fn! {
    /// [`super::reference::rope`].
    pub fn rope(head: &mut [f32], cos: &[f32], sin: &[f32], inverse: bool) = rope_in
}
simd_fn! {
    /// [`super::reference::silu_mul`] of each element.
    pub fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) = silu_mul_in
}
simd_fn! {
    /// [`super::reference::silu_mul_backward`] of each element.
    pub fn silu_mul_backward(gate: &[f32], up: &[f32], dout: &[f32], dgate: &mut [f32], dup: &mut [f32])
        = silu_mul_backward_in
}
simd_fn! {
    /// [`super::reference::row_stats`].
    pub fn row_stats(logits: &[f32], inverse_temperature: f32) -> (f32, f32, f32) = row_stats_in
}
simd_fn! {
    /// [`super::reference::dlogits`] but for the targets' own terms; `total` is the sum of their gradients.
    pub fn dlogits(row: &mut [f32], scale: f32, lse: f32, entropy: f32, total: f32, dentropy: f32) = dlogits_in
}
simd_fn! {
    /// Unnormalised softmax in place; returns `1 / sum` and the log-sum-exp.
    pub fn softmax(scores: &mut [f32], scale: f32) -> (f32, f32) = softmax_in
}
simd_fn! {
    /// Softmax weights and score gradients in place of scores and `dout · V^T`.
    pub fn softmax_backward(scores: &mut [f32], dp: &mut [f32], scale: f32, lse: f32, delta: f32)
        = softmax_backward_in
}
simd_fn! {
    /// Lane-wise dot product.
    pub fn dot(a: &[f32], b: &[f32]) -> f32 = dot_in
}
simd_fn! {
    /// A row to bf16 in `steps` blocks of 32, `step` numbers apart, zero beyond the row's end.
    pub fn round_row(x: &[f32], steps: usize, out: *mut u16, step: usize) = round_row_in
}
simd_fn! {
    /// Two rows to interleaved bf16: blocks of 16 pairs, every second of them `step` numbers on; zero beyond the ends.
    pub fn pair_rows(even: &[f32], odd: &[f32], blocks: usize, out: *mut u16, step: usize) = pair_rows_in
}
simd_fn! {
    /// To bf16 values kept as f32.
    pub fn round_keep(x: &[f32], out: &mut [f32]) = round_keep_in
}
simd_fn! {
    /// Squares of two by two 16-bit numbers, transposed: first rows to `even`, second rows to `odd`.
    pub fn split_pairs(squares: &[u32], even: &mut [u32], odd: &mut [u32]) = split_pairs_in
}
simd_fn! {
    /// A 16 x 16 block of 32-bit numbers, transposed.
    pub fn transpose(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) = transpose_in
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;

    #[inline(always)]
    unsafe fn exp_in<S: Simd>(x: &mut [f32]) {
        // SAFETY: within the row.
        unsafe {
            vectors!(x.len(), |at, lanes| put::<S>(x, at, lanes, S::exp(get::<S>(x, at, lanes))));
        }
    }

    simd_fn! {
        /// `e^x` of each element.
        fn exp(x: &mut [f32]) = exp_in
    }

    #[test]
    fn exp_keeps_its_stated_error() {
        // Every 1009th f32 of the range where the result is a normal number.
        let positive = (0..=88.37_f32.to_bits()).step_by(1009).map(f32::from_bits);
        let negative = (0x8000_0000..=(-87.33_f32).to_bits()).step_by(1009).map(f32::from_bits);
        let inputs: Vec<f32> = positive.chain(negative).collect();
        for isa in Isa::supported().skip(1) {
            let mut outputs = inputs.clone();
            // SAFETY: `isa` is supported.
            unsafe { exp(isa, &mut outputs) };
            let error = |(x, y): (&f32, &f32)| (f64::from(*y) / f64::from(*x).exp() - 1.0).abs();
            let worst = inputs.iter().zip(&outputs).map(error).fold(0.0, f64::max);
            assert!(worst < 2f64.powf(-22.5), "{isa}: relative error 2^{}", worst.log2());
        }
    }

    #[test]
    fn exp_at_the_ends() {
        for isa in Isa::supported().skip(1) {
            let mut x = [0.0, -0.0, -87.7, -1e30, f32::NEG_INFINITY, 88.5, f32::INFINITY, f32::NAN];
            // SAFETY: `isa` is supported.
            unsafe { exp(isa, &mut x) };
            assert_eq!(x[..7], [1.0, 1.0, 0.0, 0.0, 0.0, f32::INFINITY, f32::INFINITY], "{isa}");
            assert!(x[7].is_nan(), "{isa}");
        }
    }
}
