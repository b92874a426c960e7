/**
 * Corrects a loss for a sampler whose log-probabilities are not the policy's: another engine, another dtype, older
 * weights. The engine of this package needs none of it, since its sampler and its policy agree bit for bit.
 */
import type { Loss, LossInput, LossOutput } from "./Loss.ts"

export interface ImportanceCorrection {
  /**
   * Of what the ratio w = exp(old logprob - sampler logprob) is taken: a `token`, the `sequence` (product over its
   * tokens), or `geometric` (their geometric mean, only to judge a sequence by: kept ones weigh 1). Default `sequence`.
   */
  readonly level?: "token" | "sequence" | "geometric"
  /** `truncate` bounds w to [min, max]; `mask` drops what is outside (TRL's default; IcePop by token). Default `mask`. */
  readonly mode?: "truncate" | "mask"
  /** Default 3. */
  readonly max?: number
  /** Default 0. */
  readonly min?: number
}

/** [N] w of each target; every target of a sequence has the same one at the levels above `token`. */
export const importanceRatios = (
  input: Pick<LossInput, "oldLogprobs" | "samplerLogprobs" | "sequenceStart">,
  level: "token" | "sequence" | "geometric"
): Float64Array => {
  const { oldLogprobs, samplerLogprobs, sequenceStart } = input
  const ratios = new Float64Array(oldLogprobs.length)
  for (let q = 0; q + 1 < sequenceStart.length; q++) {
    const start = sequenceStart[q]!
    const end = sequenceStart[q + 1]!
    let sum = 0
    for (let t = start; t < end; t++) {
      const d = oldLogprobs[t]! - samplerLogprobs[t]!
      sum += d
      ratios[t] = Math.exp(d)
    }
    if (level !== "token") ratios.fill(Math.exp(level === "sequence" ? sum : sum / (end - start)), start, end)
  }
  return ratios
}

/**
 * Weighs each target's loss by its corrected ratio: TIS (`token`, `truncate`), MIS (`mask`). A loss is linear in its
 * weights, so this is all it takes; terms that must not be weighed (KL, entropy) are wrapped around it, not inside.
 * Metric `sampling/correction_share`: the share of targets whose w was out of bounds.
 */
export const withImportanceCorrection = (loss: Loss, options: ImportanceCorrection = {}): Loss => {
  const { level = "sequence", max = 3, min = 0, mode = "mask" } = options
  const corrected = (input: LossInput): LossOutput => {
    const weights = importanceRatios(input, level)
    let outside = 0
    for (let t = 0; t < weights.length; t++) {
      const ratio = weights[t]!
      // A NaN ratio is out of bounds too.
      const inside = ratio >= min && ratio <= max
      if (!inside) outside++
      const kept = level === "geometric" ? 1 : ratio
      weights[t] = input.weights[t]! * (inside ? kept : mode === "mask" ? 0 : Math.min(Math.max(ratio, min), max))
    }
    const inner = loss({ ...input, weights })
    const changed = weights.length === 0 ? 0 : outside / weights.length
    return { ...inner, metrics: { ...inner.metrics, "sampling/correction_share": changed } }
  }
  return Object.assign(corrected, { reference: loss.reference ?? false })
}
