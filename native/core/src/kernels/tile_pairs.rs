//! Products of bf16 pairs: AMX tiles and VDPBF16PS. Both treat denormals as zero.
//!
//! Each instruction adds two products per lane and step, so sums differ from the widening kernels in the last bits, but
//! an element's own order depends only on `k`.

use super::Isa;
use super::blocks::{BlockKind, unpack};
use super::packed::NR;
use super::tile::Tile;

#[cfg(target_arch = "x86_64")]
#[path = "tile_pairs_x86.rs"]
mod x86;

/// Reduction steps of one tile instruction: operands are padded with zeros to a multiple of it.
pub const STEP: usize = 32;

/// Rows of an A tile: `a` is padded with rows to a multiple of it.
pub const TILE_ROWS: usize = 16;

/// State of a thread while it multiplies pairs: the tiles of AMX, configured once for many products of tiles.
pub struct Unit {
    isa: Isa,
}

impl Unit {
    /// `isa` is supported here.
    pub fn new(isa: Isa) -> Unit {
        #[cfg(target_arch = "x86_64")]
        if isa == Isa::Amx {
            // SAFETY: `isa` is supported.
            unsafe { x86::configure() };
        }
        Unit { isa }
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        if self.isa == Isa::Amx {
            // SAFETY: `isa` is supported.
            unsafe { x86::release() };
        }
    }
}

/// `c (+)= a · b`, `a` bf16 rows (see [`super::transpose::TiledRows`], tiled for AMX) and `b` a panel of pairs, both
/// padded to [`STEP`].
///
/// # Safety
/// `isa` is supported here and at least [`Isa::Avx512Bf16`], and this thread has a [`Unit`] of it; the pointers are valid for
/// the stated extents.
pub unsafe fn tile_pairs(isa: Isa, tile: &Tile<u16, u16>) {
    debug_assert!(tile.k.is_multiple_of(STEP));
    match isa {
        // SAFETY: the caller's promise.
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => unsafe { x86::amx(tile) },
        // SAFETY: the caller's promise.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 => unsafe { x86::dot_pairs(tile) },
        _ => unreachable!("{isa} has no products of pairs"),
    }
}

/// Most rows of [`tile_blocks`].
pub fn block_rows(isa: Isa) -> usize {
    if isa == Isa::Amx { 2 * TILE_ROWS } else { 8 }
}

/// [`tile_pairs`] with `b` unpacked on the way, from the groups of a quantised panel: for few rows, whose products the
/// unpacking of the next step then overlaps.
///
/// # Safety
/// As for [`tile_pairs`], but for `b`, which is not read; up to [`block_rows`]; the panel has `tile.k / 32` groups.
pub unsafe fn tile_blocks(isa: Isa, tile: &Tile<u16, u16>, kind: BlockKind, panel: &[u8]) {
    debug_assert!(tile.k.is_multiple_of(STEP) && tile.rows <= block_rows(isa));
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => {
            #[repr(align(64))]
            struct Steps([[u16; STEP * NR]; 4]);
            let mut steps = Steps([[0; STEP * NR]; 4]);
            let source = |step: usize| {
                let out = steps.0[step % 4].as_mut_ptr();
                // SAFETY: room for a group, which the panel has.
                unsafe { unpack::pairs(isa, kind, panel, step..step + 1, out) };
                out.cast_const()
            };
            // SAFETY: the caller's promise.
            unsafe { x86::amx_from(tile, source) }
        }
        // SAFETY: the caller's promise.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 => unsafe { unpack::dot_blocks(tile, kind, panel) },
        _ => unreachable!("{isa} has no products of pairs"),
    }
}
