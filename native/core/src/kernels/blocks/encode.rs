//! Quantising rows as ggml's `quantize_row_*_ref` (ggml-quants.c) do.

use super::{BlockKind, f32_from_f16};

impl BlockKind {
    /// Whether [`encode`](Self::encode) can make blocks of this kind.
    pub fn can_encode(self) -> bool {
        matches!(self, BlockKind::Q8_0 | BlockKind::Q4_0 | BlockKind::Q4_1)
    }

    /// The blocks of whole blocks of values, by ggml's reference rounding. Values are finite.
    ///
    /// # Panics
    /// If the kind [cannot be encoded](Self::can_encode) or `bytes` are not the blocks of `values`.
    pub fn encode(self, values: &[f32], bytes: &mut [u8]) {
        assert_eq!(Some(bytes.len()), self.row_bytes(values.len()), "{self}: {} weights", values.len());
        for (values, block) in values.chunks_exact(32).zip(bytes.chunks_exact_mut(self.block_bytes())) {
            match self {
                BlockKind::Q8_0 => q8_0(values, block),
                BlockKind::Q4_0 => q4_0(values, block),
                BlockKind::Q4_1 => q4_1(values, block),
                _ => panic!("{self} is made by ggml only"),
            }
        }
    }
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

fn put_half(block: &mut [u8], at: usize, value: f32) {
    block[at..at + 2].copy_from_slice(&f16_from_f32(value).to_le_bytes());
}

/// The largest magnitude becomes 127; ties round away from zero.
fn q8_0(values: &[f32], block: &mut [u8]) {
    let scale = values.iter().fold(0.0_f32, |most, value| most.max(value.abs())) / 127.0;
    put_half(block, 0, scale);
    for (code, value) in block[2..].iter_mut().zip(values) {
        *code = (value * inverse(scale)).round() as i8 as u8;
    }
}

/// The value of largest magnitude becomes -8, whatever its sign.
fn q4_0(values: &[f32], block: &mut [u8]) {
    let largest = values.iter().fold(0.0_f32, |most, value| if value.abs() > most.abs() { *value } else { most });
    let scale = largest / -8.0;
    put_half(block, 0, scale);
    let code = |value: f32| ((value * inverse(scale) + 8.5) as u8).min(15);
    for i in 0..16 {
        block[2 + i] = code(values[i]) | code(values[i + 16]) << 4;
    }
}

/// From the least value to the greatest in fifteen steps.
fn q4_1(values: &[f32], block: &mut [u8]) {
    let least = values.iter().copied().fold(f32::INFINITY, f32::min);
    let greatest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let scale = (greatest - least) / 15.0;
    put_half(block, 0, scale);
    put_half(block, 2, least);
    let code = |value: f32| (((value - least) * inverse(scale) + 0.5) as u8).min(15);
    for i in 0..16 {
        block[4 + i] = code(values[i]) | code(values[i + 16]) << 4;
    }
}

/// Rounds to nearest, ties to even; beyond the range to infinity.
pub fn f16_from_f32(value: f32) -> u16 {
    let (sign, magnitude) = ((value.to_bits() >> 16 & 0x8000) as u16, value.abs());
    if magnitude.is_nan() {
        return sign | 0x7e00;
    }
    // The greatest number of half precision that is not above the magnitude, by bisection of its 15 bits.
    let mut below = 0_u16;
    for bit in (0..15).rev() {
        let candidate = below | 1 << bit;
        if candidate <= 0x7c00 && f32_from_f16(candidate) <= magnitude {
            below = candidate;
        }
    }
    if below == 0x7c00 {
        return sign | below;
    }
    // The number above 65504 would be 65536: what reaches the middle is infinite.
    let above = if below == 0x7bff { 65536.0 } else { f32_from_f16(below + 1) };
    let (down, up) = (magnitude - f32_from_f16(below), above - magnitude);
    sign | (below + u16::from(up < down || (up == down && below & 1 == 1)))
}
