//! GGUF files (versions 2 and 3, little endian): parsed without a copy, every length checked before it is trusted.
//!
//! The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. A file that was not made by a converter but by
//! an enemy gives an error, and makes us allocate no more than its own size and the limits below.

use std::collections::HashSet;
use std::ops::Range;

use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};

use super::encoding::Encoding;

/// Metadata of real files is a few megabytes: the tokens of a vocabulary and their merges.
const MAX_METADATA_BYTES: usize = 64 << 20;
/// Elements of all arrays together.
const MAX_ELEMENTS: usize = 1 << 23;
const MAX_KEYS: usize = 1 << 16;
const MAX_TENSORS: usize = 1 << 16;
const MAX_NAME: usize = 1 << 10;
const MAX_ALIGNMENT: u64 = 1 << 16;
const MAX_DIMENSIONS: u32 = 4;

/// What is wrong with a file, and where; the caller adds the path.
pub type Fault = String;

/// The type of a metadata value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    fn from_id(id: u32) -> Option<Kind> {
        use Kind::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64].get(id as usize).copied()
    }

    /// Bytes of a value; of a string or an array, the least it can take.
    fn size(self) -> usize {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => 1,
            Kind::U16 | Kind::I16 => 2,
            Kind::U32 | Kind::I32 | Kind::F32 => 4,
            Kind::U64 | Kind::I64 | Kind::F64 | Kind::String => 8,
            Kind::Array => 12,
        }
    }
}

/// A metadata value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    Unsigned(u64),
    Signed(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(&'a str),
    Array(Array<'a>),
}

impl<'a> Value<'a> {
    /// The value as a count; negative numbers and fractions are none.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Value::Unsigned(value) => Some(value),
            Value::Signed(value) => u64::try_from(value).ok(),
            _ => None,
        }
    }

    /// The value as a number.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Value::Unsigned(value) => Some(value as f64),
            Value::Signed(value) => Some(value as f64),
            Value::F32(value) => Some(f64::from(value)),
            Value::F64(value) => Some(value),
            _ => None,
        }
    }

    /// The value as text.
    pub fn as_str(&self) -> Option<&'a str> {
        match *self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The value as an array.
    pub fn as_array(&self) -> Option<Array<'a>> {
        match *self {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }
}

/// An array of values of one kind (arrays of arrays are refused). Its bytes are checked, and read at each use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Array<'a> {
    pub kind: Kind,
    pub len: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// The elements.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let (kind, mut reader) = (self.kind, Reader { bytes: self.bytes, at: 0 });
        (0..self.len).map_while(move |_| reader.scalar(kind).ok())
    }
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Unsigned(value) => serializer.serialize_u64(*value),
            Value::Signed(value) => serializer.serialize_i64(*value),
            Value::F32(value) => serializer.serialize_f32(*value),
            Value::F64(value) => serializer.serialize_f64(*value),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::String(text) => serializer.serialize_str(text),
            Value::Array(array) => {
                let mut list = serializer.serialize_seq(Some(array.len))?;
                array.iter().try_for_each(|value| list.serialize_element(&value))?;
                list.end()
            }
        }
    }
}

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
        let mut reader = Reader { bytes, at: 0 };
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

