/**
 * A loss is a pure function from the log-probabilities of the policy's tokens to a number and its gradient with respect
 * to them. The engine needs nothing else, so a new algorithm is a new function:
 *
 * ```ts
 * const reinforce: Loss.Loss = ({ logprobs, advantages, weights }) => {
 *   let loss = 0
 *   const dLogprobs = new Float64Array(logprobs.length)
 *   for (let t = 0; t < logprobs.length; t++) {
 *     loss -= weights[t]! * advantages[t]! * logprobs[t]!
 *     dLogprobs[t] = -weights[t]! * advantages[t]!
 *   }
 *   return { loss, dLogprobs, metrics: {} }
 * }
 * ```
 *
 * `advantages`, `weights` and the log-probabilities of others are constants: no gradient flows through them. Formulas
 * below are of one target, with r = exp(logprob - old logprob) and A its advantage; the loss is their sum weighted by
 * `weights`. With one update per batch old and new log-probabilities are the same numbers, r is 1, and the value of a
 * group-relative loss is near 0 while its gradient is not: watch the reward, not the loss.
 */
import { around } from "./internal/within.ts"
import type { Loss, LossInput, LossOutput, Numbers } from "./lossContract.ts"
import * as Kl from "./Kl.ts"

export type { Loss, LossInput, LossOutput, Measure, Numbers } from "./lossContract.ts"
export type { KlEstimator } from "./Kl.ts"

/** Whose log-probabilities the ratio is taken against: those at sampling, or those before this batch's updates. */
export interface Against {
  readonly against?: "sampler" | "old"
}

interface Term {
  loss: number
  gradient: number
}

/** Sum of a term over the targets; `term` writes the loss of target t and its derivative. */
const sumTargets = (input: LossInput, term: (t: number, out: Term) => void): LossOutput & { metrics: object } => {
  const { logprobs, weights } = input
  const dLogprobs = new Float64Array(logprobs.length)
  const out: Term = { loss: 0, gradient: 0 }
  let loss = 0
  for (let t = 0; t < logprobs.length; t++) {
    term(t, out)
    loss += weights[t]! * out.loss
    dLogprobs[t] = weights[t]! * out.gradient
  }
  return { loss, dLogprobs, metrics: { policy_loss: { by: "sum", value: loss } } }
}

const share = (count: number, input: LossInput): number =>
  input.logprobs.length === 0 ? 0 : count / input.logprobs.length

const baseOf = (input: LossInput, against: Against["against"]): Numbers =>
  against === "sampler" ? input.samplerLogprobs : input.oldLogprobs

export interface Clipped {
  /** Ratios below 1 - low are clipped. Default 0.2. */
  readonly low?: number
  /** Ratios above 1 + high are clipped. Default 0.2; DAPO and TAPO use 0.28. */
  readonly high?: number
  /** TRL's two-sided clipping: upper bound of the ratio in the unclipped term. Default: none. */
  readonly delta?: number
  /** Dual clip, c > 1: the loss of a negative advantage is at most c |A| (verl: 3, TAPO: 10). Default: none. */
  readonly dualClip?: number
}

/**
 * PPO's clipped objective, of GRPO, DAPO and TAPO: -min(r A, clip(r, 1 - low, 1 + high) A) (Schulman et al. 2017,
 * equation 7). Metrics `clip_ratio/low_mean` (A < 0, r below the range), `/high_mean` (A > 0, above), `/region_mean`.
 *
 * ```ts
 * Loss.clipped({ low: 0.2, high: 0.28 })   // DAPO's clip-higher
 * ```
 */
export const clipped = (options: Clipped = {}): Loss => {
  const { low = 0.2, high = 0.2, delta = Infinity, dualClip = Infinity } = options
  return (input) => {
    let lowCount = 0
    let highCount = 0
    const output = sumTargets(input, (t, out) => {
      const advantage = input.advantages[t]!
      out.loss = out.gradient = 0
      // Also keeps an overflowing ratio from becoming 0 * Infinity.
      if (advantage === 0) return
      const ratio = Math.exp(input.logprobs[t]! - input.oldLogprobs[t]!)
      if (advantage < 0 && ratio < 1 - low) lowCount++
      if (advantage > 0 && ratio > 1 + high) highCount++
      const bounded = Math.min(ratio, delta)
      const free = -bounded * advantage
      const clip = -Math.min(Math.max(ratio, 1 - low), 1 + high) * advantage
      out.loss = Math.max(free, clip)
      if (free >= clip && ratio <= delta) out.gradient = -ratio * advantage
      if (advantage < 0 && out.loss > -dualClip * advantage) {
        out.loss = -dualClip * advantage
        out.gradient = 0
      }
    })
    return {
      ...output,
      metrics: {
        ...output.metrics,
        "clip_ratio/low_mean": share(lowCount, input),
        "clip_ratio/high_mean": share(highCount, input),
        "clip_ratio/region_mean": share(lowCount + highCount, input)
      }
    }
  }
}

