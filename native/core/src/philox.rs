//! Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as
//! 1, 2, 3", SC 2011). A number is a pure function of `(seed, stream, index, position)`, so nothing has to be saved to
//! resume a run, and what one sample draws cannot depend on which others are drawn beside it.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// The bare generator: a 128-bit counter under a 64-bit key.
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..ROUNDS {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let (low0, high0) = split(MULTIPLIERS[0], counter[0]);
        let (low1, high1) = split(MULTIPLIERS[1], counter[2]);
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0];
    }
    counter
}

fn split(a: u32, b: u32) -> (u32, u32) {
    let product = u64::from(a) * u64::from(b);
    (product as u32, (product >> 32) as u32)
}

/// Four words for one place of a run: `seed` is the run's, `stream` says what is drawn (a task, a tensor), `index` which
/// of its samples, `position` where in that sample.
pub fn philox(seed: u64, stream: u64, index: u32, position: u32) -> [u32; 4] {
    let counter = [position, index, stream as u32, (stream >> 32) as u32];
    philox4x32(counter, [seed as u32, (seed >> 32) as u32])
}

/// Uniform in `[0, 1)`: the 24 bits an `f32` can hold, so 1 never occurs.
pub fn uniform_f32(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / (1 << 24) as f32)
}

/// Uniform in `[0, 1)` with 53 bits.
pub fn uniform_f64(high: u32, low: u32) -> f64 {
    let bits = (u64::from(high) << 21) | u64::from(low >> 11);
    bits as f64 * (1.0 / (1u64 << 53) as f64)
}

/// Two independent standard normal numbers (Box-Muller, computed in `f64` so that every platform rounds alike as far as
/// its `ln` and `cos` do).
pub fn normal_pair(words: [u32; 4]) -> [f32; 2] {
    // 1 - u lies in (0, 1]: the logarithm is finite.
    let radius = (-2.0 * (1.0 - uniform_f64(words[0], words[1])).ln()).sqrt();
    let (sine, cosine) = (std::f64::consts::TAU * uniform_f64(words[2], words[3])).sin_cos();
    [(radius * cosine) as f32, (radius * sine) as f32]
}

/// Fills `out` with normal numbers of standard deviation `deviation`; element `i` depends on nothing but
/// `(seed, stream, i)`.
pub fn fill_normal(seed: u64, stream: u64, deviation: f32, out: &mut [f32]) {
    for (pair, chunk) in out.chunks_mut(2).enumerate() {
        let values = normal_pair(philox(seed, stream, (pair as u64 >> 32) as u32, pair as u32));
        for (slot, value) in chunk.iter_mut().zip(values) {
            *slot = value * deviation;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers published with Random123 for `philox4x32 10`.
    #[test]
    fn gives_the_published_answers() {
        let cases: [([u32; 4], [u32; 2], [u32; 4]); 3] = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox4x32(counter, key), expected);
        }
    }

    #[test]
    fn every_coordinate_matters() {
        let base = philox(1, 2, 3, 4);
        let others = [
            philox(2, 2, 3, 4),
            philox(1 | 1 << 32, 2, 3, 4),
            philox(1, 3, 3, 4),
            philox(1, 2 | 1 << 32, 3, 4),
            philox(1, 2, 4, 4),
            philox(1, 2, 3, 5),
        ];
        assert!(others.iter().all(|words| *words != base));
    }

    #[test]
    fn uniforms_stay_below_one() {
        assert_eq!(uniform_f32(0), 0.0);
        assert!(uniform_f32(u32::MAX) < 1.0);
        assert!(uniform_f64(u32::MAX, u32::MAX) < 1.0);
    }

    #[test]
    fn normals_have_the_right_moments_and_do_not_depend_on_the_length() {
        let mut values = vec![0.0; 200_001];
        fill_normal(7, 9, 2.0, &mut values);
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len() as f64 - mean * mean;
        assert!(mean.abs() < 0.02, "mean {mean}");
        assert!((variance - 4.0).abs() < 0.05, "variance {variance}");
        let mut fewer = vec![0.0; 1001];
        fill_normal(7, 9, 2.0, &mut fewer);
        assert_eq!(fewer, values[..1001]);
    }
}
