//! Headers of safetensors files, parsed and checked.
//!
//! The format: <https://github.com/huggingface/safetensors#format>. Eight bytes of length, that much JSON, then the data,
//! which the tensors cover without holes or overlaps.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::encoding::Encoding;

/// The format's own limit is 100 MB; the header of the largest models has a few.
const MAX_HEADER: usize = 32 << 20;
const MAX_TENSORS: usize = 1 << 16;
const MAX_NAME: usize = 1 << 10;
const MAX_DIMENSIONS: usize = 8;

/// A tensor of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    pub name: String,
    pub encoding: Encoding,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// Bytes in the file.
    pub range: Range<usize>,
}

/// A parsed header.
#[derive(Debug, Default, PartialEq)]
pub struct Header {
    /// The fields of `__metadata__`.
    pub metadata: HashMap<String, String>,
    pub tensors: Vec<Tensor>,
}

impl Header {
    /// Parses the bytes of a whole file. The error says what is wrong; the caller adds the path.
    pub fn parse(bytes: &[u8]) -> Result<Header, String> {
        let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
            return Err(format!("the file has {} bytes, too few for a safetensors header: truncated?", bytes.len()));
        };
        let length = u64::from_le_bytes(*length);
        let Some(length) = usize::try_from(length).ok().filter(|&length| length <= MAX_HEADER) else {
            return Err(format!("the header is {length} bytes long, at most {MAX_HEADER} are read"));
        };
        let Some((text, data)) = rest.split_at_checked(length) else {
            return Err(format!("the header is {length} bytes long, {} are there: truncated?", rest.len()));
        };
        if text.first() != Some(&b'{') {
            return Err("the header is no JSON object: not a safetensors file".into());
        }
        let Raw { metadata, tensors } =
            serde_json::from_slice(text).map_err(|cause| format!("not a safetensors header: {cause}"))?;
        let mut tensors = tensors.into_iter().map(|raw| raw.check()).collect::<Result<Vec<_>, _>>()?;
        tensors.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
        let mut end = 0;
        for tensor in &tensors {
            if tensor.range.start != end {
                let fault =
                    if tensor.range.start < end { "overlaps the one before it" } else { "leaves a hole before it" };
                return Err(format!("{}: its data {fault} (byte {})", tensor.name, tensor.range.start));
            }
            end = tensor.range.end;
        }
        if end != data.len() {
            let there = data.len();
            return Err(format!(
                "the tensors take {end} bytes and {there} are there: truncated, or not the whole file"
            ));
        }
        let start = 8 + length;
        tensors.iter_mut().for_each(|t| t.range = start + t.range.start..start + t.range.end);
        Ok(Header { metadata, tensors })
    }
}

/// A header before its numbers are checked against each other.
#[derive(Default)]
struct Raw {
    metadata: HashMap<String, String>,
    tensors: Vec<RawTensor>,
}

struct RawTensor {
    name: String,
    entry: Entry,
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Shape,
    data_offsets: (usize, usize),
}

impl RawTensor {
    fn check(self) -> Result<Tensor, String> {
        let RawTensor { name, entry: Entry { dtype, shape: Shape(shape), data_offsets: (start, end) } } = self;
        let Some(encoding) = Encoding::from_safetensors(&dtype) else {
            return Err(format!("{name} is {dtype:.20}; F32, F16 and BF16 can be loaded: convert the model"));
        };
        let len = encoding.bytes(&shape).map_err(|fault| format!("{name}: {fault}"))?;
        if start.checked_add(len) != Some(end) {
            let given = format!("data_offsets are {start}..{end}");
            return Err(format!("{name}: {given}, its shape {shape:?} takes {len} bytes"));
        }
        Ok(Tensor { name, encoding, shape, range: start..end })
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Raw;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
                let (mut raw, mut seen) = (Raw::default(), HashSet::new());
                while let Some(name) = map.next_key::<String>()? {
                    if name.len() > MAX_NAME {
                        return Err(A::Error::custom(format!("a tensor's name has {} bytes", name.len())));
                    }
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("`{name}` occurs twice")));
                    }
                    if seen.len() > MAX_TENSORS {
                        return Err(A::Error::custom(format!("there are more than {MAX_TENSORS} tensors")));
                    }
                    if name == "__metadata__" {
                        raw.metadata = map.next_value()?;
                    } else {
                        let entry = map.next_value().map_err(|cause| A::Error::custom(format!("{name}: {cause}")))?;
                        raw.tensors.push(RawTensor { name, entry });
                    }
                }
                Ok(raw)
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

/// Dimensions, no more of them than a tensor can have.
struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, "at most {MAX_DIMENSIONS} dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
                let mut shape = Vec::new();
                while shape.len() < MAX_DIMENSIONS {
                    match list.next_element()? {
                        Some(size) => shape.push(size),
                        None => return Ok(Shape(shape)),
                    }
                }
                match list.next_element::<IgnoredAny>()? {
                    Some(_) => Err(A::Error::invalid_length(MAX_DIMENSIONS + 1, &self)),
                    None => Ok(Shape(shape)),
                }
            }
        }
        deserializer.deserialize_seq(Reader)
    }
}
