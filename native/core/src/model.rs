//! The policy: weights, and the verbs `logprobs`, `backward` and `step` on them. (`sample` is the sampler's.)

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::forest::Forest;
use crate::forward::Net;
use crate::head::HeadPlan;
use crate::kernels::{RopeTable, Runtime};
use crate::optimizer::{Moments, apply, global_norm};
use crate::params::{Gradients, Params};
use crate::passes::{Kept, Work, first_kept};
use crate::recording::Recording;

pub use crate::head::Targets;
pub use crate::optimizer::{AdamW, StepReport};
pub use crate::params::{Blocks, Dtype, LoraConfig};

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
    /// Keeps the base quantised. It is then frozen: only adapters are trained.
    pub blocks: Option<Blocks>,
    /// Bytes that a kept forward may take for activations; layers beyond it are computed again in `backward`. Their
    /// inputs are always kept, and one layer at least. What sampling keeps for an update may take as much. It changes no
    /// result.
    pub activation_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { dtype: Dtype::F32, lora: None, blocks: None, activation_bytes: 1 << 30 }
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
    pub(crate) recording: Mutex<Recording>,
    kept: Option<Kept>,
    next_id: u64,
    /// Backward passes since the last step.
    accumulated: u64,
}

impl Model {
    /// A model with random weights, distributed as transformers initialises them.
    pub fn random(rt: &Arc<Runtime>, config: ModelConfig, seed: u64, options: Options) -> Result<Model> {
        let params = Params::random(rt, &config, options.dtype, options.lora.as_ref(), options.blocks, seed)?;
        Ok(Model::assemble(rt, config, params, options))
    }

    pub(crate) fn assemble(rt: &Arc<Runtime>, config: ModelConfig, params: Params, options: Options) -> Model {
        let rope = RopeTable::new(config.rope_frequencies(), config.max_position_embeddings);
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

    /// Adds the gradient of `sum dlogprob · logprob (+ sum dentropy · entropy)` of the kept forward `id` to the
    /// accumulated gradients, and drops that forward. If it is aborted, all accumulated gradients are dropped.
    pub fn backward(&mut self, id: u64, dlogprob: &[f32], dentropy: Option<&[f32]>, abort: &AbortFlag) -> Result<()> {
        let Some(kept) = self.kept.as_ref().filter(|kept| kept.id == id) else {
            let message = format!("forward {id} is not kept: it was used, superseded, or made with keep: false");
            return Err(Error::state("backward", message));
        };
        if !self.params.list.iter().any(|parameter| parameter.trainable) {
            let message = "nothing can be trained: the base is quantised; open the model with lora, or without blocks";
            return Err(Error::state("backward", message));
        }
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
