//! The forward and the backward pass over a batch, and what is kept between them.

use std::sync::{MutexGuard, PoisonError};

use crate::attention::ForestAttention;
use crate::backward::BackwardScratch;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::forest::Forest;
use crate::forward::{Activations, Scratch, sized};
use crate::head::{HeadPlan, HeadScratch};
use crate::kernels::RowStats;
use crate::model::{AbortFlag, LogprobOptions, Model, Options, check_abort};
use crate::params::{Gradients, Layer};
use crate::recording::Recording;

/// A forward that waits for its backward.
pub(crate) struct Kept {
    pub id: u64,
    pub forest: Forest,
    pub plan: HeadPlan,
    pub stats: Vec<RowStats>,
    pub inverse_temperature: f32,
    /// Layers before this one are computed again.
    pub first_kept: usize,
    /// Sampling has recorded its rows: no layer was computed.
    pub recorded: bool,
}

/// Buffers that live as long as the model, so that a call allocates only when a batch is larger than all before.
#[derive(Default)]
pub(crate) struct Work {
    scratch: Scratch,
    head: HeadScratch,
    backward: BackwardScratch,
    keys: Vec<f32>,
    /// The residual stream before each layer and after the last, of the kept forward.
    streams: Vec<Vec<f32>>,
    /// Activations of the last layers of the kept forward; the first set also serves the recomputed layers.
    layers: Vec<Activations>,
}

impl Work {
    /// Bytes of the kept forward, and of everything else.
    pub fn bytes(&self) -> (usize, usize) {
        let size = |buffer: &Vec<f32>| buffer.capacity() * size_of::<f32>();
        let streams = self.streams.iter().map(size).sum::<usize>();
        let layers = self.layers.iter().map(Activations::bytes).sum::<usize>();
        (streams + layers, self.scratch.bytes() + self.head.bytes() + self.backward.bytes() + size(&self.keys))
    }
}

/// The first layer whose activations fit into the budget.
pub(crate) fn first_kept(config: &ModelConfig, options: &Options, layer: &Layer, rows: usize) -> usize {
    let layers = config.num_hidden_layers;
    let stream = rows * config.hidden_size * size_of::<f32>();
    let layer = rows * Activations::width(config, layer) * size_of::<f32>();
    let budget = options.activation_bytes.saturating_sub(stream * (layers + 1));
    layers - (budget / layer.max(1)).clamp(1, layers)
}

