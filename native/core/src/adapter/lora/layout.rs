//! The factors of LoRA: which parameters there are, and which product of which layer they add to.

use std::ops::Range;

use super::super::modules::{PRODUCTS, path};
use super::config::LoraConfig;
use crate::config::ModelConfig;
use crate::params::{Dtype, Init, Parameter, stack};

/// `y[rows of part] += scale · (x · Aᵀ)[columns of part] · Bᵀ`; the A's of a fused product are one matrix.
#[derive(Debug, Clone)]
pub(super) struct LoraPlace {
    pub rank: usize,
    pub scale: f32,
    pub a: usize,
    pub parts: Vec<LoraPart>,
}

/// The B of one target.
#[derive(Debug, Clone)]
pub(super) struct LoraPart {
    pub b: usize,
    /// Outputs of the fused product that it adds to.
    pub outputs: Range<usize>,
}

impl LoraPlace {
    /// Width of the inner activation, all targets of a fused product side by side.
    pub fn width(&self) -> usize {
        self.parts.len() * self.rank
    }
}

/// The factors beside the products q|k|v, o, gate|up and down of a layer.
pub(super) type Places = [Option<LoraPlace>; 4];

/// The parameters (still without values), and their places in each layer.
pub(super) fn build(config: &ModelConfig, dtype: Dtype, lora: &LoraConfig) -> (Vec<Parameter>, Vec<Places>) {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let (q, kv) = (config.q_width(), config.kv_width());
    let outputs: [&[usize]; 4] = [&[q, kv, kv], &[hidden], &[inner, inner], &[hidden]];
    let inputs = [hidden, q, hidden, inner];
    let mut list = Vec::new();
    let layers = (0..config.num_hidden_layers).map(|layer| {
        [0, 1, 2, 3].map(|product| {
            let (parent, modules) = PRODUCTS[product];
            let mut start = 0;
            let mut targets = Vec::new();
            for (name, &width) in modules.iter().zip(outputs[product]) {
                let path = path(layer, parent, name);
                if lora.covers(&path) {
                    targets.push((format!("base_model.model.{path}"), start..start + width));
                }
                start += width;
            }
            (!targets.is_empty()).then(|| place(&mut list, dtype, lora, inputs[product], targets))
        })
    });
    let layers = layers.collect();
    (list, layers)
}

fn place(
    list: &mut Vec<Parameter>,
    dtype: Dtype,
    lora: &LoraConfig,
    inputs: usize,
    targets: Vec<(String, Range<usize>)>,
) -> LoraPlace {
    let mut push = |parameter| {
        list.push(parameter);
        list.len() - 1
    };
    let rank = lora.rank;
    let a: Vec<_> = targets.iter().map(|(name, _)| (format!("{name}.lora_A.weight"), rank)).collect();
    let a = push(Parameter::matrix(stack(&a), inputs, Init::Kaiming, true, dtype));
    let parts = targets
        .into_iter()
        .map(|(name, outputs)| {
            let slices = stack(&[(format!("{name}.lora_B.weight"), outputs.len())]);
            LoraPart { b: push(Parameter::matrix(slices, rank, Init::Zeros, true, dtype)), outputs }
        })
        .collect();
    LoraPlace { rank, scale: lora.scale(), a, parts }
}
