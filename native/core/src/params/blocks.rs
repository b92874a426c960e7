//! Parameters that stay quantised, and how parameters of any form are filled row by row.

use std::ops::Range;
use std::sync::Arc;

use super::{Dtype, Parameter, Params};
use crate::error::{Error, Result};
use crate::kernels::{BlockKind, BlockRows, NR, PackedBf16, PackedBlocks, PackedF32};

/// How the frozen base under adapters stays quantised. Vectors, and matrices whose shape does not fit, are held in the
/// dtype.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocks {
    /// As the file has it: a GGUF file's quantised tensors keep their blocks, everything else is held in the dtype.
    File,
    /// Quantised on load, by ggml's reference rounding: Q8_0, Q4_0 or Q4_1. Embedding and head, on which everything
    /// depends, are Q8_0.
    Make(BlockKind),
}

impl Blocks {
    pub(crate) fn validate(self) -> Result<()> {
        match self {
            Blocks::Make(kind) if !kind.can_encode() => {
                Err(Error::config("blocks", format!("{kind} cannot be made on load, use q8_0, q4_0 or q4_1")))
            }
            _ => Ok(()),
        }
    }
}

impl Parameter {
    /// Has the parameter held in blocks, the rows of each slice in its own kind, from the next
    /// [`allocate`](Self::allocate) on. `false`, and nothing changes, where that cannot be: vectors, what is trained,
    /// rows or inputs that do not fill panels or blocks, panels that would mix kinds.
    pub fn hold_in_blocks(&mut self, kinds: &[BlockKind]) -> bool {
        assert_eq!(kinds.len(), self.slices.len(), "Parameter::hold_in_blocks: a kind for each slice");
        let alike = kinds.iter().all(|kind| *kind == kinds[0]);
        let whole = alike || self.slices.iter().all(|slice| slice.rows.len().is_multiple_of(NR));
        let fits = kinds.iter().all(|kind| PackedBlocks::fits(self.n, self.k, *kind));
        if self.vector || self.trainable || !whole || !fits {
            return false;
        }
        let slice_of = |panel: usize| self.slices.iter().position(|slice| slice.rows.contains(&(panel * NR)));
        self.kinds = (0..self.n / NR).map(|panel| kinds[slice_of(panel).unwrap_or(0)]).collect();
        true
    }

    /// Room for the values, zero, in the form the parameter is held in: then [`put_row`](Self::put_row) or
    /// [`put_blocks`](Self::put_blocks) for every row. There is never a second copy of the tensor.
    pub fn allocate(&mut self) {
        (self.master, self.compute, self.blocks) = (None, None, None);
        let bf16 = self.dtype == Dtype::Bf16;
        if !self.kinds.is_empty() {
            self.blocks = Some(Arc::new(PackedBlocks::new(self.k, self.kinds.iter().copied(), bf16)));
            return;
        }
        self.compute = bf16.then(|| PackedBf16::zeros(self.n, self.k));
        self.master = (self.trainable || !bf16).then(|| PackedF32::zeros(self.n, self.k));
    }

    /// Overwrites a row (of a vector: one number).
    ///
    /// # Panics
    /// If the row is held in a kind of blocks that only ggml makes.
    pub fn put_row(&mut self, row: usize, values: &[f32]) {
        assert_eq!(values.len(), self.k, "Parameter::put_row");
        let Some(blocks) = self.blocks_mut() else { return self.put(row, 0, values) };
        let kind = blocks.kind(row);
        let mut bytes = vec![0; kind.row_bytes(values.len()).unwrap_or(0)];
        kind.encode(values, &mut bytes);
        blocks.set_row(row, &bytes);
    }

    /// Overwrites a row with the blocks of a file, which are kept if it is held in that kind.
    pub fn put_blocks(&mut self, row: usize, kind: BlockKind, bytes: &[u8]) {
        assert_eq!(Some(bytes.len()), kind.row_bytes(self.k), "Parameter::put_blocks");
        let k = self.k;
        if let Some(blocks) = self.blocks_mut() {
            if blocks.kind(row) == kind {
                return blocks.set_row(row, bytes);
            }
            let mut values = vec![0.0; k];
            kind.decode(bytes, &mut values);
            return self.put_row(row, &values);
        }
        let mut values = [0.0; 256];
        let values = &mut values[..kind.block_len()];
        for (at, block) in bytes.chunks_exact(kind.block_bytes()).enumerate() {
            kind.decode(block, values);
            self.put(row, at * values.len(), values);
        }
    }

    /// Rows of one slice taken apart, if they are held in blocks.
    pub fn read_blocks(&self, rows: Range<usize>) -> Option<BlockRows> {
        self.blocks.as_ref().map(|blocks| blocks.rows(rows))
    }

    /// Quantises values drawn or given whole.
    pub(super) fn quantise(&mut self, values: &PackedF32) {
        self.allocate();
        let mut row = vec![0.0; self.k];
        for at in 0..self.n {
            values.get_row(at, &mut row);
            self.put_row(at, &row);
        }
    }

    /// Bytes of the values, had they been allocated.
    pub(crate) fn planned_bytes(&self) -> usize {
        if !self.kinds.is_empty() {
            return self.kinds.iter().map(|kind| PackedBlocks::bytes_of(NR, self.k, *kind)).sum();
        }
        let rows = self.n.next_multiple_of(NR);
        let f32 = if self.trainable || self.dtype == Dtype::F32 { rows * self.k * 4 } else { 0 };
        f32 + if self.dtype == Dtype::Bf16 { rows * self.k.next_multiple_of(2) * 2 } else { 0 }
    }

    /// The kinds of the panels, if it is held in blocks.
    pub fn kinds(&self) -> &[BlockKind] {
        &self.kinds
    }

    fn blocks_mut(&mut self) -> Option<&mut PackedBlocks> {
        self.blocks.as_mut().map(Arc::make_mut)
    }

    fn put(&mut self, row: usize, first: usize, values: &[f32]) {
        if let Some(master) = &mut self.master {
            master.set_part(row, first, values);
        }
        if let Some(compute) = &mut self.compute {
            compute.set_part(row, first, values);
        }
    }
}

impl Params {
    /// Has matrices held in blocks, before they are allocated; `file` gives the kind that a tensor has there.
    pub(crate) fn hold(&mut self, blocks: Blocks, file: impl Fn(&str) -> Option<BlockKind>) {
        let (embed, head) = (self.layout.embed, self.layout.head);
        for (index, parameter) in self.list.iter_mut().enumerate() {
            let kinds: Option<Vec<BlockKind>> = match blocks {
                Blocks::File => parameter.slices.iter().map(|slice| file(&slice.name)).collect(),
                Blocks::Make(_) if index == embed || index == head => {
                    Some(vec![BlockKind::Q8_0; parameter.slices.len()])
                }
                Blocks::Make(kind) => Some(vec![kind; parameter.slices.len()]),
            };
            if let Some(kinds) = kinds {
                parameter.hold_in_blocks(&kinds);
            }
        }
    }
}
