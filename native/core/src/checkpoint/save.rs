//! The state of what is trained, saved and loaded: weights, and the optimiser beside them.

use std::path::Path;

use serde_json::{Value, json};

use super::open;
use super::shards::{self, MODEL};
use crate::adapter::{AdapterFolder, Chosen};
use crate::error::{Error, Result};
use crate::formats::{FileDtype, Outgoing, TensorSource, outgoing, write_tensors, write_text};
use crate::kernels::PackedF32;
use crate::model::Model;
use crate::optimizer::Moments;
use crate::params::{Parameter, Slice, read_rows};
use crate::training::Counters;

const OPTIMIZER: &str = "optimizer.safetensors";
const MOMENTS: [&str; 2] = ["exp_avg", "exp_avg_sq"];

impl Model {
    /// Adds the adapter in a folder that [`Model::save`] or PEFT wrote. It starts without moments: [`Model::load`] reads
    /// them.
    ///
    /// # Errors
    /// `Io` and `Format` where the folder cannot be read or does not fit this model; `Config` where the name is taken.
    pub fn add_adapter_from(&mut self, name: &str, dir: &Path) -> Result<()> {
        let folder = AdapterFolder::open(dir, &self.config)?;
        self.adopt(folder.adapter(&self.config, self.options.dtype, name, self.seed)?)
    }

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

    /// The counters that a resumed run continues from.
    fn state(&self, chosen: Chosen) -> String {
        let Counters { steps, version, forwards } = self.counters_of(chosen);
        let mut state = json!({ "steps": steps, "version": version });
        if self.adapter(chosen).is_some_and(|adapter| adapter.drops()) {
            state["forwards"] = json!(forwards);
        }
        state.to_string()
    }

    /// Reads what [`Model::save`] wrote for an adapter (or a base) of the same shape. Without `optimizer.safetensors` the
    /// optimiser starts again. Everything is checked before anything changes.
    pub fn load(&mut self, dir: &Path, adapter: Option<&str>) -> Result<()> {
        let chosen = self.choose_trained("load", adapter)?;
        let weights = match self.adapter(chosen) {
            None => {
                self.check_config(&dir.join("config.json"))?;
                let files = shards::open(dir)?;
                open::check(&files, &self.params.list)?;
                Weights::Base(files)
            }
            Some(adapter) => {
                let folder = AdapterFolder::open(dir, &self.config)?;
                folder.check_same(adapter, &self.config)?;
                Weights::Adapter(folder)
            }
        };
        let (optimizer, counters) = self.optimizer_of(dir, chosen, weights.files())?;
        let (list, training) = self.trained(chosen);
        match &weights {
            Weights::Base(files) => list.iter_mut().for_each(|parameter| open::fill(files, parameter)),
            Weights::Adapter(folder) => folder.read(list),
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

    /// The optimiser's file beside the weights, if there is one, and its counters; it is checked.
    fn optimizer_of(
        &self,
        dir: &Path,
        chosen: Chosen,
        weights: &TensorSource,
    ) -> Result<(Option<TensorSource>, Counters)> {
        let path = dir.join(OPTIMIZER);
        if !path.exists() {
            return Ok((None, Counters::default()));
        }
        let state = TensorSource::safetensors(&[path])?;
        if state.metadata.get("quintain") != weights.metadata.get("quintain") {
            return Err(Error::format(state.path(), "belongs to another step than the weights beside it"));
        }
        let counters = counters(&state)?;
        if counters.steps > 0 {
            check_moments(&state, self.list(chosen))?;
        }
        Ok((Some(state), counters))
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
    Adapter(AdapterFolder),
}

impl Weights {
    fn files(&self) -> &TensorSource {
        match self {
            Weights::Base(files) => files,
            Weights::Adapter(folder) => folder.files(),
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
                rows: Box::new(|rows| read_rows(moment.k, slice.within(rows), |row, out| moment.get_row(row, out))),
            }));
        }
    }
    write_tensors(path, tensors, FileDtype::F32, &[("quintain", state)])
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

/// The counters that [`Model::save`] wrote beside the moments.
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
