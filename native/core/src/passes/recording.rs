//! Activations that sampling computed anyway, kept for the update that follows.
//!
//! A row's activations are a function of the weights and of the tokens that lead to it, bit for bit, whatever computes
//! them. A batch sampled from the present weights therefore needs no forward of its own: its rows are found here by
//! their path of tokens.

use std::collections::HashMap;

use crate::config::ModelConfig;
use crate::forest::Forest;
use crate::kernels::{RowStats, Runtime, SharedMut};
use crate::network::{Activations, HeadPlan, Shape, Widths};
use crate::scratch::sized;

/// The parent of first tokens.
pub(crate) const ROOT: u32 = u32::MAX;

/// Rows by which memory grows.
const ROWS_AT_ONCE: usize = 64;

/// Rows of one adapter's (or the base's) present weights.
#[derive(Default)]
pub(crate) struct Recording {
    /// The owner of the weights.
    owner: u64,
    /// Which weights.
    weights: u64,
    /// Numbers per row in each layer, besides its input.
    shape: Vec<Widths>,
    /// Most rows.
    capacity: usize,
    /// The row of a token after the row of its parent.
    rows: HashMap<(u32, u32), u32>,
    /// Per layer `[row][hidden + activations]`, and the last residual stream `[row][hidden]`.
    layers: Vec<Vec<f32>>,
    /// The prediction at a row with some inverse temperature (as bits): of the whole vocabulary, and of the tokens drawn.
    stats: HashMap<(u32, u32), RowStats>,
    logprobs: HashMap<(u32, u32, u32), f32>,
}

/// The recordings of a model: one for each owner of weights, within one bound.
#[derive(Default)]
pub(crate) struct Recordings {
    list: Vec<Recording>,
}

/// Which rows of a step go into which rows of a recording.
pub(crate) type Plan = Vec<(usize, u32)>;

impl Recordings {
    /// The recording of `weights`, which belong to `owner` and have this shape; all together may take `bytes`.
    pub fn of(
        &mut self,
        config: &ModelConfig,
        (owner, weights): (u64, u64),
        shape: Shape,
        bytes: usize,
    ) -> &mut Recording {
        let index = self.list.iter().position(|recording| recording.owner == owner).unwrap_or_else(|| {
            self.list.push(Recording { owner, shape: shape.0, ..Recording::default() });
            self.list.len() - 1
        });
        let mut taken = 0;
        for (_, other) in self.list.iter_mut().enumerate().filter(|&(at, _)| at != index) {
            if other.rows.is_empty() {
                other.clear();
            }
            taken += other.bytes().max(other.rows.len() * other.row_bytes(config));
        }
        let recording = &mut self.list[index];
        if recording.weights != weights {
            recording.weights = weights;
            recording.rows.clear();
            recording.stats.clear();
            recording.logprobs.clear();
        }
        recording.capacity = bytes.saturating_sub(taken) / recording.row_bytes(config);
        recording
    }

    /// The recording of an owner, as [`Recordings::of`] left it.
    pub fn owned(&mut self, owner: u64) -> Option<&mut Recording> {
        self.list.iter_mut().find(|recording| recording.owner == owner)
    }

    /// Drops what belongs to an owner.
    pub fn remove(&mut self, owner: u64) {
        self.list.retain(|recording| recording.owner != owner);
    }

    /// Forgets all rows and frees their memory.
    pub fn clear(&mut self) {
        self.list.iter_mut().for_each(Recording::clear);
    }

    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        self.list.iter().map(Recording::bytes).sum()
    }

    /// Stores the input `x` of layer `index` and what it computed (buffers with these strides), for the rows planned.
    pub fn store(
        &mut self,
        config: &ModelConfig,
        index: usize,
        plans: &[(u64, Plan)],
        x: &[f32],
        a: &Activations,
        strides: &Widths,
    ) {
        for (owner, plan) in plans {
            if let Some(recording) = self.owned(*owner) {
                recording.store(config, index, plan, x, a, strides);
            }
        }
    }

    /// Stores the residual stream after the last layer.
    pub fn store_last(&mut self, config: &ModelConfig, plans: &[(u64, Plan)], x: &[f32]) {
        for (owner, plan) in plans {
            if let Some(recording) = self.owned(*owner) {
                recording.store_last(config, plan, x);
            }
        }
    }
}

impl Recording {
    /// Bytes of a row.
    fn row_bytes(&self, config: &ModelConfig) -> usize {
        let layers: usize = self.shape.iter().map(|widths| config.hidden_size + widths.iter().sum::<usize>()).sum();
        size_of::<f32>() * (layers + config.hidden_size)
    }

    /// Numbers that a row takes in a layer: its input, and what the layer computes on the way.
    fn width(&self, config: &ModelConfig, index: usize) -> usize {
        config.hidden_size + self.shape[index].iter().sum::<usize>()
    }

