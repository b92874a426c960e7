//! Parameter storage. All parameters of a model (or of an adapter) stand in one list; the structure of the network refers to them by index.
//! So gradients and moments are lists of the same length, and whoever walks over all parameters (optimiser, checkpoint,
//! memory report) needs to know nothing of the network.

mod blocks;
mod gradients;
mod init;
mod layout;

use std::ops::Range;
use std::sync::Arc;

use crate::config::ModelConfig;
use crate::error::Result;
use crate::kernels::{BlockKind, PackedBf16, PackedBlocks, PackedF32, Runtime, Weight};

pub use blocks::Blocks;
pub use gradients::Gradients;
pub(crate) use layout::stack;
pub use layout::{Layer, Layout, Linear};

/// The type that products of weights are computed in. Accumulation is always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    F32,
    Bf16,
}

/// Some rows of a [`Parameter`] under the name they have in a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Slice {
    pub name: String,
    pub rows: Range<usize>,
}

impl Slice {
    /// Rows of the slice as rows of its parameter.
    pub fn within(&self, rows: Range<usize>) -> Range<usize> {
        self.rows.start + rows.start..self.rows.start + rows.end
    }
}

/// How a parameter starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Init {
    Zeros,
    Ones,
    Normal(f32),
    /// Uniform in `±1/sqrt(fan in)`: kaiming-uniform with `a = sqrt 5`.
    Kaiming,
}

/// A tensor `[n, k]`; a vector (a norm, a bias) has `k = 1`, which makes its panels the plain vector.
pub struct Parameter {
    pub slices: Vec<Slice>,
    pub n: usize,
    pub k: usize,
    pub vector: bool,
    pub trainable: bool,
    pub(crate) init: Init,
    dtype: Dtype,
    /// The f32 values. Absent for what is frozen and computed in bf16.
    master: Option<PackedF32>,
    /// The copy that products read if the dtype is bf16.
    compute: Option<PackedBf16>,
    /// The kind of every panel, if it is held in blocks.
    kinds: Vec<BlockKind>,
    /// Instead of both of the above.
    blocks: Option<Arc<PackedBlocks>>,
}

impl Parameter {
    pub(crate) fn matrix(slices: Vec<Slice>, k: usize, init: Init, trainable: bool, dtype: Dtype) -> Self {
        let n = slices.last().map_or(0, |slice| slice.rows.end);
        let (master, compute, kinds, blocks) = (None, None, Vec::new(), None);
        Parameter { slices, n, k, vector: false, trainable, init, dtype, master, compute, kinds, blocks }
    }

    /// Vectors take part in no product: they stay f32.
    fn vector(slices: Vec<Slice>, init: Init, trainable: bool) -> Self {
        Parameter { vector: true, ..Parameter::matrix(slices, 1, init, trainable, Dtype::F32) }
    }

    /// Gives the parameter its values, and drops those that the dtype does not need.
    pub(crate) fn assign(&mut self, values: PackedF32) {
        debug_assert_eq!((values.n, values.k), (self.n, self.k));
        if !self.kinds.is_empty() {
            return self.quantise(&values);
        }
        self.compute = (self.dtype == Dtype::Bf16).then(|| PackedBf16::from_packed_f32(&values));
        self.master = (self.trainable || self.dtype == Dtype::F32).then_some(values);
    }

    /// Gives the parameter its random start.
    pub(crate) fn draw(&mut self, rt: &Runtime, seed: u64) {
        let values = init::draw(rt, self, seed);
        self.assign(values);
    }

    /// Shape of a slice in a checkpoint.
    pub fn shape(&self, slice: &Slice) -> Vec<usize> {
        if self.vector { vec![slice.rows.len()] } else { vec![slice.rows.len(), self.k] }
    }

