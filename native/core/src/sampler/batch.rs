//! Continuous batching: which rows each step computes, and what becomes of them.
//!
//! Every sequence is tokens of which the first `stored` have keys and values in pages. A step computes the missing ones:
//! one for a sequence that is decoding, a bounded chunk for one that is prefilling (a new prompt, or a sequence that was
//! preempted). A sequence that misses none after the step draws a token. Priority is age: when pages run out, the youngest
//! sequence is preempted and computed again later, with the same result. The oldest can always continue, because a request
//! that could not run alone is refused.
//!
//! A step may mix adapters: its rows are put in their order, so that each adapter's products take one run of rows.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use super::draw::{Draw, Drawer};
use super::job::Job;
use super::kv_cache::{ChainId, KvCache, PAGE, PageCounts, PageId, PageLayout};
use super::paged_attention::{PagedAttention, Place, Work};
use super::request::{Reason, Request, Sink, Vocabulary};
use super::sequence::{Sequence, pages_for, room_for};
use crate::adapter::{Adapted, Run};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::network::Scratch;
use crate::passes::{Plan, Recordings, forward_rows};

/// Bounds of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Size of the key-value cache.
    pub cache_bytes: usize,
    /// Sequences that decode at once.
    pub max_sequences: usize,
    /// Prompt tokens computed in one step, so that a long prompt does not stall decoding.
    pub prefill_rows: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: 512 << 20, max_sequences: 256, prefill_rows: 256 }
    }
}

/// The layout of a model's pages.
pub(super) fn page_layout(config: &ModelConfig) -> PageLayout {
    PageLayout { layers: config.num_hidden_layers, kv_heads: config.kv_heads(), head_dim: config.head_dim() }
}

/// Memory kept from step to step.
#[derive(Default)]
pub(super) struct Buffers {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    pub(super) work: Vec<Work>,
    table: Vec<PageId>,
    places: Vec<Place>,
    forward: Scratch,
    pub(super) hidden: Vec<f32>,
    pub(super) selected: Vec<f32>,
    pub(super) draws: Vec<Draw>,
    pub(super) drawer: Drawer,
    planned: HashSet<(ChainId, [u32; PAGE])>,
    /// The rows to record, by the owner of the weights.
    pub(super) record: Vec<(u64, Plan)>,
    entries: Vec<(usize, usize)>,
}

/// The state of the engine between steps.
pub(super) struct Batch {
    pub(super) options: Options,
    pub(super) cache: KvCache,
    pub(super) jobs: BTreeMap<u64, Job>,
    /// Jobs with pending samples, the first to be served first.
    queue: VecDeque<u64>,
    /// By age.
    pub(super) running: Vec<Sequence>,
    /// Changes of the model that have been seen.
    seen: u64,
    /// A job has come since.
    news: bool,
    pub(super) buffers: Buffers,
}

impl Batch {
    pub fn new(config: &ModelConfig, options: Options) -> Result<Self> {
        Ok(Self {
            options,
            cache: KvCache::new(page_layout(config), options.cache_bytes)?,
            jobs: BTreeMap::new(),
            queue: VecDeque::new(),
            running: Vec::new(),
            seen: 0,
            news: false,
            buffers: Buffers::default(),
        })
    }

    pub fn counts(&self) -> PageCounts {
        self.cache.counts()
    }

