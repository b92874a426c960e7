//! Adapters in PEFT's folders: `adapter_config.json` says which kind of adapter the folder holds.

use std::path::Path;

use serde_json::Value;

use super::config::AdapterConfig;
use super::{Adapter, Method, lora};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::formats::{TensorSource, read_json};
use crate::params::{Dtype, Parameter};

/// The settings of the adapter.
const ADAPTER_CONFIG: &str = "adapter_config.json";

/// A folder that holds an adapter, by its `peft_type`.
pub(crate) enum AdapterFolder {
    Lora(lora::Folder),
}

impl AdapterFolder {
    /// Reads the configuration and finds the tensors.
    ///
    /// # Errors
    /// `Io` and `Format` where the folder cannot be read, or holds an adapter that this model cannot carry.
    pub fn open(dir: &Path, model: &ModelConfig) -> Result<Self> {
        let path = dir.join(ADAPTER_CONFIG);
        let saved = read_json(&path)?;
        let fields = saved.as_object().ok_or_else(|| Error::format(&path, "is not an object"))?;
        match fields.get("peft_type").and_then(Value::as_str) {
            Some("LORA") => Ok(AdapterFolder::Lora(lora::Folder::open(dir, path, fields, model)?)),
            _ => {
                let other = fields.get("peft_type").unwrap_or(&Value::Null);
                Err(Error::format(&path, format!("peft_type is {other}: only LORA can be read")))
            }
        }
    }

    fn config(&self) -> AdapterConfig {
        match self {
            AdapterFolder::Lora(folder) => folder.config.clone().into(),
        }
    }

    /// The file of the tensors.
    pub fn files(&self) -> &TensorSource {
        match self {
            AdapterFolder::Lora(folder) => &folder.files,
        }
    }

    /// An adapter of what the folder holds.
    pub fn adapter(&self, model: &ModelConfig, dtype: Dtype, name: &str, seed: u64) -> Result<Adapter> {
        let mut adapter = Adapter::empty(model, dtype, name, self.config(), seed)?;
        match self {
            AdapterFolder::Lora(folder) => {
                adapter.base_name.clone_from(&folder.base_name);
                folder.check(&adapter.list)?;
                folder.read(&mut adapter.list);
            }
        }
        Ok(adapter)
    }

    /// Refuses an adapter that differs in kind, shape, scale or place from `own`.
    pub fn check_same(&self, own: &Adapter, model: &ModelConfig) -> Result<()> {
        match (self, &own.method) {
            (AdapterFolder::Lora(folder), Method::Lora(lora)) => {
                folder.check_same(&lora.config, model)?;
                folder.check(&own.list)
            }
        }
    }

    /// Reads tensors that have been checked.
    pub fn read(&self, list: &mut [Parameter]) {
        match self {
            AdapterFolder::Lora(folder) => folder.read(list),
        }
    }
}

impl Adapter {
    /// Writes the tensors, as f32, and what PEFT needs to know of them.
    pub fn save(&self, dir: &Path, model: &ModelConfig, state: &str) -> Result<()> {
        match &self.method {
            Method::Lora(lora) => lora::save(&lora.config, &self.list, self.base_name.as_deref(), dir, model, state),
        }
    }
}
