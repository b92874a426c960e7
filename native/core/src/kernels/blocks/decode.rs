//! One block of each kind, as ggml's `dequantize_row_*` (ggml-quants.c) read it.

use super::f32_from_f16;

fn half(block: &[u8], at: usize) -> f32 {
    f32_from_f16(u16::from_le_bytes([block[at], block[at + 1]]))
}

pub fn q8_0(block: &[u8], out: &mut [f32]) {
    let scale = half(block, 0);
    for (out, code) in out.iter_mut().zip(&block[2..]) {
        *out = f32::from(*code as i8) * scale;
    }
}

/// The low halves of bytes are the first weights, the high halves the others.
pub fn q4_0(block: &[u8], out: &mut [f32]) {
    let scale = half(block, 0);
    for (i, code) in block[2..].iter().enumerate() {
        out[i] = (f32::from(code & 15) - 8.0) * scale;
        out[i + 16] = (f32::from(code >> 4) - 8.0) * scale;
    }
}

pub fn q4_1(block: &[u8], out: &mut [f32]) {
    let (scale, minimum) = (half(block, 0), half(block, 2));
    for (i, code) in block[4..].iter().enumerate() {
        out[i] = f32::from(code & 15) * scale + minimum;
        out[i + 16] = f32::from(code >> 4) * scale + minimum;
    }
}

/// Codes of 5 bits: halves of bytes with the fifth bits in a word before them.
fn five_bits(block: &[u8], i: usize) -> [f32; 2] {
    let high = u32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    let code = block[4 + i];
    let bit = |at: usize| (high >> at & 1) as u8 * 16;
    [f32::from(code & 15 | bit(i)), f32::from(code >> 4 | bit(i + 16))]
}

pub fn q5_0(block: &[u8], out: &mut [f32]) {
    let scale = half(block, 0);
    for i in 0..16 {
        let codes = five_bits(&block[2..], i);
        out[i] = (codes[0] - 16.0) * scale;
        out[i + 16] = (codes[1] - 16.0) * scale;
    }
}

pub fn q5_1(block: &[u8], out: &mut [f32]) {
    let (scale, minimum) = (half(block, 0), half(block, 2));
    for i in 0..16 {
        let codes = five_bits(&block[4..], i);
        out[i] = codes[0] * scale + minimum;
        out[i + 16] = codes[1] * scale + minimum;
    }
}

/// The 6-bit scale and minimum of group `i` of 8, in 12 bytes: the last four lend their high bits to the first eight.
pub fn scale_and_minimum(packed: &[u8], i: usize) -> (u8, u8) {
    if i < 4 {
        (packed[i] & 63, packed[i + 4] & 63)
    } else {
        (packed[i + 4] & 15 | packed[i - 4] >> 6 << 4, packed[i + 4] >> 4 | packed[i] >> 6 << 4)
    }
}

pub fn q4_k(block: &[u8], out: &mut [f32]) {
    let (scale, minimum, packed, codes) = (half(block, 0), half(block, 2), &block[4..16], &block[16..]);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (s, m) = scale_and_minimum(packed, group);
        let (s, m) = (scale * f32::from(s), minimum * f32::from(m));
        for (out, code) in out.iter_mut().zip(&codes[group / 2 * 32..]) {
            *out = s * f32::from(code >> (group % 2 * 4) & 15) - m;
        }
    }
}

pub fn q5_k(block: &[u8], out: &mut [f32]) {
    let (scale, minimum, packed) = (half(block, 0), half(block, 2), &block[4..16]);
    let (high, codes) = (&block[16..48], &block[48..]);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (s, m) = scale_and_minimum(packed, group);
        let (s, m) = (scale * f32::from(s), minimum * f32::from(m));
        for ((out, code), high) in out.iter_mut().zip(&codes[group / 2 * 32..]).zip(high) {
            *out = s * f32::from(code >> (group % 2 * 4) & 15 | (high >> group & 1) << 4) - m;
        }
    }
}

/// Two halves of 128 weights: 64 bytes of low halves, 32 bytes of pairs of high bits, 8 scales each.
pub fn q6_k(block: &[u8], out: &mut [f32]) {
    let scale = half(block, 208);
    for (i, out) in out.iter_mut().enumerate() {
        let (part, quarter, at) = (i / 128, i % 128 / 32, i % 32);
        let low = block[part * 64 + quarter % 2 * 32 + at] >> (quarter / 2 * 4) & 15;
        let high = block[128 + part * 32 + at] >> (quarter * 2) & 3;
        let group = f32::from(block[192 + i / 16] as i8);
        *out = scale * group * (f32::from(low | high << 4) - 32.0);
    }
}
