//! Quantised blocks as ggml stores them: what a kind holds, and its values.

mod encode;
mod fields;
mod form;
mod packed;
pub(super) mod unpack;

use std::fmt;

pub use encode::f16_from_f32;
pub use packed::{BlockRows, PackedBlocks};

/// Weights of the longest block.
const BLOCK: usize = 256;

/// A ggml block format. A row of a tensor is whole blocks of [`block_len`](BlockKind::block_len) weights, each
/// [`block_bytes`](BlockKind::block_bytes) long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlockKind {
    /// 32 weights: scale, signed bytes.
    Q8_0,
    /// 32 weights: scale, 4 bits around 8.
    Q4_0,
    /// 32 weights: scale, minimum, 4 bits.
    Q4_1,
    /// 32 weights: scale, 5 bits around 16.
    Q5_0,
    /// 32 weights: scale, minimum, 5 bits.
    Q5_1,
    /// 256 weights: eight groups with 6-bit scales and minima, 4 bits.
    Q4K,
    /// 256 weights: eight groups with 6-bit scales and minima, 5 bits.
    Q5K,
    /// 256 weights: sixteen groups with 8-bit scales, 6 bits around 32.
    Q6K,
}

impl BlockKind {
    /// All of them.
    pub const ALL: [BlockKind; 8] = [
        BlockKind::Q8_0,
        BlockKind::Q4_0,
        BlockKind::Q4_1,
        BlockKind::Q5_0,
        BlockKind::Q5_1,
        BlockKind::Q4K,
        BlockKind::Q5K,
        BlockKind::Q6K,
    ];

    /// The kind with this `ggml_type` number; `None` for numbers that are none of these.
    pub fn from_ggml(id: u32) -> Option<BlockKind> {
        BlockKind::ALL.into_iter().find(|kind| kind.ggml() == id)
    }

    /// The `ggml_type` number.
    pub fn ggml(self) -> u32 {
        match self {
            BlockKind::Q4_0 => 2,
            BlockKind::Q4_1 => 3,
            BlockKind::Q5_0 => 6,
            BlockKind::Q5_1 => 7,
            BlockKind::Q8_0 => 8,
            BlockKind::Q4K => 12,
            BlockKind::Q5K => 13,
            BlockKind::Q6K => 14,
        }
    }

    /// ggml's name of it.
    pub fn name(self) -> &'static str {
        match self {
            BlockKind::Q8_0 => "Q8_0",
            BlockKind::Q4_0 => "Q4_0",
            BlockKind::Q4_1 => "Q4_1",
            BlockKind::Q5_0 => "Q5_0",
            BlockKind::Q5_1 => "Q5_1",
            BlockKind::Q4K => "Q4_K",
            BlockKind::Q5K => "Q5_K",
            BlockKind::Q6K => "Q6_K",
        }
    }

    /// Weights in a block.
    pub fn block_len(self) -> usize {
        match self {
            BlockKind::Q4K | BlockKind::Q5K | BlockKind::Q6K => 256,
            _ => 32,
        }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            BlockKind::Q8_0 => 2 + 32,
            BlockKind::Q4_0 => 2 + 16,
            BlockKind::Q4_1 => 4 + 16,
            BlockKind::Q5_0 => 2 + 4 + 16,
            BlockKind::Q5_1 => 4 + 4 + 16,
            BlockKind::Q4K => 4 + 12 + 128,
            BlockKind::Q5K => 4 + 12 + 32 + 128,
            BlockKind::Q6K => 128 + 64 + 16 + 2,
        }
    }

    /// Bytes of a row of `k` weights; `None` if that is not whole blocks (or overflows).
    pub fn row_bytes(self, k: usize) -> Option<usize> {
        k.is_multiple_of(self.block_len()).then(|| (k / self.block_len()).checked_mul(self.block_bytes())).flatten()
    }

    /// The values of whole blocks: those of ggml's `dequantize_row`, whose operations are exact up to the last one.
    ///
    /// # Panics
    /// If `bytes` are not the blocks of `out.len()` weights.
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(Some(bytes.len()), self.row_bytes(out.len()), "{self}: {} weights", out.len());
        let (mut codes, group) = ([0; BLOCK], self.group_len());
        for (block, out) in bytes.chunks_exact(self.block_bytes()).zip(out.chunks_exact_mut(self.block_len())) {
            let codes = &mut codes[..out.len()];
            fields::codes(self, block, codes);
            for (at, (out, codes)) in out.chunks_exact_mut(group).zip(codes.chunks_exact(group)).enumerate() {
                let (scale, minimum) = fields::scales(self, block, at);
                for (out, code) in out.iter_mut().zip(codes) {
                    *out = (f32::from(*code) - self.zero()) * scale + minimum;
                }
            }
        }
    }

    /// Weights that share a scale.
    fn group_len(self) -> usize {
        if self == BlockKind::Q6K { 16 } else { 32 }
    }

    /// The code of zero, where there is no minimum.
    fn zero(self) -> f32 {
        match self {
            BlockKind::Q8_0 => 128.0,
            BlockKind::Q4_0 => 8.0,
            BlockKind::Q5_0 => 16.0,
            BlockKind::Q6K => 32.0,
            _ => 0.0,
        }
    }

    /// Whether groups have minima.
    fn has_minimum(self) -> bool {
        self.zero() == 0.0
    }

    /// Whether blocks are of 256 weights, with a scale for the scales.
    fn is_super(self) -> bool {
        self.block_len() == BLOCK
    }

    /// Whether codes fit 4 bits.
    fn is_narrow(self) -> bool {
        matches!(self, BlockKind::Q4_0 | BlockKind::Q4_1 | BlockKind::Q4K)
    }
}

impl fmt::Display for BlockKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// IEEE half precision, exactly.
#[inline(always)]
pub fn f32_from_f16(bits: u16) -> f32 {
    let (sign, rest) = (u32::from(bits & 0x8000) << 16, u32::from(bits & 0x7fff) << 13);
    // The exponents' biases differ by 112; subnormals are those of f32 then.
    let finite = f32::from_bits(rest) * f32::from_bits((127 + 112) << 23);
    let magnitude = if rest < 31 << 23 { finite.to_bits() } else { rest | 0xff << 23 };
    f32::from_bits(sign | magnitude)
}
