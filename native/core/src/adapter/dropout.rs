//! Dropout of an adapter's input. The mask is a function of where a number stands, so backward computes it again and a
//! resumed run repeats it.

use crate::kernels::{Runtime, SharedMut};
use crate::params::Linear;
use crate::philox::philox;

/// The masks of one training forward.
#[derive(Clone, Copy)]
pub(crate) struct Dropout {
    seed: u64,
    stream: u64,
    /// Numbers of 16 random bits below this are dropped.
    below: u32,
    /// The factor of the numbers that are left.
    scale: f32,
}

/// FNV-1a of a name and some numbers.
pub(super) fn stream(name: &str, numbers: [u64; 3]) -> u64 {
    let bytes = name.bytes().chain([0]).chain(numbers.into_iter().flat_map(u64::to_le_bytes));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Numbers masked at once.
const BLOCK: usize = 1 << 18;

impl Dropout {
    /// The masks of training forward number `forward` of the adapter `name`.
    pub fn new(share: f32, seed: u64, name: &str, forward: u64) -> Self {
        let below = ((share * 65536.0).round() as u32).min(65535);
        let scale = (65536.0 / f64::from(65536 - below)) as f32;
        Dropout { seed, stream: stream(name, [forward, 0, 0]), below, scale }
    }

    /// The rows that are worth masking at once.
    pub fn rows(width: usize) -> usize {
        (BLOCK / width).max(16)
    }

    /// `to = mask · from`, or `to += mask · from`, for rows from `first` on of what a product reads.
    pub fn mask(&self, rt: &Runtime, linear: &Linear, first: usize, from: &[f32], to: &mut [f32], accumulate: bool) {
        let width = linear.inputs;
        let stream = self.stream ^ stream("", [linear.layer as u64, linear.product as u64, 1]);
        let rows = from.len() / width;
        assert!(to.len() >= from.len(), "dropout: {} numbers into {}", from.len(), to.len());
        let to = SharedMut::new(to);
        rt.parallel_ranges(rows, 4096_usize.div_ceil(width), |range| {
            for row in range {
                let at = row * width..(row + 1) * width;
                // SAFETY: each row is written by one task.
                let out = unsafe { to.range(at.clone()) };
                self.mask_row(stream, (first + row) as u32, &from[at], out, accumulate);
            }
        });
    }

    fn mask_row(&self, stream: u64, row: u32, from: &[f32], to: &mut [f32], accumulate: bool) {
        for (block, (from, to)) in from.chunks(8).zip(to.chunks_mut(8)).enumerate() {
            let words = philox(self.seed, stream, row, block as u32);
            for (lane, (from, to)) in from.iter().zip(to).enumerate() {
                let bits = words[lane / 2] >> (16 * (lane % 2)) & 0xffff;
                let kept = if bits < self.below { 0.0 } else { *from * self.scale };
                *to = if accumulate { *to + kept } else { kept };
            }
        }
    }
}
