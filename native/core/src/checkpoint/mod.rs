//! Checkpoints in the formats of Hugging Face and PEFT:
//!
//! | file | what |
//! |---|---|
//! | `model.safetensors`, `config.json` | all weights of a fully trained model, or the base |
//! | `adapter_model.safetensors`, `adapter_config.json` | the factors of a model with adapters |
//! | `optimizer.safetensors` | moments, step count, version of the weights |
//!
//! Weights are saved as f32 masters, so that resuming is exact.

mod adapter;
mod file;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::kernels::{PackedF32, Runtime};
use crate::model::{Model, Options};
use crate::params::{Parameter, Params, Slice, read_rows};
use adapter::{ADAPTER, ADAPTER_CONFIG, adapter_config, check_adapter_config};
use file::{Outgoing, TensorFiles, read_json, write_atomic, write_tensors};

const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const MOMENTS: [&str; 2] = ["exp_avg", "exp_avg_sq"];

impl Model {
    /// Opens a Hugging Face folder (`config.json` and one or several safetensors files). Adapters start from `seed`.
    pub fn open(rt: &Arc<Runtime>, dir: &Path, seed: u64, options: Options) -> Result<Model> {
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|cause| Error::io(&path, &cause))?;
        let config = ModelConfig::from_json(&text)?;
        let files = TensorFiles::open(&weight_files(dir)?)?;
        let mut params = Params::empty(&config, options.dtype, options.lora.as_ref())?;
        check(&files, params.list.iter().filter(|p| !is_adapter(p)))?;
        for parameter in &mut params.list {
            if is_adapter(parameter) {
                parameter.draw(rt, seed);
            } else {
                read_parameter(&files, parameter, |slice| slice.name.clone());
            }
        }
        Ok(Model::assemble(rt, config, params, options))
    }

    /// Writes what is trained (all weights, or the adapters) and, if wanted, the state of the optimiser.
    pub fn save(&self, dir: &Path, with_optimizer: bool) -> Result<()> {
        if with_optimizer && self.has_gradients() {
            return Err(Error::state("save", "gradients are accumulated: call step or zero_grad first"));
        }
        std::fs::create_dir_all(dir).map_err(|cause| Error::io(dir, &cause))?;
        let version = json!({ "steps": self.moments.steps, "version": self.version }).to_string();
        if with_optimizer {
            self.save_optimizer(&dir.join(OPTIMIZER), &version)?;
        }
        match &self.options.lora {
            None => self.save_base(dir),
            Some(lora) => {
                let adapters: Vec<_> = self.params.list.iter().filter(|p| is_adapter(p)).collect();
                write_tensors(&dir.join(ADAPTER), outgoing(&adapters), &[("format", "pt"), ("quintain", &version)])?;
                write_text(&dir.join(ADAPTER_CONFIG), &adapter_config(lora))
            }
        }
    }

    /// Writes all weights without adapters, and `config.json`: a folder for [`Model::open`] and transformers.
    pub fn save_base(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(|cause| Error::io(dir, &cause))?;
        let version = json!({ "steps": self.moments.steps, "version": self.version }).to_string();
        let base: Vec<_> = self.params.list.iter().filter(|p| !is_adapter(p)).collect();
        write_tensors(&dir.join(MODEL), outgoing(&base), &[("format", "pt"), ("quintain", &version)])?;
        write_text(&dir.join("config.json"), &self.config.to_json())
    }

    fn save_optimizer(&self, path: &Path, version: &str) -> Result<()> {
        let mut tensors = Vec::new();
        for (parameter, moments) in self.params.list.iter().zip(&self.moments.list) {
            for (moment, suffix) in moments.iter().flatten().zip(MOMENTS) {
                tensors.extend(parameter.slices.iter().map(|slice| Outgoing {
                    name: format!("{}.{suffix}", slice.name),
                    shape: parameter.shape(slice),
                    values: Box::new(|| read_rows(moment.k, slice.rows.clone(), |row, out| moment.get_row(row, out))),
                }));
            }
        }
        write_tensors(path, tensors, &[("quintain", version)])
    }

    /// Reads what [`Model::save`] wrote for a model of the same shape. Without `optimizer.safetensors` the optimiser starts
    /// anew. Everything is checked before anything changes.
    pub fn load(&mut self, dir: &Path) -> Result<()> {
        let files = match &self.options.lora {
            None => {
                self.check_config(&dir.join("config.json"))?;
                TensorFiles::open(&weight_files(dir)?)?
            }
            Some(lora) => {
                check_adapter_config(lora, &dir.join(ADAPTER_CONFIG))?;
                TensorFiles::open(&[dir.join(ADAPTER)])?
            }
        };
        let lora = self.options.lora.is_some();
        check(&files, self.params.list.iter().filter(|p| is_adapter(p) == lora))?;
        let optimizer = dir.join(OPTIMIZER);
        let optimizer = optimizer.exists().then(|| TensorFiles::open(&[optimizer])).transpose()?;
        let (steps, version) = match &optimizer {
            None => (0, 0),
            Some(state) => {
                if state.metadata.get("quintain") != files.metadata.get("quintain") {
                    let message = "belongs to another step than the weights beside it";
                    return Err(Error::format(state.path(), message));
                }
                let (steps, version) = versions(state)?;
                if steps > 0 {
                    check_moments(state, &self.params)?;
                }
                (steps, version)
            }
        };
        for parameter in self.params.list.iter_mut().filter(|p| is_adapter(p) == lora) {
            read_parameter(&files, parameter, |slice| slice.name.clone());
        }
        self.moments = Default::default();
        if let Some(state) = optimizer.filter(|_| steps > 0) {
            self.moments.ensure(&self.params);
            for (parameter, moments) in self.params.list.iter().zip(&mut self.moments.list) {
                for (moment, suffix) in moments.iter_mut().flatten().zip(MOMENTS) {
                    read_rows_into(&state, parameter, moment, |slice| format!("{}.{suffix}", slice.name));
                }
            }
            self.moments.steps = steps;
        }
        self.weights_replaced(version);
        Ok(())
    }

    fn check_config(&self, path: &Path) -> Result<()> {
        let text = std::fs::read_to_string(path).map_err(|cause| Error::io(path, &cause))?;
        let saved = ModelConfig::from_json(&text)?;
        let (saved, own) = (json(&saved, path)?, json(&self.config, path)?);
        for (field, value) in own.as_object().into_iter().flatten() {
            // These three say how a model starts or is called, not what it computes.
            if !["initializer_range", "architectures", "max_position_embeddings"].contains(&field.as_str())
                && saved.get(field) != Some(value)
            {
                let saved = saved.get(field).unwrap_or(&Value::Null);
                return Err(Error::format(path, format!("{field} is {saved}, the model has {value}")));
            }
        }
        Ok(())
    }
}

