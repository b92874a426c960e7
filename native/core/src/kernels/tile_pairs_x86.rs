//! AMX tiles and VDPBF16PS.

use super::super::packed::NR;
use super::super::tile::{Tile, next_tile, prefetch};
use super::{STEP, TILE_ROWS};
use std::arch::asm;
use std::arch::x86_64::*;

#[repr(C, align(64))]
struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Eight full tiles: 0-3 are sums, 4-5 rows of `a`, 6-7 lanes of `b`.
static CONFIG: TileConfig = TileConfig {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Readies this thread's tiles.
///
/// # Safety
/// On AMX, whose state was requested when `Isa::Amx` was found supported.
pub unsafe fn configure() {
    // SAFETY: the caller's promise.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, preserves_flags)) };
}

/// Gives the tiles back: threads that hold some are slower to switch.
///
/// # Safety
/// On AMX.
pub unsafe fn release() {
    // SAFETY: the caller's promise.
    unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
}

/// See [`super::tile_pairs`].
///
/// # Safety
/// As there, on AMX, with the tiles configured.
pub unsafe fn amx(t: &Tile<u16, u16>) {
    // SAFETY: the caller's promise.
    unsafe {
        amx_from(t, |step| {
            let b = t.b.wrapping_add(step * STEP * NR);
            if t.ahead > 0 {
                fetch(b.wrapping_byte_add(t.ahead));
            }
            b
        });
    }
}

/// [`amx`] with `b` step by step from `source`, which is asked once for every 32 rows.
///
/// # Safety
/// As for [`amx`]; what `source` gives is valid until it is asked again twice.
pub unsafe fn amx_from(t: &Tile<u16, u16>, mut source: impl FnMut(usize) -> *const u16) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut row = 0;
        while row < t.rows {
            let rows = (t.rows - row).min(2 * TILE_ROWS);
            let a = t.a.add(row * t.a_row);
            let c = t.c.add(row * t.c_row);
            let part = Tile { a, c, rows, ..*t };
            if rows.is_multiple_of(TILE_ROWS) && t.lanes == NR {
                amx_registers(&part, &mut source);
            } else {
                amx_through_buffer(&part, &mut source);
            }
            row += rows;
        }
    }
}

/// For partial tiles: computes in a full-sized buffer and copies what belongs to `c`.
unsafe fn amx_through_buffer(t: &Tile<u16, u16>, source: &mut impl FnMut(usize) -> *const u16) {
    #[repr(align(64))]
    struct Buffer([[f32; NR]; 2 * TILE_ROWS]);
    let mut buffer = Buffer([[0.0; NR]; 2 * TILE_ROWS]);
    // SAFETY: rows below `t.rows` and lanes below `t.lanes` of `c` are valid.
    unsafe {
        if t.load {
            for (r, row) in buffer.0.iter_mut().enumerate().take(t.rows) {
                std::ptr::copy_nonoverlapping(t.c.add(r * t.c_row), row.as_mut_ptr(), t.lanes);
            }
        }
        let rows = t.rows.next_multiple_of(TILE_ROWS);
        amx_registers(&Tile { rows, lanes: NR, c: buffer.0.as_mut_ptr().cast(), c_row: NR, ..*t }, source);
        for (r, row) in buffer.0.iter().enumerate().take(t.rows) {
            std::ptr::copy_nonoverlapping(row.as_ptr(), t.c.add(r * t.c_row), t.lanes);
        }
    }
}

