//! Choosing a token from a row of logits.
//!
//! Temperature 0 takes the largest logit (the lowest id among equals). Otherwise the token is drawn by inverting the
//! cumulative distribution of `softmax(logits / temperature)` over the vocabulary in ascending id order, from one uniform
//! number. The filters restrict that draw, in Hugging Face's order, each over what the one before left:
//!
//! 1. `top_k`: the `k` largest logits (all that equal the last of them stay);
//! 2. `top_p`: the smallest set of the most probable tokens that holds at least `top_p` of the remaining mass (among
//!    equals the lower id first, never fewer than one);
//! 3. `min_p`: tokens at least `min_p` times as probable as the most probable one.
//!
//! They change what is drawn, never what is recorded: the log-probability of a token is that of the whole distribution.

/// How to choose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// 0 is greedy.
    pub temperature: f32,
    /// 0 is off.
    pub top_k: u32,
    /// 1 is off.
    pub top_p: f32,
    /// 0 is off.
    pub min_p: f32,
}

impl Choice {
    /// Draws from the whole distribution at `temperature`.
    pub fn temperature(temperature: f32) -> Self {
        Self { temperature, top_k: 0, top_p: 1.0, min_p: 0.0 }
    }

    /// The factor of the logits. Greedy choices record the log-probability at temperature 1.
    pub fn inverse_temperature(&self) -> f32 {
        if self.temperature == 0.0 { 1.0 } else { 1.0 / self.temperature }
    }

    fn filters(&self) -> bool {
        self.top_k > 0 || self.top_p < 1.0 || self.min_p > 0.0
    }
}

/// Memory that a thread reuses from row to row.
#[derive(Debug, Default)]
pub struct Scratch {
    probabilities: Vec<f32>,
    sums: Vec<f64>,
    candidates: Vec<u32>,
    sorted: Vec<f32>,
}

/// Tokens summed at once; a draw first finds the block, then the token in it.
const BLOCK: usize = 256;
const LANES: usize = 16;

/// Chooses a token of `logits`, whose scaled log-sum-exp is `lse`, with `uniform` in `[0, 1)`. `lse` is finite.
pub fn choose(logits: &[f32], lse: f32, choice: &Choice, uniform: f64, scratch: &mut Scratch) -> u32 {
    if choice.temperature == 0.0 {
        return greedy(logits);
    }
    probabilities(logits, choice.inverse_temperature(), lse, scratch);
    if choice.filters() { draw_filtered(logits, choice, uniform, scratch) } else { draw(uniform, scratch) }
}

/// The id of the largest logit, the lowest among equals.
fn greedy(logits: &[f32]) -> u32 {
    let largest = logits.chunks(BLOCK).fold(f32::NEG_INFINITY, |best, block| {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        for part in block.chunks(LANES) {
            for (lane, &value) in lanes.iter_mut().zip(part) {
                *lane = lane.max(value);
            }
        }
        lanes.iter().fold(best, |best, &lane| best.max(lane))
    });
    logits.iter().position(|&value| value == largest).unwrap_or(0) as u32
}

/// Inverts the cumulative sum of the block sums, then that of the block.
fn draw(uniform: f64, scratch: &Scratch) -> u32 {
    let target = uniform * scratch.sums.iter().sum::<f64>();
    let mut before = 0.0;
    for (block, sum) in scratch.sums.iter().enumerate() {
        if before + sum > target {
            let start = block * BLOCK;
            let values = &scratch.probabilities[start..(start + BLOCK).min(scratch.probabilities.len())];
            return (start + invert(values.iter().copied(), target - before)) as u32;
        }
        before += sum;
    }
    // Rounding put the target on the very end: the last token that has any probability.
    last_possible(&scratch.probabilities)
}

/// The first index whose cumulative sum exceeds `target`; by rounding there may be none, then the last possible one.
fn invert(values: impl Iterator<Item = f32>, target: f64) -> usize {
    let (mut sum, mut last) = (0.0, 0);
    for (index, value) in values.enumerate() {
        if value > 0.0 {
            sum += f64::from(value);
            last = index;
            if sum > target {
                break;
            }
        }
    }
    last
}

fn last_possible(probabilities: &[f32]) -> u32 {
    probabilities.iter().rposition(|&value| value > 0.0).unwrap_or(0) as u32
}

