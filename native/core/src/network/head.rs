//! The LM head over the target positions of a batch, in chunks: logits never exist for more than one chunk of rows.

use super::Net;
use super::backward::Sink;
use crate::abort::{AbortFlag, check_abort};
use crate::error::{Error, Result};
use crate::forest::Forest;
use crate::kernels::{RowStats, SharedMut, dlogits, linear_dw, linear_dx, rmsnorm_backward, row_stats};
use crate::params::Dtype;
use crate::scratch::{ROW_GRAIN, sized};

/// Logits in memory at once: enough rows per pass over the weights to be bound by arithmetic, not by memory.
const LOGITS: usize = 12 << 20;

/// Which log-probabilities a batch asks for: target `i` is `token[i]`, predicted by the token at `position[i]` of the
/// forest. A position may have several targets.
#[derive(Debug, Clone, Copy)]
pub struct Targets<'a> {
    pub position: &'a [u32],
    pub token: &'a [u32],
}

/// The targets ordered by position, each position once.
pub(crate) struct HeadPlan {
    /// Distinct rows of the forest, ascending.
    rows: Vec<usize>,
    /// `order[starts[i]..starts[i + 1]]` are the targets of `rows[i]`, in the caller's order.
    starts: Vec<usize>,
    order: Vec<usize>,
    tokens: Vec<u32>,
}

/// Buffers of the head.
#[derive(Default)]
pub(crate) struct HeadScratch {
    logits: Vec<f32>,
    gathered: Vec<f32>,
    normed: Vec<f32>,
    dhidden: Vec<f32>,
}

impl HeadScratch {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let buffers = [&self.logits, &self.gathered, &self.normed, &self.dhidden];
        buffers.iter().map(|buffer| buffer.capacity()).sum::<usize>() * size_of::<f32>()
    }
}

/// Inputs to the gradient of a head row, besides the logits.
#[derive(Clone, Copy)]
struct RowGradient<'a> {
    targets: &'a [(u32, f32)],
    dentropy: f32,
}

impl HeadPlan {
    /// Checks the targets against the forest and the vocabulary.
    pub fn new(forest: &Forest, targets: &Targets, vocab: usize) -> Result<Self> {
        let count = targets.position.len();
        if targets.token.len() != count {
            let message = format!("{count} target positions, but {} target tokens", targets.token.len());
            return Err(Error::shape("logprobs", message));
        }
        if let Some(at) = targets.position.iter().position(|&p| p as usize >= forest.len()) {
            let message = format!("target {at} is at {}, beyond the {} tokens", targets.position[at], forest.len());
            return Err(Error::shape("logprobs", message));
        }
        if let Some(at) = targets.token.iter().position(|&t| t as usize >= vocab) {
            let message = format!("target {at} is token {}, vocab_size is {vocab}", targets.token[at]);
            return Err(Error::shape("logprobs", message));
        }
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by_key(|&target| targets.position[target]);
        let (mut rows, mut starts) = (Vec::new(), Vec::new());
        for (place, &target) in order.iter().enumerate() {
            let row = targets.position[target] as usize;
            if rows.last() != Some(&row) {
                rows.push(row);
                starts.push(place);
            }
        }
        starts.push(count);
        Ok(HeadPlan { rows, starts, order, tokens: targets.token.to_vec() })
    }

    /// Number of targets.
    pub fn targets(&self) -> usize {
        self.order.len()
    }

    /// Number of distinct positions.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// The forest's row of distinct position `at`.
    pub fn row(&self, at: usize) -> usize {
        self.rows[at]
    }

    /// The token of a target.
    pub fn token(&self, target: usize) -> u32 {
        self.tokens[target]
    }

    /// The targets of distinct position `row`.
    pub fn of(&self, row: usize) -> &[usize] {
        &self.order[self.starts[row]..self.starts[row + 1]]
    }
}

/// Rows of a chunk.
pub(crate) fn chunk_rows(vocab: usize, rows: usize) -> usize {
    (LOGITS / vocab / 16 * 16).max(16).min(rows.max(1))
}

