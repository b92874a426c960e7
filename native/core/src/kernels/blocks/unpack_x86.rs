//! With the rounding instructions of AVX-512 BF16, which treat denormals as zero: weights are none, their least step is
//! 2^-24.

use super::super::super::packed::NR;
use super::super::super::tile::{Tile, prefetch};
use super::super::BlockKind;
use super::super::form::{Form, GROUP};
use std::arch::x86_64::*;
use std::ops::Range;

/// How far ahead codes are fetched, in bytes.
const AHEAD: usize = 2048;

/// Scale and offset of the lanes, each twice, as the sixteen of each quarter of a pair of steps need them.
struct Quarters {
    scale: [__m512; 4],
    offset: [__m512; 4],
}

/// Sixteen numbers of half precision.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn half_precision(from: *const u8) -> __m512 {
    // SAFETY: the caller vouches for 32 bytes.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
}

/// Sixteen unsigned bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn unsigned(from: *const u8) -> __m512 {
    // SAFETY: the caller vouches for 16 bytes.
    unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()))) }
}

/// Sixteen signed bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn signed(from: *const u8) -> __m512 {
    // SAFETY: the caller vouches for 16 bytes.
    unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
}

/// [`super::scales`] of the first or the last sixteen steps, in registers.
#[inline(always)]
unsafe fn quarters(kind: BlockKind, panel: &[u8], group: usize, half: usize) -> Quarters {
    let (head, start) = Form::of(kind).places(group);
    let base = &panel[if kind.is_super() { head } else { start }..];
    let sub = &panel[start..];
    debug_assert!(sub.len() >= NR * 4 && base.len() >= NR * 4);
    // SAFETY: scales and minima, then codes: at least 128 bytes from either place; the caller vouches for AVX-512.
    unsafe {
        let low = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
        let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
        let zero = _mm512_set1_ps(-kind.zero());
        let mut q = Quarters { scale: [_mm512_setzero_ps(); 4], offset: [_mm512_setzero_ps(); 4] };
        for part in 0..2 {
            let mut scale = half_precision(base.as_ptr().add(part * 32));
            if kind == BlockKind::Q6K {
                scale = _mm512_mul_ps(scale, signed(sub.as_ptr().add(half * NR + part * 16)));
            } else if kind.is_super() {
                scale = _mm512_mul_ps(scale, unsigned(sub.as_ptr().add(part * 16)));
            }
            let offset = if !kind.has_minimum() {
                _mm512_mul_ps(scale, zero)
            } else {
                let minimum = half_precision(base.as_ptr().add(NR * 2 + part * 32));
                if kind.is_super() {
                    let sub = unsigned(sub.as_ptr().add(NR + part * 16));
                    _mm512_sub_ps(_mm512_setzero_ps(), _mm512_mul_ps(minimum, sub))
                } else {
                    minimum
                }
            };
            q.scale[part * 2] = _mm512_permutexvar_ps(low, scale);
            q.scale[part * 2 + 1] = _mm512_permutexvar_ps(high, scale);
            q.offset[part * 2] = _mm512_permutexvar_ps(low, offset);
            q.offset[part * 2 + 1] = _mm512_permutexvar_ps(high, offset);
        }
        q
    }
}

/// See [`super::pairs`].
///
/// # Safety
/// As there, on AVX-512 with BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
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
        let codes = &panel[form.places(group).1 + form.scales..][..form.group - form.scales];
        // SAFETY: sixteen pairs of steps of codes, and of values; the caller vouches for the instruction set.
        unsafe {
            let out = out.add(at * GROUP * NR);
            for half in 0..halves(kind) {
                let q = quarters(kind, panel, group, half);
                let pairs = GROUP / 2 / halves(kind);
                for pair in half * pairs..(half + 1) * pairs {
                    let values = pair_of(kind, codes.as_ptr(), pair, &q);
                    for (at, values) in values.into_iter().enumerate() {
                        let values = std::mem::transmute::<__m512bh, __m512i>(values);
                        _mm512_storeu_si512(out.add(pair * NR * 2 + at * NR).cast(), values);
                    }
                }
            }
        }
    }
}

/// Into how many parts with scales of their own the steps of a group fall.
#[inline(always)]
fn halves(kind: BlockKind) -> usize {
    if kind == BlockKind::Q6K { 2 } else { 1 }
}

/// A pair of steps of a group.
#[inline(always)]
unsafe fn pair_of(kind: BlockKind, codes: *const u8, pair: usize, q: &Quarters) -> [__m512bh; 2] {
    // SAFETY: the caller vouches for the group's codes and the instruction set.
    unsafe { if kind.is_narrow() { narrow(codes.add(pair * NR), q) } else { bytes(codes.add(pair * NR * 2), q) } }
}

