/**
 * Corrects a loss for a sampler whose log-probabilities are not the policy's: another engine, another dtype, older
 * weights. Where one engine samples and trains there is nothing to correct. How far the two are apart is in the step's
 * `sampling/*` metrics, with a correction or without.
 *
 * `Grpo.train` applies it where the engines differ. A pipeline of one's own does the same by its loss:
 *
 * ```ts
 * const loss = Loss.withImportanceCorrection(Loss.withKl(Loss.clipped(), { coefficient: 0.01 }))
 * scored.pipe(Batch.collect({ groups: 16 }), Update.stage({ loss, learningRate: 1e-5 }))
 * ```
 *
 * Sources: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training" (truncated, TIS); the
 * masks of TRL (`sequence_mask`, cap 3: the default) and IcePop; verl's `rollout_corr_helper` (the bound of the logarithm).
 */
import { inherited, within } from "./internal/within.ts"
import type { Loss, LossInput, LossOutput } from "./lossContract.ts"

export interface ImportanceCorrection {
  /**
   * The level of the ratio w = exp(old logprob - sampler logprob): a `token`, the `sequence` (product over its
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

// verl's: so far apart the numbers say nothing, and must not overflow.
const LARGEST_LOG = 20
const bounded = (log: number): number => Math.exp(Math.min(Math.max(log, -LARGEST_LOG), LARGEST_LOG))

/** [N] w of each target, within exp(±20); every target of a sequence has the same one at the levels above `token`. */
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
      ratios[t] = bounded(d)
    }
    if (level !== "token") ratios.fill(bounded(level === "sequence" ? sum : sum / (end - start)), start, end)
  }
  return ratios
}

/**
 * Weighs each target's loss by its corrected ratio: TIS (`token`, `truncate`), MIS (`mask`). A loss is linear in its
 * weights, so this is all it takes. Terms that a loss adds to another (`Loss.withKl`, `Loss.withEntropy`: what says
 * {@link Loss.within}) are left as they are, whichever of the two is wrapped around the other. A target whose ratio is not
 * a number, for there was no sampler, is dropped.
 *
 * Metric `sampling/correction_share`: the share of targets whose w was out of bounds.
 */
export const withImportanceCorrection = (loss: Loss, options: ImportanceCorrection = {}): Loss =>
  within(loss, (inner) => correct(inner, options))

const correct = (loss: Loss, options: ImportanceCorrection): Loss => {
  const { level = "sequence", max = 3, min = 0, mode = "mask" } = options
  const corrected = (input: LossInput): LossOutput => {
    const weights = importanceRatios(input, level)
    let outside = 0
    for (let t = 0; t < weights.length; t++) {
      const ratio = weights[t]!
      const inside = ratio >= min && ratio <= max
      if (!inside) outside++
      const kept = level === "geometric" ? 1 : ratio
      const dropped = mode === "mask" || Number.isNaN(ratio)
      weights[t] = input.weights[t]! * (inside ? kept : dropped ? 0 : Math.min(Math.max(ratio, min), max))
    }
    const inner = loss({ ...input, weights })
    const changed = weights.length === 0 ? 0 : outside / weights.length
    return { ...inner, metrics: { ...inner.metrics, "sampling/correction_share": changed } }
  }
  return Object.assign(corrected, inherited(loss, "withImportanceCorrection", { level, mode, min, max }))
}
