//! The oracle: every operation written the obvious way, once, over row-major slices.
//!
//! Generic over [`Real`]: in f32 it follows the reduction order of the fast paths, so results can be compared bit for
//! bit or within a stated tolerance; in f64 it is what finite differences are checked against.

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

/// f32 or f64.
pub trait Real:
    Copy
    + Debug
    + Default
    + PartialOrd
    + AddAssign
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
{
    /// From a constant.
    fn of(value: f64) -> Self;
    /// `self * a + b`, rounded once.
    fn mul_add(self, a: Self, b: Self) -> Self;
    /// The exponential.
    fn exp(self) -> Self;
    /// The natural logarithm.
    fn ln(self) -> Self;
    /// The square root.
    fn sqrt(self) -> Self;
}

macro_rules! real {
    ($t:ident) => {
        impl Real for $t {
            fn of(value: f64) -> Self {
                value as $t
            }
            fn mul_add(self, a: Self, b: Self) -> Self {
                $t::mul_add(self, a, b)
            }
            fn exp(self) -> Self {
                $t::exp(self)
            }
            fn ln(self) -> Self {
                $t::ln(self)
            }
            fn sqrt(self) -> Self {
                $t::sqrt(self)
            }
        }
    };
}
real!(f32);
real!(f64);

/// Lanes of a lane-wise sum.
pub const LANES: usize = 16;

