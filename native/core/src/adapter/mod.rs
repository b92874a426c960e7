//! Adapters: several by name on one base, each with its own parameters, gradients and optimiser.
//!
//! An adapter's kind is its `peft_type` in PEFT: a member of [`Method`]. Every operation here matches on all members, and
//! no module outside this folder knows one. Variants of a kind (rsLoRA, later DoRA and PiSSA) are settings of the kind.
//!
//! Rule for virtual tokens (prompt, prefix and p-tuning, later): they exist in the kernel alone. A `Forest` and a request
//! to the sampler hold real tokens. The kernel puts the owner's virtual rows before each tree, and the context length
//! becomes the adapter's: the model's, less these rows.

mod config;
mod dropout;
mod folder;
mod lora;
mod modules;
mod names;
mod product;
mod runs;

pub use config::AdapterConfig;
pub(crate) use dropout::Dropout;
pub(crate) use folder::AdapterFolder;
pub use lora::LoraConfig;
pub use modules::module_paths;
pub(crate) use names::Chosen;
pub use names::{BASE, DEFAULT};
pub(crate) use product::Product;
pub(crate) use runs::{Adapted, Run};

use lora::{Delta, Lora};
use names::check_name;

use crate::config::ModelConfig;
use crate::error::Result;
use crate::kernels::Runtime;
use crate::params::{Dtype, Gradients, Linear, Parameter, Slice};
use crate::training::Training;

/// How an adapter changes the network, by PEFT's `peft_type`.
enum Method {
    Lora(Lora),
}

/// An adapter.
pub(crate) struct Adapter {
    pub name: String,
    method: Method,
    pub list: Vec<Parameter>,
    pub training: Training,
    /// Training forwards so far: what dropout draws from.
    pub forwards: u64,
    /// The base's name, if it is known.
    pub base_name: Option<String>,
    seed: u64,
}

impl Adapter {
    /// An adapter without values.
    pub fn empty(model: &ModelConfig, dtype: Dtype, name: &str, config: AdapterConfig, seed: u64) -> Result<Self> {
        check_name(name)?;
        config.validate(model)?;
        let (method, list) = match config {
            AdapterConfig::Lora(config) => {
                let (lora, list) = Lora::build(model, dtype, config);
                (Method::Lora(lora), list)
            }
        };
        let training = Training::default();
        Ok(Adapter { name: name.into(), method, list, training, forwards: 0, base_name: None, seed })
    }

    /// Draws the parameters; equal names and seeds give equal ones.
    pub fn draw(&mut self, rt: &Runtime) {
        let seed = if self.name == DEFAULT { self.seed } else { dropout::stream(&self.name, [self.seed, 0, 0]) };
        self.list.iter_mut().for_each(|parameter| parameter.draw(rt, seed));
    }

    /// Its settings.
    pub fn config(&self) -> AdapterConfig {
        match &self.method {
            Method::Lora(lora) => lora.config.clone().into(),
        }
    }

    /// Whether it changes a product.
    pub fn adapts(&self, linear: &Linear) -> bool {
        match &self.method {
            Method::Lora(lora) => lora.adapts(linear),
        }
    }

    /// Width of the inner activation of a product.
    pub fn inner_width(&self, linear: &Linear) -> usize {
        match &self.method {
            Method::Lora(lora) => lora.inner_width(linear),
        }
    }

    /// Widths of the inner activations of a layer.
    pub fn widths(&self, layer: usize) -> [usize; 4] {
        match &self.method {
            Method::Lora(lora) => lora.widths(layer),
        }
    }

    /// The first layer that it changes.
    pub fn first_layer(&self) -> usize {
        match &self.method {
            Method::Lora(lora) => lora.first_layer(),
        }
    }

    /// The inner activation of a product into `low`, rows `stride` apart. `x` is what the product reads, the rows of the
    /// pass from `first` on.
    pub fn inner(
        &self,
        rt: &Runtime,
        linear: &Linear,
        (first, x): (usize, &[f32]),
        dropout: Option<&Dropout>,
        (low, stride): (&mut [f32], usize),
    ) {
        match &self.method {
            Method::Lora(lora) => lora.inner(rt, &self.list, linear, (first, x), dropout, (low, stride)),
        }
    }

    /// Adds to the output `y` of a product what follows from the inner activation.
    pub fn add_product(
        &self,
        rt: &Runtime,
        linear: &Linear,
        rows: usize,
        (low, stride): (&[f32], usize),
        y: &mut [f32],
    ) {
        match &self.method {
            Method::Lora(lora) => lora.add(rt, &self.list, linear, rows, (low, stride), y),
        }
    }

    /// The part of the adapter in the gradient of a product: parameters into `gradients`, input added to `dx`. `dlow` is a
    /// buffer.
    pub fn backward(
        &self,
        rt: &Runtime,
        product: &Product,
        dropout: Option<&Dropout>,
        dy: &[f32],
        (gradients, dlow): (&mut Gradients, &mut Vec<f32>),
        dx: Option<&mut [f32]>,
    ) {
        match &self.method {
            Method::Lora(lora) => lora.backward(rt, &self.list, product, dropout, dy, (gradients, dlow), dx),
        }
    }

    /// The change that merging makes to a weight of the base.
    pub fn delta(&self, weight: &Slice) -> Option<Delta<'_>> {
        match &self.method {
            Method::Lora(lora) => lora.delta(&self.list, weight),
        }
    }

    /// The share of its inputs that a training forward drops.
    fn dropped_share(&self) -> f32 {
        match &self.method {
            Method::Lora(lora) => lora.config.dropout,
        }
    }

    /// Whether its training forwards drop inputs.
    pub fn drops(&self) -> bool {
        self.dropped_share() > 0.0
    }

    /// The masks of the next training forward; none without dropout.
    pub fn dropout(&self) -> Option<Dropout> {
        self.drops().then(|| Dropout::new(self.dropped_share(), self.seed, &self.name, self.forwards))
    }

    /// Bytes of the parameters.
    pub fn bytes(&self) -> usize {
        self.list.iter().map(Parameter::bytes).sum()
    }
}
