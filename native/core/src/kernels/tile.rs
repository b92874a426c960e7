//! The f32 matrix product of one panel of up to 32 lanes, the inner loop of `gemm` and of attention.

use super::packed::NR;
use super::simd::{Simd, simd_fn};

/// `c[rows, lanes] = (load ? c : 0) + a[rows, k] · b[k, lanes]`: every element one chain of fused multiply-adds,
/// ascending in `k`, whatever the tiling. Distances are in elements.
#[derive(Clone, Copy)]
pub struct Tile<A, B> {
    pub rows: usize,
    pub k: usize,
    pub lanes: usize,
    pub a: *const A,
    /// Distance between rows of `a`.
    pub a_row: usize,
    /// Distance between steps along `k` of `a`.
    pub a_step: usize,
    pub b: *const B,
    /// Distance between steps along `k` of `b`.
    pub b_step: usize,
    pub c: *mut f32,
    pub c_row: usize,
    /// Continue from `c` rather than from zero.
    pub load: bool,
    /// Bytes ahead of `b` to fetch while computing, 0 for none: worth it where `b` streams from memory and few rows
    /// share it.
    pub ahead: usize,
}

/// How far ahead a stream is fetched, in bytes: memory latency times one core's share of the bandwidth.
pub const AHEAD: usize = 4096;

#[inline(always)]
pub fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

simd_fn! {
    /// Computes a [`Tile`] of f32.
    pub fn tile_f32(tile: &Tile<f32, f32>) = generic_f32
}

simd_fn! {
    /// Computes a [`Tile`] whose `b` is a bf16 panel `[ceil(k/2)][32][2]` (`b_step` unused); `a_step` is 1.
    pub fn tile_widened(tile: &Tile<f32, u16>) = generic_widened
}

/// The first rows of the tile that follows `row`: tiles of nearly equal height waste less than full ones and a rest.
#[inline(always)]
pub fn next_tile(row: usize, rows: usize, most: usize) -> usize {
    row + (rows - row).div_ceil((rows - row).div_ceil(most))
}

// Closures would not inherit the target features of the function that this is inlined into: plain loops only.

/// Prefetches of one row of tiles while it computes: its share of the `b` that lies `ahead`.
#[derive(Clone, Copy)]
struct Fetch {
    from: *const u8,
    /// Bytes per step, 0 for nothing.
    step: usize,
}

impl Fetch {
    /// The share of the rows `row..end`, where a step of `b` has `bytes`; the shares of all rows add up to all of `b`.
    #[inline(always)]
    fn share<A, B>(t: &Tile<A, B>, row: usize, end: usize, bytes: usize) -> Fetch {
        if t.ahead == 0 {
            return Fetch { from: t.b.cast(), step: 0 };
        }
        let offset = t.k * bytes * row / t.rows;
        Fetch { from: t.b.cast::<u8>().wrapping_add(t.ahead + offset), step: bytes * (end - row) / t.rows }
    }

    /// At step `step`: one line, or two where more than one is due.
    #[inline(always)]
    fn at(&self, step: usize) {
        if self.step > 0 {
            let line = self.from.wrapping_add(step * self.step);
            prefetch(line);
            if self.step > 64 {
                prefetch(line.wrapping_add(64));
            }
        }
    }
}

#[inline(always)]
unsafe fn generic_f32<S: Simd>(t: &Tile<f32, f32>) {
    // SAFETY: the caller's promise about `t`.
    unsafe {
        let mut lane = 0;
        while lane < t.lanes {
            let lanes = (t.lanes - lane).min(S::VECTORS * 16);
            let mut row = 0;
            while row < t.rows {
                let end = next_tile(row, t.rows, S::ROWS);
                let part = Tile {
                    a: t.a.add(row * t.a_row),
                    b: t.b.add(lane),
                    c: t.c.add(row * t.c_row + lane),
                    rows: end - row,
                    lanes,
                    ..*t
                };
                by_rows::<S>(&part, Fetch::share(t, row, end, if lane == 0 { NR * 4 } else { 0 }));
                row = end;
            }
            lane += lanes;
        }
    }
}

/// Picks the kernel that holds exactly `t.rows` rows in registers.
#[inline(always)]
unsafe fn by_rows<S: Simd>(t: &Tile<f32, f32>, fetch: Fetch) {
    macro_rules! rows {
        ($($rows:literal)*) => {
            match t.rows {
                $($rows if $rows <= S::ROWS => by_lanes::<S, $rows>(t, fetch),)*
                _ => unreachable!("next_tile keeps to S::ROWS"),
            }
        };
    }
    // SAFETY: the caller's promise about `t`.
    unsafe { rows!(1 2 3 4 5 6 7 8 9 10 11 12) }
}

#[inline(always)]
unsafe fn by_lanes<S: Simd, const R: usize>(t: &Tile<f32, f32>, fetch: Fetch) {
    // SAFETY: the caller's promise about `t`.
    unsafe {
        match (S::VECTORS == 2 && t.lanes > 16, t.lanes.is_multiple_of(16)) {
            (true, true) => registers_f32::<S, R, 2, false>(t, fetch),
            (true, false) => registers_f32::<S, R, 2, true>(t, fetch),
            (false, true) => registers_f32::<S, R, 1, false>(t, fetch),
            (false, false) => registers_f32::<S, R, 1, true>(t, fetch),
        }
    }
}

