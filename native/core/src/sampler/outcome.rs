//! The outcome of a step: pages that can be shared, tokens drawn, samples that end.

use std::collections::BTreeMap;

use super::batch::{Batch, Buffers};
use super::draw::Draw;
use super::job::Job;
use super::kv_cache::PAGE;
use super::request::Reason;
use super::sequence::{Recorded, room_for};
use crate::model::Model;

impl Batch {
    /// Notes what was stored, publishes full pages, and lists the tokens to draw.
    pub(super) fn advance(&mut self, width: usize) {
        let Buffers { work, hidden, selected, draws, .. } = &mut self.buffers;
        selected.clear();
        draws.clear();
        let mut room = None;
        for work in work.iter() {
            let sequence = &mut self.running[work.sequence];
            sequence.advance(work.rows, &mut self.cache);
            if sequence.stored < sequence.tokens.len() {
                continue;
            }
            let row = selected.len() / width;
            let last = work.row + work.rows - 1;
            selected.extend_from_slice(&hidden[last * width..(last + 1) * width]);
            let (id, leads) = (sequence.job, std::mem::take(&mut sequence.leads));
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            draws.push(Draw::new(work.sequence, row, sequence, &job.request));
            if !leads {
                continue;
            }
            job.led = false;
            let partial = !sequence.stored.is_multiple_of(PAGE);
            let need = 1 + isize::from(partial);
            let room = room.get_or_insert_with(|| room_for(&self.cache, &self.running));
            while self.running.len() < self.options.max_sequences
                && *room >= need
                && job.preempted.is_empty()
                && let Some(sibling) = job.begin(id)
            {
                *room -= need;
                let own = if partial { self.cache.allocate() } else { None };
                let forked = self.running[work.sequence].fork(sibling, own, &mut self.cache);
                draws.push(Draw::new(self.running.len(), row, &forked, &job.request));
                self.running.push(forked);
            }
        }
    }

    /// Draws the listed tokens.
    pub(super) fn draw(&mut self, model: &Model) {
        let mut draws = std::mem::take(&mut self.buffers.draws);
        let mut drawer = std::mem::take(&mut self.buffers.drawer);
        let selected = std::mem::take(&mut self.buffers.selected);
        let mut failed = BTreeMap::new();
        let mut recordings = self.trains().then(|| model.recordings());
        drawer.draw(model, &selected, &draws, |draw, outcome| match outcome {
            Ok((token, logprob, stats)) => {
                let sequence = &self.running[draw.sequence];
                let owner = model.training(sequence.chosen).owner;
                if let Recorded::Row(row) = sequence.recorded
                    && let Some(recording) = recordings.as_mut().and_then(|recordings| recordings.owned(owner))
                {
                    recording.store_draw(row, draw.choice.inverse_temperature(), stats, token, logprob);
                }
                self.accept(draw.sequence, token, logprob, model.config.max_position_embeddings);
            }
            Err(error) => drop(failed.insert(self.running[draw.sequence].job, error)),
        });
        draws.clear();
        (self.buffers.draws, self.buffers.drawer, self.buffers.selected) = (draws, drawer, selected);
        for (id, error) in failed {
            self.close(id, Some(error));
        }
    }

    /// Appends a token to a sequence and ends it where a stop condition says so.
    pub(super) fn accept(&mut self, index: usize, token: u32, logprob: f32, context: usize) {
        let sequence = &mut self.running[index];
        let Some(job) = self.jobs.get_mut(&sequence.job) else { return };
        let Job { request, vocabulary, events, .. } = job;
        sequence.tokens.push(token);
        events.samples.push(sequence.sample);
        events.tokens.push(token);
        events.logprobs.push(logprob);
        let stops = request.stop_tokens.contains(&token)
            || vocabulary
                .as_ref()
                .is_some_and(|vocabulary| sequence.tail.completes(vocabulary.bytes(token), &request.stop_strings));
        let reason = if stops {
            Reason::Stop
        } else if sequence.tokens.len() - request.prompt.len() >= request.max_tokens as usize {
            Reason::Length
        } else if sequence.tokens.len() >= context {
            Reason::Context
        } else {
            return;
        };
        events.finished.push((sequence.sample, reason));
        job.unfinished -= 1;
        sequence.finished = true;
        self.cache.release_all(&mut sequence.block_table);
    }
}
