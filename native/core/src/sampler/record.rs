//! Which rows of a step an update will read.

use std::sync::MutexGuard;

use super::batch::{Batch, Buffers};
use super::sequence::Recorded;
use crate::model::Model;
use crate::passes::{Plan, ROOT, Recordings};

impl Batch {
    /// Whether an update will read some of the samples.
    pub(super) fn trains(&self) -> bool {
        self.jobs.values().any(|job| job.request.for_training)
    }

    /// Finds room for the rows of this step that an update will read.
    pub(super) fn record<'a>(&mut self, model: &'a Model) -> Option<MutexGuard<'a, Recordings>> {
        self.buffers.record.clear();
        if !self.trains() {
            return None;
        }
        let mut recordings = model.recordings();
        let Buffers { work, record, .. } = &mut self.buffers;
        for run in work.chunk_by(|a, b| a.chosen == b.chosen) {
            let chosen = run[0].chosen;
            let mut recording = model.records(chosen).then(|| model.recording(&mut recordings, chosen));
            let mut plan = Plan::new();
            for work in run {
                let sequence = &mut self.running[work.sequence];
                let wanted = self.jobs.get(&sequence.job).is_some_and(|job| job.request.for_training);
                // Rows over keys and values of other weights are activations of no weights.
                let recording = recording.as_deref_mut().filter(|_| wanted && sequence.begun == sequence.weights);
                sequence.recorded = match recording {
                    None => Recorded::Not,
                    Some(recording) => {
                        let parent = match sequence.recorded {
                            _ if work.position == 0 => Some(ROOT),
                            Recorded::Row(row) => Some(row),
                            Recorded::Unknown => recording.walk(&sequence.tokens[..work.position]),
                            Recorded::Not => None,
                        };
                        let tokens = &sequence.tokens[work.position..work.position + work.rows];
                        let last = parent.and_then(|parent| recording.extend(parent, tokens, work.row, &mut plan));
                        last.map_or(Recorded::Not, Recorded::Row)
                    }
                };
            }
            if !plan.is_empty() {
                record.push((model.training(chosen).owner, plan));
            }
        }
        Some(recordings)
    }
}
