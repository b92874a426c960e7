//! The fields of a block of each kind, as ggml's `dequantize_row_*` (ggml-quants.c) read them.

use super::{BlockKind, f32_from_f16};

/// The number of half precision at `at`.
pub fn half(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

/// Where the half-precision scale lies, and the minimum if there is one.
pub fn halves(kind: BlockKind) -> (usize, Option<usize>) {
    match kind {
        BlockKind::Q6K => (208, None),
        _ => (0, kind.has_minimum().then_some(2)),
    }
}

/// The codes of a block, without sign: see [`BlockKind::zero`].
pub fn codes(kind: BlockKind, block: &[u8], out: &mut [u8]) {
    match kind {
        BlockKind::Q8_0 => out.iter_mut().zip(&block[2..]).for_each(|(out, code)| *out = code ^ 0x80),
        BlockKind::Q4_0 => nibbles(&block[2..], out),
        BlockKind::Q4_1 => nibbles(&block[4..], out),
        BlockKind::Q5_0 => fifth_bits(&block[2..], out),
        BlockKind::Q5_1 => fifth_bits(&block[4..], out),
        BlockKind::Q4K => super_nibbles(&block[16..], out),
        BlockKind::Q5K => {
            super_nibbles(&block[48..], out);
            for (group, out) in out.chunks_exact_mut(32).enumerate() {
                out.iter_mut().zip(&block[16..48]).for_each(|(out, high)| *out |= (high >> group & 1) << 4);
            }
        }
        BlockKind::Q6K => {
            for (i, out) in out.iter_mut().enumerate() {
                let (part, quarter, at) = (i / 128, i % 128 / 32, i % 32);
                let low = block[part * 64 + quarter % 2 * 32 + at] >> (quarter / 2 * 4) & 15;
                let high = block[128 + part * 32 + at] >> (quarter * 2) & 3;
                *out = low | high << 4;
            }
        }
    }
}

/// The low halves of 16 bytes are the first weights, the high halves the others.
fn nibbles(bytes: &[u8], out: &mut [u8]) {
    for (i, byte) in bytes[..16].iter().enumerate() {
        (out[i], out[i + 16]) = (byte & 15, byte >> 4);
    }
}

/// A word of fifth bits, then [`nibbles`].
fn fifth_bits(bytes: &[u8], out: &mut [u8]) {
    nibbles(&bytes[4..], out);
    for (i, out) in out.iter_mut().enumerate() {
        *out |= (bytes[i / 8] >> (i % 8) & 1) << 4;
    }
}

/// The low halves of 32 bytes are one group, the high halves the next.
fn super_nibbles(bytes: &[u8], out: &mut [u8]) {
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let bytes = &bytes[group / 2 * 32..];
        out.iter_mut().zip(bytes).for_each(|(out, byte)| *out = byte >> (group % 2 * 4) & 15);
    }
}

/// The integer scale and minimum of a group of a block of 256.
pub fn sub_scales(kind: BlockKind, block: &[u8], group: usize) -> (u8, u8) {
    if kind == BlockKind::Q6K {
        return (block[192 + group], 0);
    }
    // Six bits each in 12 bytes: the first eight lend their high bits to the groups from 4 on.
    let packed = &block[4..16];
    if group < 4 {
        return (packed[group] & 63, packed[group + 4] & 63);
    }
    let low = packed[group + 4];
    (low & 15 | packed[group - 4] >> 6 << 4, low >> 4 | packed[group] >> 6 << 4)
}

/// Scale and minimum of a group: a weight is `(code - zero) * scale + minimum`.
pub fn scales(kind: BlockKind, block: &[u8], group: usize) -> (f32, f32) {
    let (scale, minimum) = halves(kind);
    let scale = f32_from_f16(half(block, scale));
    let minimum = minimum.map_or(0.0, |at| f32_from_f16(half(block, at)));
    if !kind.is_super() {
        return (scale, minimum);
    }
    let (s, m) = sub_scales(kind, block, group);
    if kind == BlockKind::Q6K {
        (scale * f32::from(s as i8), 0.0)
    } else {
        (scale * f32::from(s), -(minimum * f32::from(m)))
    }
}
