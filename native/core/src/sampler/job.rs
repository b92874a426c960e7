//! A request under way: what of it waits, and whose weights it is drawn from.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::request::{Events, Request, Sink, Vocabulary};
use super::sequence::Sequence;
use crate::adapter::Chosen;
use crate::error::{Error, Result};
use crate::model::Model;

/// A request under way.
pub(super) struct Job {
    pub request: Request,
    pub vocabulary: Option<Arc<Vocabulary>>,
    pub sink: Sink,
    /// The weights it is drawn from; known from its first step on.
    pub target: Option<Target>,
    /// Samples that were preempted, the first to continue first.
    pub preempted: VecDeque<Sequence>,
    /// Samples that have not begun.
    pub fresh: Range<u32>,
    pub unfinished: u32,
    /// One of its sequences is computing the prompt: the others wait for it.
    pub led: bool,
    pub events: Events,
}

/// Weights, as a step finds them.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub owner: u64,
    pub chosen: Chosen,
    pub weights: u64,
    pub version: u64,
}

impl Job {
    /// A request that nothing has been computed of.
    pub fn new(request: Request, vocabulary: Option<Arc<Vocabulary>>, sink: Sink) -> Self {
        let (fresh, unfinished) = (0..request.samples, request.samples);
        let (preempted, events) = (VecDeque::new(), Events::default());
        Self { request, vocabulary, sink, target: None, preempted, fresh, unfinished, led: false, events }
    }

    /// Looks up the weights; an error when their adapter is not there, or no longer.
    pub fn find(&mut self, model: &Model) -> Result<Target> {
        let chosen = match self.target {
            None => model.choose("sample", self.request.adapter.as_deref())?,
            Some(target) => model
                .owned(target.owner)
                .ok_or_else(|| Error::state("sample", "the adapter was removed while it was sampled from"))?,
        };
        let training = model.training(chosen);
        let (owner, weights, version) = (training.owner, training.weights, training.version);
        Ok(*self.target.insert(Target { owner, chosen, weights, version }))
    }

    /// Whether a sample is not running.
    pub fn waits(&self) -> bool {
        !self.preempted.is_empty() || !self.fresh.is_empty()
    }

    /// The next sample not begun.
    pub fn begin(&mut self, id: u64) -> Option<Sequence> {
        let sample = self.fresh.next()?;
        Some(Sequence { job: id, sample, tokens: self.request.prompt.clone(), ..Sequence::default() })
    }
}
