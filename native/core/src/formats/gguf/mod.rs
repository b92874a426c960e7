//! GGUF files (versions 2 and 3, little endian): parsed without a copy, every length checked before it is trusted.
//!
//! The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. A file that was not made by a converter but by
//! an enemy gives an error, and makes us allocate no more than its own size and the limits below.

mod reader;
mod value;

use std::collections::HashSet;
use std::ops::Range;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::encoding::Encoding;
use reader::Reader;

pub use value::{Array, Kind, Value};

/// Metadata of real files is a few megabytes: the tokens of a vocabulary and their merges.
const MAX_METADATA_BYTES: usize = 64 << 20;
/// Elements of all arrays together.
const MAX_ELEMENTS: usize = 1 << 23;
const MAX_KEYS: usize = 1 << 16;
const MAX_TENSORS: usize = 1 << 16;
const MAX_NAME: usize = 1 << 10;
const MAX_ALIGNMENT: u64 = 1 << 16;
const MAX_DIMENSIONS: u32 = 4;

/// A defect of a file, and its place; the caller adds the path.
pub type Fault = String;

/// A tensor of the file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tensor<'a> {
    pub name: &'a str,
    /// Outermost dimension first (GGUF writes them the other way round).
    pub shape: Vec<usize>,
    #[serde(rename = "kind")]
    pub encoding: Encoding,
    /// Bytes in the file.
    #[serde(skip)]
    pub range: Range<usize>,
}

/// A parsed file.
#[derive(Debug, Clone, PartialEq)]
pub struct Gguf<'a> {
    pub version: u32,
    pub alignment: usize,
    metadata: Vec<(&'a str, Value<'a>)>,
    pub tensors: Vec<Tensor<'a>>,
}

impl<'a> Gguf<'a> {
    /// Parses the bytes of a whole file.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut reader = Reader::new(bytes);
        if reader.take(4, "the magic")? != b"GGUF" {
            return Err("it does not begin with `GGUF`: this is another format, or a download that went wrong".into());
        }
        let version = reader.u32("the version")?;
        match version {
            2 | 3 => {}
            1 => return Err("GGUF version 1 is not supported, 2 and 3 are: convert the model again".into()),
            _ if version.swap_bytes() < 1 << 16 => return Err("the file is big endian, which is not supported".into()),
            _ => return Err(format!("GGUF version {version} is not supported, 2 and 3 are")),
        }
        let tensors = reader.count("the number of tensors", MAX_TENSORS)?;
        let keys = reader.count("the number of metadata keys", MAX_KEYS)?;
        // A name of no characters, its type and its value; a name, dimensions, type and offset.
        if keys.saturating_mul(13).saturating_add(tensors.saturating_mul(24)) > reader.left() {
            let counts = format!("{keys} metadata keys and {tensors} tensors");
            return Err(format!("{counts} do not fit into the {} bytes that are left: truncated?", reader.left()));
        }
        let metadata = read_metadata(&mut reader, keys)?;
        let alignment = match find(&metadata, "general.alignment").map(|value| value.as_u64()) {
            None => 32,
            Some(Some(value)) if value.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(&value) => value as usize,
            Some(_) => return Err(format!("general.alignment must be a power of two from 8 to {MAX_ALIGNMENT}")),
        };
        let tensors = read_tensors(&mut reader, tensors, alignment)?;
        Ok(Gguf { version, alignment, metadata, tensors })
    }

    /// The value of a metadata key.
    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        find(&self.metadata, key)
    }

    /// The metadata in the order of the file.
    pub fn metadata(&self) -> &[(&'a str, Value<'a>)] {
        &self.metadata
    }

    /// `{ version, alignment, metadata: { key: value }, tensors: [{ name, shape, kind }] }`.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("text and numbers")
    }
}

impl Serialize for Gguf<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Metadata<'m, 'a>(&'m [(&'a str, Value<'a>)]);
        impl Serialize for Metadata<'_, '_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
            }
        }
        let mut map = serializer.serialize_map(Some(4))?;
        map.serialize_entry("version", &self.version)?;
        map.serialize_entry("alignment", &self.alignment)?;
        map.serialize_entry("metadata", &Metadata(&self.metadata))?;
        map.serialize_entry("tensors", &self.tensors)?;
        map.end()
    }
}

fn find<'a>(metadata: &[(&'a str, Value<'a>)], key: &str) -> Option<Value<'a>> {
    metadata.iter().find(|(name, _)| *name == key).map(|(_, value)| *value)
}

fn read_metadata<'a>(reader: &mut Reader<'a>, keys: usize) -> Result<Vec<(&'a str, Value<'a>)>, Fault> {
    let (start, mut elements) = (reader.at, 0);
    let mut metadata = Vec::with_capacity(keys);
    let mut seen = HashSet::with_capacity(keys);
    for index in 0..keys {
        let key = reader.name("key", index)?;
        if !seen.insert(key) {
            return Err(format!("metadata key `{key}` occurs twice"));
        }
        let value = reader.value(&mut elements).map_err(|fault| format!("metadata key `{key}`: {fault}"))?;
        metadata.push((key, value));
        if reader.at - start > MAX_METADATA_BYTES {
            return Err(format!("metadata key `{key}`: more than {MAX_METADATA_BYTES} bytes of metadata"));
        }
    }
    Ok(metadata)
}

fn read_tensors<'a>(reader: &mut Reader<'a>, count: usize, alignment: usize) -> Result<Vec<Tensor<'a>>, Fault> {
    let mut tensors = Vec::with_capacity(count);
    let mut seen = HashSet::with_capacity(count);
    for index in 0..count {
        let name = reader.name("tensor", index)?;
        if !seen.insert(name) {
            return Err(format!("tensor `{name}` occurs twice"));
        }
        tensors.push(reader.tensor(name, alignment).map_err(|fault| format!("tensor `{name}`: {fault}"))?);
    }
    let size = reader.bytes.len();
    let data = reader.at.next_multiple_of(alignment);
    for Tensor { name, range, .. } in &mut tensors {
        *range = match (data.checked_add(range.start), data.checked_add(range.end)) {
            (Some(start), Some(end)) if end <= size => start..end,
            _ => {
                let place = format!("bytes {}..{} of the data", range.start, range.end);
                let there = size.saturating_sub(data);
                return Err(format!("tensor `{name}`: {place}, of which there are {there}: truncated?"));
            }
        };
    }
    let mut order: Vec<_> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.range.start);
    match order.windows(2).find(|pair| pair[0].range.end > pair[1].range.start) {
        Some(pair) => Err(format!("tensors `{}` and `{}` overlap", pair[0].name, pair[1].name)),
        None => Ok(tensors),
    }
}