fn draw_filtered(logits: &[f32], choice: &Choice, uniform: f64, scratch: &mut Scratch) -> u32 {
    let Scratch { probabilities, candidates, sorted, .. } = scratch;
    let floor = kth_largest(logits, choice.top_k as usize, sorted);
    let survives = |id: usize| logits[id] >= floor;
    let largest = probabilities.iter().fold(0.0f32, |best, &value| best.max(value));
    let mass = |ids: &mut dyn Iterator<Item = u32>| ids.map(|id| f64::from(probabilities[id as usize])).sum::<f64>();
    let everything = 0..logits.len() as u32;
    if choice.top_p < 1.0 {
        let wanted = f64::from(choice.top_p) * mass(&mut everything.clone().filter(|&id| survives(id as usize)));
        // The set asked for is the head of the order by probability: sort only as much of it as can matter.
        for exponent in [8, 16, 32, i32::MAX] {
            let cut = largest * 0.5f32.powi(exponent);
            candidates.clear();
            candidates
                .extend(everything.clone().filter(|&id| survives(id as usize) && probabilities[id as usize] >= cut));
            if exponent == i32::MAX || mass(&mut candidates.iter().copied()) >= wanted {
                break;
            }
        }
        candidates.sort_unstable_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        let mut held = 0.0;
        let enough = candidates.iter().position(|&id| {
            held += f64::from(probabilities[id as usize]);
            held >= wanted
        });
        candidates.truncate(enough.map_or(candidates.len(), |last| last + 1));
        candidates.sort_unstable();
    } else {
        candidates.clear();
        candidates.extend(everything.filter(|&id| survives(id as usize)));
    }
    let least = largest * choice.min_p;
    candidates.retain(|&id| probabilities[id as usize] >= least);
    let total = mass(&mut candidates.iter().copied());
    let chosen = invert(candidates.iter().map(|&id| probabilities[id as usize]), uniform * total);
    candidates.get(chosen).copied().unwrap_or_else(|| greedy(logits))
}

/// The `k`-th largest logit, or minus infinity where there is no such limit.
fn kth_largest(logits: &[f32], k: usize, sorted: &mut Vec<f32>) -> f32 {
    if k == 0 || k >= logits.len() {
        return f32::NEG_INFINITY;
    }
    sorted.clear();
    sorted.extend_from_slice(logits);
    *sorted.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
}

/// `exp(logit * scale - lse)` of every token, and the sum of each block (16 lanes in `f32`, then in order in `f64`).
fn probabilities(logits: &[f32], scale: f32, lse: f32, scratch: &mut Scratch) {
    let Scratch { probabilities, sums, .. } = scratch;
    probabilities.resize(logits.len(), 0.0);
    sums.clear();
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the feature was just detected.
            return unsafe { exponentials_avx512(logits, scale, lse, probabilities, sums) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature was just detected.
            return unsafe { exponentials_avx2(logits, scale, lse, probabilities, sums) };
        }
    }
    exponentials(logits, scale, lse, probabilities, sums);
}

/// # Safety
/// The processor has AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl")]
unsafe fn exponentials_avx512(logits: &[f32], scale: f32, lse: f32, out: &mut [f32], sums: &mut Vec<f64>) {
    exponentials(logits, scale, lse, out, sums);
}

/// # Safety
/// The processor has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn exponentials_avx2(logits: &[f32], scale: f32, lse: f32, out: &mut [f32], sums: &mut Vec<f64>) {
    exponentials(logits, scale, lse, out, sums);
}

#[inline(always)]
fn exponentials(logits: &[f32], scale: f32, lse: f32, out: &mut [f32], sums: &mut Vec<f64>) {
    for (block, values) in logits.chunks(BLOCK).zip(out.chunks_mut(BLOCK)) {
        let mut lanes = [0.0f32; LANES];
        let whole = block.len() / LANES * LANES;
        let (parts, rest) = block.split_at(whole);
        let (out_parts, out_rest) = values.split_at_mut(whole);
        for (part, out) in parts.chunks_exact(LANES).zip(out_parts.chunks_exact_mut(LANES)) {
            for lane in 0..LANES {
                out[lane] = exponential(part[lane] * scale - lse);
                lanes[lane] += out[lane];
            }
        }
        for (lane, (value, out)) in rest.iter().zip(out_rest).enumerate() {
            *out = exponential(value * scale - lse);
            lanes[lane] += *out;
        }
        sums.push(lanes.iter().map(|&lane| f64::from(lane)).sum());
    }
}