/** REINFORCE: -A logprob (Williams 1992). The gradient of every loss here at r = 1. */
export const reinforce: Loss = (input) =>
  sumTargets(input, (t, out) => {
    out.loss = -input.advantages[t]! * input.logprobs[t]!
    out.gradient = -input.advantages[t]!
  })

const marked = (loss: Loss, against: Against["against"]): Loss =>
  Object.assign(loss, { againstSampler: against === "sampler" })

/** -r A without a clip, r against the sampler by default (Tinker's `importance_sampling`). */
export const importanceSampling = (options: Against = {}): Loss => {
  const { against = "sampler" } = options
  const loss = (input: LossInput): LossOutput => {
    const base = baseOf(input, against)
    return sumTargets(input, (t, out) => {
      const advantage = input.advantages[t]!
      out.loss = advantage === 0 ? 0 : -Math.exp(input.logprobs[t]! - base[t]!) * advantage
      out.gradient = out.loss
    })
  }
  return marked(loss, against)
}

/**
 * GSPO (Zheng et al. 2025): the clipped objective with one ratio per sequence, s = exp(mean over its tokens of
 * logprob - old). The paper's clip is 3e-4 / 4e-4 with four updates per batch, and its mean over sequences is
 * `aggregate: "sequence"`. Under advantages by token s still is the sequence's (the GSPO-token form at equal value).
 */
export const gspo = (options: { readonly low?: number; readonly high?: number } = {}): Loss => {
  const { low = 3e-4, high = 4e-4 } = options
  return (input) => {
    const { advantages, logprobs, oldLogprobs, sequenceStart, weights } = input
    const dLogprobs = new Float64Array(logprobs.length)
    let loss = 0
    let lowCount = 0
    let highCount = 0
    for (let q = 0; q + 1 < sequenceStart.length; q++) {
      const start = sequenceStart[q]!
      const end = sequenceStart[q + 1]!
      if (end === start) continue
      let logRatio = 0
      for (let t = start; t < end; t++) logRatio += logprobs[t]! - oldLogprobs[t]!
      const ratio = Math.exp(logRatio / (end - start))
      const clippedRatio = Math.min(Math.max(ratio, 1 - low), 1 + high)
      let slope = 0
      for (let t = start; t < end; t++) {
        const advantage = advantages[t]!
        if (advantage === 0) continue
        if (advantage < 0 && ratio < 1 - low) lowCount++
        if (advantage > 0 && ratio > 1 + high) highCount++
        const free = -ratio * advantage
        const clip = -clippedRatio * advantage
        loss += weights[t]! * Math.max(free, clip)
        if (free >= clip) slope += weights[t]! * free
      }
      dLogprobs.fill(slope / (end - start), start, end)
    }
    return {
      loss,
      dLogprobs,
      metrics: {
        policy_loss: { by: "sum", value: loss },
        "clip_ratio/low_mean": share(lowCount, input),
        "clip_ratio/high_mean": share(highCount, input),
        "clip_ratio/region_mean": share(lowCount + highCount, input)
      }
    }
  }
}

/**
 * CISPO (MiniMax-M1 2025): -clip(r, low, high) A logprob, the clipped ratio a constant: clipped tokens keep a gradient.
 * The bounds are absolute. Implementations differ: TRL clips above only, at 5 (this default); verl and MiniMax at
 * [1 - low, 1 + high], so pass `{ low: 0.8, high: 1.2 }`; Tinker at [0, 4]; SkyRL and ART at [0, 5].
 */