/// A place in the bytes. Nothing is allocated by it.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8], Fault> {
        if len > self.left() {
            return Err(format!("{what} takes {len} bytes where {} are left: truncated?", self.left()));
        }
        self.at += len;
        Ok(&self.bytes[self.at - len..self.at])
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Fault> {
        self.take(N, what).map(|bytes| bytes.try_into().expect("N bytes were taken"))
    }

    fn u32(&mut self, what: &str) -> Result<u32, Fault> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, Fault> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn count(&mut self, what: &str, limit: usize) -> Result<usize, Fault> {
        let count = self.u64(what)?;
        usize::try_from(count)
            .ok()
            .filter(|&count| count <= limit)
            .ok_or_else(|| format!("{what} is {count}, at most {limit} are read"))
    }

    fn string(&mut self) -> Result<&'a str, Fault> {
        let len = self.u64("the length of a string")?;
        let bytes = self.take(usize::try_from(len).unwrap_or(usize::MAX), "a string")?;
        std::str::from_utf8(bytes).map_err(|_| "a string is not UTF-8".to_string())
    }

    fn name(&mut self, what: &str, index: usize) -> Result<&'a str, Fault> {
        let name = self.string().map_err(|fault| format!("{what} {index}: {fault}"))?;
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(format!("{what} {index} has a name of {} bytes, 1 to {MAX_NAME} are read", name.len()));
        }
        Ok(name)
    }

    fn kind(&mut self) -> Result<Kind, Fault> {
        let id = self.u32("the type of a value")?;
        Kind::from_id(id).ok_or_else(|| format!("value type {id} is unknown, 0 to 12 exist"))
    }

    fn scalar(&mut self, kind: Kind) -> Result<Value<'a>, Fault> {
        const WHAT: &str = "a value";
        Ok(match kind {
            Kind::U8 => Value::Unsigned(u64::from(self.array::<1>(WHAT)?[0])),
            Kind::I8 => Value::Signed(i64::from(i8::from_le_bytes(self.array(WHAT)?))),
            Kind::U16 => Value::Unsigned(u64::from(u16::from_le_bytes(self.array(WHAT)?))),
            Kind::I16 => Value::Signed(i64::from(i16::from_le_bytes(self.array(WHAT)?))),
            Kind::U32 => Value::Unsigned(u64::from(self.u32(WHAT)?)),
            Kind::I32 => Value::Signed(i64::from(i32::from_le_bytes(self.array(WHAT)?))),
            Kind::F32 => Value::F32(f32::from_le_bytes(self.array(WHAT)?)),
            Kind::Bool => match self.array::<1>(WHAT)?[0] {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                other => return Err(format!("a truth value is {other}, neither 0 nor 1")),
            },
            Kind::String => Value::String(self.string()?),
            Kind::U64 => Value::Unsigned(self.u64(WHAT)?),
            Kind::I64 => Value::Signed(i64::from_le_bytes(self.array(WHAT)?)),
            Kind::F64 => Value::F64(f64::from_le_bytes(self.array(WHAT)?)),
            Kind::Array => return Err("arrays of arrays are not supported".into()),
        })
    }

    /// A value; `elements` counts those of all arrays.
    fn value(&mut self, elements: &mut usize) -> Result<Value<'a>, Fault> {
        let kind = self.kind()?;
        if kind != Kind::Array {
            return self.scalar(kind);
        }
        let kind = self.kind()?;
        if kind == Kind::Array {
            return Err("arrays of arrays are not supported".into());
        }
        let len = self.count("the length of an array", MAX_ELEMENTS)?;
        *elements += len;
        if *elements > MAX_ELEMENTS {
            return Err(format!("more than {MAX_ELEMENTS} elements in the arrays of the file"));
        }
        if len * kind.size() > self.left() {
            return Err(format!("an array of {len} does not fit into the {} bytes left: truncated?", self.left()));
        }
        let start = self.at;
        if matches!(kind, Kind::String | Kind::Bool) {
            for _ in 0..len {
                self.scalar(kind)?;
            }
        } else {
            self.at += len * kind.size();
        }
        Ok(Value::Array(Array { kind, len, bytes: &self.bytes[start..self.at] }))
    }

    /// What stands behind a tensor's name; the range is relative to the data.
    fn tensor(&mut self, name: &'a str, alignment: usize) -> Result<Tensor<'a>, Fault> {
        let dimensions = self.u32("the number of dimensions")?;
        if dimensions == 0 || dimensions > MAX_DIMENSIONS {
            return Err(format!("has {dimensions} dimensions, 1 to {MAX_DIMENSIONS} exist"));
        }
        let mut shape = Vec::with_capacity(dimensions as usize);
        for _ in 0..dimensions {
            let size = self.u64("a dimension")?;
            if size == 0 {
                return Err("has a dimension of size 0".into());
            }
            shape.push(usize::try_from(size).map_err(|_| format!("a dimension is {size}"))?);
        }
        shape.reverse();
        let encoding = Encoding::from_ggml(self.u32("the type")?)?;
        let len = encoding.bytes(&shape)?;
        let start = self.u64("the offset")?;
        if !start.is_multiple_of(alignment as u64) {
            return Err(format!("offset {start} is no multiple of the alignment {alignment}"));
        }
        let start = usize::try_from(start).map_err(|_| format!("offset {start} lies outside the file"))?;
        let end = start.checked_add(len).ok_or_else(|| format!("offset {start} lies outside the file"))?;
        Ok(Tensor { name, shape, encoding, range: start..end })
    }
}