/// `exp` for `x` up to 88, 0 below -87; within 2e-7 of it. Only multiplications and additions that the compiler may not
/// fuse: the same bits on every machine.
#[inline(always)]
fn exponential(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer in the low bits
    let bounded = x.clamp(-87.0, 88.0);
    let shifted = bounded * std::f32::consts::LOG2_E + SHIFT;
    let power = shifted - SHIFT;
    let r = (bounded - power * 0.693_359_4) + power * 2.121_944_4e-4;
    let mut series = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5] {
        series = series * r + coefficient;
    }
    let mantissa = series * (r * r) + r + 1.0;
    let exponent = f32::from_bits(shifted.to_bits().wrapping_sub(SHIFT.to_bits()).wrapping_add(127) << 23);
    if x < -87.0 { 0.0 } else { mantissa * exponent }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::philox::{fill_normal, philox, uniform_f64};

    fn lse(logits: &[f32], choice: &Choice) -> f32 {
        let scale = f64::from(choice.inverse_temperature());
        logits.iter().map(|&logit| (f64::from(logit) * scale).exp()).sum::<f64>().ln() as f32
    }

    fn frequencies(logits: &[f32], choice: &Choice, draws: u32) -> Vec<f64> {
        let mut scratch = Scratch::default();
        let mut counts = vec![0.0; logits.len()];
        let lse = lse(logits, choice);
        for position in 0..draws {
            let words = philox(11, 5, 0, position);
            let uniform = uniform_f64(words[0], words[1]);
            counts[choose(logits, lse, choice, uniform, &mut scratch) as usize] += 1.0;
        }
        counts
    }

    /// Pearson's statistic, which has about `tokens - 1` for its mean.
    fn chi_square(counts: &[f64], expected: &[f64]) -> f64 {
        let total: f64 = counts.iter().sum();
        let mass: f64 = expected.iter().sum();
        let cells = counts.iter().zip(expected).filter(|(_, expected)| **expected > 0.0);
        cells.map(|(count, expected)| (count - total * expected / mass).powi(2) / (total * expected / mass)).sum()
    }

    #[test]
    fn the_exponential_is_accurate() {
        for step in -8800..=8800 {
            let x = step as f32 / 100.0;
            let exact = f64::from(x).exp();
            let got = f64::from(exponential(x));
            let fine = if x < -87.0 { got == 0.0 } else { (got / exact - 1.0).abs() < 2e-7 };
            assert!(fine, "exp({x}) = {got}, not {exact}");
        }
        assert_eq!(exponential(f32::NEG_INFINITY), 0.0);
    }

    #[test]
    fn greedy_takes_the_lowest_of_equals() {
        let mut logits = vec![0.0; 1000];
        logits[700] = 3.0;
        logits[301] = 3.0;
        let choice = Choice::temperature(0.0);
        assert_eq!(choose(&logits, 0.0, &choice, 0.9, &mut Scratch::default()), 301);
    }

    #[test]
    fn draws_follow_the_distribution() {
        let mut logits = vec![0.0; 600];
        fill_normal(3, 1, 1.0, &mut logits);
        for temperature in [0.5, 1.0, 1.7] {
            let choice = Choice::temperature(temperature);
            let counts = frequencies(&logits, &choice, 200_000);
            let expected: Vec<f64> =
                logits.iter().map(|&logit| (f64::from(logit) / f64::from(temperature)).exp()).collect();
            let statistic = chi_square(&counts, &expected);
            // 599 degrees of freedom: deviation sqrt(2 * 599) = 34.6; four of them either way.
            assert!((460.0..740.0).contains(&statistic), "chi square {statistic} at temperature {temperature}");
        }
    }

    #[test]
    fn every_uniform_gives_a_possible_token() {
        let mut logits = vec![f32::NEG_INFINITY; 1024];
        logits[513] = 0.0;
        let mut scratch = Scratch::default();
        for uniform in [0.0, 0.5, 1.0 - f64::EPSILON] {
            let choice = Choice::temperature(1.0);
            assert_eq!(choose(&logits, 0.0, &choice, uniform, &mut scratch), 513);
            assert_eq!(choose(&logits, 0.0, &Choice { top_p: 0.5, ..choice }, uniform, &mut scratch), 513);
        }
    }

    /// Filters, from their definition, by sorting everything.
    fn kept(logits: &[f32], choice: &Choice) -> Vec<f64> {
        let scale = f64::from(choice.inverse_temperature());
        let mut weights: Vec<f64> = logits.iter().map(|&logit| (f64::from(logit) * scale).exp()).collect();
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        if choice.top_k > 0 {
            let floor = logits[order[(choice.top_k as usize).min(order.len()) - 1]];
            order.iter().filter(|&&id| logits[id] < floor).for_each(|&id| weights[id] = 0.0);
        }
        let mass: f64 = weights.iter().sum();
        let mut held = 0.0;
        for &id in &order {
            if held >= f64::from(choice.top_p) * mass {
                weights[id] = 0.0;
            }
            held += weights[id];
        }
        let least = weights.iter().fold(0.0, |a: f64, &b| a.max(b)) * f64::from(choice.min_p);
        weights.iter_mut().filter(|weight| **weight < least).for_each(|weight| *weight = 0.0);
        weights
    }

    #[test]
    fn filters_keep_what_they_say() {
        let mut logits = vec![0.0; 300];
        fill_normal(4, 1, 2.0, &mut logits);
        logits[17] = logits[200];
        let base = Choice::temperature(0.9);
        let choices = [
            Choice { top_k: 20, ..base },
            Choice { top_k: 1, ..base },
            Choice { top_p: 0.8, ..base },
            Choice { top_p: 0.9999, ..base },
            Choice { min_p: 0.05, ..base },
            Choice { top_k: 40, top_p: 0.7, min_p: 0.1, ..base },
            Choice { top_p: 1e-9, ..base },
        ];
        for choice in choices {
            let expected = kept(&logits, &choice);
            let counts = frequencies(&logits, &choice, 50_000);
            for (id, count) in counts.iter().enumerate() {
                assert!(*count == 0.0 || expected[id] > 0.0, "{choice:?} let token {id} through");
            }
            let cells = expected.iter().filter(|weight| **weight > 0.0).count() as f64;
            let statistic = chi_square(&counts, &expected);
            assert!(
                statistic < cells + 5.0 * (2.0 * cells).sqrt() + 5.0,
                "chi square {statistic} of {cells}: {choice:?}"
            );
        }
    }
}
