//! How the numbers of a tensor are stored in a file.

use serde::{Serialize, Serializer};

use crate::kernels::{BlockKind, f32_from_bf16, f32_from_f16};

/// The form of a tensor's numbers in a file; multi-byte numbers are little endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    F32,
    F16,
    Bf16,
    /// ggml's quantised blocks, along the rows.
    Blocks(BlockKind),
}

/// Types of ggml that are not read, to name them in errors.
const OTHERS: [(u32, &str); 24] = [
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

impl Encoding {
    /// The encoding with this `ggml_type` number.
    pub fn from_ggml(id: u32) -> Result<Self, String> {
        match (id, BlockKind::from_ggml(id)) {
            (0, _) => Ok(Encoding::F32),
            (1, _) => Ok(Encoding::F16),
            (30, _) => Ok(Encoding::Bf16),
            (_, Some(kind)) => Ok(Encoding::Blocks(kind)),
            (_, None) => {
                let known = OTHERS.iter().find(|(other, _)| *other == id);
                let name =
                    known.map_or_else(|| format!("an unknown type ({id})"), |(_, name)| format!("of type {name}"));
                let kinds = BlockKind::ALL.map(BlockKind::name).join(", ");
                Err(format!("is {name}; F32, F16, BF16, {kinds} can be loaded: convert or requantise the model"))
            }
        }
    }

    /// The encoding that safetensors calls `dtype`.
    pub fn from_safetensors(dtype: &str) -> Option<Self> {
        match dtype {
            "F32" => Some(Encoding::F32),
            "F16" => Some(Encoding::F16),
            "BF16" => Some(Encoding::Bf16),
            _ => None,
        }
    }

    /// The name both formats use.
    pub fn name(self) -> &'static str {
        match self {
            Encoding::F32 => "F32",
            Encoding::F16 => "F16",
            Encoding::Bf16 => "BF16",
            Encoding::Blocks(kind) => kind.name(),
        }
    }

    /// Bytes of a row of `k` numbers; `None` if that is not whole blocks, or overflows.
    pub fn row_bytes(self, k: usize) -> Option<usize> {
        match self {
            Encoding::F32 => k.checked_mul(4),
            Encoding::F16 | Encoding::Bf16 => k.checked_mul(2),
            Encoding::Blocks(kind) => kind.row_bytes(k),
        }
    }

    /// Bytes of a whole tensor, outermost dimension first.
    pub fn bytes(self, shape: &[usize]) -> Result<usize, String> {
        let (&k, rows) = shape.split_last().unwrap_or((&1, &[]));
        let bytes = self.row_bytes(k).and_then(|row| rows.iter().try_fold(row, |all, &size| all.checked_mul(size)));
        bytes.ok_or_else(|| match self {
            Encoding::Blocks(kind) if !k.is_multiple_of(kind.block_len()) => {
                format!("rows of {k} are no whole {kind} blocks of {}", kind.block_len())
            }
            _ => format!("the shape {shape:?} is larger than memory can be"),
        })
    }

    /// The numbers of a row: `bytes` are [`Encoding::row_bytes`] of `out.len()`.
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) {
        debug_assert_eq!(self.row_bytes(out.len()), Some(bytes.len()));
        let half = |pair: &[u8]| u16::from_le_bytes([pair[0], pair[1]]);
        match self {
            Encoding::F32 => {
                for (out, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                    *out = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                }
            }
            Encoding::F16 => {
                out.iter_mut().zip(bytes.chunks_exact(2)).for_each(|(out, pair)| *out = f32_from_f16(half(pair)))
            }
            Encoding::Bf16 => {
                out.iter_mut().zip(bytes.chunks_exact(2)).for_each(|(out, pair)| *out = f32_from_bf16(half(pair)))
            }
            Encoding::Blocks(kind) => kind.decode(bytes, out),
        }
    }
}

impl Serialize for Encoding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
