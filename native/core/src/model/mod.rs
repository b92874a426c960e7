//! The policy: weights, and the verbs `logprobs`, `backward` and `step` on them. (`sample` is the sampler's.)

mod adapters;
mod counters;
mod forward;
mod logits;
mod owners;
mod recordings;
mod tensors;
mod update;

use std::sync::{Arc, Mutex};

use crate::adapter::{Adapted, Adapter, Chosen};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::kernels::{RopeTable, Runtime};
use crate::network::Net;
use crate::params::Params;
use crate::passes::{Kept, Recordings, Work};
use crate::training::Training;

pub use crate::abort::AbortFlag;
pub use crate::adapter::{AdapterConfig, BASE, DEFAULT, LoraConfig, module_paths};
pub use crate::network::Targets;
pub use crate::optimizer::{AdamW, StepReport};
pub use crate::params::{Blocks, Dtype};
pub use crate::training::Counters;
pub use adapters::AdapterInfo;
pub use forward::{Forward, LogprobOptions};

/// How a model is stored and trained.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    pub dtype: Dtype,
    /// The adapter [`DEFAULT`]; the base is then frozen.
    pub adapter: Option<AdapterConfig>,
    /// Keeps the base quantised. It is then frozen: only adapters are trained.
    pub blocks: Option<Blocks>,
    /// Freezes the base although there is no adapter yet. Else, without `adapter` and `blocks`, all parameters are trained.
    pub frozen: bool,
    /// Bytes that a kept forward may take for activations; layers beyond it are computed again in `backward`. Their
    /// inputs are always kept, and one layer at least. What sampling keeps for an update may take as much. It changes no
    /// result.
    pub activation_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { dtype: Dtype::F32, adapter: None, blocks: None, frozen: false, activation_bytes: 1 << 30 }
    }
}

impl Options {
    /// Whether the parameters of the base can be trained.
    pub fn trains_base(&self) -> bool {
        self.adapter.is_none() && self.blocks.is_none() && !self.frozen
    }
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
    /// The name of the base in the files of adapters made here.
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
        let adapter = options.adapter.clone();
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
        if let Some(config) = adapter {
            model.add_adapter(DEFAULT, config)?;
        }
        Ok(model)
    }

    /// The network of these parameters.
    pub(crate) fn net_of<'a>(&'a self, params: &'a Params, adapted: Adapted<'a>) -> Net<'a> {
        Net { rt: &self.rt, config: &self.config, params, rope: &self.rope, adapted, dropout: None }
    }

    /// The network of the present weights, the base's with those that are chosen.
    pub(crate) fn net(&self, chosen: Chosen) -> Net<'_> {
        self.net_of(&self.params, Adapted::All(self.adapter(chosen)))
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
}
