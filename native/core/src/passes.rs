//! The forward and the backward pass over a batch, and what is kept between them.

use std::sync::{MutexGuard, PoisonError};

use crate::activations::{Activations, Shape};
use crate::adapter::{Adapted, Chosen, Dropout};
use crate::attention::ForestAttention;
use crate::backward::{BackwardScratch, Sink};
use crate::error::Result;
use crate::forest::Forest;
use crate::forward::{Net, Scratch, sized};
use crate::head::{HeadPlan, HeadScratch};
use crate::kernels::RowStats;
use crate::model::{AbortFlag, Model, check_abort};
use crate::params::Gradients;
use crate::recording::{Recording, Recordings};

/// A forward that waits for its backward.
pub(crate) struct Kept {
    pub id: u64,
    /// Whose weights it went through.
    pub owner: u64,
    pub forest: Forest,
    pub plan: HeadPlan,
    pub stats: Vec<RowStats>,
    pub inverse_temperature: f32,
    pub pass: Pass,
}

/// How the layers of a kept forward are computed.
#[derive(Clone, Copy)]
pub(crate) struct Pass {
    pub chosen: Chosen,
    /// Layers before this one are computed again in backward.
    pub first_kept: usize,
    pub dropout: Option<Dropout>,
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
    /// The kept forward that `streams` and `layers` belong to; another's backward computes its own again.
    pub holds: u64,
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

/// The first layer whose activations fit into the budget, beside the inputs of all.
pub(crate) fn first_kept(hidden: usize, shape: &Shape, rows: usize, activation_bytes: usize) -> usize {
    let streams = rows * hidden * size_of::<f32>() * (shape.0.len() + 1);
    shape.first_kept(rows, activation_bytes.saturating_sub(streams))
}

/// What is asked of the head of a forward.
pub(crate) struct Wanted<'a> {
    pub plan: &'a HeadPlan,
    pub inverse_temperature: f32,
    pub entropy: bool,
}

