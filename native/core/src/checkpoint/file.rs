//! safetensors files: written in one pass under a temporary name, read through a memory map.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, rename};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::kernels::f32_from_bf16;

/// A tensor to write: its values are made when its turn comes, so a file costs the memory of its largest tensor.
pub(super) struct Outgoing<'a> {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Box<dyn Fn() -> Vec<f32> + 'a>,
}

/// Writes f32 tensors. Equal contents give equal bytes.
pub(super) fn write_tensors(path: &Path, mut tensors: Vec<Outgoing>, metadata: &[(&str, &str)]) -> Result<()> {
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let mut header = BTreeMap::new();
    let metadata: BTreeMap<_, _> = metadata.iter().copied().collect();
    header.insert("__metadata__".to_string(), json!(metadata));
    let mut offset = 0;
    for tensor in &tensors {
        let end = offset + tensor.shape.iter().product::<usize>() * size_of::<f32>();
        let entry = json!({ "dtype": "F32", "shape": tensor.shape, "data_offsets": [offset, end] });
        header.insert(tensor.name.clone(), entry);
        offset = end;
    }
    let mut header = serde_json::to_string(&header).expect("names and numbers");
    // Readers map the data: spaces align it.
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    write_atomic(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        let mut bytes = Vec::new();
        for tensor in &tensors {
            bytes.clear();
            bytes.extend((tensor.values)().iter().flat_map(|value| value.to_le_bytes()));
            out.write_all(&bytes)?;
        }
        Ok(())
    })
}

/// Writes a file under a temporary name, flushes it to the disk, and gives it its name: never a half-written file.
pub(super) fn write_atomic(path: &Path, body: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>) -> Result<()> {
    let temporary = path.temporary();
    let write = || {
        let mut out = BufWriter::new(File::create(&temporary)?);
        body(&mut out)?;
        out.into_inner().map_err(|e| e.into_error())?.sync_all()?;
        rename(&temporary, path)?;
        match path.parent() {
            // The rename itself is durable once the folder is.
            Some(parent) if cfg!(unix) => File::open(parent)?.sync_all(),
            _ => Ok(()),
        }
    };
    write().map_err(|cause| {
        let _ = std::fs::remove_file(&temporary);
        Error::io(path, &cause)
    })
}

trait Temporary {
    fn temporary(&self) -> PathBuf;
}

impl Temporary for Path {
    /// `name.<pid>.tmp`: two processes never write one temporary file.
    fn temporary(&self) -> PathBuf {
        let mut name = self.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{}.tmp", std::process::id()));
        self.with_file_name(name)
    }
}

/// Where a tensor of a [`TensorFiles`] lies.
struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    start: usize,
    len: usize,
}

/// The tensors of one or several files, checked, not yet read.
pub(super) struct TensorFiles {
    files: Vec<(PathBuf, Mmap)>,
    entries: HashMap<String, Entry>,
    pub metadata: HashMap<String, String>,
}

impl TensorFiles {
    /// Maps the files and checks their headers.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        let mut all = TensorFiles { files: Vec::new(), entries: HashMap::new(), metadata: HashMap::new() };
        for path in paths {
            let file = File::open(path).map_err(|cause| Error::io(path, &cause))?;
            // SAFETY: the map is read-only; that nobody truncates a checkpoint while it is loaded is the usual contract
            // of safetensors, and our own writer replaces files instead of changing them.
            let map = unsafe { Mmap::map(&file) }.map_err(|cause| Error::io(path, &cause))?;
            let invalid = |e: safetensors::SafeTensorError| Error::format(path, format!("not a safetensors file: {e}"));
            let (_, header) = SafeTensors::read_metadata(&map).map_err(invalid)?;
            all.metadata.extend(header.metadata().clone().unwrap_or_default());
            let tensors = SafeTensors::deserialize(&map).map_err(invalid)?;
            for (name, view) in tensors.iter() {
                let start = view.data().as_ptr() as usize - map.as_ptr() as usize;
                let (dtype, shape, len) = (view.dtype(), view.shape().to_vec(), view.data().len());
                if !matches!(dtype, Dtype::F32 | Dtype::BF16 | Dtype::F16) {
                    return Err(Error::format(path, format!("{name} is {dtype:?}; F32, BF16 and F16 can be loaded")));
                }
                all.entries.insert(name.to_string(), Entry { file: all.files.len(), dtype, shape, start, len });
            }
            all.files.push((path.clone(), map));
        }
        Ok(all)
    }

    /// Names in the files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The first file, to name in errors.
    pub fn path(&self) -> &Path {
        &self.files[0].0
    }

    /// Refuses a tensor that is absent or of another shape.
    pub fn expect(&self, name: &str, shape: &[usize]) -> Result<()> {
        match self.entries.get(name) {
            None => Err(Error::format(self.path(), format!("{name} is missing"))),
            Some(entry) if entry.shape != shape => {
                let message = format!("{name} has shape {:?}, the model {shape:?}", entry.shape);
                Err(Error::format(&self.files[entry.file].0, message))
            }
            Some(_) => Ok(()),
        }
    }

    /// The values of a tensor that [`TensorFiles::expect`] has seen, as f32.
    pub fn values(&self, name: &str) -> Vec<f32> {
        let entry = &self.entries[name];
        let bytes = &self.files[entry.file].1[entry.start..entry.start + entry.len];
        let half = |pair: &[u8]| u16::from_le_bytes([pair[0], pair[1]]);
        match entry.dtype {
            Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Dtype::BF16 => bytes.chunks_exact(2).map(|pair| f32_from_bf16(half(pair))).collect(),
            _ => bytes.chunks_exact(2).map(|pair| f32_from_f16(half(pair))).collect(),
        }
    }
}

/// IEEE half precision, exactly.
fn f32_from_f16(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, mantissa) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    sign * match exponent {
        0 => mantissa * 2f32.powi(-24),
        31 if mantissa == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1.0 + mantissa / 1024.0) * 2f32.powi(exponent - 15),
    }
}

/// Parses a small JSON file.
pub(super) fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).map_err(|cause| Error::io(path, &cause))?;
    serde_json::from_str(&text).map_err(|cause| Error::format(path, cause.to_string()))
}

#[cfg(test)]
mod tests {
    use super::f32_from_f16;

    #[test]
    fn half_precision_is_exact() {
        for (bits, value) in
            [(0x3c00, 1.0), (0xc000, -2.0), (0x0001, 2f32.powi(-24)), (0x7bff, 65504.0), (0x3555, 0.333_251_95)]
        {
            assert_eq!(f32_from_f16(bits), value);
        }
        assert_eq!(f32_from_f16(0xfc00), f32::NEG_INFINITY);
        assert!(f32_from_f16(0x7e00).is_nan());
    }
}