impl Net<'_> {
    /// Copies rows `rows` of `x`, normalises them, and computes their logits.
    fn chunk_logits(&self, x: &[f32], rows: &[usize], s: &mut HeadScratch) {
        let (hidden, vocab) = (self.config.hidden_size, self.config.vocab_size);
        let gathered = sized(&mut s.gathered, rows.len() * hidden);
        for (row, out) in rows.iter().zip(gathered.chunks_exact_mut(hidden)) {
            out.copy_from_slice(&x[row * hidden..(row + 1) * hidden]);
        }
        let normed = sized(&mut s.normed, rows.len() * hidden);
        self.norm(self.params.layout.norm, gathered, rows.len(), normed);
        self.logits(normed, rows.len(), sized(&mut s.logits, rows.len() * vocab));
    }

    /// Log-probabilities and entropies per target, from the last residual stream. Returns the statistics of each row.
    pub fn head(
        &self,
        x: &[f32],
        plan: &HeadPlan,
        inverse_temperature: f32,
        s: &mut HeadScratch,
        abort: &AbortFlag,
        (logprobs, entropy): (&mut [f32], &mut [f32]),
    ) -> Result<Vec<RowStats>> {
        let vocab = self.config.vocab_size;
        let mut stats = vec![RowStats::default(); plan.rows()];
        let chunk = chunk_rows(vocab, plan.rows());
        for first in (0..plan.rows()).step_by(chunk) {
            check_abort(abort, "logprobs")?;
            let range = first..plan.rows().min(first + chunk);
            self.chunk_logits(x, &plan.rows[range.clone()], s);
            let (logits, shared) = (&s.logits, SharedMut::new(&mut stats));
            self.rt.parallel_ranges(range.len(), ROW_GRAIN.div_ceil(vocab), |rows| {
                for row in rows {
                    let logits = &logits[row * vocab..(row + 1) * vocab];
                    // SAFETY: each row is written by one task.
                    let slot = unsafe { shared.range(first + row..first + row + 1) };
                    slot[0] = row_stats(self.rt.isa, logits, inverse_temperature);
                }
            });
            for row in range {
                for &target in plan.of(row) {
                    let logit = s.logits[(row - first) * vocab + plan.tokens[target] as usize];
                    logprobs[target] = logit * inverse_temperature - stats[row].lse;
                    if let Some(entropy) = entropy.get_mut(target) {
                        *entropy = stats[row].entropy;
                    }
                }
            }
        }
        Ok(stats)
    }

    /// Gradient of the head: writes into the (zeroed) rows of `dx`. Positions without gradient cost nothing.
    #[allow(clippy::too_many_arguments)]
    pub fn head_backward(
        &self,
        x: &[f32],
        (plan, stats): (&HeadPlan, &[RowStats]),
        inverse_temperature: f32,
        (dlogprob, dentropy): (&[f32], Option<&[f32]>),
        s: &mut HeadScratch,
        grads: &mut Sink,
        dx: &mut [f32],
        abort: &AbortFlag,
    ) -> Result<()> {
        let (hidden, vocab) = (self.config.hidden_size, self.config.vocab_size);
        let layout = &self.params.layout;
        let pairs: Vec<(u32, f32)> = plan.order.iter().map(|&t| (plan.tokens[t], dlogprob[t])).collect();
        let gradient = |row: usize| RowGradient {
            targets: &pairs[plan.starts[row]..plan.starts[row + 1]],
            dentropy: dentropy.map_or(0.0, |d| plan.of(row).iter().map(|&t| d[t]).sum()),
        };
        let active: Vec<usize> = (0..plan.rows())
            .filter(|&row| gradient(row).dentropy != 0.0 || gradient(row).targets.iter().any(|t| t.1 != 0.0))
            .collect();
        for chunk in active.chunks(chunk_rows(vocab, active.len())) {
            check_abort(abort, "backward")?;
            let rows: Vec<usize> = chunk.iter().map(|&row| plan.rows[row]).collect();
            self.chunk_logits(x, &rows, s);
            let logits = SharedMut::new(&mut s.logits);
            self.rt.parallel_ranges(rows.len(), ROW_GRAIN.div_ceil(vocab), |range| {
                for at in range {
                    let gradient = gradient(chunk[at]);
                    // SAFETY: each row is written by one task.
                    let logits = unsafe { logits.range(at * vocab..(at + 1) * vocab) };
                    let stats = &stats[chunk[at]];
                    dlogits(self.rt.isa, logits, inverse_temperature, stats, gradient.targets, gradient.dentropy);
                }
            });
            let count = rows.len();
            let head = self.params.get(layout.head);
            if let Some(dw) = grads.of(self.params, layout.head) {
                let bf16 = head.dtype() == Dtype::Bf16;
                linear_dw(self.rt, &s.logits, vocab, &s.normed, hidden, count, dw, bf16);
            }
            // The rows of `normed` have served: they take the gradient.
            let dnormed = &mut s.normed[..count * hidden];
            linear_dx(self.rt, &s.logits, count, vocab, head.weight(), dnormed, hidden, false);
            let dhidden = sized(&mut s.dhidden, count * hidden);
            dhidden.fill(0.0);
            let weight = self.params.get(layout.norm).values();
            let dweight = grads.of(self.params, layout.norm).map(|g| &mut g.data[..hidden]);
            let eps = self.config.rms_norm_eps;
            rmsnorm_backward(self.rt, dnormed, &s.gathered, weight, eps, dhidden, dweight, count, hidden);
            for (row, values) in rows.iter().zip(dhidden.chunks_exact(hidden)) {
                dx[row * hidden..(row + 1) * hidden].copy_from_slice(values);
            }
        }
        Ok(())
    }
}
