//! Random starting values: what transformers' `_init_weights` and PEFT's `reset_lora_parameters` draw, from Philox.

use super::{Init, Parameter};
use crate::kernels::{PackedF32, Runtime, SharedMut};
use crate::philox::{fill_normal, philox, uniform_f32};

/// FNV-1a of the tensor's name: the random stream of the tensor.
fn stream(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Values for `parameter`; row `r` of a tensor depends on nothing but the seed, the tensor's name and `r`.
pub(super) fn draw(rt: &Runtime, parameter: &Parameter, seed: u64) -> PackedF32 {
    let mut packed = PackedF32::zeros(parameter.n, parameter.k);
    match parameter.init {
        Init::Zeros => {}
        Init::Ones => packed.data[..parameter.n].fill(1.0),
        Init::Normal(_) | Init::Kaiming => {
            const ROWS: usize = 64;
            let mut block = vec![0.0; ROWS.min(parameter.n) * parameter.k];
            for slice in &parameter.slices {
                let stream = stream(&slice.name);
                for first in slice.rows.clone().step_by(ROWS) {
                    let rows = ROWS.min(slice.rows.end - first);
                    let block = &mut block[..rows * parameter.k];
                    let shared = SharedMut::new(block);
                    rt.parallel(rows, |row| {
                        // SAFETY: each task has its own row.
                        let out = unsafe { shared.range(row * parameter.k..(row + 1) * parameter.k) };
                        fill(parameter, seed, stream, (first - slice.rows.start + row) as u64, out);
                    });
                    for (row, values) in block.chunks_exact(parameter.k).enumerate() {
                        packed.set_row(first + row, values);
                    }
                }
            }
        }
    }
    packed
}

fn fill(parameter: &Parameter, seed: u64, stream: u64, row: u64, out: &mut [f32]) {
    // A row of its own stream: mixing by an odd constant keeps streams of different rows apart.
    let stream = stream.wrapping_add((row + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    match parameter.init {
        Init::Normal(deviation) => fill_normal(seed, stream, deviation, out),
        Init::Kaiming => {
            let bound = 1.0 / (parameter.k as f32).sqrt();
            for (block, values) in out.chunks_mut(4).enumerate() {
                let words = philox(seed, stream, 0, block as u32);
                for (value, word) in values.iter_mut().zip(words) {
                    *value = (2.0 * uniform_f32(word) - 1.0) * bound;
                }
            }
        }
        Init::Zeros | Init::Ones => unreachable!("constant"),
    }
}
