//! Operations on rows and elements: norms, rotary embeddings, the gated activation, softmax statistics.

use super::{Isa, Runtime, SharedMut, reference, rows};
use std::ops::Range;
use std::sync::OnceLock;

/// Elements a task should at least work on: below this, waking a thread costs more than it saves.
const GRAIN: usize = 16 * 1024;

/// Runs `body` on ranges of whole rows, in parallel where it pays.
fn rows_parallel(rt: &Runtime, rows: usize, width: usize, body: impl Fn(Range<usize>) + Sync) {
    rt.parallel_ranges(rows, GRAIN.div_ceil(width.max(1)), body);
}

/// `y = x / rms(x) * weight` for each row of `h`.
pub fn rmsnorm(rt: &Runtime, x: &[f32], weight: &[f32], eps: f32, y: &mut [f32], rows: usize, h: usize) {
    assert!(x.len() >= rows * h && y.len() >= rows * h && weight.len() == h, "rmsnorm: {rows} x {h}");
    let y = SharedMut::new(y);
    rows_parallel(rt, rows, h, |range| {
        for row in range {
            // SAFETY: each row is written by one task.
            let y = unsafe { y.range(row * h..(row + 1) * h) };
            let x = &x[row * h..(row + 1) * h];
            match rt.isa {
                Isa::Reference => reference::rmsnorm(x, weight, eps, y),
                // SAFETY: the runtime's instruction set is supported; the rows have one length.
                isa => unsafe { rows::rmsnorm(isa, x, weight, eps, y) },
            }
        }
    });
}

/// Gradients of [`rmsnorm`]: adds to `dx` and, if given, to `dweight` (rows in ascending order).
#[allow(clippy::too_many_arguments)]
pub fn rmsnorm_backward(
    rt: &Runtime,
    dy: &[f32],
    x: &[f32],
    weight: &[f32],
    eps: f32,
    dx: &mut [f32],
    dweight: Option<&mut [f32]>,
    rows: usize,
    h: usize,
) {
    let fits = dy.len() >= rows * h && x.len() >= rows * h && dx.len() >= rows * h && weight.len() == h;
    assert!(fits, "rmsnorm_backward: {rows} x {h}");
    let mut inverses = vec![0.0; rows];
    let (dx, shared) = (SharedMut::new(dx), SharedMut::new(&mut inverses));
    rows_parallel(rt, rows, h, |range| {
        for row in range {
            let at = row * h..(row + 1) * h;
            let (dy, x) = (&dy[at.clone()], &x[at.clone()]);
            // SAFETY: each row is written by one task.
            let (dx, inverse) = unsafe { (dx.range(at), &mut shared.range(row..row + 1)[0]) };
            *inverse = match rt.isa {
                Isa::Reference => {
                    reference::rmsnorm_backward(dy, x, weight, eps, dx, None);
                    reference::inverse_rms(x, eps)
                }
                // SAFETY: the runtime's instruction set is supported; the rows have one length.
                isa => unsafe { rows::rmsnorm_backward(isa, dy, x, weight, eps, dx) },
            };
        }
    });
    let Some(dweight) = dweight else { return };
    assert_eq!(dweight.len(), h, "rmsnorm_backward: dweight");
    let dweight = SharedMut::new(dweight);
    rows_parallel(rt, h, rows, |range| {
        // SAFETY: ranges are disjoint.
        let dweight = unsafe { dweight.range(range.clone()) };
        for (row, inverse) in inverses.iter().enumerate() {
            let at = row * h + range.start..row * h + range.end;
            for ((sum, dy), x) in dweight.iter_mut().zip(&dy[at.clone()]).zip(&x[at]) {
                *sum += dy * (x * inverse);
            }
        }
    });
}

/// Cosines and sines of the rotary angles for every position up to a maximum, computed when they are first needed: a
/// context may be long, what is sent through it seldom is.
#[derive(Clone)]
pub struct RopeTable {
    /// Length of a head; half as many angles per position.
    pub head_dim: usize,
    positions: usize,
    frequencies: Vec<f32>,
    /// For [`RopeTable::BLOCK`] positions each, cosines and sines of a position side by side.
    blocks: Vec<OnceLock<Box<[f32]>>>,
}

impl RopeTable {
    const BLOCK: usize = 4096;

    /// Angles `position * frequency`, rounded to f32 where Hugging Face's Llama rounds them.
    pub fn new(frequencies: Vec<f32>, positions: usize) -> Self {
        let blocks = vec![OnceLock::new(); positions.div_ceil(Self::BLOCK)];
        Self { head_dim: 2 * frequencies.len(), positions, frequencies, blocks }
    }

    /// Positions covered.
    pub fn positions(&self) -> usize {
        self.positions
    }

    fn angles(&self, position: u32) -> (&[f32], &[f32]) {
        let (position, width) = (position as usize, self.head_dim);
        assert!(position < self.positions, "RopeTable: position {position} of {}", self.positions);
        let (block, within) = (position / Self::BLOCK, position % Self::BLOCK);
        let values = self.blocks[block].get_or_init(|| self.compute(block * Self::BLOCK));
        values[within * width..(within + 1) * width].split_at(width / 2)
    }

    fn compute(&self, first: usize) -> Box<[f32]> {
        let last = (first + Self::BLOCK).min(self.positions);
        let angles = |p: usize| self.frequencies.iter().map(move |f| f64::from(p as f32 * f));
        (first..last).flat_map(|p| angles(p).map(|a| a.cos() as f32).chain(angles(p).map(|a| a.sin() as f32))).collect()
    }
}

