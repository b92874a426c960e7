//! Sixteen f32 lanes on every instruction set, so that a kernel is written once and reduces in one order everywhere.
//!
//! [`simd_fn`] compiles a generic kernel for each instruction set and picks one at run time. The generic code is
//! `inline(always)`, so intrinsics inline into the function that enables their features.

use super::packed::bf16_from_f32;
use super::reference::LANES;

/// Sixteen lanes of f32 and what the kernels do with them.
///
/// # Safety
/// Methods may only be called where the instruction set is available; pointers must be valid for the lanes accessed.
pub trait Simd: Copy {
    /// Sixteen lanes.
    type V: Copy;
    /// Rows of a register tile of the matrix product.
    const ROWS: usize;
    /// Vectors per row of a register tile: 1 or 2.
    const VECTORS: usize;

    unsafe fn splat(value: f32) -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn store(to: *mut f32, v: Self::V);
    /// Lanes `0..n`, the others zero and not read.
    unsafe fn load_first(from: *const f32, n: usize) -> Self::V;
    /// Lanes `0..n`; the others are not written.
    unsafe fn store_first(to: *mut f32, v: Self::V, n: usize);
    /// `a * b + c`.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a > b ? a : b`, so `b` where either is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// `a < b ? a : b`, so `b` where either is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// To the nearest integer, ties to even; exact for |v| < 2^22.
    unsafe fn round(v: Self::V) -> Self::V;
    /// `2^n` for integral `n` in -127..=128, which give 0 and infinity.
    unsafe fn exp2(n: Self::V) -> Self::V;
    /// Thirty-two bf16 widened: those at even places, those at odd places.
    unsafe fn load_pairs(from: *const u16) -> (Self::V, Self::V);

    /// Sixteen numbers rounded to bf16, in the high halves of sixteen 32-bit numbers whose low halves are zero.
    unsafe fn round_bf16(v: Self::V) -> [u32; LANES];
    /// Sixteen numbers rounded to bf16.
    #[inline(always)]
    unsafe fn store_bf16(to: *mut u16, v: Self::V) {
        // SAFETY: the caller vouches for sixteen numbers.
        unsafe {
            let rounded = Self::round_bf16(v);
            let mut narrow = [0_u16; LANES];
            for i in 0..LANES {
                narrow[i] = (rounded[i] >> 16) as u16;
            }
            to.cast::<[u16; LANES]>().write_unaligned(narrow);
        }
    }
    /// Sixteen pairs of numbers rounded to bf16.
    #[inline(always)]
    unsafe fn store_pairs(to: *mut u16, even: Self::V, odd: Self::V) {
        // SAFETY: the caller vouches for thirty-two numbers.
        unsafe {
            let (even, mut pairs) = (Self::round_bf16(even), Self::round_bf16(odd));
            for i in 0..LANES {
                pairs[i] |= even[i] >> 16;
            }
            to.cast::<[u32; LANES]>().write_unaligned(pairs);
        }
    }

    #[inline(always)]
    unsafe fn zero() -> Self::V {
        // SAFETY: as promised by the caller.
        unsafe { Self::splat(0.0) }
    }

    /// Lane-wise sum in the order of [`super::reference::lane_sum`].
    #[inline(always)]
    unsafe fn sum(v: Self::V) -> f32 {
        let mut lanes = [0.0; LANES];
        // SAFETY: the array holds sixteen lanes.
        unsafe { Self::store(lanes.as_mut_ptr(), v) };
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
        }
        lanes[0]
    }

    /// Transposes a block of 16 x 16 numbers of 32 bits; rows are `from_row` and `to_row` apart.
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_row: usize, to: *mut f32, to_row: usize) {
        for row in 0..LANES {
            for column in 0..LANES {
                // SAFETY: the caller vouches for both blocks.
                unsafe { *to.add(column * to_row + row) = *from.add(row * from_row + column) };
            }
        }
    }

    /// The largest lane.
    #[inline(always)]
    unsafe fn largest(v: Self::V) -> f32 {
        let mut lanes = [0.0; LANES];
        // SAFETY: the array holds sixteen lanes.
        unsafe { Self::store(lanes.as_mut_ptr(), v) };
        lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    /// `e^x`, relative error below 2^-22.5 (measured over the whole range); 0 below -87.68, infinity above 88.37.
    ///
    /// `x = n ln 2 + r` with `ln 2` in two parts (the first of nine bits, so that its product is exact), and `e^r = 1 + r + r^2 q(r)` by a minimax `q` on |r| <= ln 2 / 2.
    #[inline(always)]
    unsafe fn exp(x: Self::V) -> Self::V {
        const Q: [f32; 5] = [0.499_999_94, 0.166_665_21, 0.041_668_39, 0.008_368_745, 0.001_381_454];
        // SAFETY: as promised by the caller.
        unsafe {
            let x = Self::min(Self::splat(89.0), Self::max(Self::splat(-88.0), x));
            let n = Self::round(Self::mul(x, Self::splat(std::f32::consts::LOG2_E)));
            let r = Self::fma(n, Self::splat(-355.0 / 512.0), x);
            let r = Self::fma(n, Self::splat(2.121_944_4e-4), r);
            let mut q = Self::splat(Q[4]);
            for coefficient in [Q[3], Q[2], Q[1], Q[0]] {
                q = Self::fma(q, r, Self::splat(coefficient));
            }
            let tail = Self::fma(Self::mul(r, r), q, r);
            Self::mul(Self::add(tail, Self::splat(1.0)), Self::exp2(n))
        }
    }
}

