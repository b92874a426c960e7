/**
 * Draws from filtered distributions on the host, by the native kernel's rules (`sampler/choose.rs`). The filters apply
 * in the order top-k, top-p, min-p, each to what the previous one left. They change the draw, never the recorded
 * log-probability.
 */

export interface Choice {
  readonly temperature: number
  /** 0 is off. */
  readonly topK: number
  /** 1 is off. */
  readonly topP: number
  /** 0 is off. */
  readonly minP: number
}

export const hasFilters = ({ minP, temperature, topK, topP }: Choice): boolean =>
  temperature !== 0 && (topK > 0 || topP < 1 || minP > 0)

export interface Chosen {
  readonly token: number
  /** log_softmax(logits / temperature) at the token, over the whole vocabulary. */
  readonly logprob: number
  /** Log-sum-exp of the scaled logits. Not finite if the weights have diverged. */
  readonly logSumExp: number
}

/** Inverts the cumulative distribution of the filtered tokens, in ascending order of ids, at `uniform` in [0, 1). */
export const chooseFiltered = (logits: Float32Array, choice: Choice, uniform: number): Chosen => {
  const scale = 1 / choice.temperature
  let largest = -Infinity
  for (let id = 0; id < logits.length; id++) {
    const value = logits[id]!
    if (value > largest || Number.isNaN(value)) largest = value
  }
  let sum = 0
  const weights = new Float64Array(logits.length)
  for (let id = 0; id < logits.length; id++) sum += weights[id] = Math.exp((logits[id]! - largest) * scale)
  const logSumExp = largest * scale + Math.log(sum)
  if (!Number.isFinite(logSumExp)) return { token: 0, logprob: Number.NaN, logSumExp }

  let kept = likeliest(logits, choice.topK)
  const mass = (ids: Iterable<number>): number => {
    let total = 0
    for (const id of ids) total += weights[id]!
    return total
  }
  if (choice.topP < 1) {
    const wanted = choice.topP * mass(kept)
    // The wanted set is the head of the order by probability, so only the part that can matter is sorted.
    for (const exponent of [8, 16, 32, Infinity]) {
      const candidates = kept.filter((id) => weights[id]! >= 2 ** -exponent)
      if (exponent !== Infinity && mass(candidates) < wanted) continue
      candidates.sort((a, b) => logits[b]! - logits[a]! || a - b)
      let held = 0
      const last = candidates.findIndex((id) => (held += weights[id]!) >= wanted)
      kept = (last < 0 ? candidates : candidates.subarray(0, last + 1)).toSorted()
      break
    }
  }
  // The most probable token has weight 1.
  if (choice.minP > 0) kept = kept.filter((id) => weights[id]! >= choice.minP)
  const target = uniform * mass(kept)
  let [held, token] = [0, kept[0]!]
  for (const id of kept) {
    if (weights[id] === 0) continue
    held += weights[id]!
    token = id
    if (held > target) break
  }
  return { token, logprob: logits[token]! * scale - logSumExp, logSumExp }
}

/** Returns the ids of the `k` largest logits, ascending; all that equal the last of them stay. */
const likeliest = (logits: Float32Array, k: number): Uint32Array => {
  if (k === 0 || k >= logits.length) return Uint32Array.from(logits, (_, id) => id)
  const floor = ascending(Float32Array.from(logits), logits.length - k)
  const ids: Array<number> = []
  for (let id = 0; id < logits.length; id++) if (logits[id]! >= floor) ids.push(id)
  return Uint32Array.from(ids)
}

/** Returns the number that would stand at `place` in sorted order (Hoare's quickselect). It reorders the numbers. */
const ascending = (numbers: Float32Array, place: number): number => {
  let [low, high] = [0, numbers.length - 1]
  while (low < high) {
    const pivot = numbers[(low + high) >>> 1]!
    let [left, right] = [low, high]
    while (left <= right) {
      while (numbers[left]! < pivot) left += 1
      while (numbers[right]! > pivot) right -= 1
      if (left > right) break
      const moved = numbers[left]!
      numbers[left++] = numbers[right]!
      numbers[right--] = moved
    }
    if (place <= right) high = right
    else if (place >= left) low = left
    else break
  }
  return numbers[place]!
}