export const cispo = (options: { readonly low?: number; readonly high?: number } & Against = {}): Loss => {
  const { against = "old", high = 5, low = 0 } = options
  const loss = (input: LossInput): LossOutput => {
    const base = baseOf(input, against)
    let count = 0
    const output = sumTargets(input, (t, out) => {
      const ratio = Math.exp(input.logprobs[t]! - base[t]!)
      if ((ratio > high && input.advantages[t]! > 0) || (ratio < low && input.advantages[t]! < 0)) count++
      out.gradient = -Math.min(Math.max(ratio, low), high) * input.advantages[t]!
      out.loss = out.gradient * input.logprobs[t]!
    })
    return { ...output, metrics: { ...output.metrics, cispo_clip_ratio: share(count, input) } }
  }
  return marked(loss, against)
}

/** SAPO (Gao et al. 2025): -(4 / tau) sigmoid(tau (r - 1)) A, tau by the sign of A; a soft gate in place of the clip. */
export const sapo = (options: { readonly positive?: number; readonly negative?: number } = {}): Loss => {
  const { negative = 1.05, positive = 1 } = options
  return (input) =>
    sumTargets(input, (t, out) => {
      const advantage = input.advantages[t]!
      out.loss = out.gradient = 0
      if (advantage === 0) return
      const tau = advantage > 0 ? positive : negative
      const ratio = Math.exp(input.logprobs[t]! - input.oldLogprobs[t]!)
      const gate = 1 / (1 + Math.exp(-tau * (ratio - 1)))
      out.loss = -(4 / tau) * gate * advantage
      // gate (1 - gate) is an exact 0 before an overflowing ratio could turn the product into NaN.
      const slope = 4 * gate * (1 - gate)
      out.gradient = slope === 0 ? 0 : -slope * ratio * advantage
    })
}

/**
 * DPPO with a total-variation mask (prime-rl's default): -A r against the sampler, tokens dropped whose probability has
 * moved by more than `low` / `high` in the direction of their advantage, plus tau (logprob - sampler logprob)^2.
 */
export const dppo = (options: { readonly low?: number; readonly high?: number; readonly tau?: number } = {}): Loss => {
  const { high = 0.2, low = 0.2, tau = 1e-3 } = options
  const loss = (input: LossInput): LossOutput => {
    let dropped = 0
    const output = sumTargets(input, (t, out) => {
      const logprob = input.logprobs[t]!
      const base = input.samplerLogprobs[t]!
      const advantage = input.advantages[t]!
      const moved = Math.exp(logprob) - Math.exp(base)
      const drop = (advantage > 0 && moved > high) || (advantage < 0 && moved < -low)
      if (drop) dropped++
      const term = drop || advantage === 0 ? 0 : -Math.exp(logprob - base) * advantage
      out.loss = term + tau * (logprob - base) ** 2
      out.gradient = term + 2 * tau * (logprob - base)
    })
    return { ...output, metrics: { ...output.metrics, is_masked: share(dropped, input) } }
  }
  return marked(loss, "sampler")
}

/** DRO (Richemond et al. 2024): -(A logprob - beta/2 (logprob - old)^2). Wants soft advantages. */
export const dro = (options: { readonly beta?: number } & Against = {}): Loss => {
  const { against = "old", beta = 0.05 } = options
  const loss = (input: LossInput): LossOutput => {
    const base = baseOf(input, against)
    return sumTargets(input, (t, out) => {
      const d = input.logprobs[t]! - base[t]!
      out.loss = -(input.advantages[t]! * input.logprobs[t]! - 0.5 * beta * d * d)
      out.gradient = -input.advantages[t]! + beta * d
    })
  }
  return marked(loss, against)
}

/** Negative log-likelihood, for supervised data; advantages play no part. Metric `nll`, in nats per token. */
export const crossEntropy: Loss = (input) => {
  let nll = 0
  const { dLogprobs, loss } = sumTargets(input, (t, out) => {
    nll -= input.logprobs[t]!
    out.loss = -input.logprobs[t]!
    out.gradient = -1
  })
  return { loss, dLogprobs, metrics: { nll: share(nll, input) } }
}

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
      throw new Error("Loss.withKl needs referenceLogprobs; Update computes them by `reference`")
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
      metrics: { ...inner.metrics, kl: share(kl, input) }
    }
  }
  return Object.assign(
    added,
    around(loss, true, (inner) => withKl(inner, options))
  )
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
  return Object.assign(
    added,
    around(loss, loss.reference ?? false, (inner) => withEntropy(inner, coefficient))
  )
}

export { within } from "./internal/within.ts"
export { importanceRatios, withImportanceCorrection } from "./ImportanceCorrection.ts"
export type { ImportanceCorrection } from "./ImportanceCorrection.ts"