/// Sum of `terms` (each a product `a * b`, fused): term `i` goes to lane `i % 16`, then the lanes are halved thrice.
pub fn lane_sum<T: Real>(terms: impl Iterator<Item = (T, T)>) -> T {
    let mut lanes = [T::default(); LANES];
    for (i, (a, b)) in terms.enumerate() {
        lanes[i % LANES] = a.mul_add(b, lanes[i % LANES]);
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

/// Dot product onto `start`, one accumulator, ascending.
fn dot<T: Real>(start: T, terms: impl Iterator<Item = (T, T)>) -> T {
    terms.fold(start, |sum, (a, b)| a.mul_add(b, sum))
}

/// `y[m, n] += x[m, k] · W[n, k]^T`; zero `y` first for a plain product.
pub fn linear<T: Real>(x: &[T], w: &[T], y: &mut [T], n: usize, k: usize) {
    for (x, y) in x.chunks_exact(k).zip(y.chunks_exact_mut(n)) {
        for (w, y) in w.chunks_exact(k).zip(y) {
            *y = dot(*y, x.iter().copied().zip(w.iter().copied()));
        }
    }
}

/// `dx[m, k] += dy[m, n] · W[n, k]`.
pub fn linear_dx<T: Real>(dy: &[T], w: &[T], dx: &mut [T], n: usize, k: usize) {
    for (dy, dx) in dy.chunks_exact(n).zip(dx.chunks_exact_mut(k)) {
        for (i, dx) in dx.iter_mut().enumerate() {
            *dx = dot(*dx, dy.iter().copied().zip(w[i..].iter().step_by(k).copied()));
        }
    }
}

/// `dW[n, k] += dy[m, n]^T · x[m, k]`.
pub fn linear_dw<T: Real>(dy: &[T], x: &[T], dw: &mut [T], n: usize, k: usize) {
    for (row, dw) in dw.chunks_exact_mut(k).enumerate() {
        for (i, dw) in dw.iter_mut().enumerate() {
            let column = dy[row..].iter().step_by(n).copied();
            *dw = dot(*dw, column.zip(x[i..].iter().step_by(k).copied()));
        }
    }
}

/// One query over the keys and values `[len][dim]`; returns the log-sum-exp of the scaled scores.
pub fn attend<T: Real>(q: &[T], keys: &[T], values: &[T], scale: T, out: &mut [T]) -> T {
    let dim = q.len();
    let scores: Vec<T> = keys
        .chunks_exact(dim)
        .map(|key| dot(T::default(), q.iter().copied().zip(key.iter().copied())) * scale)
        .collect();
    let max = scores.iter().copied().fold(T::of(f64::NEG_INFINITY), |a, b| if b > a { b } else { a });
    let weights: Vec<T> = scores.iter().map(|score| (*score - max).exp()).collect();
    let sum = lane_sum(weights.iter().map(|weight| (*weight, T::of(1.0))));
    let norm = T::of(1.0) / sum;
    for (i, out) in out.iter_mut().enumerate() {
        let column = values[i..].iter().step_by(dim).copied();
        *out = dot(T::default(), weights.iter().copied().zip(column)) * norm;
    }
    max + sum.ln()
}

/// Gradients of [`attend`], added to `dq`, `dk` and `dv`.
#[allow(clippy::too_many_arguments)]
pub fn attend_backward<T: Real>(
    (q, keys, values): (&[T], &[T], &[T]),
    (out, lse, dout): (&[T], T, &[T]),
    scale: T,
    (dq, dk, dv): (&mut [T], &mut [T], &mut [T]),
) {
    let dim = q.len();
    let pairs = |a: &[T], b: &[T]| dot(T::default(), a.iter().copied().zip(b.iter().copied()));
    let delta = pairs(dout, out);
    for (position, key) in keys.chunks_exact(dim).enumerate() {
        let at = position * dim..(position + 1) * dim;
        let p = (pairs(q, key) * scale - lse).exp();
        let ds = p * (pairs(dout, &values[at.clone()]) - delta) * scale;
        for i in 0..dim {
            dq[i] = ds.mul_add(key[i], dq[i]);
            dk[at.start + i] = ds.mul_add(q[i], dk[at.start + i]);
            dv[at.start + i] = p.mul_add(dout[i], dv[at.start + i]);
        }
    }
}

/// `1 / rms(x)`.
pub fn inverse_rms<T: Real>(x: &[T], eps: T) -> T {
    let mean = lane_sum(x.iter().map(|x| (*x, *x))) / T::of(x.len() as f64);
    T::of(1.0) / (mean + eps).sqrt()
}

/// `y = x / rms(x) * weight` for one row.
pub fn rmsnorm<T: Real>(x: &[T], weight: &[T], eps: T, y: &mut [T]) {
    let inverse = inverse_rms(x, eps);
    for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
        *y = *x * inverse * *weight;
    }
}

/// Gradients of [`rmsnorm`] for one row, added to `dx` and `dweight`.
pub fn rmsnorm_backward<T: Real>(dy: &[T], x: &[T], weight: &[T], eps: T, dx: &mut [T], dweight: Option<&mut [T]>) {
    let inverse = inverse_rms(x, eps);
    let product = lane_sum((0..x.len()).map(|i| (dy[i] * weight[i], x[i])));
    let slope = product * inverse * inverse * inverse / T::of(x.len() as f64);
    for i in 0..x.len() {
        dx[i] += dy[i] * weight[i] * inverse - x[i] * slope;
    }
    for (i, dweight) in dweight.into_iter().flatten().enumerate() {
        *dweight = dy[i].mul_add(x[i] * inverse, *dweight);
    }
}

/// Rotates the halves of one head by the angles whose cosines and sines are given.
pub fn rope<T: Real>(head: &mut [T], cos: &[T], sin: &[T], inverse: bool) {
    let (low, high) = head.split_at_mut(cos.len());
    for i in 0..cos.len() {
        let sin = if inverse { -sin[i] } else { sin[i] };
        let (a, b) = (low[i], high[i]);
        low[i] = a.mul_add(cos[i], -(b * sin));
        high[i] = b.mul_add(cos[i], a * sin);
    }
}

/// `silu(gate) * up`.
pub fn silu_mul<T: Real>(gate: T, up: T) -> T {
    gate / (T::of(1.0) + (-gate).exp()) * up
}

/// `(d gate, d up)` of [`silu_mul`].
pub fn silu_mul_backward<T: Real>(gate: T, up: T, dout: T) -> (T, T) {
    let sigmoid = T::of(1.0) / (T::of(1.0) + (-gate).exp());
    let silu = gate * sigmoid;
    let slope = sigmoid + silu * (T::of(1.0) - sigmoid);
    (dout * up * slope, dout * silu)
}

/// `(max, log-sum-exp, entropy)` of the logits at an inverse temperature.
pub fn row_stats<T: Real>(logits: &[T], inverse_temperature: T) -> (T, T, T) {
    let scaled = || logits.iter().map(|logit| *logit * inverse_temperature);
    let max = scaled().fold(T::of(f64::NEG_INFINITY), |a, b| if b > a { b } else { a });
    let sum = lane_sum(scaled().map(|z| ((z - max).exp(), T::of(1.0))));
    let weighted = lane_sum(scaled().map(|z| ((z - max).exp(), z - max)));
    (max, max + sum.ln(), sum.ln() - weighted / sum)
}

/// Gradient with respect to one row's logits of `sum_t dlogp_t * logp(token_t) + dentropy * entropy`, in place.
pub fn dlogits<T: Real>(
    logits: &mut [T],
    inverse_temperature: T,
    (lse, entropy): (T, T),
    targets: &[(u32, T)],
    dentropy: T,
) {
    let total = targets.iter().fold(T::default(), |sum, target| sum + target.1);
    for logit in logits.iter_mut() {
        let logp = *logit * inverse_temperature - lse;
        *logit = -(logp.exp() * (total + dentropy * (logp + entropy))) * inverse_temperature;
    }
    for (token, dlogp) in targets {
        logits[*token as usize] += *dlogp * inverse_temperature;
    }
}
