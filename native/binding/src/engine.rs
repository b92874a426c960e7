//! A model with its sampler, and the thread that trains it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use quintain_core::adapter::{AdapterConfig, module_paths};
use quintain_core::config::ModelConfig;
use quintain_core::error::{Error, Result};
use quintain_core::kernels::{BlockKind, Isa, Runtime};
use quintain_core::model::{AdapterInfo, Blocks, Dtype, Model, Options};
use quintain_core::sampler::{Options as SamplerOptions, Sampler};
use serde::Deserialize;
use serde_json::{Value, json};

/// The JSON that `create` and `open` take.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    config: Option<Value>,
    #[serde(default)]
    seed: u64,
    dtype: Option<String>,
    blocks: Option<String>,
    /// The settings of the adapter `default`, tagged by kind.
    adapter: Option<Value>,
    /// The same of LoRA, without a kind.
    lora: Option<Value>,
    /// Folders of adapters by name.
    #[serde(default)]
    adapters: BTreeMap<String, PathBuf>,
    /// Freezes the base; so do `adapter` and `adapters`.
    #[serde(default)]
    frozen: bool,
    base_name: Option<String>,
    activation_bytes: Option<usize>,
    threads: Option<usize>,
    isa: Option<String>,
    cache_bytes: Option<usize>,
    max_sequences: Option<usize>,
    prefill_rows: Option<usize>,
}

/// Parses the JSON of `addAdapter`.
pub fn adapter_config(text: &str) -> Result<AdapterConfig> {
    let settings = serde_json::from_str(text).map_err(|error| Error::config("adapter", error.to_string()))?;
    AdapterConfig::from_json(settings)
}

impl Settings {
    /// Parses the JSON of `create` or `open`.
    pub fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|error| Error::config("settings", error.to_string()))
    }

    fn options(&self) -> Result<Options> {
        let dtype = match self.dtype.as_deref() {
            None | Some("f32") => Dtype::F32,
            Some("bf16") => Dtype::Bf16,
            Some(other) => return Err(Error::config("dtype", format!("`{other}` is unknown, use f32 or bf16"))),
        };
        let adapter = match (&self.adapter, &self.lora) {
            (Some(_), Some(_)) => return Err(Error::config("adapter", "is set beside `lora`: leave one out")),
            (adapter, lora) => adapter.as_ref().or(lora.as_ref()),
        };
        let adapter = adapter.cloned().map(AdapterConfig::from_json).transpose()?;
        let frozen = self.frozen || !self.adapters.is_empty();
        let activation_bytes = self.activation_bytes.unwrap_or(Options::default().activation_bytes);
        let blocks = match self.blocks.as_deref() {
            None => None,
            Some("file") => Some(Blocks::File),
            Some("q8_0") => Some(Blocks::Make(BlockKind::Q8_0)),
            Some("q4_0") => Some(Blocks::Make(BlockKind::Q4_0)),
            Some("q4_1") => Some(Blocks::Make(BlockKind::Q4_1)),
            Some(other) => {
                return Err(Error::config("blocks", format!("`{other}` is unknown, use file, q8_0, q4_0 or q4_1")));
            }
        };
        Ok(Options { dtype, adapter, blocks, frozen, activation_bytes })
    }

    fn sampler_options(&self) -> SamplerOptions {
        let default = SamplerOptions::default();
        SamplerOptions {
            cache_bytes: self.cache_bytes.unwrap_or(default.cache_bytes),
            max_sequences: self.max_sequences.unwrap_or(default.max_sequences),
            prefill_rows: self.prefill_rows.unwrap_or(default.prefill_rows),
        }
    }
}

/// A model and its sampler. Training calls take the write lock one after another on the [`Worker`]; the sampler takes the
/// read lock for each of its steps.
pub struct Engine {
    model: Arc<RwLock<Model>>,
    pub sampler: Sampler,
    /// The last [`Engine::info`], for when a training call holds the model.
    info: Mutex<String>,
    isa: String,
    threads: usize,
}

impl Engine {
    /// Random weights, or those in `dir`.
    pub fn open(settings: &Settings, dir: Option<&Path>) -> Result<Self> {
        let isa = settings.isa.as_deref().map(str::parse::<Isa>).transpose()?;
        let rt = Runtime::new(settings.threads, isa)?;
        let options = settings.options()?;
        let mut model = match (dir, &settings.config) {
            (Some(dir), None) => Model::open(&rt, dir, settings.seed, options)?,
            (None, Some(config)) => {
                Model::random(&rt, ModelConfig::from_json(&config.to_string())?, settings.seed, options)?
            }
            (Some(_), Some(_)) => return Err(Error::config("config", "is read from the directory: leave it out")),
            (None, None) => return Err(Error::config("config", "is missing")),
        };
        model.base_name.clone_from(&settings.base_name);
        for (name, dir) in &settings.adapters {
            model.add_adapter_from(name, dir)?;
        }
        let model = Arc::new(RwLock::new(model));
        let sampler = Sampler::start(model.clone(), settings.sampler_options())?;
        let (isa, threads) = (rt.isa.to_string(), rt.threads);
        let engine = Self { model, sampler, info: Mutex::default(), isa, threads };
        engine.info();
        Ok(engine)
    }

