//! With the rounding instructions of AVX-512 BF16, which treat denormals as zero: weights are none, their least step is
//! 2^-24.

use super::super::super::packed::NR;
use super::super::super::tile::prefetch;
use super::super::BlockKind;
use super::super::packed::{Form, GROUP};
use super::scales;
use std::arch::x86_64::*;
use std::ops::Range;

/// How far ahead codes are fetched, in bytes.
const AHEAD: usize = 2048;

/// A number of every lane, each twice, as the sixteen of each quarter of a pair of steps need it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn twice(lanes: &[f32; NR]) -> [__m512; 4] {
    let low = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    // SAFETY: an array of 32 numbers.
    let [a, b] = unsafe { [_mm512_loadu_ps(lanes.as_ptr()), _mm512_loadu_ps(lanes.as_ptr().add(16))] };
    [
        _mm512_permutexvar_ps(low, a),
        _mm512_permutexvar_ps(high, a),
        _mm512_permutexvar_ps(low, b),
        _mm512_permutexvar_ps(high, b),
    ]
}

/// See [`super::pairs`].
///
/// # Safety
/// As there, on AVX-512 with BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,f16c")]
pub unsafe fn pairs(kind: BlockKind, panel: &[u8], groups: Range<usize>, out: *mut u16) {
    // One loop for each kind, so that what depends on it is decided once.
    macro_rules! kinds {
        ($($kind:ident)*) => {
            match kind {
                // SAFETY: the caller's promise.
                $(BlockKind::$kind => unsafe { every(BlockKind::$kind, panel, groups, out) },)*
            }
        };
    }
    kinds!(Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q4K Q5K Q6K);
}

#[inline(always)]
unsafe fn every(kind: BlockKind, panel: &[u8], groups: Range<usize>, out: *mut u16) {
    let form = Form::of(kind);
    for (at, group) in groups.enumerate() {
        let s = scales(kind, panel, group);
        let codes = &panel[form.places(group).1 + form.scales..][..form.group - form.scales];
        let step = codes.len() / (GROUP / 2);
        for half in 0..2 {
            // SAFETY: eight pairs of steps of codes, and of values; the caller vouches for the instruction set.
            unsafe {
                let (scale, offset) = (twice(&s.scale[half]), twice(&s.offset[half]));
                let codes = codes.as_ptr().add(half * 8 * step);
                let out = out.add((at * 2 + half) * 8 * NR * 2);
                if kind.is_narrow() {
                    narrow(codes, &scale, &offset, out);
                } else {
                    bytes(codes, &scale, &offset, out);
                }
            }
        }
    }
}

/// Two quarters, rounded.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,f16c")]
fn round(codes: [__m512; 2], scale: &[__m512; 4], offset: &[__m512; 4], first: usize) -> __m512bh {
    let low = _mm512_fmadd_ps(codes[0], scale[first], offset[first]);
    let high = _mm512_fmadd_ps(codes[1], scale[first + 1], offset[first + 1]);
    _mm512_cvtne2ps_pbh(high, low)
}

/// Eight pairs of steps of 4-bit codes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,f16c")]
unsafe fn narrow(codes: *const u8, scale: &[__m512; 4], offset: &[__m512; 4], out: *mut u16) {
    let table = _mm512_setr_ps(0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0);
    for at in 0..16 {
        // SAFETY: the caller vouches for 256 bytes of codes and 512 values.
        unsafe {
            if at % 4 == 0 {
                prefetch(codes.wrapping_add(at * 16 + AHEAD));
            }
            let both = _mm512_cvtepu8_epi32(_mm_loadu_si128(codes.add(at * 16).cast()));
            // The low four bits select from the table; of the high four nothing else is left.
            let low = _mm512_permutexvar_ps(both, table);
            let high = _mm512_cvtepi32_ps(_mm512_srli_epi32::<4>(both));
            let values = round([low, high], scale, offset, at % 2 * 2);
            _mm512_storeu_si512(out.add(at * 32).cast(), std::mem::transmute::<__m512bh, __m512i>(values));
        }
    }
}

/// Eight pairs of steps of 8-bit codes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,f16c")]
unsafe fn bytes(codes: *const u8, scale: &[__m512; 4], offset: &[__m512; 4], out: *mut u16) {
    for at in 0..16 {
        // SAFETY: the caller vouches for 512 bytes of codes and 512 values.
        unsafe {
            if at % 2 == 0 {
                prefetch(codes.wrapping_add(at * 32 + AHEAD));
            }
            let wide = |part: usize| {
                _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(codes.add(at * 32 + part * 16).cast())))
            };
            let values = round([wide(0), wide(1)], scale, offset, at % 2 * 2);
            _mm512_storeu_si512(out.add(at * 32).cast(), std::mem::transmute::<__m512bh, __m512i>(values));
        }
    }
}
