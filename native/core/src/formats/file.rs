//! The files of a checkpoint folder: safetensors, written in one pass under a temporary name, and JSON.

use std::collections::BTreeMap;
use std::fs::{File, rename};
use std::io::{BufWriter, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::kernels::{bf16_from_f32, f16_from_f32};

/// A tensor to write, a matrix or a vector: its values are made some rows at a time (of a vector: some numbers).
pub(crate) struct Outgoing<'a> {
    pub name: String,
    pub shape: Vec<usize>,
    pub rows: Box<dyn Fn(Range<usize>) -> Vec<f32> + 'a>,
}

impl Outgoing<'_> {
    /// Bytes in a file.
    pub fn bytes(&self, dtype: FileDtype) -> usize {
        self.shape.iter().product::<usize>() * dtype.bytes()
    }
}

/// The type that the numbers of a file are rounded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileDtype {
    F32,
    Bf16,
    F16,
}

impl FileDtype {
    fn bytes(self) -> usize {
        if self == FileDtype::F32 { 4 } else { 2 }
    }

    fn name(self) -> &'static str {
        match self {
            FileDtype::F32 => "F32",
            FileDtype::Bf16 => "BF16",
            FileDtype::F16 => "F16",
        }
    }

    fn put(self, values: &[f32], bytes: &mut Vec<u8>) {
        match self {
            FileDtype::F32 => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            FileDtype::Bf16 => bytes.extend(values.iter().flat_map(|&value| bf16_from_f32(value).to_le_bytes())),
            FileDtype::F16 => bytes.extend(values.iter().flat_map(|&value| f16_from_f32(value).to_le_bytes())),
        }
    }
}

/// Numbers held at once.
const CHUNK: usize = 1 << 20;

/// Writes tensors in the order of their names. Equal contents give equal bytes.
pub(crate) fn write_tensors(
    path: &Path,
    mut tensors: Vec<Outgoing>,
    dtype: FileDtype,
    metadata: &[(&str, &str)],
) -> Result<()> {
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let mut header = BTreeMap::new();
    let metadata: BTreeMap<_, _> = metadata.iter().copied().collect();
    header.insert("__metadata__".to_string(), json!(metadata));
    let mut offset = 0;
    for tensor in &tensors {
        let end = offset + tensor.bytes(dtype);
        let entry = json!({ "dtype": dtype.name(), "shape": tensor.shape, "data_offsets": [offset, end] });
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
            let (rows, width) = (tensor.shape[0], tensor.shape[1..].iter().product::<usize>());
            let chunk = (CHUNK / width).max(1);
            for first in (0..rows).step_by(chunk) {
                bytes.clear();
                dtype.put(&(tensor.rows)(first..rows.min(first + chunk)), &mut bytes);
                out.write_all(&bytes)?;
            }
        }
        Ok(())
    })
}

/// Writes a file under a temporary name, flushes it to the disk, and gives it its name: never a half-written file.
fn write_atomic(path: &Path, body: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>) -> Result<()> {
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

/// The largest of these files is the index of a sharded checkpoint.
const MAX_JSON: u64 = 64 << 20;

/// Writes a text file whole or not at all.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<()> {
    write_atomic(path, |out| out.write_all(text.as_bytes()))
}

/// The text of a small regular file.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let io = |cause| Error::io(path, &cause);
    let facts = std::fs::metadata(path).map_err(io)?;
    if !facts.is_file() {
        return Err(Error::format(path, "is not a regular file"));
    }
    let mut text = String::new();
    let length = File::open(path).map_err(io)?.take(MAX_JSON + 1).read_to_string(&mut text).map_err(io)?;
    if length as u64 > MAX_JSON {
        return Err(Error::format(path, format!("is longer than {MAX_JSON} bytes")));
    }
    Ok(text)
}

/// Parses a small JSON file.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    serde_json::from_str(&read_text(path)?).map_err(|cause| Error::format(path, cause.to_string()))
}
