//! The intermediate results of a layer, kept for the gradient.

use crate::adapter::Adapter;
use crate::config::ModelConfig;
use crate::kernels::SharedMut;
use crate::scratch::sized;

/// Numbers of a row in each buffer of a layer's [`Activations`].
pub(crate) type Widths = [usize; 10];

/// The widths of each layer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shape(pub Vec<Widths>);

impl Shape {
    /// The shape under an adapter, or of the base alone.
    pub fn new(config: &ModelConfig, adapter: Option<&Adapter>) -> Self {
        let low = |layer| adapter.map_or([0; 4], |adapter| adapter.widths(layer));
        Shape((0..config.num_hidden_layers).map(|layer| widths(config, low(layer))).collect())
    }

    /// Numbers per row in the sets of activations from layer `first` on; the first set also serves the layers before it.
    pub fn kept(&self, first: usize) -> usize {
        let (shared, rest) = self.0.split_at(first + 1);
        let widest = (0..10).map(|buffer| shared.iter().map(|widths| widths[buffer]).max().unwrap_or(0));
        widest.sum::<usize>() + rest.iter().flatten().sum::<usize>()
    }

    /// The first layer whose activations fit into `bytes`, given `rows`; the last one if none fits.
    pub fn first_kept(&self, rows: usize, bytes: usize) -> usize {
        let last = self.0.len() - 1;
        (0..last).find(|&first| rows * self.kept(first) * size_of::<f32>() <= bytes).unwrap_or(last)
    }
}

/// Widths of the buffers, in their order, with those of the adapters' inner activations.
pub(crate) fn widths(config: &ModelConfig, low: [usize; 4]) -> Widths {
    [
        config.qkv_width(),
        if config.has_qk_norm() { config.q_width() + config.kv_width() } else { 0 },
        config.q_width(),
        config.num_attention_heads,
        config.hidden_size,
        2 * config.intermediate_size,
        low[0],
        low[1],
        low[2],
        low[3],
    ]
}

/// The intermediate results of a layer; backward reads them.
#[derive(Default)]
pub(crate) struct Activations {
    /// q|k|v `[rows][qkv_width]`, after bias, head norms and rotation.
    pub qkv: Vec<f32>,
    /// q|k before the head norms, only where a model has them.
    pub raw: Vec<f32>,
    /// Attention output `[rows][q_width]`.
    pub attn: Vec<f32>,
    /// `[rows][heads]`
    pub lse: Vec<f32>,
    /// The residual stream between attention and feed-forward `[rows][hidden]`.
    pub mid: Vec<f32>,
    /// gate|up `[rows][2 * intermediate]`.
    pub gate_up: Vec<f32>,
    /// Scaled inner activations of the adapters of qkv, o, gate_up and down.
    pub low: [Vec<f32>; 4],
}

impl Activations {
    fn buffers(&mut self) -> [&mut Vec<f32>; 10] {
        let [qkv, o, gate_up, down] = &mut self.low;
        [
            &mut self.qkv,
            &mut self.raw,
            &mut self.attn,
            &mut self.lse,
            &mut self.mid,
            &mut self.gate_up,
            qkv,
            o,
            gate_up,
            down,
        ]
    }

    /// Makes room for `rows`.
    pub fn prepare(&mut self, widths: &Widths, rows: usize) {
        for (buffer, width) in self.buffers().into_iter().zip(widths) {
            sized(buffer, rows * width);
        }
    }

    /// The buffers, to be written by rows.
    pub fn shared(&mut self, widths: &Widths, rows: usize) -> [SharedMut<'_, f32>; 10] {
        let mut at = widths.iter();
        self.buffers().map(|buffer| SharedMut::new(sized(buffer, rows * at.next().unwrap_or(&0))))
    }

    /// Copies what belongs to `row` to `to`, one buffer after another: `widths` of them, rows `strides` apart.
    pub fn copy_row(&self, widths: &Widths, strides: &Widths, row: usize, mut to: &mut [f32]) {
        for ((buffer, &width), stride) in self.each().into_iter().zip(widths).zip(strides) {
            let (part, rest) = to.split_at_mut(width);
            part.copy_from_slice(&buffer[row * stride..][..width]);
            to = rest;
        }
    }

    fn each(&self) -> [&Vec<f32>; 10] {
        let [qkv, o, gate_up, down] = &self.low;
        [&self.qkv, &self.raw, &self.attn, &self.lse, &self.mid, &self.gate_up, qkv, o, gate_up, down]
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.each().iter().map(|buffer| buffer.capacity()).sum::<usize>() * size_of::<f32>()
    }
}
