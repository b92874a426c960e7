//! The policy: weights, and the verbs `logprobs`, `backward` and `step` on them. (`sample` is the sampler's.)

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::attention::ForestAttention;
use crate::backward::BackwardScratch;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::forest::Forest;
use crate::forward::{Activations, Net, Scratch, sized};
use crate::head::{HeadPlan, HeadScratch};
use crate::kernels::{RopeTable, RowStats, Runtime};
use crate::optimizer::{Moments, apply, global_norm};
use crate::params::{Gradients, Layer, Params};
use crate::recording::Recording;

pub use crate::head::Targets;
pub use crate::optimizer::{AdamW, StepReport};
pub use crate::params::{Dtype, LoraConfig};

/// Raised by the caller to end a call early; it then returns [`Error::Aborted`].
pub type AbortFlag = Arc<AtomicBool>;

/// [`Error::Aborted`] if the flag is raised.
pub fn check_abort(abort: &AbortFlag, op: &'static str) -> Result<()> {
    if abort.load(Ordering::Relaxed) { Err(Error::Aborted { op }) } else { Ok(()) }
}

/// How a model is stored and trained.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    pub dtype: Dtype,
    /// None: all parameters are trained.
    pub lora: Option<LoraConfig>,
    /// Bytes that a kept forward may take for activations; layers beyond it are computed again in `backward`. Their
    /// inputs are always kept, and one layer at least. What sampling keeps for an update may take as much. It changes no
    /// result.
    pub activation_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { dtype: Dtype::F32, lora: None, activation_bytes: 1 << 30 }
    }
}

/// Settings of [`Model::logprobs`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogprobOptions {
    /// Logits are divided by it.
    pub temperature: f32,
    /// Whether to return entropies.
    pub entropy: bool,
    /// Whether to keep what `backward` needs.
    pub keep: bool,
    /// `false`: the reference policy (no adapters, or the frozen copy of a fully trained model).
    pub adapter: bool,
}

impl Default for LogprobOptions {
    fn default() -> Self {
        LogprobOptions { temperature: 1.0, entropy: false, keep: false, adapter: true }
    }
}

/// Result of [`Model::logprobs`].
#[derive(Debug, Clone, PartialEq)]
pub struct Forward {
    /// Per target: `log softmax(logits / temperature)[token]`.
    pub logprobs: Vec<f32>,
    /// Per target: entropy of its position's distribution; empty unless asked for.
    pub entropy: Vec<f32>,
    /// Names the kept forward for [`Model::backward`].
    pub id: u64,
    /// Sampling had kept every row: no layer was computed.
    pub recorded: bool,
}

/// A forward that waits for its backward.
struct Kept {
    id: u64,
    forest: Forest,
    plan: HeadPlan,
    stats: Vec<RowStats>,
    inverse_temperature: f32,
    /// Layers before this one are computed again.
    first_kept: usize,
    /// Sampling has recorded its rows: no layer was computed.
    recorded: bool,
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

/// A policy.
pub struct Model {
    pub config: ModelConfig,
    pub rt: Arc<Runtime>,
    pub(crate) options: Options,
    pub(crate) params: Params,
    pub(crate) reference: Option<Params>,
    pub(crate) gradients: Gradients,
    pub(crate) moments: Moments,
    /// Counts changes of the weights.
    pub(crate) version: u64,
    rope: RopeTable,
    pub(crate) work: Work,
    recording: Mutex<Recording>,
    kept: Option<Kept>,
    next_id: u64,
    /// Backward passes since the last step.
    accumulated: u64,
}

impl Model {
    /// A model with random weights, distributed as transformers initialises them.
    pub fn random(rt: &Arc<Runtime>, config: ModelConfig, seed: u64, options: Options) -> Result<Model> {
        let params = Params::random(rt, &config, options.dtype, options.lora.as_ref(), seed)?;
        Ok(Model::assemble(rt, config, params, options))
    }

    pub(crate) fn assemble(rt: &Arc<Runtime>, config: ModelConfig, params: Params, options: Options) -> Model {
        let rope = RopeTable::new(f64::from(config.rope_theta), config.head_dim(), config.max_position_embeddings);
        Model {
            config,
            rt: rt.clone(),
            options,
            params,
            reference: None,
            gradients: Gradients::default(),
            moments: Moments::default(),
            version: 0,
            rope,
            work: Work::default(),
            recording: Mutex::default(),
            kept: None,
            next_id: 1,
            accumulated: 0,
        }
    }

    /// The network of the policy, or of the reference policy.
    pub(crate) fn net(&self, adapter: bool) -> Result<Net<'_>> {
        let params = match (adapter, &self.options.lora, &self.reference) {
            (true, ..) | (false, Some(_), _) => &self.params,
            (false, None, Some(reference)) => reference,
            (false, None, None) => {
                let message = "there is no reference policy: call freeze_reference first";
                return Err(Error::state("logprobs", message));
            }
        };
        Ok(Net { rt: &self.rt, config: &self.config, params, rope: &self.rope, adapter })
    }

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

    /// Version of the weights: grows with every step, load and `set_parameter`.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Optimiser steps taken.
    pub fn steps(&self) -> u64 {
        self.moments.steps
    }

    /// How the model is stored and trained.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Makes the present policy the reference: with adapters nothing (the reference is the model without them), else a
    /// frozen copy in the compute dtype.
    pub fn freeze_reference(&mut self) {
        if self.options.lora.is_none() {
            self.reference = Some(self.params.frozen());
        }
    }

