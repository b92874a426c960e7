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
mod export;
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
use std::ops::Range;
use std::path::Path;

use serde_json::{Value, json};

use crate::adapter::Chosen;
use crate::error::{Error, Result};
use crate::kernels::PackedF32;
use crate::model::Model;
use crate::optimizer::Moments;
use crate::params::{Parameter, Slice, read_rows};
use crate::training::Counters;
use adapter::Peft;
use file::{Outgoing, write_atomic, write_tensors};
use source::TensorSource;

pub use encoding::Encoding;
pub use export::ExportOptions;
pub use file::FileDtype;
pub use open::gguf_json;

use shards::MODEL;

const OPTIMIZER: &str = "optimizer.safetensors";
const MOMENTS: [&str; 2] = ["exp_avg", "exp_avg_sq"];

impl Model {
    /// Writes the factors of an adapter in PEFT's format, or all weights of the base, and, if wanted, the state of the
    /// optimiser.
    pub fn save(&self, dir: &Path, adapter: Option<&str>, with_optimizer: bool) -> Result<()> {
        let chosen = self.choose("save", adapter)?;
        let training = self.training(chosen);
        if with_optimizer && training.accumulated > 0 {
            return Err(Error::state("save", "gradients are accumulated: call step or zero_grad first"));
        }
        std::fs::create_dir_all(dir).map_err(|cause| Error::io(dir, &cause))?;
        if with_optimizer {
            save_optimizer(&dir.join(OPTIMIZER), self.list(chosen), &training.moments, &self.state(chosen))?;
        }
        match self.adapter(chosen) {
            None => self.save_base(dir),
            Some(adapter) => adapter.save(dir, &self.config, &self.state(chosen)),
        }
    }

    /// Writes all weights without adapters, and `config.json`: a folder for [`Model::open`] and transformers.
    pub fn save_base(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(|cause| Error::io(dir, &cause))?;
        let metadata = [("format", "pt"), ("quintain", &self.state(Chosen::Base))];
        write_tensors(&dir.join(MODEL), outgoing(&self.params.list), FileDtype::F32, &metadata)?;
        write_text(&dir.join("config.json"), &self.config.to_json())
    }

    /// The counters that a resumed run goes on from.
    fn state(&self, chosen: Chosen) -> String {
        let Counters { steps, version, forwards } = self.counters_of(chosen);
        let mut state = json!({ "steps": steps, "version": version });
        if self.adapter(chosen).is_some_and(|adapter| adapter.config.dropout > 0.0) {
            state["forwards"] = json!(forwards);
        }
        state.to_string()
    }

    /// Reads what [`Model::save`] wrote for an adapter (or a base) of the same shape. Without `optimizer.safetensors` the
    /// optimiser starts anew. Everything is checked before anything changes.
    pub fn load(&mut self, dir: &Path, adapter: Option<&str>) -> Result<()> {
        let chosen = self.choose_trained("load", adapter)?;
        let weights = match self.adapter(chosen) {
            None => {
                self.check_config(&dir.join("config.json"))?;
                let files = shards::open(dir)?;
                check(&files, &self.params.list)?;
                Weights::Base(files)
            }
            Some(adapter) => {
                let peft = Peft::open(dir, &self.config)?;
                peft.check_same(&adapter.config, &self.config)?;
                peft.check(&adapter.list)?;
                Weights::Adapter(peft)
            }
        };
        let optimizer = dir.join(OPTIMIZER);
        let optimizer = optimizer.exists().then(|| TensorSource::safetensors(&[optimizer])).transpose()?;
        let counters = match &optimizer {
            None => Counters::default(),
            Some(state) => {
                if state.metadata.get("quintain") != weights.files().metadata.get("quintain") {
                    let message = "belongs to another step than the weights beside it";
                    return Err(Error::format(state.path(), message));
                }
                let counters = counters(state)?;
                if counters.steps > 0 {
                    check_moments(state, self.list(chosen))?;
                }
                counters
            }
        };
        let (list, training) = self.trained(chosen);
        match &weights {
            Weights::Base(files) => list.iter_mut().for_each(|parameter| open::fill(files, parameter)),
            Weights::Adapter(peft) => peft.read(list),
        }
        training.moments = Moments::default();
        if let Some(state) = optimizer.filter(|_| counters.steps > 0) {
            training.moments.ensure(list);
            for (parameter, moments) in list.iter().zip(&mut training.moments.list) {
                for (moment, suffix) in moments.iter_mut().flatten().zip(MOMENTS) {
                    read_rows_into(&state, parameter, moment, |slice| format!("{}.{suffix}", slice.name));
                }
            }
            training.moments.steps = counters.steps;
        }
        if let Chosen::Adapter(index) = chosen {
            self.adapters[index].forwards = counters.forwards;
        }
        self.weights_replaced(chosen, counters.version);
        Ok(())
    }

