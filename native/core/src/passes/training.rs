//! The forward and the backward pass over a batch.

use super::recording::Recording;
use super::workspace::{Kept, Wanted, Work};
use crate::abort::{AbortFlag, check_abort};
use crate::error::Result;
use crate::forest::Forest;
use crate::kernels::RowStats;
use crate::network::{Activations, ForestAttention, HeadScratch, Net, Scratch, Sink};
use crate::params::Gradients;
use crate::scratch::sized;

/// Log-probabilities and entropies (if wanted) per target, statistics per distinct position.
pub(crate) type Evaluated = (Vec<f32>, Vec<f32>, Vec<RowStats>);

/// The rows of a batch in what sampling has recorded.
#[derive(Clone, Copy)]
pub(crate) struct Recorded<'a> {
    pub recording: &'a Recording,
    pub rows: &'a [u32],
}

/// The gradient that a backward starts from.
#[derive(Clone, Copy)]
pub(crate) struct Gradient<'a> {
    pub logprob: &'a [f32],
    pub entropy: Option<&'a [f32]>,
}

/// A forward that is not kept.
pub(crate) fn evaluate(
    net: &Net,
    forest: &Forest,
    wanted: &Wanted,
    work: &mut Work,
    abort: &AbortFlag,
) -> Result<Evaluated> {
    let (rows, hidden) = (forest.len(), net.config.hidden_size);
    let Work { scratch, keys, head, .. } = work;
    let mut attention = ForestAttention::new(net.config, forest, keys);
    net.embed(forest.tokens(), sized(&mut scratch.x[0], rows * hidden));
    for index in 0..net.config.num_hidden_layers {
        check_abort(abort, "logprobs")?;
        let Scratch { x: [x, next], normed, act, layer } = &mut *scratch;
        net.attention(index, x, forest.positions(), &mut attention, layer, normed)?;
        net.gate_up(index, rows, layer, normed);
        net.down(index, rows, layer, act, sized(next, rows * hidden));
        std::mem::swap(x, next);
    }
    run_head(net, &scratch.x[0], wanted, head, abort)
}

/// A forward that is kept; from what sampling has recorded of its rows, if that is given.
pub(crate) fn evaluate_kept(
    net: &Net,
    forest: &Forest,
    wanted: &Wanted,
    first_kept: usize,
    recorded: Option<Recorded>,
    work: &mut Work,
    abort: &AbortFlag,
) -> Result<Evaluated> {
    let layers = net.config.num_hidden_layers;
    if let Some(Recorded { recording, rows }) = recorded {
        work.streams.resize_with(layers + 1, Vec::new);
        recording.load_last(net.config, rows, &mut work.streams[layers]);
        if let Some((logprobs, mut entropy, stats)) = recording.head(rows, wanted.plan, wanted.inverse_temperature) {
            entropy.truncate(if wanted.entropy { wanted.plan.targets() } else { 0 });
            return Ok((logprobs, entropy, stats));
        }
    } else {
        keep_forward(net, forest, first_kept, work, abort)?;
    }
    let Work { streams, head, .. } = work;
    run_head(net, &streams[layers], wanted, head, abort)
}

/// All layers of a forward that is kept. The last residual stream is then `work.streams[layers]`.
fn keep_forward(net: &Net, forest: &Forest, first_kept: usize, work: &mut Work, abort: &AbortFlag) -> Result<()> {
    let (rows, hidden, layers) = (forest.len(), net.config.hidden_size, net.config.num_hidden_layers);
    let Work { scratch, keys, streams, layers: sets, holds, .. } = work;
    // Until all is there, it belongs to no forward.
    *holds = 0;
    let mut attention = ForestAttention::new(net.config, forest, keys);
    streams.resize_with(layers + 1, Vec::new);
    sets.resize_with((layers - first_kept).max(sets.len()), Activations::default);
    net.embed(forest.tokens(), sized(&mut streams[0], rows * hidden));
    for index in 0..layers {
        check_abort(abort, "logprobs")?;
        let (before, after) = streams.split_at_mut(index + 1);
        let (x, next) = (&before[index], sized(&mut after[0], rows * hidden));
        let a = &mut sets[index.saturating_sub(first_kept)];
        net.attention(index, x, forest.positions(), &mut attention, a, &mut scratch.normed)?;
        net.gate_up(index, rows, a, &mut scratch.normed);
        net.down(index, rows, a, &mut scratch.act, next);
    }
    Ok(())
}

