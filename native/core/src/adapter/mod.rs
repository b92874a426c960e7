//! Low-rank adapters: several by name on one base, each with its own parameters, gradients and optimiser.

mod config;
mod dropout;
mod layout;
mod named;
mod runs;

pub(crate) use config::matches;
pub use config::{LoraConfig, module_paths};
pub(crate) use dropout::Dropout;
pub(crate) use layout::{Lora, Places};
pub(crate) use named::Chosen;
pub use named::{AdapterInfo, BASE, DEFAULT};
pub(crate) use runs::{Adapted, Run};

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::kernels::Runtime;
use crate::params::{Dtype, Linear, Parameter};
use crate::training::Training;

/// An adapter.
pub(crate) struct Adapter {
    pub name: String,
    pub config: LoraConfig,
    pub list: Vec<Parameter>,
    pub layers: Vec<Places>,
    pub training: Training,
    /// Training forwards so far: what dropout draws from.
    pub forwards: u64,
    /// What the base is called, where that is known.
    pub base_name: Option<String>,
    seed: u64,
}

impl Adapter {
    /// An adapter without values.
    pub fn empty(config: &ModelConfig, dtype: Dtype, name: &str, lora: LoraConfig, seed: u64) -> Result<Self> {
        check_name(name)?;
        lora.validate(config)?;
        let (list, layers) = layout::build(config, dtype, &lora);
        let training = Training::default();
        Ok(Adapter { name: name.into(), config: lora, list, layers, training, forwards: 0, base_name: None, seed })
    }

    /// Draws the factors; equal names and seeds give equal ones.
    pub fn draw(&mut self, rt: &Runtime) {
        let seed = if self.name == DEFAULT { self.seed } else { dropout::stream(&self.name, [self.seed, 0, 0]) };
        self.list.iter_mut().for_each(|parameter| parameter.draw(rt, seed));
    }

    /// What is added to a product.
    pub fn lora(&self, linear: &Linear) -> Option<&Lora> {
        self.layers[linear.layer][linear.product].as_ref()
    }

    /// Widths of the inner activations of a layer.
    pub fn widths(&self, layer: usize) -> [usize; 4] {
        self.layers[layer].each_ref().map(|place| place.as_ref().map_or(0, Lora::width))
    }

    /// The first layer that it changes.
    pub fn first_layer(&self) -> usize {
        self.layers.iter().position(|places| places.iter().any(Option::is_some)).unwrap_or(0)
    }

    /// What the next training forward drops; none without dropout.
    pub fn dropout(&self) -> Option<Dropout> {
        (self.config.dropout > 0.0).then(|| Dropout::new(self.config.dropout, self.seed, &self.name, self.forwards))
    }

    /// Bytes of the factors.
    pub fn bytes(&self) -> usize {
        self.list.iter().map(Parameter::bytes).sum()
    }
}

fn check_name(name: &str) -> Result<()> {
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.len() > 64 || !name.chars().all(fine) {
        let message = format!("`{}` must be 1 to 64 letters, digits, `-` or `_`", name.escape_debug());
        return Err(Error::config("adapter", message));
    }
    if name == BASE {
        return Err(Error::config("adapter", "`base` means the model without adapters: choose another name"));
    }
    Ok(())
}