/// Lanes `16 v ..` of a row of `lanes`.
#[inline(always)]
unsafe fn load<S: Simd, const MASKED: bool>(from: *const f32, v: usize, lanes: usize) -> S::V {
    // SAFETY: only lanes below `lanes` are read.
    unsafe {
        if MASKED { S::load_first(from.add(v * 16), (lanes - v * 16).min(16)) } else { S::load(from.add(v * 16)) }
    }
}

#[inline(always)]
unsafe fn store<S: Simd, const MASKED: bool>(to: *mut f32, value: S::V, v: usize, lanes: usize) {
    // SAFETY: only lanes below `lanes` are written.
    unsafe {
        if MASKED {
            S::store_first(to.add(v * 16), value, (lanes - v * 16).min(16));
        } else {
            S::store(to.add(v * 16), value);
        }
    }
}

/// The inner loop: `R` rows of `VECTORS` vectors, all in registers.
#[inline(always)]
unsafe fn registers_f32<S: Simd, const R: usize, const VECTORS: usize, const MASKED: bool>(
    t: &Tile<f32, f32>,
    fetch: Fetch,
) {
    // SAFETY: the caller's promise about `t`; `t.rows` is `R`.
    unsafe {
        let mut sums = [[S::zero(); VECTORS]; R];
        if t.load {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = load::<S, MASKED>(t.c.add(r * t.c_row), v, t.lanes);
                }
            }
        }
        let (mut a, mut b) = (t.a, t.b);
        for step in 0..t.k {
            fetch.at(step);
            let mut lanes = [S::zero(); VECTORS];
            for (v, lane) in lanes.iter_mut().enumerate() {
                *lane = load::<S, MASKED>(b, v, t.lanes);
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let value = S::splat(*a.add(r * t.a_row));
                for (sum, lane) in sums.iter_mut().zip(lanes) {
                    *sum = S::fma(value, lane, *sum);
                }
            }
            a = a.wrapping_add(t.a_step);
            b = b.wrapping_add(t.b_step);
        }
        for (r, sums) in sums.iter().enumerate() {
            for (v, sum) in sums.iter().enumerate() {
                store::<S, MASKED>(t.c.add(r * t.c_row), *sum, v, t.lanes);
            }
        }
    }
}

#[inline(always)]
unsafe fn generic_widened<S: Simd>(t: &Tile<f32, u16>) {
    // SAFETY: the caller's promise about `t`.
    unsafe {
        let mut lane = 0;
        while lane < t.lanes {
            let lanes = (t.lanes - lane).min(16);
            let mut row = 0;
            while row < t.rows {
                let end = next_tile(row, t.rows, S::ROWS);
                let part = Tile {
                    a: t.a.add(row * t.a_row),
                    b: t.b.add(lane * 2),
                    c: t.c.add(row * t.c_row + lane),
                    rows: end - row,
                    lanes,
                    ..*t
                };
                let fetch = Fetch::share(t, row, end, if lane == 0 { NR * 2 } else { 0 });
                macro_rules! rows {
                    ($($rows:literal)*) => {
                        match part.rows {
                            $($rows if $rows <= S::ROWS => registers_widened::<S, $rows>(&part, fetch),)*
                            _ => unreachable!("next_tile keeps to S::ROWS"),
                        }
                    };
                }
                rows!(1 2 3 4 5 6 7 8 9 10 11 12);
                row = end;
            }
            lane += lanes;
        }
    }
}

/// As [`registers_f32`] for sixteen lanes: a pair of steps per load of `b`, widened in registers.
#[inline(always)]
unsafe fn registers_widened<S: Simd, const R: usize>(t: &Tile<f32, u16>, fetch: Fetch) {
    // SAFETY: the caller's promise about `t`; panels are padded to full lanes, so loads need no mask.
    unsafe {
        let mut sums = [S::zero(); R];
        if t.load {
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = S::load_first(t.c.add(r * t.c_row), t.lanes);
            }
        }
        for step in 0..t.k / 2 {
            let b = t.b.add(step * NR * 2);
            fetch.at(step * 2);
            fetch.at(step * 2 + 1);
            let (even, odd) = S::load_pairs(b);
            for (r, sum) in sums.iter_mut().enumerate() {
                let a = t.a.add(r * t.a_row + step * 2);
                *sum = S::fma(S::splat(*a), even, *sum);
                *sum = S::fma(S::splat(*a.add(1)), odd, *sum);
            }
        }
        if !t.k.is_multiple_of(2) {
            let (even, _) = S::load_pairs(t.b.add(t.k / 2 * NR * 2));
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = S::fma(S::splat(*t.a.add(r * t.a_row + t.k - 1)), even, *sum);
            }
        }
        for (r, sum) in sums.iter().enumerate() {
            S::store_first(t.c.add(r * t.c_row), *sum, t.lanes);
        }
    }
}
