//! The policy: weights, and the verbs `logprobs`, `backward` and `step` on them. (`sample` is the sampler's.)

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::adapter::{Adapted, Adapter, Chosen, Dropout};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::forest::Forest;
use crate::forward::Net;
use crate::head::HeadPlan;
use crate::kernels::{RopeTable, Runtime};
use crate::optimizer::{apply, global_norm};
use crate::params::Params;
use crate::passes::{Kept, Pass, Wanted, Work, first_kept};
use crate::recording::Recordings;
use crate::training::Training;

pub use crate::adapter::{AdapterInfo, BASE, DEFAULT, LoraConfig, module_paths};
pub use crate::checkpoint::{ExportOptions, FileDtype};
pub use crate::head::Targets;
pub use crate::optimizer::{AdamW, StepReport};
pub use crate::params::{Blocks, Dtype};
pub use crate::training::Counters;

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
    /// The adapter [`DEFAULT`]; the base is then frozen.
    pub lora: Option<LoraConfig>,
    /// Keeps the base quantised. It is then frozen: only adapters are trained.
    pub blocks: Option<Blocks>,
    /// Freezes the base although there is no adapter yet. Else, without `lora` and `blocks`, all parameters are trained.
    pub frozen: bool,
    /// Bytes that a kept forward may take for activations; layers beyond it are computed again in `backward`. Their
    /// inputs are always kept, and one layer at least. What sampling keeps for an update may take as much. It changes no
    /// result.
    pub activation_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { dtype: Dtype::F32, lora: None, blocks: None, frozen: false, activation_bytes: 1 << 30 }
    }
}

impl Options {
    /// Whether the parameters of the base can be trained.
    pub fn trains_base(&self) -> bool {
        self.lora.is_none() && self.blocks.is_none() && !self.frozen
    }
}

/// Settings of [`Model::logprobs`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogprobOptions<'a> {
    /// Logits are divided by it.
    pub temperature: f32,
    /// Whether to return entropies.
    pub entropy: bool,
    /// Whether to keep what `backward` needs.
    pub keep: bool,
    /// The reference policy: the base without adapters, or the frozen copy of a fully trained one.
    pub reference: bool,
    /// An adapter's name, or [`BASE`]; none: the adapter [`DEFAULT`] if there is one, else the base.
    pub adapter: Option<&'a str>,
}

impl Default for LogprobOptions<'_> {
    fn default() -> Self {
        LogprobOptions { temperature: 1.0, entropy: false, keep: false, reference: false, adapter: None }
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
    /// The base.
    pub(crate) params: Params,
    pub(crate) reference: Option<Params>,
    pub(crate) base: Training,
    pub(crate) adapters: Vec<Adapter>,
    pub(crate) seed: u64,
    /// What adapters made here call their base in files.
    pub base_name: Option<String>,
    /// The last number given by [`Model::stamp`].
    pub(crate) stamps: u64,
    rope: RopeTable,
    pub(crate) work: Work,
    pub(crate) recordings: Mutex<Recordings>,
    /// At most one for each owner of weights.
    pub(crate) kept: Vec<Kept>,
    next_id: u64,
}

impl Model {
    /// A model with random weights, distributed as transformers initialises them.
    pub fn random(rt: &Arc<Runtime>, config: ModelConfig, seed: u64, options: Options) -> Result<Model> {
        let params = Params::random(rt, &config, options.dtype, options.trains_base(), options.blocks, seed)?;
        Model::assemble(rt, config, params, seed, options)
    }

    /// A model of a base, with the adapter that the options ask for.
    pub(crate) fn assemble(
        rt: &Arc<Runtime>,
        config: ModelConfig,
        params: Params,
        seed: u64,
        options: Options,
    ) -> Result<Model> {
        let rope = RopeTable::new(config.rope_frequencies(), config.max_position_embeddings);
        let lora = options.lora.clone();
        let mut model = Model {
            config,
            rt: rt.clone(),
            options,
            params,
            reference: None,
            base: Training::default(),
            adapters: Vec::new(),
            seed,
            base_name: None,
            stamps: 0,
            rope,
            work: Work::default(),
            recordings: Mutex::default(),
            kept: Vec::new(),
            next_id: 1,
        };
        model.base.owner = model.stamp();
        model.base.weights = model.base.owner;
        if let Some(lora) = lora {
            model.add_adapter(DEFAULT, lora)?;
        }
        Ok(model)
    }

