//! The tensors of a checkpoint under their Hugging Face names, whatever files they lie in. Headers are checked when it is
//! opened; data is read row by row from the mapped files, when it is asked for.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::encoding::Encoding;
use super::map::FileMap;
use super::safetensors::Header;
use crate::error::{Error, Result};
use crate::kernels::BlockKind;

/// Bytes after which what was read is given back to the system.
const RELEASE: usize = 4 << 20;

/// In which order a file holds the rows of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Plain,
    /// Within each head, the two halves interleaved: llama.cpp's converter does that to q and k of Llama, because its
    /// rotary embedding pairs neighbours where Hugging Face pairs halves.
    Interleaved {
        head_dim: usize,
    },
}

impl Order {
    /// Where the file's row `row` belongs.
    fn place(self, row: usize) -> usize {
        match self {
            Order::Plain => row,
            Order::Interleaved { head_dim } => {
                let (head, within) = (row / head_dim, row % head_dim);
                head * head_dim + (within % 2) * (head_dim / 2) + within / 2
            }
        }
    }
}

/// Where a tensor lies, and how.
struct Entry {
    file: usize,
    encoding: Encoding,
    shape: Vec<usize>,
    range: Range<usize>,
    order: Order,
}

/// The tensors of one or several files, checked, not yet read.
pub(crate) struct TensorSource {
    files: Vec<FileMap>,
    entries: HashMap<String, Entry>,
    /// Metadata of all safetensors files together.
    pub metadata: HashMap<String, String>,
}

/// A row of a tensor as the file holds it; a vector is one row.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    pub encoding: Encoding,
    pub bytes: &'a [u8],
}

impl Row<'_> {
    /// Its numbers; `out` is as long as the row.
    pub fn decode(&self, out: &mut [f32]) {
        self.encoding.decode(self.bytes, out);
    }
}

impl TensorSource {
    /// Opens safetensors files that together hold a checkpoint.
    pub fn safetensors(paths: &[PathBuf]) -> Result<Self> {
        let mut source = TensorSource { files: Vec::new(), entries: HashMap::new(), metadata: HashMap::new() };
        for path in paths {
            let map = FileMap::open(path)?;
            let header = Header::parse(&map).map_err(|fault| Error::format(path, fault))?;
            source.metadata.extend(header.metadata);
            source.files.push(map);
            for tensor in header.tensors {
                source.insert(tensor.name, tensor.encoding, tensor.shape, tensor.range, Order::Plain)?;
            }
        }
        Ok(source)
    }

    /// The tensors of one file; they are named with [`TensorSource::insert`].
    pub fn of_file(file: FileMap) -> Self {
        TensorSource { files: vec![file], entries: HashMap::new(), metadata: HashMap::new() }
    }

    /// Adds a tensor of the last file.
    pub fn insert(
        &mut self,
        name: String,
        encoding: Encoding,
        shape: Vec<usize>,
        range: Range<usize>,
        order: Order,
    ) -> Result<()> {
        let file = self.files.len() - 1;
        if let Some(other) = self.entries.get(&name) {
            let first = self.files[other.file].path.display();
            return Err(Error::format(&self.files[file].path, format!("{name} is here and in {first}")));
        }
        self.entries.insert(name, Entry { file, encoding, shape, range, order });
        Ok(())
    }

    /// Names of the tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The first file, to name in errors.
    pub fn path(&self) -> &Path {
        &self.files[0].path
    }

    /// The file that a tensor lies in.
    pub fn file(&self, name: &str) -> Option<&Path> {
        self.entries.get(name).map(|entry| self.files[entry.file].path.as_path())
    }

    /// The blocks that a tensor is quantised in, if it is.
    pub fn kind(&self, name: &str) -> Option<BlockKind> {
        match self.entries.get(name)?.encoding {
            Encoding::Blocks(kind) => Some(kind),
            _ => None,
        }
    }

    /// Refuses a tensor that is absent or of another shape.
    pub fn expect(&self, name: &str, shape: &[usize]) -> Result<()> {
        match self.entries.get(name) {
            None => Err(Error::format(self.path(), format!("{name} is missing"))),
            Some(entry) if entry.shape != shape => {
                let message = format!("{name} has shape {:?}, the model {shape:?}", entry.shape);
                Err(Error::format(&self.files[entry.file].path, message))
            }
            Some(_) => Ok(()),
        }
    }

    /// Gives `each` the rows of a tensor that [`TensorSource::expect`] has seen, each with its place in it, in the order of
    /// the file. What was read does not stay in memory.
    pub fn rows(&self, name: &str, mut each: impl FnMut(usize, Row)) {
        let Entry { file, encoding, shape, range, order } = &self.entries[name];
        let file = &self.files[*file];
        let rows = if shape.len() < 2 { 1 } else { shape[0] };
        let stride = range.len().checked_div(rows).unwrap_or(0);
        let mut released = range.start;
        for row in 0..rows {
            let start = range.start + row * stride;
            each(order.place(row), Row { encoding: *encoding, bytes: &file[start..start + stride] });
            if start - released > RELEASE {
                file.release(released..start);
                released = start;
            }
        }
        file.release(released..range.end);
    }

    /// The rows of a tensor as numbers, each with its place; those of a vector have one number each.
    pub fn read(&self, name: &str, mut each: impl FnMut(usize, &[f32])) {
        let shape = &self.entries[name].shape;
        let mut values = vec![0.0; shape.last().copied().unwrap_or(1)];
        self.rows(name, |place, row| {
            row.decode(&mut values);
            match shape.len() {
                0 | 1 => values.chunks_exact(1).enumerate().for_each(|(place, value)| each(place, value)),
                _ => each(place, &values),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::Order;

    #[test]
    fn interleaving_is_undone_within_each_head() {
        // llama.cpp: reshape(heads, 2, dim / 2).swapaxes(1, 2): row 2 j + c of a head was row c dim / 2 + j.
        let order = Order::Interleaved { head_dim: 8 };
        let places: Vec<_> = (0..16).map(|row| order.place(row)).collect();
        assert_eq!(places, [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]);
    }
}