/// Rotates `heads` heads of each row in place; `inverse` rotates back, which is also the gradient.
/// Row `r` starts at `r * stride` and stands at `positions[r]`.
pub fn rope(
    rt: &Runtime,
    x: &mut [f32],
    stride: usize,
    heads: usize,
    positions: &[u32],
    table: &RopeTable,
    inverse: bool,
) {
    let (rows, width) = (positions.len(), heads * table.head_dim);
    assert!(width <= stride && x.len() + stride >= rows * stride + width, "rope: {rows} x {width}");
    let x = SharedMut::new(x);
    rows_parallel(rt, rows, width, |range| {
        for row in range {
            let (cos, sin) = table.angles(positions[row]);
            // SAFETY: each row is written by one task.
            let row = unsafe { x.range(row * stride..row * stride + width) };
            for head in row.chunks_exact_mut(table.head_dim) {
                match rt.isa {
                    Isa::Reference => reference::rope(head, cos, sin, inverse),
                    // SAFETY: the runtime's instruction set is supported; a head is two halves of the angles' length.
                    isa => unsafe { rows::rope(isa, head, cos, sin, inverse) },
                }
            }
        }
    });
}

/// `out = silu(gate) * up`.
pub fn silu_mul(rt: &Runtime, gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == up.len() && gate.len() == out.len(), "silu_mul: lengths differ");
    let out = SharedMut::new(out);
    rows_parallel(rt, gate.len(), 1, |range| {
        // SAFETY: ranges are disjoint.
        let out = unsafe { out.range(range.clone()) };
        let (gate, up) = (&gate[range.clone()], &up[range]);
        match rt.isa {
            Isa::Reference => {
                for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                    *out = reference::silu_mul(*gate, *up);
                }
            }
            // SAFETY: the runtime's instruction set is supported; the slices have one length.
            isa => unsafe { rows::silu_mul(isa, gate, up, out) },
        }
    });
}

/// Gradients of [`silu_mul`], overwriting `dgate` and `dup`.
pub fn silu_mul_backward(rt: &Runtime, gate: &[f32], up: &[f32], dout: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    let len = gate.len();
    assert!([up.len(), dout.len(), dgate.len(), dup.len()] == [len; 4], "silu_mul_backward: lengths differ");
    let (dgate, dup) = (SharedMut::new(dgate), SharedMut::new(dup));
    rows_parallel(rt, len, 1, |range| {
        // SAFETY: ranges are disjoint.
        let (dgate, dup) = unsafe { (dgate.range(range.clone()), dup.range(range.clone())) };
        let (gate, up, dout) = (&gate[range.clone()], &up[range.clone()], &dout[range]);
        match rt.isa {
            Isa::Reference => {
                for at in 0..gate.len() {
                    (dgate[at], dup[at]) = reference::silu_mul_backward(gate[at], up[at], dout[at]);
                }
            }
            // SAFETY: the runtime's instruction set is supported; the slices have one length.
            isa => unsafe { rows::silu_mul_backward(isa, gate, up, dout, dgate, dup) },
        }
    });
}

/// `y += x`.
pub fn add(rt: &Runtime, y: &mut [f32], x: &[f32]) {
    assert_eq!(y.len(), x.len(), "add: lengths differ");
    let y = SharedMut::new(y);
    rows_parallel(rt, x.len(), 1, |range| {
        // SAFETY: ranges are disjoint.
        let y = unsafe { y.range(range.clone()) };
        y.iter_mut().zip(&x[range]).for_each(|(y, x)| *y += *x);
    });
}

/// `sum[n] += ` the sum over the rows of `x[m, n]`, ascending: the gradient of a bias.
pub fn column_sum(rt: &Runtime, x: &[f32], m: usize, ldx: usize, sum: &mut [f32]) {
    let n = sum.len();
    let sum = SharedMut::new(sum);
    rows_parallel(rt, n, m, |range| {
        // SAFETY: ranges are disjoint.
        let sum = unsafe { sum.range(range.clone()) };
        for row in 0..m {
            let x = &x[row * ldx..][range.clone()];
            sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += *x);
        }
    });
}

/// Statistics of the distribution of a row of logits: `logp(v) = logit_v * inverse_temperature - lse`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RowStats {
    /// The largest scaled logit.
    pub max: f32,
    /// The log-sum-exp of the scaled logits.
    pub lse: f32,
    /// The entropy in nats.
    pub entropy: f32,
}

/// One pass over a row of logits.
pub fn row_stats(isa: Isa, logits: &[f32], inverse_temperature: f32) -> RowStats {
    assert!(isa.is_supported());
    let (max, lse, entropy) = match isa {
        Isa::Reference => reference::row_stats(logits, inverse_temperature),
        // SAFETY: just checked.
        isa => unsafe { rows::row_stats(isa, logits, inverse_temperature) },
    };
    RowStats { max, lse, entropy }
}

/// Turns one row of logits into the gradient with respect to them of
/// `sum_t dlogp_t * logp(token_t) + dentropy * entropy`; `targets` are `(token, dlogp)`, tokens may repeat.
pub fn dlogits(
    isa: Isa,
    logits: &mut [f32],
    inverse_temperature: f32,
    stats: &RowStats,
    targets: &[(u32, f32)],
    dentropy: f32,
) {
    assert!(isa.is_supported());
    if isa == Isa::Reference {
        return reference::dlogits(logits, inverse_temperature, (stats.lse, stats.entropy), targets, dentropy);
    }
    let total = targets.iter().map(|(_, dlogp)| dlogp).sum();
    // SAFETY: just checked.
    unsafe { rows::dlogits(isa, logits, inverse_temperature, stats.lse, stats.entropy, total, dentropy) };
    for (token, dlogp) in targets {
        logits[*token as usize] += dlogp * inverse_temperature;
    }
}