    /// The type that products of this parameter are computed in.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The matrix, as products read it.
    pub fn weight(&self) -> Weight<'_> {
        match (&self.blocks, &self.compute, &self.master) {
            (Some(blocks), ..) => Weight::Blocks(blocks),
            (None, Some(bf16), _) => Weight::Bf16(bf16),
            (None, None, Some(f32)) => Weight::F32(f32),
            (None, None, None) => unreachable!("{} has no values", self.slices[0].name),
        }
    }

    /// The plain values of a vector.
    pub fn values(&self) -> &[f32] {
        debug_assert!(self.vector);
        &self.master.as_ref().expect("vectors are f32").data[..self.n]
    }

    /// One row, as products read it (an embedding).
    pub fn row(&self, row: usize, out: &mut [f32]) {
        match self.weight() {
            Weight::F32(w) => w.get_row(row, out),
            Weight::Bf16(w) => w.get_row(row, out),
            Weight::Blocks(w) => w.get_row_rounded(row, out),
        }
    }

    /// f32 and bf16 values for the optimiser: the master and its compute copy.
    pub(crate) fn values_mut(&mut self) -> (&mut PackedF32, Option<&mut PackedBf16>) {
        (self.master.as_mut().expect("what is trained has a master"), self.compute.as_mut())
    }

    /// Row-major values of some rows, from the f32 master if there is one.
    pub fn read_rows(&self, rows: Range<usize>) -> Vec<f32> {
        match (&self.master, self.weight()) {
            (Some(w), _) | (None, Weight::F32(w)) => read_rows(self.k, rows, |row, out| w.get_row(row, out)),
            (None, Weight::Bf16(w)) => read_rows(self.k, rows, |row, out| w.get_row(row, out)),
            (None, Weight::Blocks(w)) => read_rows(self.k, rows, |row, out| w.get_row(row, out)),
        }
    }

    /// Overwrites rows with row-major values.
    pub fn write_rows(&mut self, rows: Range<usize>, values: &[f32]) {
        if !self.kinds.is_empty() {
            return rows.zip(values.chunks_exact(self.k)).for_each(|(row, values)| self.put_row(row, values));
        }
        let mut whole = match (self.master.take(), &self.compute) {
            (Some(master), _) => master,
            (None, Some(compute)) => PackedF32::from_rows(&compute.to_rows(), self.n, self.k),
            (None, None) => PackedF32::zeros(self.n, self.k),
        };
        for (row, values) in rows.zip(values.chunks_exact(self.k)) {
            whole.set_row(row, values);
        }
        self.assign(whole);
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.master.as_ref().map_or(0, |w| size_of_val(&*w.data))
            + self.compute.as_ref().map_or(0, |w| size_of_val(&*w.data))
            + self.blocks.as_ref().map_or(0, |w| w.bytes())
    }

    /// A frozen copy that holds only what products read.
    fn frozen(&self) -> Parameter {
        let master = if self.compute.is_some() { None } else { self.master.clone() };
        let (slices, compute) = (self.slices.clone(), self.compute.clone());
        let (kinds, blocks) = (self.kinds.clone(), self.blocks.clone());
        Parameter { slices, trainable: false, master, compute, kinds, blocks, ..*self }
    }
}

/// Row-major copies of rows that `get` reads.
pub(crate) fn read_rows(k: usize, rows: Range<usize>, get: impl Fn(usize, &mut [f32])) -> Vec<f32> {
    let mut values = vec![0.0; rows.len() * k];
    for (row, out) in rows.zip(values.chunks_exact_mut(k)) {
        get(row, out);
    }
    values
}

/// All parameters of a model and how the network uses them.
pub struct Params {
    pub list: Vec<Parameter>,
    pub layout: Layout,
}

impl Params {
    /// Draws every parameter from `seed`. What a tensor starts with depends on its name alone, so another dtype does not
    /// change it.
    pub fn random(
        rt: &Runtime,
        config: &ModelConfig,
        dtype: Dtype,
        trainable: bool,
        blocks: Option<Blocks>,
        seed: u64,
    ) -> Result<Self> {
        let mut params = Params::empty(config, dtype, trainable, blocks)?;
        params.list.iter_mut().for_each(|parameter| parameter.draw(rt, seed));
        Ok(params)
    }

    /// The list without values.
    pub(crate) fn empty(config: &ModelConfig, dtype: Dtype, trainable: bool, blocks: Option<Blocks>) -> Result<Self> {
        config.validate()?;
        blocks.map_or(Ok(()), Blocks::validate)?;
        let (list, layout) = layout::build(config, dtype, trainable);
        let mut params = Params { list, layout };
        if let Some(blocks) = blocks {
            params.hold(blocks, |_| None);
        }
        Ok(params)
    }

    /// The parameter at an index of the layout.
    pub fn get(&self, index: usize) -> &Parameter {
        &self.list[index]
    }

    /// A frozen copy in the compute dtype.
    pub fn frozen(&self) -> Params {
        Params { list: self.list.iter().map(Parameter::frozen).collect(), layout: self.layout.clone() }
    }

    /// Bytes of all values.
    pub fn bytes(&self) -> usize {
        self.list.iter().map(Parameter::bytes).sum()
    }
}
