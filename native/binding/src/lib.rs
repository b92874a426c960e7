//! The kernel for Node. Thin: converts arguments, keeps calls off the JavaScript thread, and turns errors and panics into
//! JavaScript errors with a `code`. The types are stated by hand in `src/engines/internal/nativeModel.ts`.

mod engine;
mod error;
pub mod gguf;
mod objects;
mod sample;
mod store;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use napi::bindgen_prelude::{Float32Array, Function, Object, ToNapiValue, Uint8Array, Uint32Array};
use napi::{Env, Unknown};
use napi_derive::napi;
use quintain_core::checkpoint::ExportOptions;
use quintain_core::error::{Error, Result};
use quintain_core::forest::Forest;
use quintain_core::formats::FileDtype;
use quintain_core::model::{AbortFlag, AdamW, LogprobOptions, Targets};
use quintain_core::sampler::Vocabulary;

use engine::{Engine, Settings, Worker, adapter_config};
use error::{closed, guard, to_napi};
use objects::{Batch, ExportSettings, Forward, LogprobSettings, SaveSettings, StepReport, StepSettings};
use sample::{Arguments, SampleRequest, sink};

/// Ends a call early; it is then rejected with the code `ABORTED`.
#[napi]
#[derive(Default)]
pub struct NativeAbort(AbortFlag);

#[napi]
impl NativeAbort {
    #[napi(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    #[napi]
    pub fn abort(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `job` on `worker`; a promise of its result.
fn promise<'env, T: ToNapiValue + Send + 'static>(
    env: &'env Env,
    worker: &Worker,
    op: &'static str,
    job: impl FnOnce() -> Result<T> + Send + 'static,
) -> napi::Result<Object<'env>> {
    type Resolver<T> = Box<dyn FnOnce(Env) -> napi::Result<T> + Send>;
    let (deferred, promise) = env.create_deferred::<T, Resolver<T>>()?;
    worker.send(move || {
        let result = guard(op, job);
        deferred.resolve(Box::new(move |env| result.map_err(|error| to_napi(&env, &error))));
    });
    Ok(promise)
}

/// A policy and its sampler. Training calls run one after another in the order they were made; requests for samples are
/// batched together and run between them.
#[napi]
pub struct NativeModel(Option<Open>);

struct Open {
    worker: Worker,
    engine: Arc<Engine>,
}

impl NativeModel {
    fn start(env: &Env, settings: String, dir: Option<PathBuf>) -> napi::Result<Object<'_>> {
        let worker = Worker::start().map_err(|error| to_napi(env, &error))?;
        let own = worker.clone();
        promise(env, &worker, "open", move || {
            let engine = Arc::new(Engine::open(&Settings::parse(&settings)?, dir.as_deref())?);
            Ok(NativeModel(Some(Open { worker: own, engine })))
        })
    }

    fn run<'env, T: ToNapiValue + Send + 'static>(
        &self,
        env: &'env Env,
        op: &'static str,
        job: impl FnOnce(&Engine) -> Result<T> + Send + 'static,
    ) -> napi::Result<Object<'env>> {
        let Open { worker, engine } = self.open(env, op)?;
        let engine = engine.clone();
        promise(env, worker, op, move || job(&engine))
    }

    fn open(&self, env: &Env, op: &'static str) -> napi::Result<&Open> {
        self.0.as_ref().ok_or_else(|| to_napi(env, &closed(op)))
    }
}