impl Model {
    /// What sampling has kept of the present weights.
    pub(crate) fn recording(&self) -> MutexGuard<'_, Recording> {
        let mut recording = self.recording.lock().unwrap_or_else(|poisoned| {
            self.recording.clear_poison();
            let mut recording = PoisonError::into_inner(poisoned);
            recording.clear();
            recording
        });
        let capacity = Recording::capacity(&self.config, &self.widths(), self.options.activation_bytes);
        recording.begin(self.version, capacity);
        recording
    }

    /// Widths of a layer's activations; the same for all layers.
    fn widths(&self) -> [usize; 10] {
        Activations::widths(&self.config, &self.params.layout.layers[0])
    }

    /// Log-probabilities, entropies (if wanted) and statistics of the plan's targets.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn evaluate(
        &self,
        forest: &Forest,
        plan: &HeadPlan,
        options: LogprobOptions,
        recorded: Option<&[u32]>,
        first_kept: usize,
        work: &mut Work,
        abort: &AbortFlag,
    ) -> Result<(Vec<f32>, Vec<f32>, Vec<RowStats>)> {
        let (layers, inverse_temperature) = (self.config.num_hidden_layers, 1.0 / options.temperature);
        if let Some(rows) = recorded {
            let recording = self.recording();
            work.streams.resize_with(layers + 1, Vec::new);
            recording.load_last(&self.config, rows, &mut work.streams[layers]);
            if let Some((logprobs, mut entropy, stats)) = recording.head(rows, plan, inverse_temperature) {
                entropy.truncate(if options.entropy { plan.targets() } else { 0 });
                return Ok((logprobs, entropy, stats));
            }
        } else {
            self.run_forward(forest, options, first_kept, work, abort)?;
        }
        let mut logprobs = vec![0.0; plan.targets()];
        let mut entropy = vec![0.0; if options.entropy { plan.targets() } else { 0 }];
        let Work { streams, scratch, head, .. } = work;
        let x = if options.keep { &streams[layers] } else { &scratch.x[0] };
        let out = (&mut logprobs[..], &mut entropy[..]);
        let stats = self.net(options.adapter)?.head(x, plan, inverse_temperature, head, abort, out)?;
        Ok((logprobs, entropy, stats))
    }

    /// The rows of `forest` that sampling has recorded, if it has all of them. Memory of the other kind, for forwards that
    /// are computed or for those that are not, is given back where both together would exceed what one may take.
    pub(crate) fn recorded(&self, forest: &Forest, first_kept: usize, work: &mut Work) -> Option<Vec<u32>> {
        let mut recording = self.recording();
        let rows = recording.rows_of(self.version, forest);
        let layers = self.config.num_hidden_layers;
        let row = layers * self.config.hidden_size + (layers - first_kept) * self.widths().iter().sum::<usize>();
        let computed = if rows.is_some() { work.bytes().0 } else { forest.len() * row * size_of::<f32>() };
        if recording.bytes() + computed > self.options.activation_bytes {
            if rows.is_some() {
                (work.streams, work.layers) = (Vec::new(), Vec::new());
            } else {
                recording.clear();
            }
        }
        rows
    }

    /// All layers. The last residual stream is `work.streams[layers]` if kept, `work.scratch.x[0]` if not.
    fn run_forward(
        &self,
        forest: &Forest,
        options: LogprobOptions,
        first_kept: usize,
        work: &mut Work,
        abort: &AbortFlag,
    ) -> Result<()> {
        let net = self.net(options.adapter)?;
        let (rows, hidden, layers) = (forest.len(), self.config.hidden_size, self.config.num_hidden_layers);
        let Work { scratch, keys, streams, layers: sets, .. } = work;
        let mut attention = ForestAttention::new(&self.config, forest, keys);
        if options.keep {
            streams.resize_with(layers + 1, Vec::new);
            sets.resize_with((layers - first_kept).max(sets.len()), Activations::default);
            net.embed(forest.tokens(), sized(&mut streams[0], rows * hidden));
        } else {
            net.embed(forest.tokens(), sized(&mut scratch.x[0], rows * hidden));
        }
        for index in 0..layers {
            check_abort(abort, "logprobs")?;
            if options.keep {
                let (before, after) = streams.split_at_mut(index + 1);
                let (x, next) = (&before[index], sized(&mut after[0], rows * hidden));
                let a = &mut sets[index.saturating_sub(first_kept)];
                net.attention(index, x, forest.positions(), &mut attention, a, &mut scratch.normed)?;
                net.gate_up(index, rows, a, &mut scratch.normed);
                net.down(index, rows, a, &mut scratch.act, next);
            } else {
                let Scratch { x: [x, next], normed, act, layer } = &mut *scratch;
                net.attention(index, x, forest.positions(), &mut attention, layer, normed)?;
                net.gate_up(index, rows, layer, normed);
                net.down(index, rows, layer, act, sized(next, rows * hidden));
                std::mem::swap(x, next);
            }
        }
        Ok(())
    }

    pub(crate) fn run_backward(
        &self,
        kept: &Kept,
        dlogprob: &[f32],
        dentropy: Option<&[f32]>,
        work: &mut Work,
        gradients: &mut Gradients,
        abort: &AbortFlag,
    ) -> Result<()> {
        let net = self.net(true)?;
        let forest = &kept.forest;
        let (rows, layers) = (forest.len(), self.config.num_hidden_layers);
        let mut recording = None;
        if kept.recorded {
            let found = self.recording();
            match found.rows_of(self.version, forest) {
                Some(rows) => recording = Some((found, rows, self.widths())),
                // A step of the sampler that failed in the meantime has taken the recording with it.
                None => {
                    drop(found);
                    let options = LogprobOptions { keep: true, ..LogprobOptions::default() };
                    self.run_forward(forest, options, kept.first_kept, work, abort)?;
                }
            }
        }
        let Work { scratch, head, backward, keys, streams, layers: sets } = work;
        let dx = sized(&mut backward.dx, rows * self.config.hidden_size);
        dx.fill(0.0);
        let plan = (&kept.plan, &kept.stats[..]);
        let scale = kept.inverse_temperature;
        net.head_backward(&streams[layers], plan, scale, (dlogprob, dentropy), head, gradients, dx, abort)?;
        let mut attention = ForestAttention::new(&self.config, forest, keys);
        let Scratch { normed, act, .. } = scratch;
        if recording.is_some() {
            sets.resize_with(sets.len().max(1), Activations::default);
        }
        for index in (0..layers).rev() {
            check_abort(abort, "backward")?;
            let (set, stream) = match &recording {
                Some((recording, rows, widths)) => {
                    recording.load(&self.rt, &self.config, index, rows, &mut streams[0], &mut sets[0], widths);
                    (0, 0)
                }
                None => (index.saturating_sub(kept.first_kept), index),
            };
            let (x, a) = (&streams[stream], &mut sets[set]);
            if recording.is_none() && index < kept.first_kept {
                net.attention(index, x, forest.positions(), &mut attention, a, normed)?;
                net.gate_up(index, rows, a, normed);
                net.low_of_down(index, rows, a, act);
            }
            let buffers = (&mut *normed, &mut *act);
            net.layer_backward(index, x, forest.positions(), a, &mut attention, buffers, backward, gradients);
        }
        net.embed_backward(forest.tokens(), &backward.dx, gradients);
        Ok(())
    }
}
