//! LoRA: pairs of low-rank factors beside the products of a layer.

mod config;
mod layout;
mod merge;
mod peft;
mod product;

pub use config::LoraConfig;
pub(super) use config::LoraSettings;
pub(super) use merge::Delta;
pub(super) use peft::{Folder, save};

use layout::{LoraPlace, Places};

use crate::config::ModelConfig;
use crate::params::{Dtype, Linear, Parameter};

/// Which factors there are, and where they add.
pub(super) struct Lora {
    pub config: LoraConfig,
    layers: Vec<Places>,
}

impl Lora {
    /// The factors (still without values) and their places.
    pub fn build(model: &ModelConfig, dtype: Dtype, config: LoraConfig) -> (Self, Vec<Parameter>) {
        let (list, layers) = layout::build(model, dtype, &config);
        (Lora { config, layers }, list)
    }

    /// The factors beside a product.
    fn place(&self, linear: &Linear) -> Option<&LoraPlace> {
        self.layers[linear.layer][linear.product].as_ref()
    }

    /// Whether it changes a product.
    pub fn adapts(&self, linear: &Linear) -> bool {
        self.place(linear).is_some()
    }

    /// Width of the inner activation of a product.
    pub fn inner_width(&self, linear: &Linear) -> usize {
        self.place(linear).map_or(0, LoraPlace::width)
    }

    /// Widths of the inner activations of a layer.
    pub fn widths(&self, layer: usize) -> [usize; 4] {
        self.layers[layer].each_ref().map(|place| place.as_ref().map_or(0, LoraPlace::width))
    }

    /// The first layer that it changes.
    pub fn first_layer(&self) -> usize {
        self.layers.iter().position(|places| places.iter().any(Option::is_some)).unwrap_or(0)
    }
}