    /// Log-probabilities of the targets. With `keep`, a former forward that was kept is dropped.
    pub fn logprobs(
        &mut self,
        forest: &Forest,
        targets: &Targets,
        options: LogprobOptions,
        abort: &AbortFlag,
    ) -> Result<Forward> {
        forest.check(&self.config)?;
        if !(options.temperature.is_finite() && options.temperature > 0.0) {
            let message = format!("is {}, must be positive and finite", options.temperature);
            return Err(Error::config("temperature", message));
        }
        if options.keep && !options.adapter {
            return Err(Error::state("logprobs", "the reference policy has no gradient: use keep or adapter: false"));
        }
        HeadPlan::new(forest, targets, self.config.vocab_size)?;
        let trimmed = forest.trimmed(targets.position);
        let (forest, position) = trimmed.as_ref().map_or((forest, targets.position), |(forest, at)| (forest, at));
        let plan = HeadPlan::new(forest, &Targets { position, ..*targets }, self.config.vocab_size)?;
        let mut work = std::mem::take(&mut self.work);
        let first_kept = first_kept(&self.config, &self.options, &self.params.layout.layers[0], forest.len());
        let mut recorded = None;
        if options.keep {
            self.kept = None;
            recorded = self.recorded(forest, first_kept, &mut work);
        }
        // One handover to the pool for the whole pass: a small model's operations are shorter than a handover each.
        let result =
            self.rt.run(|| self.evaluate(forest, &plan, options, recorded.as_deref(), first_kept, &mut work, abort));
        self.work = work;
        let (logprobs, entropy, stats) = result?;
        let id = self.next_id;
        self.next_id += 1;
        let recorded = recorded.is_some();
        if options.keep {
            let (forest, inverse_temperature) = (forest.clone(), 1.0 / options.temperature);
            self.kept = Some(Kept { id, forest, plan, stats, inverse_temperature, first_kept, recorded });
        }
        Ok(Forward { logprobs, entropy, id, recorded })
    }

    /// Log-probabilities, entropies (if wanted) and statistics of the plan's targets.
    #[allow(clippy::too_many_arguments)]
    fn evaluate(
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
    fn recorded(&self, forest: &Forest, first_kept: usize, work: &mut Work) -> Option<Vec<u32>> {
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

    /// Adds the gradient of `sum dlogprob · logprob (+ sum dentropy · entropy)` of the kept forward `id` to the
    /// accumulated gradients, and drops that forward. If it is aborted, all accumulated gradients are dropped.
    pub fn backward(&mut self, id: u64, dlogprob: &[f32], dentropy: Option<&[f32]>, abort: &AbortFlag) -> Result<()> {
        let Some(kept) = self.kept.as_ref().filter(|kept| kept.id == id) else {
            let message = format!("forward {id} is not kept: it was used, superseded, or made with keep: false");
            return Err(Error::state("backward", message));
        };
        let targets = kept.plan.targets();
        for (name, values) in [("dlogprob", Some(dlogprob)), ("dentropy", dentropy)] {
            let Some(values) = values else { continue };
            if values.len() != targets {
                let message = format!("{name} has {} values for {targets} targets", values.len());
                return Err(Error::shape("backward", message));
            }
            if let Some(at) = values.iter().position(|value| !value.is_finite()) {
                let message = format!("{name}[{at}] is {}", values[at]);
                return Err(Error::NonFinite { op: "backward", message });
            }
        }
        let Some(kept) = self.kept.take() else { unreachable!("checked above") };
        let mut work = std::mem::take(&mut self.work);
        let mut gradients = std::mem::take(&mut self.gradients);
        let result = self.rt.run(|| self.run_backward(&kept, dlogprob, dentropy, &mut work, &mut gradients, abort));
        self.work = work;
        self.gradients = gradients;
        match result {
            Ok(()) => self.accumulated += 1,
            Err(_) => self.zero_grad(),
        }
        result
    }

    fn run_backward(
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

    /// Drops the kept forward `id`, if it is still kept.
    pub fn release(&mut self, id: u64) {
        self.kept.take_if(|kept| kept.id == id);
    }

    /// One AdamW step on the accumulated gradients, which are then zero. A non-finite norm skips the step.
    pub fn step(&mut self, settings: AdamW) -> Result<StepReport> {
        settings.validate()?;
        if self.accumulated == 0 {
            return Err(Error::state("step", "there are no gradients: call backward first"));
        }
        let rt = self.rt.clone();
        Ok(rt.run(|| self.update(&settings)))
    }

    fn update(&mut self, settings: &AdamW) -> StepReport {
        let grad_norm = global_norm(&self.rt, &self.params, &self.gradients);
        let skipped = !grad_norm.is_finite();
        let scale = settings.max_grad_norm.map_or(1.0, |max| (f64::from(max) / (grad_norm + 1e-6)).min(1.0));
        if !skipped {
            // A forward that is still kept belongs to the old weights.
            self.kept = None;
            apply(&self.rt, &mut self.params, &self.gradients, &mut self.moments, settings, scale as f32);
            self.version += 1;
        }
        self.zero_grad();
        StepReport { grad_norm, clipped: !skipped && scale < 1.0, skipped, version: self.version }
    }

    /// Whether gradients wait for a step.
    pub fn has_gradients(&self) -> bool {
        self.accumulated > 0
    }

    /// New weights came from outside: nothing computed from the old ones may be used, and the version must be one that
    /// no cache has seen, `version` itself if it is.
    pub(crate) fn weights_replaced(&mut self, version: u64) {
        self.kept = None;
        self.zero_grad();
        self.version = version.max(self.version + 1);
    }

    /// Drops the accumulated gradients.
    pub fn zero_grad(&mut self) {
        self.gradients.zero();
        self.accumulated = 0;
    }
}