/// The backward of a kept forward. If the forward was read from a recording, `recorded` is that recording; absent, a step
/// of the sampler that failed in the meantime has taken it, and the forward is computed.
pub(crate) fn backward(
    net: &Net,
    kept: &Kept,
    gradient: Gradient,
    recorded: Option<Recorded>,
    work: &mut Work,
    gradients: &mut Gradients,
    abort: &AbortFlag,
) -> Result<()> {
    let layers = net.config.num_hidden_layers;
    match recorded {
        Some(Recorded { recording, rows }) if work.holds != kept.id => {
            work.streams.resize_with(layers + 1, Vec::new);
            recording.load_last(net.config, rows, &mut work.streams[layers]);
        }
        Some(_) => {}
        None if kept.pass.recorded || work.holds != kept.id => {
            keep_forward(net, &kept.forest, kept.pass.first_kept, work, abort)?;
        }
        None => {}
    }
    work.holds = 0;
    let mut grads = Sink { gradients, adapted: net.adapted.one().is_some() };
    let Work { head, backward, streams, .. } = work;
    let dx = sized(&mut backward.dx, kept.forest.len() * net.config.hidden_size);
    dx.fill(0.0);
    let (plan, scale) = ((&kept.plan, &kept.stats[..]), kept.inverse_temperature);
    let starts = (gradient.logprob, gradient.entropy);
    net.head_backward(&streams[layers], plan, scale, starts, head, &mut grads, dx, abort)?;
    backward_layers(net, kept, recorded, work, &mut grads, abort)?;
    net.embed_backward(kept.forest.tokens(), &work.backward.dx, &mut grads);
    Ok(())
}

/// The gradient of the layers, from `work.backward.dx`, which becomes that of the embeddings.
fn backward_layers(
    net: &Net,
    kept: &Kept,
    recorded: Option<Recorded>,
    work: &mut Work,
    grads: &mut Sink,
    abort: &AbortFlag,
) -> Result<()> {
    let (forest, first_kept, rows) = (&kept.forest, kept.pass.first_kept, kept.forest.len());
    let Work { scratch, backward, keys, streams, layers: sets, .. } = work;
    let mut attention = ForestAttention::new(net.config, forest, keys);
    let Scratch { normed, act, .. } = scratch;
    if recorded.is_some() {
        sets.resize_with(sets.len().max(1), Activations::default);
    }
    for index in (net.lowest()..net.config.num_hidden_layers).rev() {
        check_abort(abort, "backward")?;
        let (set, stream) = match recorded {
            Some(Recorded { recording, rows }) => {
                recording.load(net.rt, net.config, index, rows, &mut streams[0], &mut sets[0]);
                (0, 0)
            }
            None => (index.saturating_sub(first_kept), index),
        };
        let (x, a) = (&streams[stream], &mut sets[set]);
        if recorded.is_none() && index < first_kept {
            net.attention(index, x, forest.positions(), &mut attention, a, normed)?;
            net.gate_up(index, rows, a, normed);
            net.low_of_down(index, rows, a, act);
        }
        let buffers = (&mut *normed, &mut *act);
        net.layer_backward(index, x, forest.positions(), a, &mut attention, buffers, backward, grads);
    }
    Ok(())
}

/// The head of a forward, from its last residual stream.
fn run_head(net: &Net, x: &[f32], wanted: &Wanted, head: &mut HeadScratch, abort: &AbortFlag) -> Result<Evaluated> {
    let targets = wanted.plan.targets();
    let (mut logprobs, mut entropy) = (vec![0.0; targets], vec![0.0; if wanted.entropy { targets } else { 0 }]);
    let out = (&mut logprobs[..], &mut entropy[..]);
    let stats = net.head(x, wanted.plan, wanted.inverse_temperature, head, abort, out)?;
    Ok((logprobs, entropy, stats))
}
