//! From hidden rows to tokens: logits a bounded number of rows at a time, their statistics, the draws.

use std::cell::RefCell;

use super::choose::{self, Choice, choose};
use super::request::Request;
use super::sequence::Sequence;
use crate::adapter::Chosen;
use crate::error::{Error, Result};
use crate::kernels::{RowStats, SharedMut, row_stats};
use crate::model::Model;
use crate::philox::{philox, uniform_f64};

/// A token to draw for a running sequence, from a row of the step's logits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Draw {
    pub sequence: usize,
    row: usize,
    pub choice: Choice,
    uniform: f64,
}

impl Draw {
    /// The next token of the running sequence number `index`.
    pub fn new(index: usize, row: usize, sequence: &Sequence, request: &Request) -> Self {
        let (sample, position) = (request.first_index + sequence.sample, sequence.tokens.len() as u32);
        let words = philox(request.seed, request.stream, sample, position);
        Self { sequence: index, row, choice: request.choice, uniform: uniform_f64(words[0], words[1]) }
    }
}

/// Logits held at once, in numbers: 16 MB.
const LOGITS: usize = 4 << 20;

/// Logits below which choosing tokens is not worth a second thread.
const PARALLEL_LOGITS: usize = 1 << 15;

thread_local! {
    static CHOOSING: RefCell<choose::Scratch> = RefCell::default();
}

/// Draws tokens; keeps its memory from step to step.
#[derive(Default)]
pub(super) struct Drawer {
    logits: Vec<f32>,
    stats: Vec<RowStats>,
    tokens: Vec<u32>,
}

impl Drawer {
    /// Carries out `draws` (in ascending order of their rows) on the rows of `hidden`, and tells `each` the token, its
    /// log-probability and the statistics of its row.
    pub fn draw(
        &mut self,
        model: &Model,
        hidden: &[f32],
        draws: &[Draw],
        mut each: impl FnMut(&Draw, Result<(u32, f32, RowStats)>),
    ) {
        let (width, vocab) = (model.config.hidden_size, model.config.vocab_size);
        let rows = hidden.len() / width;
        let chunk = (LOGITS / vocab).clamp(16, 1024);
        let mut rest = draws;
        for first in (0..rows).step_by(chunk) {
            let last = rows.min(first + chunk);
            let (now, later) = rest.split_at(rest.partition_point(|draw| draw.row < last));
            rest = later;
            self.choose(model, &hidden[first * width..last * width], first, now);
            for (draw, &token) in now.iter().zip(&self.tokens) {
                let row = draw.row - first;
                let lse = self.stats[row].lse;
                // The very expression of `Model::logprobs`: the bits have to agree.
                let logprob = self.logits[row * vocab + token as usize] * draw.choice.inverse_temperature() - lse;
                each(draw, if lse.is_finite() { Ok((token, logprob, self.stats[row])) } else { Err(diverged(lse)) });
            }
        }
    }

    /// Logits and statistics of the rows from `first` on, and the token of each draw from them.
    fn choose(&mut self, model: &Model, hidden: &[f32], first: usize, draws: &[Draw]) {
        let (rows, vocab) = (hidden.len() / model.config.hidden_size, model.config.vocab_size);
        if self.logits.len() < rows * vocab {
            self.logits.resize(rows * vocab, 0.0);
        }
        let logits = &mut self.logits[..rows * vocab];
        // The head is the base's: no adapter changes it.
        model.net(Chosen::Base).logits(hidden, rows, logits);
        self.stats.resize(rows, RowStats::default());
        self.tokens.resize(draws.len(), 0);
        let (logits, stats, tokens) = (&*logits, SharedMut::new(&mut self.stats), SharedMut::new(&mut self.tokens));
        let task = |index: usize| {
            let row = &logits[index * vocab..(index + 1) * vocab];
            let start = draws.partition_point(|draw| draw.row < first + index);
            let end = draws.partition_point(|draw| draw.row <= first + index);
            let draws = &draws[start..end];
            // SAFETY: each task has a row of its own, and the draws from it.
            let (stats, tokens) = unsafe { (stats.range(index..index + 1), tokens.range(start..end)) };
            stats[0] = row_stats(model.rt.isa, row, draws[0].choice.inverse_temperature());
            if stats[0].lse.is_finite() {
                CHOOSING.with_borrow_mut(|scratch| {
                    for (draw, token) in draws.iter().zip(tokens) {
                        *token = choose(row, stats[0].lse, &draw.choice, draw.uniform, scratch);
                    }
                });
            }
        };
        if rows * vocab < PARALLEL_LOGITS {
            (0..rows).for_each(task);
        } else {
            model.rt.parallel(rows, task);
        }
    }
}

fn diverged(lse: f32) -> Error {
    let message = format!("the logits are not finite (log-sum-exp {lse}): the weights have diverged");
    Error::NonFinite { op: "sample", message }
}
