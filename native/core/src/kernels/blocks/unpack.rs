//! From a panel's codes to bf16 pairs or f32: `code * scale + offset` in one rounding, the value of
//! [`BlockKind::decode`] (whose products are exact: at most 11 bits of scale, 7 of a scale's scale, 6 of a code).

use super::super::Isa;
use super::super::packed::NR;
use super::super::simd::{Simd, simd_fn};
use super::form::{Form, GROUP};
use super::{BlockKind, f32_from_f16};
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
#[path = "unpack_x86.rs"]
mod x86;

#[cfg(target_arch = "x86_64")]
pub use x86::dot_blocks;

/// Scale and offset of every lane of a group, for its first and its last sixteen steps.
pub struct Scales {
    pub scale: [[f32; NR]; 2],
    pub offset: [[f32; NR]; 2],
}

/// The lanes' numbers of half precision.
#[inline(always)]
fn halves(bytes: &[u8]) -> [f32; NR] {
    let mut out = [0.0; NR];
    for lane in 0..NR {
        out[lane] = f32_from_f16(u16::from_le_bytes([bytes[lane * 2], bytes[lane * 2 + 1]]));
    }
    out
}

/// Scales of a group. The code of zero moves into the offset, exactly.
#[inline(always)]
pub fn scales(kind: BlockKind, panel: &[u8], group: usize) -> Scales {
    let (head, start) = Form::of(kind).places(group);
    let mut s = Scales { scale: [[0.0; NR]; 2], offset: [[0.0; NR]; 2] };
    let base = &panel[if kind.is_super() { head } else { start }..][..NR * 4];
    let scale = halves(base);
    let minimum = if kind.has_minimum() { halves(&base[NR * 2..]) } else { [0.0; NR] };
    let sub = &panel[start..][..NR * 2];
    for half in 0..2 {
        for lane in 0..NR {
            let (scale, offset) = if kind == BlockKind::Q6K {
                let scale = scale[lane] * f32::from(sub[half * NR + lane] as i8);
                (scale, -kind.zero() * scale)
            } else if kind.is_super() {
                (scale[lane] * f32::from(sub[lane]), -minimum[lane] * f32::from(sub[NR + lane]))
            } else {
                (scale[lane], minimum[lane] - kind.zero() * scale[lane])
            };
            (s.scale[half][lane], s.offset[half][lane]) = (scale, offset);
        }
    }
    s
}

/// Sixteen codes of a pair of steps as numbers: places `at * 16 ..` of the 64.
#[inline(always)]
unsafe fn sixteen(codes: *const u8, narrow: bool, at: usize) -> [f32; 16] {
    let mut out = [0.0; 16];
    // SAFETY: the caller vouches for the codes of a pair of steps.
    unsafe {
        if narrow {
            let bytes = codes.add(at / 2 * 16).cast::<[u8; 16]>().read_unaligned();
            if at.is_multiple_of(2) {
                for i in 0..16 {
                    out[i] = f32::from(bytes[i] & 15);
                }
            } else {
                for i in 0..16 {
                    out[i] = f32::from(bytes[i] >> 4);
                }
            }
        } else {
            let bytes = codes.add(at * 16).cast::<[u8; 16]>().read_unaligned();
            for i in 0..16 {
                out[i] = f32::from(bytes[i]);
            }
        }
    }
    out
}