    /// The model, to read.
    pub fn read(&self, op: &'static str) -> Result<RwLockReadGuard<'_, Model>> {
        self.model.read().map_err(|_| broken(op))
    }

    /// The model, to change.
    pub fn write(&self, op: &'static str) -> Result<RwLockWriteGuard<'_, Model>> {
        self.model.write().map_err(|_| broken(op))
    }

    /// Facts about the model as JSON. Never waits: while a training call runs, what it was before that call.
    pub fn info(&self) -> String {
        let mut info = self.info.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(model) = self.model.try_read() {
            *info = self.describe(&model);
        }
        info.clone()
    }

    fn describe(&self, model: &Model) -> String {
        let (parameters, trainable) = model.parameter_counts();
        let config: Value = serde_json::from_str(&model.config.to_json()).unwrap_or_default();
        let options = model.options();
        let (memory, cache) = (model.memory(), self.sampler.cache_taken());
        json!({
            "engine": "native",
            "device": "cpu",
            "isa": self.isa,
            "threads": self.threads,
            "dtype": match options.dtype { Dtype::F32 => "f32", Dtype::Bf16 => "bf16" },
            "adapter": options.adapter.as_ref().map(AdapterConfig::to_json),
            "lora": options.adapter.as_ref().map(without_kind),
            "frozen": !options.trains_base(),
            "adapters": model.adapters().iter().map(describe_adapter).collect::<Vec<_>>(),
            "modules": module_paths(&model.config),
            "config": config,
            "shape": describe_shape(&model.config),
            "ropeFrequencies": model.config.rope_frequencies().into_iter().map(f64::from).collect::<Vec<_>>(),
            "vocabularySize": model.config.vocab_size,
            "contextLength": model.config.max_position_embeddings,
            "parameters": parameters,
            "trainable": trainable,
            "parameterNames": model.parameter_names().collect::<Vec<_>>(),
            "version": model.version(),
            "steps": model.steps(),
            "memory": {
                "weights": memory.weights,
                "adapters": memory.adapters,
                "reference": memory.reference,
                "gradients": memory.gradients,
                "moments": memory.moments,
                "activations": memory.activations,
                "buffers": memory.buffers,
                "cache": cache,
                "total": memory.total() + cache,
            },
        })
        .to_string()
    }
}

/// The shortest decimal that rounds to the number: what was written, not its binary expansion.
fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// The settings of an adapter as callers read them who know one kind only.
fn without_kind(config: &AdapterConfig) -> Value {
    let mut settings = config.to_json();
    settings.as_object_mut().map(|fields| fields.remove("kind"));
    settings
}

/// Shape of the model of a configuration.
fn describe_shape(config: &ModelConfig) -> Value {
    json!({
        "hidden": config.hidden_size,
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "kvHeads": config.kv_heads(),
        "headDim": config.head_dim(),
        "inner": config.intermediate_size,
        "vocabulary": config.vocab_size,
        "context": config.max_position_embeddings,
        "epsilon": decimal(config.rms_norm_eps),
        "tied": config.tie_word_embeddings,
        "qkvBias": config.qkv_bias(),
        "qkNorm": config.has_qk_norm(),
    })
}

fn describe_adapter(adapter: &AdapterInfo) -> Value {
    json!({
        "name": adapter.name,
        "config": adapter.config.to_json(),
        "lora": without_kind(&adapter.config),
        "parameters": adapter.parameters,
        "version": adapter.version,
        "steps": adapter.steps,
        "bytes": adapter.bytes,
    })
}

fn broken(op: &'static str) -> Error {
    Error::state(op, "an earlier internal error left the weights undefined: open the model again")
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread that runs jobs in the order they were sent, and ends when nobody can send any more.
#[derive(Clone)]
pub struct Worker(Sender<Job>);

impl Worker {
    /// Starts the thread.
    pub fn start() -> Result<Self> {
        let (sender, jobs) = channel::<Job>();
        std::thread::Builder::new()
            .name("quintain-trainer".into())
            .spawn(move || jobs.into_iter().for_each(|job| job()))
            .map_err(|error| Error::Internal { op: "open", message: error.to_string() })?;
        Ok(Self(sender))
    }

    /// Queues a job. The thread outlives every sender, so it is always run.
    pub fn send(&self, job: impl FnOnce() + Send + 'static) {
        let _ = self.0.send(Box::new(job));
    }
}