/// Arrays that compilers turn into whatever vectors the target has.
#[derive(Clone, Copy)]
pub struct Portable;

#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], op: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| op(a[i], b[i]))
}

/// Fused where the target fuses in one instruction; elsewhere a library call would be slower by far.
#[inline(always)]
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) { a.mul_add(b, c) } else { a * b + c }
}

impl Simd for Portable {
    type V = [f32; LANES];
    const ROWS: usize = if cfg!(target_arch = "aarch64") { 4 } else { 2 };
    const VECTORS: usize = 1;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::V {
        [value; LANES]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the caller vouches for sixteen lanes.
        unsafe { from.cast::<Self::V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        // SAFETY: the caller vouches for sixteen lanes.
        unsafe { to.cast::<Self::V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, n: usize) -> Self::V {
        // SAFETY: only lanes below `n` are read.
        std::array::from_fn(|i| if i < n { unsafe { *from.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_first(to: *mut f32, v: Self::V, n: usize) {
        for (i, lane) in v.into_iter().enumerate().take(n) {
            // SAFETY: only lanes below `n` are written.
            unsafe { *to.add(i) = lane };
        }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| multiply_add(a[i], b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn round(v: Self::V) -> Self::V {
        const SHIFT: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves no room for a fraction
        v.map(|v| (v + SHIFT) - SHIFT)
    }
    #[inline(always)]
    unsafe fn exp2(n: Self::V) -> Self::V {
        n.map(|n| f32::from_bits(((n as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn round_bf16(v: Self::V) -> [u32; LANES] {
        v.map(|v| u32::from(bf16_from_f32(v)) << 16)
    }
    #[inline(always)]
    unsafe fn load_pairs(from: *const u16) -> (Self::V, Self::V) {
        // SAFETY: the caller vouches for thirty-two numbers.
        let pairs = unsafe { from.cast::<[u32; LANES]>().read_unaligned() };
        (pairs.map(|pair| f32::from_bits(pair << 16)), pairs.map(|pair| f32::from_bits(pair & 0xffff_0000)))
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
#[path = "simd_x86.rs"]
mod x86;

/// `simd_fn!(fn name(arg: Type, ..) -> Ret = generic)` defines `unsafe fn name(isa, arg, ..)`, which runs
/// `generic::<S>(arg, ..)` compiled for the instruction set that `isa` names.
macro_rules! simd_fn {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $generic:ident) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// `isa` is supported here; the arguments are what the generic kernel asks for.
        #[allow(clippy::too_many_arguments)]
        $vis unsafe fn $name(isa: $crate::kernels::Isa, $($arg: $ty),*) $(-> $ret)? {
            use $crate::kernels::{Isa, simd};
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx512($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function enables the features; the rest is the caller's promise.
                unsafe { $generic::<simd::Avx512>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx2($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: as above.
                unsafe { $generic::<simd::Avx2>($($arg),*) }
            }
            // SAFETY: `isa` is supported, and so are those below it; the rest is the caller's promise.
            unsafe {
                match isa {
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => avx512($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx2 => avx2($($arg),*),
                    _ => $generic::<simd::Portable>($($arg),*),
                }
            }
        }
    };
}
pub(super) use simd_fn;