#[napi]
impl NativeModel {
    /// Random weights of the shape `config` in the settings.
    #[napi]
    pub fn create(env: &Env, settings: String) -> napi::Result<Object<'_>> {
        Self::start(env, settings, None)
    }

    /// The weights in a directory.
    #[napi(js_name = "open")]
    pub fn open_directory(env: &Env, directory: String, settings: String) -> napi::Result<Object<'_>> {
        Self::start(env, settings, Some(directory.into()))
    }

    #[napi]
    pub fn info(&self, env: &Env) -> napi::Result<String> {
        Ok(self.open(env, "info")?.engine.info())
    }

    #[napi]
    pub fn set_vocabulary(&self, env: &Env, bytes: Uint8Array, offsets: Uint32Array) -> napi::Result<()> {
        let engine = &self.open(env, "setVocabulary")?.engine;
        let vocabulary = Vocabulary::new(bytes.to_vec(), offsets.to_vec()).map_err(|error| to_napi(env, &error))?;
        engine.sampler.set_vocabulary(vocabulary);
        Ok(())
    }

    /// Queues a request; gives its id.
    #[napi]
    pub fn sample(
        &self,
        env: &Env,
        request: SampleRequest,
        on_events: Function<Arguments, Unknown<'static>>,
    ) -> napi::Result<f64> {
        let engine = &self.open(env, "sample")?.engine;
        let request = request.convert().map_err(|error| to_napi(env, &error))?;
        let sink = sink(&on_events, engine.clone())?;
        let id = guard("sample", || engine.sampler.submit(request, sink));
        id.map(|id| id as f64).map_err(|error| to_napi(env, &error))
    }

    #[napi]
    pub fn cancel(&self, id: f64) {
        if let Some(open) = &self.0 {
            open.engine.sampler.cancel(id as u64);
        }
    }

    #[napi]
    pub fn logprobs<'env>(
        &self,
        env: &'env Env,
        batch: Batch,
        settings: LogprobSettings,
        abort: Option<&NativeAbort>,
    ) -> napi::Result<Object<'env>> {
        let abort = flag(abort);
        let reference = reference(&settings.weights).map_err(|error| to_napi(env, &error))?;
        let [start, length] = [&batch.segment_start, &batch.segment_length].map(|values| values.to_vec());
        let (tokens, parent) = (batch.tokens.to_vec(), batch.segment_parent.to_vec());
        let (position, token) = (batch.target_position.to_vec(), batch.target_token.to_vec());
        self.run(env, "logprobs", move |engine| {
            if start.len() != length.len() || start.len() != parent.len() {
                let lengths = format!("{}, {} and {}", start.len(), length.len(), parent.len());
                let message = format!("segmentStart, segmentLength and segmentParent differ in length: {lengths}");
                return Err(Error::shape("logprobs", message));
            }
            let segments =
                start.into_iter().zip(length).zip(parent).map(|((start, length), parent)| (start, length, parent));
            let forest = Forest::new(tokens, &segments.collect::<Vec<_>>())?;
            let targets = Targets { position: &position, token: &token };
            let (temperature, adapter) = (settings.temperature as f32, settings.adapter.as_deref());
            let (entropy, keep) = (settings.entropy, settings.keep);
            let options = LogprobOptions { temperature, entropy, keep, reference, adapter };
            let forward = engine.write("logprobs")?.logprobs(&forest, &targets, options, &abort)?;
            let (logprobs, entropy) = (forward.logprobs.into(), forward.entropy.into());
            Ok(Forward { id: forward.id as f64, logprobs, entropy, recorded: forward.recorded })
        })
    }

    #[napi]
    pub fn backward<'env>(
        &self,
        env: &'env Env,
        id: f64,
        dlogprobs: Float32Array,
        dentropy: Option<Float32Array>,
        abort: Option<&NativeAbort>,
    ) -> napi::Result<Object<'env>> {
        let (abort, dlogprobs) = (flag(abort), dlogprobs.to_vec());
        let dentropy = dentropy.map(|values| values.to_vec());
        self.run(env, "backward", move |engine| {
            engine.write("backward")?.backward(id as u64, &dlogprobs, dentropy.as_deref(), &abort)
        })
    }

    #[napi]
    pub fn release<'env>(&self, env: &'env Env, id: f64) -> napi::Result<Object<'env>> {
        self.run(env, "release", move |engine| {
            engine.write("release")?.release(id as u64);
            Ok(())
        })
    }

    #[napi]
    pub fn step<'env>(&self, env: &'env Env, settings: StepSettings) -> napi::Result<Object<'env>> {
        let (max, adapter) = (settings.max_grad_norm as f32, settings.adapter);
        let settings = AdamW {
            lr: settings.learning_rate as f32,
            beta1: settings.beta1 as f32,
            beta2: settings.beta2 as f32,
            eps: settings.epsilon as f32,
            weight_decay: settings.weight_decay as f32,
            max_grad_norm: (max != 0.0).then_some(max),
        };
        self.run(env, "step", move |engine| {
            let report = engine.write("step")?.step(adapter.as_deref(), settings)?;
            let (grad_norm, version) = (report.grad_norm, report.version as f64);
            Ok(StepReport { grad_norm, clipped: report.clipped, skipped: report.skipped, version })
        })
    }

    #[napi]
    pub fn zero_gradients<'env>(&self, env: &'env Env, adapter: Option<String>) -> napi::Result<Object<'env>> {
        self.run(env, "zeroGradients", move |engine| engine.write("zeroGradients")?.zero_grad(adapter.as_deref()))
    }

    #[napi]
    pub fn freeze_reference<'env>(&self, env: &'env Env) -> napi::Result<Object<'env>> {
        self.run(env, "freezeReference", |engine| {
            engine.write("freezeReference")?.freeze_reference();
            Ok(())
        })
    }

    #[napi]
    pub fn save<'env>(&self, env: &'env Env, directory: String, settings: SaveSettings) -> napi::Result<Object<'env>> {
        let directory = PathBuf::from(directory);
        self.run(env, "save", move |engine| {
            engine.read("save")?.save(&directory, settings.adapter.as_deref(), settings.optimizer)
        })
    }

    /// Writes a Hugging Face folder, an adapter merged into the base.
    #[napi]
    pub fn export_model<'env>(
        &self,
        env: &'env Env,
        directory: String,
        settings: ExportSettings,
    ) -> napi::Result<Object<'env>> {
        self.run(env, "exportModel", move |engine| {
            let dtype = match settings.dtype.as_str() {
                "f32" => FileDtype::F32,
                "bf16" => FileDtype::Bf16,
                "f16" => FileDtype::F16,
                other => return Err(Error::config("dtype", format!("`{other}` is unknown, use f32, bf16 or f16"))),
            };
            let default = ExportOptions::default();
            let shard_bytes = settings.shard_bytes.map_or(default.shard_bytes, |bytes| bytes as usize);
            let options = ExportOptions { adapter: settings.adapter.as_deref(), dtype, shard_bytes };
            engine.read("exportModel")?.export(Path::new(&directory), &options)
        })
    }

    #[napi]
    pub fn load<'env>(&self, env: &'env Env, directory: String, adapter: Option<String>) -> napi::Result<Object<'env>> {
        let directory = PathBuf::from(directory);
        self.run(env, "load", move |engine| engine.write("load")?.load(&directory, adapter.as_deref()))
    }

    /// Adds an adapter: settings as JSON, or the folder of one.
    #[napi]
    pub fn add_adapter<'env>(
        &self,
        env: &'env Env,
        name: String,
        settings: Option<String>,
        directory: Option<String>,
    ) -> napi::Result<Object<'env>> {
        self.run(env, "addAdapter", move |engine| match (settings, directory) {
            (Some(settings), None) => engine.write("addAdapter")?.add_adapter(&name, adapter_config(&settings)?),
            (None, Some(directory)) => engine.write("addAdapter")?.add_adapter_from(&name, Path::new(&directory)),
            _ => Err(Error::config("addAdapter", "takes either settings or a folder")),
        })
    }

    #[napi]
    pub fn remove_adapter<'env>(&self, env: &'env Env, name: String) -> napi::Result<Object<'env>> {
        self.run(env, "removeAdapter", move |engine| engine.write("removeAdapter")?.remove_adapter(&name))
    }

    /// Ends after the calls made before it: aborts all requests, joins the sampler's thread and frees the memory. A second
    /// call does nothing.
    #[napi]
    pub fn close<'env>(&mut self, env: &'env Env) -> napi::Result<Object<'env>> {
        let Some(Open { worker, engine }) = self.0.take() else {
            return promise(env, &Worker::start().map_err(|error| to_napi(env, &error))?, "close", || Ok(()));
        };
        promise(env, &worker, "close", move || {
            engine.sampler.close();
            Ok(())
        })
    }
}

fn flag(abort: Option<&NativeAbort>) -> AbortFlag {
    abort.map_or_else(|| Arc::new(AtomicBool::new(false)), |abort| abort.0.clone())
}

/// Whether the reference policy is meant.
fn reference(weights: &str) -> Result<bool> {
    match weights {
        "policy" => Ok(false),
        "reference" => Ok(true),
        other => Err(Error::config("weights", format!("`{other}` is unknown, use policy or reference"))),
    }
}