impl Model {
    /// What sampling has kept.
    pub(crate) fn recordings(&self) -> MutexGuard<'_, Recordings> {
        self.recordings.lock().unwrap_or_else(|poisoned| {
            self.recordings.clear_poison();
            let mut recordings = PoisonError::into_inner(poisoned);
            recordings.clear();
            recordings
        })
    }

    /// What sampling has kept of the present weights of whom is chosen.
    pub(crate) fn recording<'a>(&self, recordings: &'a mut Recordings, chosen: Chosen) -> &'a mut Recording {
        let training = self.training(chosen);
        let key = (training.owner, training.weights);
        recordings.of(&self.config, key, self.shape(chosen), self.options.activation_bytes)
    }

    /// Widths of the activations of all layers.
    pub(crate) fn shape(&self, chosen: Chosen) -> Shape {
        Shape::new(&self.config, self.adapter(chosen))
    }

    /// The network that a kept forward went through.
    fn net_of_pass(&self, pass: &Pass) -> Net<'_> {
        let net = self.net_of(&self.params, Adapted::All(self.adapter(pass.chosen)));
        Net { dropout: pass.dropout, ..net }
    }

    /// Log-probabilities, entropies (if wanted) and statistics of a forward that is not kept.
    pub(crate) fn evaluate(
        &self,
        net: &Net,
        forest: &Forest,
        wanted: &Wanted,
        work: &mut Work,
        abort: &AbortFlag,
    ) -> Result<(Vec<f32>, Vec<f32>, Vec<RowStats>)> {
        let (rows, hidden) = (forest.len(), self.config.hidden_size);
        let Work { scratch, keys, head, .. } = work;
        let mut attention = ForestAttention::new(&self.config, forest, keys);
        net.embed(forest.tokens(), sized(&mut scratch.x[0], rows * hidden));
        for index in 0..self.config.num_hidden_layers {
            check_abort(abort, "logprobs")?;
            let Scratch { x: [x, next], normed, act, layer } = &mut *scratch;
            net.attention(index, x, forest.positions(), &mut attention, layer, normed)?;
            net.gate_up(index, rows, layer, normed);
            net.down(index, rows, layer, act, sized(next, rows * hidden));
            std::mem::swap(x, next);
        }
        run_head(net, &scratch.x[0], wanted, head, abort)
    }

    /// The same of a forward that is kept, from what sampling has recorded of its rows if it has all.
    pub(crate) fn evaluate_kept(
        &self,
        forest: &Forest,
        wanted: &Wanted,
        pass: &Pass,
        recorded: Option<&[u32]>,
        work: &mut Work,
        abort: &AbortFlag,
    ) -> Result<(Vec<f32>, Vec<f32>, Vec<RowStats>)> {
        let layers = self.config.num_hidden_layers;
        if let Some(rows) = recorded {
            let mut recordings = self.recordings();
            let recording = self.recording(&mut recordings, pass.chosen);
            work.streams.resize_with(layers + 1, Vec::new);
            recording.load_last(&self.config, rows, &mut work.streams[layers]);
            if let Some((logprobs, mut entropy, stats)) = recording.head(rows, wanted.plan, wanted.inverse_temperature)
            {
                entropy.truncate(if wanted.entropy { wanted.plan.targets() } else { 0 });
                return Ok((logprobs, entropy, stats));
            }
        } else {
            self.keep_forward(forest, pass, work, abort)?;
        }
        let Work { streams, head, .. } = work;
        run_head(&self.net_of_pass(pass), &streams[layers], wanted, head, abort)
    }

    /// The rows of `forest` that sampling has recorded, if it has all of them. Memory of the other kind, for forwards that
    /// are computed or for those that are not, is given back where both together would exceed what one may take.
    pub(crate) fn recorded(
        &self,
        chosen: Chosen,
        forest: &Forest,
        first_kept: usize,
        work: &mut Work,
    ) -> Option<Vec<u32>> {
        let mut recordings = self.recordings();
        let rows = self.recording(&mut recordings, chosen).rows_of(forest);
        let row = self.config.num_hidden_layers * self.config.hidden_size + self.shape(chosen).kept(first_kept);
        let computed = if rows.is_some() { work.bytes().0 } else { forest.len() * row * size_of::<f32>() };
        if recordings.bytes() + computed > self.options.activation_bytes {
            if rows.is_some() {
                (work.streams, work.layers, work.holds) = (Vec::new(), Vec::new(), 0);
            } else {
                recordings.clear();
            }
        }
        rows
    }

    /// All layers of a forward that is kept. The last residual stream is then `work.streams[layers]`.
    fn keep_forward(&self, forest: &Forest, pass: &Pass, work: &mut Work, abort: &AbortFlag) -> Result<()> {
        let net = self.net_of_pass(pass);
        let (rows, hidden, layers) = (forest.len(), self.config.hidden_size, self.config.num_hidden_layers);
        let Work { scratch, keys, streams, layers: sets, holds, .. } = work;
        // Until all is there it is nobody's.
        *holds = 0;
        let mut attention = ForestAttention::new(&self.config, forest, keys);
        streams.resize_with(layers + 1, Vec::new);
        sets.resize_with((layers - pass.first_kept).max(sets.len()), Activations::default);
        net.embed(forest.tokens(), sized(&mut streams[0], rows * hidden));
        for index in 0..layers {
            check_abort(abort, "logprobs")?;
            let (before, after) = streams.split_at_mut(index + 1);
            let (x, next) = (&before[index], sized(&mut after[0], rows * hidden));
            let a = &mut sets[index.saturating_sub(pass.first_kept)];
            net.attention(index, x, forest.positions(), &mut attention, a, &mut scratch.normed)?;
            net.gate_up(index, rows, a, &mut scratch.normed);
            net.down(index, rows, a, &mut scratch.act, next);
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
        let net = self.net_of_pass(&kept.pass);
        let mut grads = Sink { gradients, adapted: kept.pass.chosen != Chosen::Base };
        let forest = &kept.forest;
        let (rows, layers) = (forest.len(), self.config.num_hidden_layers);
        let mut recordings = self.recordings();
        let mut recording = None;
        if kept.pass.recorded {
            let found = self.recording(&mut recordings, kept.pass.chosen);
            // Without them, a step of the sampler that failed in the meantime has taken the recording with it.
            recording = found.rows_of(forest).map(|rows| (&*found, rows));
        }
        match &recording {
            Some((found, rows)) if work.holds != kept.id => {
                work.streams.resize_with(layers + 1, Vec::new);
                found.load_last(&self.config, rows, &mut work.streams[layers]);
            }
            Some(_) => {}
            None if kept.pass.recorded || work.holds != kept.id => {
                self.keep_forward(forest, &kept.pass, work, abort)?
            }
            None => {}
        }
        work.holds = 0;
        let Work { scratch, head, backward, keys, streams, layers: sets, .. } = work;
        let dx = sized(&mut backward.dx, rows * self.config.hidden_size);
        dx.fill(0.0);
        let plan = (&kept.plan, &kept.stats[..]);
        let scale = kept.inverse_temperature;
        net.head_backward(&streams[layers], plan, scale, (dlogprob, dentropy), head, &mut grads, dx, abort)?;
        let mut attention = ForestAttention::new(&self.config, forest, keys);
        let Scratch { normed, act, .. } = scratch;
        if recording.is_some() {
            sets.resize_with(sets.len().max(1), Activations::default);
        }
        for index in (net.lowest()..layers).rev() {
            check_abort(abort, "backward")?;
            let (set, stream) = match &recording {
                Some((recording, rows)) => {
                    recording.load(&self.rt, &self.config, index, rows, &mut streams[0], &mut sets[0]);
                    (0, 0)
                }
                None => (index.saturating_sub(kept.pass.first_kept), index),
            };
            let (x, a) = (&streams[stream], &mut sets[set]);
            if recording.is_none() && index < kept.pass.first_kept {
                net.attention(index, x, forest.positions(), &mut attention, a, normed)?;
                net.gate_up(index, rows, a, normed);
                net.low_of_down(index, rows, a, act);
            }
            let buffers = (&mut *normed, &mut *act);
            net.layer_backward(index, x, forest.positions(), a, &mut attention, buffers, backward, &mut grads);
        }
        net.embed_backward(forest.tokens(), &backward.dx, &mut grads);
        Ok(())
    }
}

/// The head of a forward, from its last residual stream.
fn run_head(
    net: &Net,
    x: &[f32],
    wanted: &Wanted,
    head: &mut HeadScratch,
    abort: &AbortFlag,
) -> Result<(Vec<f32>, Vec<f32>, Vec<RowStats>)> {
    let targets = wanted.plan.targets();
    let (mut logprobs, mut entropy) = (vec![0.0; targets], vec![0.0; if wanted.entropy { targets } else { 0 }]);
    let out = (&mut logprobs[..], &mut entropy[..]);
    let stats = net.head(x, wanted.plan, wanted.inverse_temperature, head, abort, out)?;
    Ok((logprobs, entropy, stats))
}