/// Runs `$body` for every pair of steps of the groups, with the sixteen values of each quarter.
macro_rules! walk {
    ($kind:ident, $panel:ident, $groups:ident, |$pair:ident, $quarter:ident, $values:ident| $body:expr) => {
        let form = Form::of($kind);
        for (at, group) in $groups.enumerate() {
            let s = scales($kind, $panel, group);
            let mut twice = [[[0.0; NR * 2]; 2]; 2];
            for half in 0..2 {
                for lane in 0..NR {
                    twice[half][0][lane * 2] = s.scale[half][lane];
                    twice[half][0][lane * 2 + 1] = s.scale[half][lane];
                    twice[half][1][lane * 2] = s.offset[half][lane];
                    twice[half][1][lane * 2 + 1] = s.offset[half][lane];
                }
            }
            let codes = &$panel[form.places(group).1 + form.scales..][..form.group - form.scales];
            let step = codes.len() / (GROUP / 2);
            for pair in 0..GROUP / 2 {
                let [scale, offset] = &twice[pair / 8];
                let $pair = at * (GROUP / 2) + pair;
                for $quarter in 0..4 {
                    let code = sixteen(codes.as_ptr().add(pair * step), $kind.is_narrow(), $quarter);
                    let (scale, offset) = (&scale[$quarter * 16..], &offset[$quarter * 16..]);
                    let code = S::load(code.as_ptr());
                    let $values = S::fma(code, S::load(scale.as_ptr()), S::load(offset.as_ptr()));
                    $body
                }
            }
        }
    };
}

#[inline(always)]
unsafe fn pairs_in<S: Simd>(kind: BlockKind, panel: &[u8], groups: Range<usize>, out: *mut u16) {
    // SAFETY: the caller vouches for `out`; codes lie within the panel.
    unsafe {
        walk!(kind, panel, groups, |pair, quarter, values| S::store_bf16(
            out.add(pair * NR * 2 + quarter * 16),
            values
        ));
    }
}

#[inline(always)]
unsafe fn singles_in<S: Simd>(kind: BlockKind, panel: &[u8], groups: Range<usize>, out: *mut f32) {
    // SAFETY: the caller vouches for `out`; codes lie within the panel.
    unsafe {
        walk!(kind, panel, groups, |pair, quarter, values| {
            let mut turned = [0.0; 16];
            S::store(turned.as_mut_ptr(), values);
            let out = out.add(pair * NR * 2 + quarter * 8);
            for lane in 0..8 {
                *out.add(lane) = turned[lane * 2];
                *out.add(NR + lane) = turned[lane * 2 + 1];
            }
        });
    }
}

simd_fn! {
    /// [`pairs`] by the widest vectors that need no bf16 instructions.
    fn rounded(kind: BlockKind, panel: &[u8], groups: Range<usize>, out: *mut u16) = pairs_in
}

simd_fn! {
    /// Groups of a panel to f32: `[groups * 32][32]`.
    pub fn singles(kind: BlockKind, panel: &[u8], groups: Range<usize>, out: *mut f32) = singles_in
}

/// Groups of a panel to bf16 pairs: `[groups * 16][32][2]`.
///
/// # Safety
/// `isa` is supported here; the panel has these groups and `out` room for them.
pub unsafe fn pairs(isa: Isa, kind: BlockKind, panel: &[u8], groups: Range<usize>, out: *mut u16) {
    // SAFETY: the caller's promise.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Amx => x86::pairs(kind, panel, groups, out),
            _ => rounded(isa, kind, panel, groups, out),
        }
    }
}

/// The codes of one lane of a group.
pub fn codes(kind: BlockKind, panel: &[u8], group: usize, lane: usize, out: &mut [u8]) {
    let form = Form::of(kind);
    let codes = &panel[form.places(group).1 + form.scales..];
    for (step, out) in out.iter_mut().enumerate() {
        let at = step / 2 * NR * 2 + lane * 2 + step % 2;
        *out = if kind.is_narrow() { codes[at / 32 * 16 + at % 16] >> (at % 32 / 16 * 4) & 15 } else { codes[at] };
    }
}

/// One lane of a group.
pub fn lane(kind: BlockKind, panel: &[u8], group: usize, lane: usize, out: &mut [f32]) {
    let (s, mut lanes) = (scales(kind, panel, group), [0; GROUP]);
    codes(kind, panel, group, lane, &mut lanes);
    for (step, (out, code)) in out.iter_mut().zip(lanes).enumerate() {
        // Both operations are exact or the last: as fused.
        *out = f32::from(code) * s.scale[step / 16][lane] + s.offset[step / 16][lane];
    }
}
