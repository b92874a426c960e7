//! Files for tests and for the fuzzer: small GGUF and safetensors files, and a deterministic mutator.
#![allow(dead_code)]

use quintain_core::formats::{gguf, safetensors};
use quintain_core::philox::philox;

/// A GGUF file in parts; `bytes` puts them together without judging them.
#[derive(Clone, Default)]
pub struct GgufFile {
    pub version: u32,
    /// Key, value type and the value's bytes.
    pub metadata: Vec<(String, u32, Vec<u8>)>,
    /// Name, dimensions in the file's order (innermost first), type and data.
    pub tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
    pub alignment: usize,
}

pub fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes()[..], value.as_bytes()].concat()
}

pub fn array(kind: u32, items: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend((items.len() as u64).to_le_bytes());
    items.iter().for_each(|item| bytes.extend(item));
    bytes
}

pub const U32: u32 = 4;
pub const F32: u32 = 6;
pub const STRING: u32 = 8;
pub const ARRAY: u32 = 9;

impl GgufFile {
    pub fn new() -> Self {
        GgufFile { version: 3, alignment: 32, ..Default::default() }
    }

    pub fn with(mut self, key: &str, kind: u32, value: Vec<u8>) -> Self {
        self.metadata.push((key.into(), kind, value));
        self
    }

    pub fn u32(self, key: &str, value: u32) -> Self {
        self.with(key, U32, value.to_le_bytes().to_vec())
    }

    pub fn f32(self, key: &str, value: f32) -> Self {
        self.with(key, F32, value.to_le_bytes().to_vec())
    }

    pub fn text(self, key: &str, value: &str) -> Self {
        self.with(key, STRING, text(value))
    }

    pub fn tensor(mut self, name: &str, dims: &[u64], kind: u32, data: Vec<u8>) -> Self {
        self.tensors.push((name.into(), dims.to_vec(), kind, data));
        self
    }

    /// Everything before the data.
    pub fn header(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.metadata {
            out.extend(text(key));
            out.extend(kind.to_le_bytes());
            out.extend(value);
        }
        let mut offset = 0usize;
        for (name, dims, kind, data) in &self.tensors {
            out.extend(text(name));
            out.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset = (offset + data.len()).next_multiple_of(self.alignment);
        }
        out
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.header();
        for (_, _, _, data) in &self.tensors {
            out.resize(out.len().next_multiple_of(self.alignment), 0);
            out.extend(data);
        }
        out
    }
}

/// A file with every kind of value and tensor.
pub fn every_kind() -> GgufFile {
    let mut file = GgufFile::new()
        .text("general.architecture", "llama")
        .u32("general.alignment", 32)
        .f32("f32", 0.5)
        .with("u8", 0, vec![200])
        .with("i8", 1, vec![200])
        .with("u16", 2, vec![1, 2])
        .with("i16", 3, vec![1, 255])
        .with("i32", 5, vec![255; 4])
        .with("bool", 7, vec![1])
        .with("u64", 10, vec![7, 0, 0, 0, 0, 0, 0, 0])
        .with("i64", 11, vec![255; 8])
        .with("f64", 12, 0.25f64.to_le_bytes().to_vec())
        .with("tokens", ARRAY, array(STRING, &["a", "", "Ġthe", "\u{0}"].map(text)))
        .with("scores", ARRAY, array(F32, &[1f32, f32::NEG_INFINITY].map(|v| v.to_le_bytes().to_vec())))
        .with("flags", ARRAY, array(7, &[vec![0], vec![1]]))
        .with("empty", ARRAY, array(U32, &[]));
    // Type, weights in a block, bytes of a block.
    let kinds = [
        (0, 1, 4),
        (1, 1, 2),
        (30, 1, 2),
        (8, 32, 34),
        (2, 32, 18),
        (3, 32, 20),
        (6, 32, 22),
        (7, 32, 24),
        (12, 256, 144),
        (13, 256, 176),
        (14, 256, 210),
    ];
    for (kind, len, bytes) in kinds {
        file = file.tensor(&format!("t{kind}"), &[len * 2, 3], kind, vec![kind as u8; bytes * 6]);
    }
    file
}

