//! Reading the parts of a file, none of which is trusted.

use super::super::encoding::Encoding;
use super::value::{Array, Kind, Value};
use super::{Fault, MAX_DIMENSIONS, MAX_ELEMENTS, MAX_NAME, Tensor};

/// A place in the bytes. Nothing is allocated by it.
pub(super) struct Reader<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, at: 0 }
    }

    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8], Fault> {
        if len > self.left() {
            return Err(format!("{what} takes {len} bytes where {} are left: truncated?", self.left()));
        }
        self.at += len;
        Ok(&self.bytes[self.at - len..self.at])
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Fault> {
        self.take(N, what).map(|bytes| bytes.try_into().expect("N bytes were taken"))
    }

    pub fn u32(&mut self, what: &str) -> Result<u32, Fault> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, Fault> {
        self.array(what).map(u64::from_le_bytes)
    }

    pub fn count(&mut self, what: &str, limit: usize) -> Result<usize, Fault> {
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

    pub fn name(&mut self, what: &str, index: usize) -> Result<&'a str, Fault> {
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

    pub fn scalar(&mut self, kind: Kind) -> Result<Value<'a>, Fault> {
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
    pub fn value(&mut self, elements: &mut usize) -> Result<Value<'a>, Fault> {
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

    /// The entry that follows a tensor's name; the range is relative to the data.
    pub fn tensor(&mut self, name: &'a str, alignment: usize) -> Result<Tensor<'a>, Fault> {
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

impl<'a> Array<'a> {
    /// The elements.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let (kind, mut reader) = (self.kind, Reader::new(self.bytes));
        (0..self.len).map_while(move |_| reader.scalar(kind).ok())
    }
}