/// Two quarters, rounded.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn round<const FIRST: usize>(codes: [__m512; 2], q: &Quarters) -> __m512bh {
    let low = _mm512_fmadd_ps(codes[0], q.scale[FIRST], q.offset[FIRST]);
    let high = _mm512_fmadd_ps(codes[1], q.scale[FIRST + 1], q.offset[FIRST + 1]);
    _mm512_cvtne2ps_pbh(high, low)
}

/// A pair of steps of 4-bit codes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn narrow(codes: *const u8, q: &Quarters) -> [__m512bh; 2] {
    let table = _mm512_setr_ps(0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0);
    prefetch(codes.wrapping_add(AHEAD));
    // SAFETY: the caller vouches for 32 bytes of codes.
    let [a, b] = unsafe { [_mm_loadu_si128(codes.cast()), _mm_loadu_si128(codes.add(16).cast())] };
    let [a, b] = [_mm512_cvtepu8_epi32(a), _mm512_cvtepu8_epi32(b)];
    // The low four bits select from the table; of the high four nothing else is left.
    let high = [_mm512_cvtepi32_ps(_mm512_srli_epi32::<4>(a)), _mm512_cvtepi32_ps(_mm512_srli_epi32::<4>(b))];
    [
        round::<0>([_mm512_permutexvar_ps(a, table), high[0]], q),
        round::<2>([_mm512_permutexvar_ps(b, table), high[1]], q),
    ]
}

/// A pair of steps of 8-bit codes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
unsafe fn bytes(codes: *const u8, q: &Quarters) -> [__m512bh; 2] {
    prefetch(codes.wrapping_add(AHEAD));
    // SAFETY: the caller vouches for 64 bytes of codes.
    unsafe {
        [
            round::<0>([unsigned(codes), unsigned(codes.add(16))], q),
            round::<2>([unsigned(codes.add(32)), unsigned(codes.add(48))], q),
        ]
    }
}

/// Up to eight rows with a quantised panel, by VDPBF16PS from registers: see [`crate::kernels::tile_pairs::tile_blocks`].
///
/// # Safety
/// As there, on AVX-512 with BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
pub unsafe fn dot_blocks(t: &Tile<u16, u16>, kind: BlockKind, panel: &[u8]) {
    macro_rules! rows {
        ($kind:ident: $($rows:literal)*) => {
            match t.rows {
                // SAFETY: the caller's promise.
                $($rows => unsafe { dot_rows::<$rows>(t, BlockKind::$kind, panel) },)*
                _ => unreachable!("more rows than registers"),
            }
        };
    }
    macro_rules! kinds {
        ($($kind:ident)*) => {
            match kind {
                $(BlockKind::$kind => rows!($kind: 1 2 3 4 5 6 7 8),)*
            }
        };
    }
    kinds!(Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q4K Q5K Q6K);
}

/// `R` rows of two vectors of sums, all in registers, in the order of `tile_pairs`.
#[inline(always)]
unsafe fn dot_rows<const R: usize>(t: &Tile<u16, u16>, kind: BlockKind, panel: &[u8]) {
    debug_assert_eq!(t.lanes, NR);
    let form = Form::of(kind);
    // SAFETY: the caller's promise; quantised panels are whole.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; R];
        if t.load {
            for (r, sums) in sums.iter_mut().enumerate() {
                let c = t.c.add(r * t.c_row);
                *sums = [_mm512_loadu_ps(c), _mm512_loadu_ps(c.add(16))];
            }
        }
        for group in 0..t.k / GROUP {
            let codes = &panel[form.places(group).1 + form.scales..][..form.group - form.scales];
            for half in 0..halves(kind) {
                let q = quarters(kind, panel, group, half);
                let pairs = GROUP / 2 / halves(kind);
                for pair in half * pairs..(half + 1) * pairs {
                    let lanes = pair_of(kind, codes.as_ptr(), pair, &q);
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let a = t.a.add(r * t.a_row + group * GROUP + pair * 2).cast::<i32>().read_unaligned();
                        let a: __m512bh = std::mem::transmute(_mm512_set1_epi32(a));
                        sums[0] = _mm512_dpbf16_ps(sums[0], a, lanes[0]);
                        sums[1] = _mm512_dpbf16_ps(sums[1], a, lanes[1]);
                    }
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let c = t.c.add(r * t.c_row);
            _mm512_storeu_ps(c, sums[0]);
            _mm512_storeu_ps(c.add(16), sums[1]);
        }
    }
}