    fn check_config(&self, path: &Path) -> Result<()> {
        match self.config.difference(&open::read_config(path)?) {
            None => Ok(()),
            Some((field, own, saved)) => Err(Error::format(path, format!("{field} is {saved}, the model has {own}"))),
        }
    }
}

/// The files of [`Model::load`].
enum Weights {
    Base(TensorSource),
    Adapter(Peft),
}

impl Weights {
    fn files(&self) -> &TensorSource {
        match self {
            Weights::Base(files) => files,
            Weights::Adapter(peft) => &peft.files,
        }
    }
}

fn save_optimizer(path: &Path, list: &[Parameter], moments: &Moments, state: &str) -> Result<()> {
    let mut tensors = Vec::new();
    for (parameter, moments) in list.iter().zip(&moments.list) {
        for (moment, suffix) in moments.iter().flatten().zip(MOMENTS) {
            tensors.extend(parameter.slices.iter().map(|slice| Outgoing {
                name: format!("{}.{suffix}", slice.name),
                shape: parameter.shape(slice),
                rows: Box::new(|rows| read_rows(moment.k, within(slice, rows), |row, out| moment.get_row(row, out))),
            }));
        }
    }
    write_tensors(path, tensors, FileDtype::F32, &[("quintain", state)])
}

/// Every tensor of `parameters` must be there in its shape, and nothing else.
fn check(files: &TensorSource, parameters: &[Parameter]) -> Result<()> {
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

fn check_moments(state: &TensorSource, list: &[Parameter]) -> Result<()> {
    for parameter in list.iter().filter(|p| p.trainable) {
        for slice in &parameter.slices {
            for suffix in MOMENTS {
                state.expect(&format!("{}.{suffix}", slice.name), &parameter.shape(slice))?;
            }
        }
    }
    Ok(())
}

/// What [`Model::save`] recorded beside the moments.
fn counters(files: &TensorSource) -> Result<Counters> {
    let text = files.metadata.get("quintain").map_or("", String::as_str);
    let value: Value = serde_json::from_str(text).unwrap_or(Value::Null);
    match (value["steps"].as_u64(), value["version"].as_u64()) {
        (Some(steps), Some(version)) => {
            Ok(Counters { steps, version, forwards: value["forwards"].as_u64().unwrap_or(0) })
        }
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

/// Rows of a slice as rows of its parameter.
fn within(slice: &Slice, rows: Range<usize>) -> Range<usize> {
    slice.rows.start + rows.start..slice.rows.start + rows.end
}

fn outgoing(parameters: &[Parameter]) -> Vec<Outgoing<'_>> {
    let slices = parameters.iter().flat_map(|parameter| parameter.slices.iter().map(move |slice| (parameter, slice)));
    slices
        .map(|(parameter, slice)| Outgoing {
            name: slice.name.clone(),
            shape: parameter.shape(slice),
            rows: Box::new(|rows| parameter.read_rows(within(slice, rows))),
        })
        .collect()
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    write_atomic(path, |out| out.write_all(text.as_bytes()))
}