    /// Nothing to do.
    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }

    pub fn add(&mut self, id: u64, request: Request, vocabulary: Option<Arc<Vocabulary>>, sink: Sink) {
        let job = Job::new(request, vocabulary, sink);
        self.news = true;
        self.jobs.insert(id, job);
        self.queue.push_back(id);
    }

    /// Ends what is left of a request.
    pub fn cancel(&mut self, id: u64) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let running = self.running.iter().filter(|sequence| sequence.job == id).map(|sequence| sequence.sample);
        let preempted = job.preempted.iter().map(|sequence| sequence.sample);
        let rest = preempted.chain(job.fresh.clone()).chain(running);
        job.events.finished.extend(rest.map(|sample| (sample, Reason::Abort)));
        self.close(id, None);
    }

    /// Starts again after a panic: no page is trusted.
    pub fn reset(&mut self, config: &ModelConfig, error: &Error) {
        self.fail_all(error);
        self.running.clear();
        if let Ok(cache) = KvCache::new(page_layout(config), self.options.cache_bytes) {
            self.cache = cache;
        }
    }

    /// Ends every request with `error`.
    pub fn fail_all(&mut self, error: &Error) {
        while let Some((&id, _)) = self.jobs.first_key_value() {
            self.close(id, Some(error.clone()));
        }
    }

    /// Removes a job, frees its pages and sends its last events.
    pub(super) fn close(&mut self, id: u64, error: Option<Error>) {
        let Some(mut job) = self.jobs.remove(&id) else { return };
        self.queue.retain(|&queued| queued != id);
        for sequence in self.running.iter_mut().filter(|sequence| sequence.job == id) {
            self.cache.release_all(&mut sequence.block_table);
            sequence.finished = true;
        }
        self.running.retain(|sequence| sequence.job != id);
        job.events.version = job.target.map_or(0, |target| target.version);
        job.events.done = true;
        job.events.error = error;
        (job.sink)(job.events);
    }

    /// Computes one step for everybody. Events wait for [`deliver`](Self::deliver).
    pub fn step(&mut self, model: &Model) -> Result<()> {
        self.look(model);
        self.admit();
        self.plan();
        let result = model.rt.run(|| self.compute(model));
        self.running.retain(|sequence| !sequence.finished);
        result
    }

    /// Takes note of new weights and of new requests.
    fn look(&mut self, model: &Model) {
        if !self.news && self.seen == model.stamps {
            return;
        }
        if self.seen != model.stamps {
            self.cache.forget_all_but(&model.present_weights());
        }
        (self.seen, self.news) = (model.stamps, false);
        let mut failed = Vec::new();
        for (&id, job) in &mut self.jobs {
            if let Err(error) = job.find(model) {
                failed.push((id, error));
            }
        }
        for (id, error) in failed {
            self.close(id, Some(error));
        }
        for sequence in &mut self.running {
            if let Some(target) = self.jobs.get(&sequence.job).and_then(|job| job.target) {
                (sequence.chosen, sequence.weights) = (target.chosen, target.weights);
            }
        }
    }

    /// Sends what the last step gave.
    pub fn deliver(&mut self) {
        for job in self.jobs.values_mut().filter(|job| job.unfinished == 0 || !job.events.tokens.is_empty()) {
            let mut events = std::mem::take(&mut job.events);
            events.version = job.target.map_or(0, |target| target.version);
            events.done = job.unfinished == 0;
            (job.sink)(events);
        }
        self.jobs.retain(|_, job| job.unfinished > 0);
    }

    /// Admits waiting sequences while there is room, in the order of their requests: none starves.
    fn admit(&mut self) {
        let (mut room, mut at) = (room_for(&self.cache, &self.running), 0);
        while self.running.len() < self.options.max_sequences
            && let Some(id) = self.queue.get(at)
        {
            let Some(job) = self.jobs.get_mut(id).filter(|job| job.waits()) else {
                self.queue.remove(at);
                continue;
            };
            if job.led {
                at += 1;
                continue;
            }
            let prompt = job.request.prompt.len();
            let length = job.preempted.front().map_or(prompt, |next| next.tokens.len());
            let need = pages_for(length + 1) as isize;
            if need > room && !self.running.is_empty() {
                break;
            }
            room -= need;
            if let Some(mut sequence) = job.preempted.pop_front().or_else(|| job.begin(*id)) {
                if let Some(target) = job.target {
                    sequence.begin(target.chosen, target.weights);
                }
                sequence.leads = length == prompt;
                job.led = sequence.leads;
                self.running.push(sequence);
            }
        }
    }

    /// Decides the rows of the step and finds their pages.
    fn plan(&mut self) {
        let Buffers { tokens, positions, work, table, planned, entries, .. } = &mut self.buffers;
        tokens.clear();
        positions.clear();
        work.clear();
        table.clear();
        planned.clear();
        entries.clear();
        let (mut budget, mut index) = (self.options.prefill_rows, 0);
        while index < self.running.len() {
            self.running[index].reuse(&mut self.cache);
            let missing = self.running[index].tokens.len() - self.running[index].stored;
            let wanted = if missing == 1 { 1 } else { missing.min(budget) };
            if wanted > 0 && !self.has_twin(index, missing) {
                let rows = self.reserve(index, wanted);
                if rows == 0 {
                    self.preempt();
                    break;
                }
                budget -= if missing == 1 { 0 } else { rows };
                self.buffers.entries.push((index, rows));
            }
            index += 1;
        }
        let mut entries = std::mem::take(&mut self.buffers.entries);
        entries.sort_by_key(|&(index, _)| self.running[index].chosen);
        entries.iter().for_each(|&(index, rows)| self.enter(index, rows));
        self.buffers.entries = entries;
    }

    /// Whether an older sequence computes the same page in this very step: then it is found in the next one.
    fn has_twin(&mut self, index: usize, missing: usize) -> bool {
        let sequence = &self.running[index];
        let page = sequence.next_page().filter(|_| missing > PAGE);
        page.is_some_and(|tokens| !self.buffers.planned.insert((sequence.chain, tokens)))
    }

    /// Allocates pages for up to `wanted` more positions, and preempts younger sequences for them; gives how many fit.
    fn reserve(&mut self, index: usize, wanted: usize) -> usize {
        let target = pages_for(self.running[index].stored + wanted);
        while self.running[index].block_table.len() < target {
            match self.cache.allocate() {
                Some(page) => self.running[index].block_table.push(page),
                None if index + 1 < self.running.len() => self.preempt(),
                None => break,
            }
        }
        let sequence = &self.running[index];
        wanted.min(sequence.block_table.len() * PAGE - sequence.stored)
    }

    /// Preempts the youngest sequence; its pages are computed again when there is room.
    fn preempt(&mut self) {
        let Some(mut sequence) = self.running.pop() else { return };
        sequence.release_pages(&mut self.cache);
        let id = sequence.job;
        if let Some(job) = self.jobs.get_mut(&id) {
            job.led &= !sequence.leads;
            job.preempted.push_front(sequence);
        }
        if !self.queue.contains(&id) {
            self.queue.push_front(id);
        }
    }

    /// Puts the next `rows` positions of a sequence into the step.
    fn enter(&mut self, index: usize, rows: usize) {
        let Buffers { tokens, positions, work, table, .. } = &mut self.buffers;
        let sequence = &self.running[index];
        let range = sequence.stored..sequence.stored + rows;
        let (row, position, table_start) = (tokens.len(), range.start, table.len());
        work.push(Work { sequence: index, chosen: sequence.chosen, row, rows, position, table: table_start });
        tokens.extend_from_slice(&sequence.tokens[range.clone()]);
        positions.extend(range.map(|position| position as u32));
        table.extend_from_slice(&sequence.block_table);
    }

    fn compute(&mut self, model: &Model) -> Result<()> {
        if self.buffers.work.is_empty() {
            return Ok(());
        }
        let mut recordings = self.record(model);
        let Buffers { tokens, positions, work, table, places, forward, hidden, record, .. } = &mut self.buffers;
        let run = |run: &[Work]| {
            let (first, last) = (run[0], run[run.len() - 1]);
            Run { rows: first.row..last.row + last.rows, adapter: model.adapter(first.chosen) }
        };
        let runs: Vec<Run> = work.chunk_by(|a, b| a.chosen == b.chosen).map(run).collect();
        let group = model.config.group();
        let mut cache = PagedAttention { cache: &mut self.cache, work, tables: table, group, tasks: places };
        let record = recordings.as_deref_mut().map(|recordings| (recordings, &record[..]));
        let net = model.net_of(&model.params, Adapted::Runs(&runs));
        if let Err(error) = forward_rows(&net, tokens, positions, &mut cache, forward, record, hidden) {
            recordings.as_deref_mut().map(Recordings::clear);
            return Err(error);
        }
        drop(recordings);
        self.advance(model.config.hidden_size);
        self.draw(model);
        Ok(())
    }
}
