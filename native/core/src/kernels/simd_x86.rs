//! AVX2 (two registers of eight lanes) and AVX-512 (one of sixteen).

use super::{Simd, bf16_from_f32};
use std::arch::x86_64::*;

/// AVX2 and FMA.
#[derive(Clone, Copy)]
pub struct Avx2;

/// AVX-512 F, BW, DQ, VL.
#[derive(Clone, Copy)]
pub struct Avx512;

/// Masks of the first `n` of eight lanes, read at `8 - n`.
static FIRST: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

#[inline(always)]
unsafe fn first(n: usize) -> __m256i {
    // SAFETY: the offset lies in 0..=8, so eight numbers remain.
    unsafe { _mm256_loadu_si256(FIRST.as_ptr().add(8 - n.min(8)).cast()) }
}

/// Both halves of a sixteen-lane vector through an eight-lane operation.
macro_rules! halves {
    ($op:ident($($v:expr),+)) => {
        // SAFETY: the caller vouches for AVX2 and FMA.
        unsafe { [$op($($v[0]),+), $op($($v[1]),+)] }
    };
}

impl Simd for Avx2 {
    type V = [__m256; 2];
    const ROWS: usize = 6;
    const VECTORS: usize = 1;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::V {
        // SAFETY: the caller vouches for AVX2.
        unsafe { [_mm256_set1_ps(value); 2] }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the caller vouches for sixteen lanes.
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        // SAFETY: the caller vouches for sixteen lanes.
        unsafe {
            _mm256_storeu_ps(to, v[0]);
            _mm256_storeu_ps(to.add(8), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self::V {
        // SAFETY: masked lanes are not read; `wrapping_add` because the second half may lie outside.
        unsafe {
            [_mm256_maskload_ps(from, first(n)), _mm256_maskload_ps(from.wrapping_add(8), first(n.saturating_sub(8)))]
        }
    }
    #[inline(always)]
    unsafe fn store_first(to: *mut f32, v: Self::V, n: usize) {
        // SAFETY: masked lanes are not written.
        unsafe {
            _mm256_maskstore_ps(to, first(n), v[0]);
            _mm256_maskstore_ps(to.wrapping_add(8), first(n.saturating_sub(8)), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        halves!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        halves!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        halves!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        halves!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        halves!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        halves!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        halves!(_mm256_min_ps(a, b))
    }
    #[inline(always)]
    unsafe fn round(v: Self::V) -> Self::V {
        // SAFETY: the caller vouches for AVX2.
        unsafe {
            const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
            [_mm256_round_ps::<NEAREST>(v[0]), _mm256_round_ps::<NEAREST>(v[1])]
        }
    }
    #[inline(always)]
    unsafe fn exp2(n: Self::V) -> Self::V {
        // SAFETY: the caller vouches for AVX2.
        unsafe {
            let bias = _mm256_set1_epi32(127);
            let low = _mm256_add_epi32(_mm256_cvtps_epi32(n[0]), bias);
            let high = _mm256_add_epi32(_mm256_cvtps_epi32(n[1]), bias);
            [_mm256_castsi256_ps(_mm256_slli_epi32::<23>(low)), _mm256_castsi256_ps(_mm256_slli_epi32::<23>(high))]
        }
    }
    #[inline(always)]
    unsafe fn round_bf16(v: Self::V) -> [u32; 16] {
        let mut bits = [0; 16];
        // SAFETY: an array of sixteen numbers of 32 bits.
        unsafe { Self::store(bits.as_mut_ptr().cast(), v) };
        for bits in &mut bits {
            *bits = u32::from(bf16_from_f32(f32::from_bits(*bits))) << 16;
        }
        bits
    }
    #[inline(always)]
    unsafe fn load_pairs(from: *const u16) -> (Self::V, Self::V) {
        // SAFETY: the caller vouches for thirty-two numbers.
        unsafe {
            let (a, b) = (_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(16).cast()));
            let odd = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            (
                [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(a)), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(b))],
                [_mm256_castsi256_ps(_mm256_and_si256(a, odd)), _mm256_castsi256_ps(_mm256_and_si256(b, odd))],
            )
        }
    }
}

#[inline(always)]
fn mask(n: usize) -> __mmask16 {
    ((1_u32 << n.min(16)) - 1) as __mmask16
}

/// [`bf16_from_f32`] of each lane, in high halves.
#[inline(always)]
unsafe fn rounded(v: __m512) -> __m512i {
    // SAFETY: the caller vouches for AVX-512.
    unsafe {
        let bits = _mm512_castps_si512(v);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
        let all = _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x40_0000));
        _mm512_and_si512(all, _mm512_set1_epi32(0xffff_0000_u32 as i32))
    }
}