/// A safetensors file of these tensors: name, dtype, shape, bytes.
pub fn safetensors_file(tensors: &[(&str, &str, &[usize], usize)]) -> Vec<u8> {
    let (mut offset, mut entries) = (0, vec![r#""__metadata__":{"format":"pt"}"#.to_string()]);
    for (name, dtype, shape, bytes) in tensors {
        let range = format!("[{offset},{}]", offset + bytes);
        entries.push(format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":{range}}}"#));
        offset += bytes;
    }
    with_header(&format!("{{{}}}", entries.join(",")), offset)
}

/// Any text as the header of `data` bytes.
pub fn with_header(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![1; data]].concat()
}

pub fn some_tensors() -> Vec<u8> {
    safetensors_file(&[
        ("a", "F32", &[2, 3], 24),
        ("b.weight", "BF16", &[4], 8),
        ("empty", "F16", &[0, 7], 0),
        ("scalar", "F32", &[], 4),
        ("cube", "F16", &[2, 2, 2], 16),
    ])
}

/// Properties of every file that the parser accepts.
pub fn check_gguf(bytes: &[u8], file: &gguf::Gguf) {
    let mut ranges = Vec::new();
    for tensor in &file.tensors {
        assert_eq!(tensor.encoding.bytes(&tensor.shape), Ok(tensor.range.len()), "{}", tensor.name);
        assert!(tensor.range.end <= bytes.len() && (1..=4).contains(&tensor.shape.len()), "{}", tensor.name);
        assert!(!tensor.range.is_empty());
        ranges.push(tensor.range.clone());
    }
    ranges.sort_by_key(|range| range.start);
    assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "overlap");
    let keys: std::collections::HashSet<_> = file.metadata().iter().map(|(key, _)| key).collect();
    assert_eq!(keys.len(), file.metadata().len(), "keys occur once");
    for (key, value) in file.metadata() {
        if let Some(array) = value.as_array() {
            assert_eq!(array.iter().count(), array.len, "{key}");
        }
    }
    let json: serde_json::Value = serde_json::from_str(&file.to_json()).expect("JSON");
    assert_eq!(json["tensors"].as_array().map(Vec::len), Some(file.tensors.len()));
}

/// Properties of every header that the parser accepts; the format's own reader accepts it too, and sees the same.
pub fn check_safetensors(bytes: &[u8], header: &safetensors::Header) {
    let theirs = ::safetensors::SafeTensors::deserialize(bytes).expect("accepted by the format's own reader");
    assert_eq!(theirs.len(), header.tensors.len());
    for tensor in &header.tensors {
        let view = theirs.tensor(&tensor.name).expect("the same names");
        assert_eq!(view.shape(), tensor.shape);
        assert_eq!(view.data(), &bytes[tensor.range.clone()]);
        assert_eq!(tensor.encoding.bytes(&tensor.shape), Ok(tensor.range.len()));
    }
}

/// Changes bytes; the same seed makes the same changes.
pub struct Mutator {
    seed: u64,
    draws: u32,
}

impl Mutator {
    pub fn new(seed: u64) -> Self {
        Mutator { seed, draws: 0 }
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.draws += 1;
        let words = philox(self.seed, 0, 0, self.draws);
        ((u64::from(words[0]) << 32 | u64::from(words[1])) % n.max(1) as u64) as usize
    }

    /// A number that lengths and counts like to be wrong by.
    fn number(&mut self, len: usize) -> u64 {
        let len = len as u64;
        let of = [0, 1, 2, 31, 32, 33, 255, 256, 1 << 16, 1 << 20, 1 << 31, 1 << 32, 1 << 61, 1 << 63, u64::MAX];
        match self.below(4) {
            0 => {
                [len, len + 1, len.wrapping_sub(1), len / 2, u64::MAX - len, u64::MAX / 2, u64::MAX / 34][self.below(7)]
            }
            1 => self.below(256) as u64,
            _ => of[self.below(of.len())],
        }
    }

    /// One to four changes, within the first `header` bytes three times out of four.
    pub fn mutate(&mut self, bytes: &mut Vec<u8>, header: usize) {
        for _ in 0..1 + self.below(4) {
            if bytes.is_empty() {
                return;
            }
            let size = bytes.len();
            let end = if self.below(4) == 0 { size } else { header.clamp(1, size) };
            let at = self.below(end);
            let span = 1 + self.below(16.min(size - at));
            match self.below(10) {
                0 => bytes.truncate(at),
                1 => bytes[at] ^= 1 << self.below(8),
                2 => bytes[at] = self.below(256) as u8,
                3..=5 => {
                    let width = [1, 2, 4, 8][self.below(4)].min(size - at);
                    let number = self.number(size).to_le_bytes();
                    bytes[at..at + width].copy_from_slice(&number[..width]);
                }
                6 => drop(bytes.drain(at..at + span)),
                7 => {
                    let piece = bytes[at..at + span].to_vec();
                    let to = self.below(end);
                    bytes.splice(to..to, piece);
                }
                8 => {
                    let to = self.below(end.min(size - span + 1));
                    bytes.copy_within(at..at + span, to);
                }
                _ => {
                    // Text: a digit more, another bracket.
                    let texts: [&[u8]; 8] = [b"9", b"[", b"]", b"{", b"\"", b"-1,", b"1e99", b"999999999999999999999"];
                    let text = texts[self.below(texts.len())];
                    bytes.splice(at..at, text.iter().copied());
                }
            }
        }
    }
}

/// Counts what is allocated.
pub mod counting {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;

    thread_local! {
        static NOW: Cell<isize> = const { Cell::new(0) };
        static PEAK: Cell<isize> = const { Cell::new(0) };
    }

    pub struct Counting;

    // SAFETY: every call is the system allocator's; counting in thread-local cells without a destructor allocates nothing.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            count(layout.size() as isize);
            // SAFETY: the caller's promise is passed on.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            count(-(layout.size() as isize));
            // SAFETY: the caller's promise is passed on.
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    fn count(bytes: isize) {
        let now = NOW.get() + bytes;
        NOW.set(now);
        PEAK.set(PEAK.get().max(now));
    }

    /// The most that `work` had allocated at once on this thread, in bytes.
    pub fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
        let (before, outer) = (NOW.get(), PEAK.get());
        PEAK.set(before);
        let result = work();
        let peak = PEAK.get();
        PEAK.set(outer.max(peak));
        (result, (peak - before) as usize)
    }
}
