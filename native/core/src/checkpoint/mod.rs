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
mod encoding;
mod file;
pub mod gguf;
mod gguf_model;
mod map;
mod open;
pub mod safetensors;
mod shards;
mod source;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::kernels::PackedF32;
use crate::model::Model;
use crate::params::{Parameter, Params, Slice, read_rows};
use adapter::{ADAPTER, ADAPTER_CONFIG, adapter_config, check_adapter_config};
use file::{Outgoing, write_atomic, write_tensors};
use source::TensorSource;

pub use encoding::Encoding;
pub use open::gguf_json;

use shards::MODEL;

const OPTIMIZER: &str = "optimizer.safetensors";
const MOMENTS: [&str; 2] = ["exp_avg", "exp_avg_sq"];

impl Model {
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
                shards::open(dir)?
            }
            Some(lora) => {
                check_adapter_config(lora, &dir.join(ADAPTER_CONFIG))?;
                TensorSource::safetensors(&[dir.join(ADAPTER)])?
            }
        };
        let lora = self.options.lora.is_some();
        check(&files, self.params.list.iter().filter(|p| is_adapter(p) == lora))?;
        let optimizer = dir.join(OPTIMIZER);
        let optimizer = optimizer.exists().then(|| TensorSource::safetensors(&[optimizer])).transpose()?;
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
            open::fill(&files, parameter);
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
        match self.config.difference(&open::read_config(path)?) {
            None => Ok(()),
            Some((field, own, saved)) => Err(Error::format(path, format!("{field} is {saved}, the model has {own}"))),
        }
    }
}

fn is_adapter(parameter: &Parameter) -> bool {
    parameter.slices[0].name.starts_with("base_model.")
}

/// Every tensor of `parameters` must be there in its shape, and nothing else.
fn check<'a>(files: &TensorSource, parameters: impl Iterator<Item = &'a Parameter>) -> Result<()> {
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

fn check_moments(state: &TensorSource, params: &Params) -> Result<()> {
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
fn versions(files: &TensorSource) -> Result<(u64, u64)> {
    let text = files.metadata.get("quintain").map_or("", String::as_str);
    let value: Value = serde_json::from_str(text).unwrap_or(Value::Null);
    match (value["steps"].as_u64(), value["version"].as_u64()) {
        (Some(steps), Some(version)) => Ok((steps, version)),
        _ => Err(Error::format(files.path(), "the metadata `quintain` with steps and version is missing")),
    }
}

fn read_rows_into(
    files: &TensorSource,
    parameter: &Parameter,
    target: &mut PackedF32,
    name: impl Fn(&Slice) -> String,
) {
    for slice in &parameter.slices {
        files.read(&name(slice), |row, values| target.set_row(slice.rows.start + row, values));
    }
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