impl Simd for Avx512 {
    type V = __m512;
    const ROWS: usize = 12;
    const VECTORS: usize = 2;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::V {
        // SAFETY: the caller vouches for AVX-512.
        unsafe { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the caller vouches for sixteen lanes.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        // SAFETY: the caller vouches for sixteen lanes.
        unsafe { _mm512_storeu_ps(to, v) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self::V {
        // SAFETY: masked lanes are not read.
        unsafe { _mm512_maskz_loadu_ps(mask(n), from) }
    }
    #[inline(always)]
    unsafe fn store_first(to: *mut f32, v: Self::V, n: usize) {
        // SAFETY: masked lanes are not written.
        unsafe { _mm512_mask_storeu_ps(to, mask(n), v) }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: the caller vouches for AVX-512.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the caller vouches for AVX-512.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the caller vouches for AVX-512.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the caller vouches for AVX-512.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the caller vouches for AVX-512.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the caller vouches for AVX-512.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: the caller vouches for AVX-512.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn round(v: Self::V) -> Self::V {
        // SAFETY: the caller vouches for AVX-512.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v) }
    }
    #[inline(always)]
    unsafe fn exp2(n: Self::V) -> Self::V {
        // SAFETY: the caller vouches for AVX-512.
        unsafe {
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        }
    }
    #[inline(always)]
    unsafe fn round_bf16(v: Self::V) -> [u32; 16] {
        // SAFETY: both are sixteen numbers of 32 bits; the caller vouches for AVX-512.
        unsafe { std::mem::transmute(rounded(v)) }
    }
    #[inline(always)]
    unsafe fn store_bf16(to: *mut u16, v: Self::V) {
        // SAFETY: the caller vouches for AVX-512 and sixteen numbers.
        unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded(v)))) }
    }
    #[inline(always)]
    unsafe fn store_pairs(to: *mut u16, even: Self::V, odd: Self::V) {
        // SAFETY: the caller vouches for AVX-512 and thirty-two numbers.
        unsafe {
            let pairs = _mm512_or_si512(_mm512_srli_epi32::<16>(rounded(even)), rounded(odd));
            _mm512_storeu_si512(to.cast(), pairs);
        }
    }
    #[inline(always)]
    unsafe fn load_pairs(from: *const u16) -> (Self::V, Self::V) {
        // SAFETY: the caller vouches for thirty-two numbers.
        unsafe {
            let pairs = _mm512_loadu_si512(from.cast());
            let high = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            (_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(_mm512_and_si512(pairs, high)))
        }
    }

    /// Four stages: neighbours interleaved by 32 and 64 bits, then 128-bit quarters gathered twice.
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
        // SAFETY: the caller vouches for AVX-512 and for both blocks.
        unsafe {
            let mut rows = [_mm512_setzero_ps(); 16];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = _mm512_loadu_ps(from.add(i * from_row));
            }
            let mut pairs = rows;
            for i in (0..16).step_by(2) {
                pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
                pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
            }
            // Row 4q + j: columns 4l + j (l = lane of 128 bits) of rows 4q .. 4q + 4.
            let mut quads = rows;
            for q in (0..16).step_by(4) {
                for j in [0, 1] {
                    let (a, b) = (_mm512_castps_pd(pairs[q + j]), _mm512_castps_pd(pairs[q + 2 + j]));
                    quads[q + j * 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
                    quads[q + j * 2 + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
                }
            }
            for j in 0..4 {
                let [a, b, c, d] = [quads[j], quads[4 + j], quads[8 + j], quads[12 + j]];
                let low = [_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0x44>(c, d)];
                let high = [_mm512_shuffle_f32x4::<0xee>(a, b), _mm512_shuffle_f32x4::<0xee>(c, d)];
                for (l, [ab, cd]) in [low, high].into_iter().enumerate() {
                    let (even, odd) = (_mm512_shuffle_f32x4::<0x88>(ab, cd), _mm512_shuffle_f32x4::<0xdd>(ab, cd));
                    _mm512_storeu_ps(to.add((l * 8 + j) * to_row), even);
                    _mm512_storeu_ps(to.add((l * 8 + 4 + j) * to_row), odd);
                }
            }
        }
    }
}
