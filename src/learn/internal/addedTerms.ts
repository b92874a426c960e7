/** Terms that are added to a loss and that no importance correction weighs: KL to the reference, entropy. */
import * as Kl from "../Kl.ts"
import type { Loss, LossInput, LossOutput } from "../lossContract.ts"
import { inherited, within } from "./within.ts"

export interface KlOptions {
  /** beta; TRL's and this default of a run is no KL at all. */
  readonly coefficient: number
  /** Default `k3`, as in GRPO. */
  readonly estimator?: Kl.KlEstimator
  /** Value of the estimator, gradient of `k2` (verl's suffix "+"). Default false. */
  readonly straightThrough?: boolean
  /** Multiply by r, the estimator then is unbiased off-policy too (TRL's `use_bias_correction_kl`). Default false. */
  readonly biasCorrection?: boolean
}

/** Adds coefficient * KL(policy || reference) per target, which no importance correction weighs. Metric `kl`. */
export const withKl = (loss: Loss, options: KlOptions): Loss => {
  const { biasCorrection = false, coefficient, estimator = "k3", straightThrough = false } = options
  const added = (input: LossInput): LossOutput => {
    const reference = input.referenceLogprobs
    if (reference === undefined)
      throw new Error("Loss.withKl needs referenceLogprobs; Update computes them for a loss that needs `reference`")
    const inner = loss(input)
    const dLogprobs = Float64Array.from(inner.dLogprobs)
    let penalty = 0
    let kl = 0
    for (let t = 0; t < dLogprobs.length; t++) {
      const d = input.logprobs[t]! - reference[t]!
      const k = Kl.value(estimator, d)
      const slope = Kl.gradient(straightThrough ? "k2" : estimator, d)
      const ratio = biasCorrection ? Math.exp(input.logprobs[t]! - input.oldLogprobs[t]!) : 1
      kl += k
      penalty += input.weights[t]! * k * ratio
      dLogprobs[t]! += coefficient * input.weights[t]! * ratio * (slope + (biasCorrection ? k : 0))
    }
    return {
      ...inner,
      loss: inner.loss + coefficient * penalty,
      dLogprobs,
      metrics: { ...inner.metrics, kl: dLogprobs.length === 0 ? 0 : kl / dLogprobs.length }
    }
  }
  const settings = { coefficient, estimator, straightThrough, biasCorrection }
  return Object.assign(added, {
    ...inherited(loss, "withKl", settings, ["reference"]),
    within: (wrap: (loss: Loss) => Loss) => withKl(within(loss, wrap), options)
  })
}

/** Subtracts coefficient * entropy per target: a bonus that keeps the policy exploring. No importance correction weighs it. */
export const withEntropy = (loss: Loss, coefficient: number): Loss => {
  const added = (input: LossInput): LossOutput => {
    const { entropy, weights } = input
    if (entropy === undefined) throw new Error("Loss.withEntropy needs the entropy of each target")
    const inner = loss(input)
    const dEntropy = inner.dEntropy === undefined ? new Float64Array(entropy.length) : Float64Array.from(inner.dEntropy)
    let bonus = 0
    for (let t = 0; t < entropy.length; t++) {
      bonus += weights[t]! * entropy[t]!
      dEntropy[t]! -= coefficient * weights[t]!
    }
    return { ...inner, loss: inner.loss - coefficient * bonus, dEntropy }
  }
  return Object.assign(added, {
    ...inherited(loss, "withEntropy", { coefficient }, ["entropy"]),
    within: (wrap: (loss: Loss) => Loss) => withEntropy(within(loss, wrap), coefficient)
  })
}