fn json(config: &ModelConfig, path: &Path) -> Result<Value> {
    serde_json::from_str(&config.to_json()).map_err(|cause| Error::format(path, cause.to_string()))
}

fn is_adapter(parameter: &Parameter) -> bool {
    parameter.slices[0].name.starts_with("base_model.")
}

/// The weight files of a folder: one, or those that an index names.
fn weight_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let index = dir.join("model.safetensors.index.json");
    if !index.exists() || dir.join(MODEL).exists() {
        return Ok(vec![dir.join(MODEL)]);
    }
    let map = read_json(&index)?;
    let names: BTreeSet<&str> =
        map["weight_map"].as_object().into_iter().flat_map(|map| map.values()).filter_map(Value::as_str).collect();
    if names.is_empty() {
        return Err(Error::format(index, "weight_map is missing or empty"));
    }
    match names.iter().find(|name| Path::new(name).file_name() != Some(name.as_ref())) {
        Some(name) => Err(Error::format(index, format!("`{name}` is not a file name"))),
        None => Ok(names.into_iter().map(|name| dir.join(name)).collect()),
    }
}

/// Every tensor of `parameters` must be there in its shape, and nothing else.
fn check<'a>(files: &TensorFiles, parameters: impl Iterator<Item = &'a Parameter>) -> Result<()> {
    let mut known = BTreeSet::new();
    for parameter in parameters {
        for slice in &parameter.slices {
            files.expect(&slice.name, &parameter.shape(slice))?;
            known.insert(slice.name.as_str());
        }
    }
    let unexpected = files.names().find(|name| {
        // Tied checkpoints may repeat the head; old ones list the rotary frequencies.
        !known.contains(name) && *name != "lm_head.weight" && !name.ends_with("rotary_emb.inv_freq")
    });
    match unexpected {
        Some(name) => Err(Error::format(files.path(), format!("{name} is no tensor of this model"))),
        None => Ok(()),
    }
}

fn check_moments(state: &TensorFiles, params: &Params) -> Result<()> {
    for parameter in params.list.iter().filter(|p| p.trainable) {
        for slice in &parameter.slices {
            for suffix in MOMENTS {
                state.expect(&format!("{}.{suffix}", slice.name), &parameter.shape(slice))?;
            }
        }
    }
    Ok(())
}

/// Steps and version that [`Model::save`] recorded.
fn versions(files: &TensorFiles) -> Result<(u64, u64)> {
    let text = files.metadata.get("quintain").map_or("", String::as_str);
    let value: Value = serde_json::from_str(text).unwrap_or(Value::Null);
    match (value["steps"].as_u64(), value["version"].as_u64()) {
        (Some(steps), Some(version)) => Ok((steps, version)),
        _ => Err(Error::format(files.path(), "the metadata `quintain` with steps and version is missing")),
    }
}

fn read_rows_into(files: &TensorFiles, parameter: &Parameter, target: &mut PackedF32, name: impl Fn(&Slice) -> String) {
    for slice in &parameter.slices {
        let values = files.values(&name(slice));
        for (row, values) in slice.rows.clone().zip(values.chunks_exact(target.k)) {
            target.set_row(row, values);
        }
    }
}

fn read_parameter(files: &TensorFiles, parameter: &mut Parameter, name: impl Fn(&Slice) -> String) {
    let mut values = PackedF32::zeros(parameter.n, parameter.k);
    read_rows_into(files, parameter, &mut values, name);
    parameter.assign(values);
}

fn outgoing<'a>(parameters: &[&'a Parameter]) -> Vec<Outgoing<'a>> {
    let slices = parameters.iter().flat_map(|&parameter| parameter.slices.iter().map(move |slice| (parameter, slice)));
    slices
        .map(|(parameter, slice)| Outgoing {
            name: slice.name.clone(),
            shape: parameter.shape(slice),
            values: Box::new(|| parameter.read_rows(slice.rows.clone())),
        })
        .collect()
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    write_atomic(path, |out| out.write_all(text.as_bytes()))
}