    /// The network of these parameters.
    pub(crate) fn net_of<'a>(&'a self, params: &'a Params, adapted: Adapted<'a>) -> Net<'a> {
        Net { rt: &self.rt, config: &self.config, params, rope: &self.rope, adapted, dropout: None }
    }

    /// The network of a forward that is not kept.
    fn net(&self, chosen: Chosen, reference: bool) -> Result<Net<'_>> {
        if !reference {
            return Ok(self.net_of(&self.params, Adapted::All(self.adapter(chosen))));
        }
        let params = match &self.reference {
            Some(reference) => reference,
            None if chosen != Chosen::Base || !self.trains(chosen) => &self.params,
            None => {
                let message = "there is no reference policy: call freeze_reference first";
                return Err(Error::state("logprobs", message));
            }
        };
        Ok(self.net_of(params, Adapted::All(None)))
    }

    /// Version of the weights that serve calls which name no adapter: grows with every step, load and `set_parameter`.
    pub fn version(&self) -> u64 {
        self.choose("version", None).map_or(0, |chosen| self.training(chosen).version)
    }

    /// Optimiser steps taken with them.
    pub fn steps(&self) -> u64 {
        self.choose("steps", None).map_or(0, |chosen| self.training(chosen).moments.steps)
    }

    /// How the model is stored and trained.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Makes the present policy the reference: a frozen copy in the compute dtype. Nothing where the base is frozen: the
    /// reference is then the model without adapters.
    pub fn freeze_reference(&mut self) {
        if self.options.trains_base() {
            self.reference = Some(self.params.frozen());
        }
    }

    /// Log-probabilities of the targets. With `keep`, a former forward of the same adapter that was kept is dropped; those
    /// of others are computed again when their turn comes.
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
        if options.keep && options.reference {
            let message = "the reference policy has no gradient: use either keep or reference";
            return Err(Error::state("logprobs", message));
        }
        let chosen = match options.keep {
            true => self.choose_trained("logprobs with keep", options.adapter)?,
            false => self.choose("logprobs", options.adapter)?,
        };
        HeadPlan::new(forest, targets, self.config.vocab_size)?;
        let trimmed = forest.trimmed(targets.position);
        let (forest, position) = trimmed.as_ref().map_or((forest, targets.position), |(forest, at)| (forest, at));
        let plan = HeadPlan::new(forest, &Targets { position, ..*targets }, self.config.vocab_size)?;
        let inverse_temperature = 1.0 / options.temperature;
        let wanted = Wanted { plan: &plan, inverse_temperature, entropy: options.entropy };
        let id = self.next_id;
        self.next_id += 1;
        let mut work = std::mem::take(&mut self.work);
        // One handover to the pool for the whole pass: a small model's operations are shorter than a handover each.
        if !options.keep {
            let net = self.net(chosen, options.reference);
            let result = net.and_then(|net| self.rt.run(|| self.evaluate(&net, forest, &wanted, &mut work, abort)));
            self.work = work;
            return result.map(|(logprobs, entropy, _)| Forward { logprobs, entropy, id, recorded: false });
        }
        let owner = self.training(chosen).owner;
        self.kept.retain(|kept| kept.owner != owner);
        let dropout = self.begin_dropout(chosen);
        let shape = self.shape(chosen);
        let first_kept = first_kept(self.config.hidden_size, &shape, forest.len(), self.options.activation_bytes);
        // What sampling keeps has seen no dropout.
        let recorded = match dropout {
            None => self.recorded(chosen, forest, first_kept, &mut work),
            Some(_) => None,
        };
        let pass = Pass { chosen, first_kept, dropout, recorded: recorded.is_some() };
        let evaluate = || self.evaluate_kept(forest, &wanted, &pass, recorded.as_deref(), &mut work, abort);
        let result = self.rt.run(evaluate);
        work.holds = if result.is_ok() { id } else { 0 };
        self.work = work;
        let (logprobs, entropy, stats) = result?;
        let forest = forest.clone();
        self.kept.push(Kept { id, owner, forest, plan, stats, inverse_temperature, pass });
        Ok(Forward { logprobs, entropy, id, recorded: pass.recorded })
    }

    /// The masks of a training forward, and one forward more.
    fn begin_dropout(&mut self, chosen: Chosen) -> Option<Dropout> {
        let Chosen::Adapter(index) = chosen else { return None };
        let adapter = &mut self.adapters[index];
        let dropout = adapter.dropout()?;
        adapter.forwards += 1;
        Some(dropout)
    }

    /// Adds the gradient of `sum dlogprob · logprob (+ sum dentropy · entropy)` of the kept forward `id` to the
    /// accumulated gradients, and drops that forward. If it is aborted, all accumulated gradients are dropped.
    pub fn backward(&mut self, id: u64, dlogprob: &[f32], dentropy: Option<&[f32]>, abort: &AbortFlag) -> Result<()> {
        let Some(index) = self.kept.iter().position(|kept| kept.id == id) else {
            let message = format!("forward {id} is not kept: it was used, superseded, or made with keep: false");
            return Err(Error::state("backward", message));
        };
        let targets = self.kept[index].plan.targets();
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
        let mut kept = self.kept.remove(index);
        // Adapters removed since have moved the others.
        let Some(chosen) = self.owned(kept.owner) else {
            return Err(Error::state("backward", "the adapter of this forward was removed"));
        };
        kept.pass.chosen = chosen;
        let mut work = std::mem::take(&mut self.work);
        let mut gradients = std::mem::take(&mut self.trained(chosen).1.gradients);
        let result = self.rt.run(|| self.run_backward(&kept, dlogprob, dentropy, &mut work, &mut gradients, abort));
        self.work = work;
        let training = self.trained(chosen).1;
        training.gradients = gradients;
        match result {
            Ok(()) => training.accumulated += 1,
            Err(_) => training.zero_grad(),
        }
        result
    }

    /// Drops the kept forward `id`, if it is still kept.
    pub fn release(&mut self, id: u64) {
        self.kept.retain(|kept| kept.id != id);
    }

    /// One AdamW step on the accumulated gradients of an adapter (or of the base), which are then zero. A non-finite norm
    /// skips the step.
    pub fn step(&mut self, adapter: Option<&str>, settings: AdamW) -> Result<StepReport> {
        settings.validate()?;
        let chosen = self.choose_trained("step", adapter)?;
        if self.training(chosen).accumulated == 0 {
            return Err(Error::state("step", "there are no gradients: call backward first"));
        }
        let rt = self.rt.clone();
        Ok(rt.run(|| self.update(chosen, &settings)))
    }

    fn update(&mut self, chosen: Chosen, settings: &AdamW) -> StepReport {
        let rt = self.rt.clone();
        let (list, training) = self.trained(chosen);
        let grad_norm = global_norm(&rt, &training.gradients);
        let skipped = !grad_norm.is_finite();
        let scale = settings.max_grad_norm.map_or(1.0, |max| (f64::from(max) / (grad_norm + 1e-6)).min(1.0));
        if !skipped {
            apply(&rt, list, &training.gradients, &mut training.moments, settings, scale as f32);
        }
        training.zero_grad();
        let version = training.version + u64::from(!skipped);
        if !skipped {
            self.weights_changed(chosen, version);
        }
        StepReport { grad_norm, clipped: !skipped && scale < 1.0, skipped, version }
    }

    /// Whether gradients of an adapter (or of the base) wait for a step.
    pub fn has_gradients(&self, adapter: Option<&str>) -> Result<bool> {
        Ok(self.training(self.choose("has_gradients", adapter)?).accumulated > 0)
    }

    /// Drops the accumulated gradients of an adapter (or of the base).
    pub fn zero_grad(&mut self, adapter: Option<&str>) -> Result<()> {
        let chosen = self.choose("zero_grad", adapter)?;
        self.trained(chosen).1.zero_grad();
        Ok(())
    }
}