    /// Forgets all rows and frees their memory.
    pub fn clear(&mut self) {
        let (shape, rest) = (std::mem::take(&mut self.shape), Recording::default());
        *self = Recording { owner: self.owner, weights: self.weights, capacity: self.capacity, shape, ..rest };
    }

    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(|layer| layer.capacity() * size_of::<f32>()).sum()
    }

    fn find(&self, parent: u32, token: u32) -> Option<u32> {
        self.rows.get(&(parent, token)).copied()
    }

    fn store(&mut self, config: &ModelConfig, index: usize, plan: &Plan, x: &[f32], a: &Activations, strides: &Widths) {
        if plan.is_empty() {
            return;
        }
        let (hidden, width, of) = (config.hidden_size, self.width(config, index), self.shape[index]);
        let layer = self.layer(config, index, width);
        for &(from, to) in plan {
            let row = &mut layer[to as usize * width..][..width];
            row[..hidden].copy_from_slice(&x[from * hidden..][..hidden]);
            a.copy_row(&of, strides, from, &mut row[hidden..]);
        }
    }

    fn store_last(&mut self, config: &ModelConfig, plan: &Plan, x: &[f32]) {
        if plan.is_empty() {
            return;
        }
        let hidden = config.hidden_size;
        let layer = self.layer(config, config.num_hidden_layers, hidden);
        for &(from, to) in plan {
            layer[to as usize * hidden..][..hidden].copy_from_slice(&x[from * hidden..][..hidden]);
        }
    }

    /// The rows of a layer, room for as many as have been added.
    fn layer(&mut self, config: &ModelConfig, index: usize, width: usize) -> &mut [f32] {
        let len = self.rows.len().next_multiple_of(ROWS_AT_ONCE).min(self.capacity) * width;
        self.layers.resize_with(config.num_hidden_layers + 1, Vec::new);
        let layer = &mut self.layers[index];
        if layer.len() < len {
            // not twice as much as is needed: this is most of the memory there is
            layer.reserve_exact(len - layer.len());
            layer.resize(len, 0.0);
        }
        layer
    }

    /// The row of the last of `tokens`.
    pub fn walk(&self, tokens: &[u32]) -> Option<u32> {
        tokens.iter().try_fold(ROOT, |parent, &token| self.find(parent, token))
    }

    /// Finds or adds the rows of a run of a sequence's tokens, from row `from` of the step on; those that are new go into
    /// `plan`. Gives the last of them, none if the recording is full.
    pub fn extend(&mut self, parent: u32, tokens: &[u32], from: usize, plan: &mut Plan) -> Option<u32> {
        tokens.iter().enumerate().try_fold(parent, |parent, (step, &token)| {
            self.find(parent, token).or_else(|| {
                let row = u32::try_from(self.rows.len()).ok().filter(|&row| (row as usize) < self.capacity)?;
                self.rows.insert((parent, token), row);
                plan.push((from + step, row));
                Some(row)
            })
        })
    }

    /// The rows of a forest, if all of them are here.
    pub fn rows_of(&self, forest: &Forest) -> Option<Vec<u32>> {
        if self.rows.is_empty() {
            return None;
        }
        let mut rows: Vec<u32> = Vec::with_capacity(forest.len());
        for segment in forest.segments() {
            let mut parent = segment.parent.map_or(ROOT, |parent| {
                let parent = forest.segments()[parent];
                rows[parent.start + parent.len - 1]
            });
            for &token in &forest.tokens()[segment.start..segment.start + segment.len] {
                parent = self.find(parent, token)?;
                rows.push(parent);
            }
        }
        Some(rows)
    }

    /// Stores what was predicted at a row, and the token drawn from it.
    pub fn store_draw(&mut self, row: u32, inverse_temperature: f32, stats: RowStats, token: u32, logprob: f32) {
        let temperature = inverse_temperature.to_bits();
        self.stats.insert((row, temperature), stats);
        self.logprobs.insert((row, temperature, token), logprob);
    }

    /// The head's results for a batch whose rows are `rows`: log-probability and entropy per target, statistics per distinct
    /// position; none if some token was not drawn at this temperature.
    pub fn head(
        &self,
        rows: &[u32],
        plan: &HeadPlan,
        inverse_temperature: f32,
    ) -> Option<(Vec<f32>, Vec<f32>, Vec<RowStats>)> {
        let temperature = inverse_temperature.to_bits();
        let (mut logprobs, mut entropy) = (vec![0.0; plan.targets()], vec![0.0; plan.targets()]);
        let mut stats = Vec::with_capacity(plan.rows());
        for at in 0..plan.rows() {
            let row = rows[plan.row(at)];
            let found = self.stats.get(&(row, temperature))?;
            for &target in plan.of(at) {
                logprobs[target] = *self.logprobs.get(&(row, temperature, plan.token(target)))?;
                entropy[target] = found.entropy;
            }
            stats.push(*found);
        }
        Some((logprobs, entropy, stats))
    }

    /// Reads the rows of a layer: its input into `x`, the rest into `a`.
    pub fn load(
        &self,
        rt: &Runtime,
        config: &ModelConfig,
        index: usize,
        rows: &[u32],
        x: &mut Vec<f32>,
        a: &mut Activations,
    ) {
        let (hidden, width, of) = (config.hidden_size, self.width(config, index), &self.shape[index]);
        let x = SharedMut::new(sized(x, rows.len() * hidden));
        let to = a.shared(of, rows.len());
        rt.parallel_ranges(rows.len(), 16, |range| {
            for row in range {
                let from = &self.layers[index][rows[row] as usize * width..][..width];
                let (input, mut rest) = from.split_at(hidden);
                // SAFETY: each row is written by one task.
                unsafe { x.range(row * hidden..(row + 1) * hidden) }.copy_from_slice(input);
                for (to, width) in to.iter().zip(of) {
                    let (part, after) = rest.split_at(*width);
                    // SAFETY: as above.
                    unsafe { to.range(row * width..(row + 1) * width) }.copy_from_slice(part);
                    rest = after;
                }
            }
        });
    }

    /// Reads the rows of the last residual stream.
    pub fn load_last(&self, config: &ModelConfig, rows: &[u32], x: &mut Vec<f32>) {
        let (hidden, last) = (config.hidden_size, &self.layers[config.num_hidden_layers]);
        for (row, x) in rows.iter().zip(sized(x, rows.len() * hidden).chunks_exact_mut(hidden)) {
            x.copy_from_slice(&last[*row as usize * hidden..][..hidden]);
        }
    }
}
