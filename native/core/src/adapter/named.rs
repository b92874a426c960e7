//! The adapters of a model by name.

use super::{Adapter, LoraConfig};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::params::Parameter;
use crate::training::Training;

/// The name of the adapter that [`Options::lora`](crate::model::Options) makes, which serves calls that name none.
pub const DEFAULT: &str = "default";

/// Names the model without adapters.
pub const BASE: &str = "base";

/// Whose weights a call works with.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Chosen {
    #[default]
    Base,
    /// The adapter at this place of the model's list.
    Adapter(usize),
}

/// An adapter, as reports show it.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterInfo {
    pub name: String,
    pub config: LoraConfig,
    pub parameters: usize,
    pub version: u64,
    pub steps: u64,
    /// Bytes of its factors.
    pub bytes: usize,
}

impl Model {
    /// Adds an adapter that starts as PEFT's do: it changes nothing yet.
    ///
    /// # Errors
    /// `Config` where the name is taken or the settings cannot be used.
    pub fn add_adapter(&mut self, name: &str, lora: LoraConfig) -> Result<()> {
        let mut adapter = Adapter::empty(&self.config, self.options.dtype, name, lora, self.seed)?;
        adapter.base_name.clone_from(&self.base_name);
        adapter.draw(&self.rt);
        self.adopt(adapter)
    }

    /// Takes in an adapter that has its values.
    pub(crate) fn adopt(&mut self, mut adapter: Adapter) -> Result<()> {
        if self.adapters.iter().any(|other| other.name == adapter.name) {
            let message = format!("`{}` exists: remove it first, or choose another name", adapter.name);
            return Err(Error::config("adapter", message));
        }
        adapter.training.owner = self.stamp();
        adapter.training.weights = adapter.training.owner;
        self.adapters.push(adapter);
        Ok(())
    }

    /// Removes an adapter with its gradients and its optimiser. Samples under way with it fail.
    pub fn remove_adapter(&mut self, name: &str) -> Result<()> {
        let Chosen::Adapter(index) = self.choose("remove_adapter", Some(name))? else {
            return Err(Error::state("remove_adapter", "the base cannot be removed: name an adapter"));
        };
        let owner = self.adapters.remove(index).training.owner;
        self.kept.retain(|kept| kept.owner != owner);
        self.recordings().remove(owner);
        self.stamp();
        Ok(())
    }

    /// The adapters, in the order they were added.
    pub fn adapters(&self) -> Vec<AdapterInfo> {
        let info = |adapter: &Adapter| AdapterInfo {
            name: adapter.name.clone(),
            config: adapter.config.clone(),
            parameters: adapter.list.iter().map(|parameter| parameter.n * parameter.k).sum(),
            version: adapter.training.version,
            steps: adapter.training.moments.steps,
            bytes: adapter.bytes(),
        };
        self.adapters.iter().map(info).collect()
    }

    /// What `name` stands for; absent, the adapter [`DEFAULT`] if there is one, else the base.
    pub(crate) fn choose(&self, op: &'static str, name: Option<&str>) -> Result<Chosen> {
        let place = |name: &str| self.adapters.iter().position(|adapter| adapter.name == name).map(Chosen::Adapter);
        match name {
            None => Ok(place(DEFAULT).unwrap_or(Chosen::Base)),
            Some(BASE) => Ok(Chosen::Base),
            Some(name) => place(name).ok_or_else(|| {
                let names: Vec<_> = self.adapters.iter().map(|adapter| adapter.name.as_str()).collect();
                let known = if names.is_empty() { "none".into() } else { names.join(", ") };
                Error::state(op, format!("there is no adapter `{}` (there are: {known})", name.escape_debug()))
            }),
        }
    }

    /// The same, refused where nothing is trained.
    pub(crate) fn choose_trained(&self, op: &'static str, name: Option<&str>) -> Result<Chosen> {
        let chosen = self.choose(op, name)?;
        if self.trains(chosen) {
            return Ok(chosen);
        }
        Err(Error::state(op, "the base is frozen: name an adapter, add one first, or open the model with `lora`"))
    }

    /// Whether a call with these weights can train them.
    pub(crate) fn trains(&self, chosen: Chosen) -> bool {
        chosen != Chosen::Base || self.options.trains_base()
    }

    /// Whether an update can read what sampling keeps: not where dropout makes a training forward another.
    pub(crate) fn records(&self, chosen: Chosen) -> bool {
        self.trains(chosen) && self.adapter(chosen).is_none_or(|adapter| adapter.config.dropout == 0.0)
    }

    /// The adapter, if one is chosen.
    pub(crate) fn adapter(&self, chosen: Chosen) -> Option<&Adapter> {
        match chosen {
            Chosen::Base => None,
            Chosen::Adapter(index) => Some(&self.adapters[index]),
        }
    }

    /// The state of what is chosen.
    pub(crate) fn training(&self, chosen: Chosen) -> &Training {
        match chosen {
            Chosen::Base => &self.base,
            Chosen::Adapter(index) => &self.adapters[index].training,
        }
    }

    /// The parameters and the state of what is chosen.
    pub(crate) fn trained(&mut self, chosen: Chosen) -> (&mut Vec<Parameter>, &mut Training) {
        match chosen {
            Chosen::Base => (&mut self.params.list, &mut self.base),
            Chosen::Adapter(index) => {
                let adapter = &mut self.adapters[index];
                (&mut adapter.list, &mut adapter.training)
            }
        }
    }

    /// The owner's place, if it still has one.
    pub(crate) fn owned(&self, owner: u64) -> Option<Chosen> {
        if self.base.owner == owner {
            return Some(Chosen::Base);
        }
        self.adapters.iter().position(|adapter| adapter.training.owner == owner).map(Chosen::Adapter)
    }

    /// Which weights there are now: the base's and those of every adapter.
    pub(crate) fn present_weights(&self) -> Vec<u64> {
        let adapters = self.adapters.iter().map(|adapter| adapter.training.weights);
        std::iter::once(self.base.weights).chain(adapters).collect()
    }

    /// A number not given before.
    pub(crate) fn stamp(&mut self) -> u64 {
        self.stamps += 1;
        self.stamps
    }

    /// Notes that weights have changed: what was computed from the old ones is theirs alone. A new base is new weights for
    /// every adapter too.
    pub(crate) fn weights_changed(&mut self, chosen: Chosen, version: u64) {
        let stamp = self.stamp();
        let training = self.trained(chosen).1;
        (training.version, training.weights) = (version, stamp);
        let owner = training.owner;
        self.kept.retain(|kept| kept.owner != owner);
        if chosen == Chosen::Base {
            self.kept.clear();
            for index in 0..self.adapters.len() {
                let stamp = self.stamp();
                let training = &mut self.adapters[index].training;
                (training.version, training.weights) = (training.version + 1, stamp);
            }
        }
    }

    /// New weights came from outside: gradients of the old ones are dropped, and the version is one not had before,
    /// `version` itself if it is.
    pub(crate) fn weights_replaced(&mut self, chosen: Chosen, version: u64) {
        let training = self.trained(chosen).1;
        training.zero_grad();
        let version = version.max(training.version + 1);
        if chosen == Chosen::Base {
            self.adapters.iter_mut().for_each(|adapter| adapter.training.zero_grad());
        }
        self.weights_changed(chosen, version);
    }
}