/// One or two tiles of rows by two tiles of lanes.
#[inline(always)]
unsafe fn amx_registers(t: &Tile<u16, u16>, source: &mut impl FnMut(usize) -> *const u16) {
    let second = t.rows > TILE_ROWS;
    // SAFETY: the caller padded `a`, `b` and `c` to full tiles; the asm touches only what it declares.
    unsafe {
        asm!(
            "test {load:e}, {load:e}",
            "jz 20f",
            "tileloadd tmm0, [{c} + {c_row}]",
            "tileloadd tmm1, [{c} + {c_row} + 64]",
            "jmp 21f",
            "20:",
            "tilezero tmm0",
            "tilezero tmm1",
            "21:",
            load = in(reg) u32::from(t.load),
            c = in(reg) t.c,
            c_row = in(reg) t.c_row * 4,
            out("tmm0") _, out("tmm1") _,
            options(nostack, readonly),
        );
        if second {
            asm!(
                "test {load:e}, {load:e}",
                "jz 20f",
                "tileloadd tmm2, [{c} + {c_row}]",
                "tileloadd tmm3, [{c} + {c_row} + 64]",
                "jmp 21f",
                "20:",
                "tilezero tmm2",
                "tilezero tmm3",
                "21:",
                load = in(reg) u32::from(t.load),
                c = in(reg) t.c.add(TILE_ROWS * t.c_row),
                c_row = in(reg) t.c_row * 4,
                out("tmm2") _, out("tmm3") _,
                options(nostack, readonly),
            );
            for step in 0..t.k / STEP {
                let (a, b) = (t.a.add(step * STEP * TILE_ROWS), source(step));
                asm!(
                    "tileloadd tmm4, [{a} + {a_row}]",
                    "tileloadd tmm6, [{b} + {b_row}]",
                    "tileloadd tmm7, [{b} + {b_row} + 64]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{a2} + {a_row}]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    a = in(reg) a,
                    a2 = in(reg) a.add(TILE_ROWS * t.a_row),
                    a_row = in(reg) STEP * 2,
                    b = in(reg) b,
                    b_row = in(reg) NR * 4,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, readonly, preserves_flags),
                );
            }
            asm!(
                "tilestored [{c} + {c_row}], tmm2",
                "tilestored [{c} + {c_row} + 64], tmm3",
                c = in(reg) t.c.add(TILE_ROWS * t.c_row),
                c_row = in(reg) t.c_row * 4,
                options(nostack, preserves_flags),
            );
        } else {
            for step in 0..t.k / STEP {
                let (a, b) = (t.a.add(step * STEP * TILE_ROWS), source(step));
                asm!(
                    "tileloadd tmm4, [{a} + {a_row}]",
                    "tileloadd tmm6, [{b} + {b_row}]",
                    "tileloadd tmm7, [{b} + {b_row} + 64]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    a = in(reg) a,
                    a_row = in(reg) STEP * 2,
                    b = in(reg) b,
                    b_row = in(reg) NR * 4,
                    out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, readonly, preserves_flags),
                );
            }
        }
        asm!(
            "tilestored [{c} + {c_row}], tmm0",
            "tilestored [{c} + {c_row} + 64], tmm1",
            c = in(reg) t.c,
            c_row = in(reg) t.c_row * 4,
            options(nostack, preserves_flags),
        );
    }
}

/// The thirty-two cache lines of one step of a panel.
#[inline(always)]
fn fetch(b: *const u16) {
    for line in 0..STEP {
        prefetch(b.wrapping_byte_add(line * 64));
    }
}

/// See [`super::tile_pairs`].
///
/// # Safety
/// As there, on AVX-512 with BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub unsafe fn dot_pairs(t: &Tile<u16, u16>) {
    let mut row = 0;
    while row < t.rows {
        let end = next_tile(row, t.rows, 12);
        // SAFETY: the caller's promise.
        unsafe {
            let part = Tile {
                a: t.a.add(row * t.a_row),
                c: t.c.add(row * t.c_row),
                rows: end - row,
                ahead: if row == 0 { t.ahead } else { 0 },
                ..*t
            };
            match part.rows {
                1 => dot_pairs_rows::<1>(&part),
                2 => dot_pairs_rows::<2>(&part),
                3 => dot_pairs_rows::<3>(&part),
                4 => dot_pairs_rows::<4>(&part),
                5 => dot_pairs_rows::<5>(&part),
                6 => dot_pairs_rows::<6>(&part),
                7 => dot_pairs_rows::<7>(&part),
                8 => dot_pairs_rows::<8>(&part),
                9 => dot_pairs_rows::<9>(&part),
                10 => dot_pairs_rows::<10>(&part),
                11 => dot_pairs_rows::<11>(&part),
                _ => dot_pairs_rows::<12>(&part),
            }
        }
        row = end;
    }
}

/// `R` rows of two vectors of sums, all in registers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn dot_pairs_rows<const R: usize>(t: &Tile<u16, u16>) {
    let mask = ((1_u64 << t.lanes) - 1) as __mmask32;
    let masks = [mask as __mmask16, (mask >> 16) as __mmask16];
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    // SAFETY: the caller's promise; masked lanes of `c` are not touched.
    unsafe {
        if t.load {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_maskz_loadu_ps(masks[v], t.c.add(r * t.c_row).wrapping_add(v * 16));
                }
            }
        }
        for step in 0..t.k / 2 {
            let b = t.b.add(step * NR * 2);
            if t.ahead > 0 {
                prefetch(b.wrapping_byte_add(t.ahead));
                prefetch(b.wrapping_byte_add(t.ahead + 64));
            }
            let lanes: [__m512bh; 2] = [0, 32].map(|lane| std::mem::transmute(_mm512_loadu_si512(b.add(lane).cast())));
            for (r, sums) in sums.iter_mut().enumerate() {
                let pair = t.a.add(r * t.a_row + step * 2).cast::<i32>().read_unaligned();
                let pair: __m512bh = std::mem::transmute(_mm512_set1_epi32(pair));
                for (sum, lanes) in sums.iter_mut().zip(lanes) {
                    *sum = _mm512_dpbf16_ps(*sum, pair, lanes);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                _mm512_mask_storeu_ps(t.c.add(r * t.c_row).wrapping_add(v * 16), masks[v], *sum);
            }
        }
    }
}
