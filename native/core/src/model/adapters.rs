//! The adapters of a model: added, removed, listed.

use super::Model;
use crate::adapter::{Adapter, AdapterConfig, Chosen};
use crate::error::{Error, Result};

/// An adapter, as reports show it.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterInfo {
    pub name: String,
    pub config: AdapterConfig,
    pub parameters: usize,
    pub version: u64,
    pub steps: u64,
    /// Bytes of its parameters.
    pub bytes: usize,
}

impl Model {
    /// Adds an adapter that starts as PEFT's do: it changes nothing yet.
    ///
    /// # Errors
    /// `Config` where the name is taken or the settings cannot be used.
    pub fn add_adapter(&mut self, name: &str, config: impl Into<AdapterConfig>) -> Result<()> {
        let mut adapter = Adapter::empty(&self.config, self.options.dtype, name, config.into(), self.seed)?;
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
            config: adapter.config(),
            parameters: adapter.list.iter().map(|parameter| parameter.n * parameter.k).sum(),
            version: adapter.training.version,
            steps: adapter.training.moments.steps,
            bytes: adapter.bytes(),
        };
        self.adapters.iter().map(info).collect()
    }
}
