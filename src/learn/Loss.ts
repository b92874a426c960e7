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
import * as Identity from "../data/Identity.ts"
import type { Loss, LossInput, LossOutput, Numbers } from "./lossContract.ts"

export type { Loss, LossInput, LossOutput, Measure, Need, Numbers, Sequence, Total, Unit } from "./lossContract.ts"
export { needs } from "./lossContract.ts"
export type { KlEstimator } from "./Kl.ts"

/** Whose log-probabilities the ratio is taken against: those at sampling, or those before this batch's updates. */
export interface Against {
  readonly against?: "sampler" | "old"
}

/** A loss with its name and settings; `against` says what it takes its ratio against. */
const named = (loss: Loss, name: string, settings: Readonly<Record<string, number | string>> = {}): Loss =>
  Object.assign(loss, {
    identity: Identity.make(name, settings),
    againstSampler: settings["against"] === "sampler"
  })

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
  const loss = (input: LossInput): LossOutput => {
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
  return named(loss, "clipped", { low, high, delta, dualClip })
}

/** REINFORCE: -A logprob (Williams 1992). The gradient of every loss here at r = 1. */
export const reinforce: Loss = named(
  (input) =>
    sumTargets(input, (t, out) => {
      out.loss = -input.advantages[t]! * input.logprobs[t]!
      out.gradient = -input.advantages[t]!
    }),
  "reinforce"
)

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
  return named(loss, "importanceSampling", { against })
}

/**
 * GSPO (Zheng et al. 2025): the clipped objective with one ratio per sequence, s = exp(mean over its tokens of
 * logprob - old). The paper's clip is 3e-4 / 4e-4 with four updates per batch, and its mean over sequences is
 * `aggregate: "sequence"`. Under advantages by token s still is the sequence's (the GSPO-token form at equal value).
 */
export const gspo = (options: { readonly low?: number; readonly high?: number } = {}): Loss => {
  const { low = 3e-4, high = 4e-4 } = options
  const loss = (input: LossInput): LossOutput => {
    const { advantages, logprobs, oldLogprobs, sequenceStart, weights } = input
    const dLogprobs = new Float64Array(logprobs.length)
    let value = 0
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
        value += weights[t]! * Math.max(free, clip)
        if (free >= clip) slope += weights[t]! * free
      }
      dLogprobs.fill(slope / (end - start), start, end)
    }
    return {
      loss: value,
      dLogprobs,
      metrics: {
        policy_loss: { by: "sum", value },
        "clip_ratio/low_mean": share(lowCount, input),
        "clip_ratio/high_mean": share(highCount, input),
        "clip_ratio/region_mean": share(lowCount + highCount, input)
      }
    }
  }
  return named(loss, "gspo", { low, high })
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
  return named(loss, "cispo", { low, high, against })
}

/** SAPO (Gao et al. 2025): -(4 / tau) sigmoid(tau (r - 1)) A, tau by the sign of A; a soft gate in place of the clip. */
export const sapo = (options: { readonly positive?: number; readonly negative?: number } = {}): Loss => {
  const { negative = 1.05, positive = 1 } = options
  const loss = (input: LossInput): LossOutput =>
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
  return named(loss, "sapo", { positive, negative })
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
  return named(loss, "dppo", { low, high, tau, against: "sampler" })
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
  return named(loss, "dro", { beta, against })
}

/** Negative log-likelihood, for supervised data; advantages play no part. Metric `nll`, in nats per token. */
export const crossEntropy: Loss = named((input) => {
  let nll = 0
  const { dLogprobs, loss } = sumTargets(input, (t, out) => {
    nll -= input.logprobs[t]!
    out.loss = -input.logprobs[t]!
    out.gradient = -1
  })
  return { loss, dLogprobs, metrics: { nll: share(nll, input) } }
}, "crossEntropy")

export { withEntropy, withKl } from "./internal/addedTerms.ts"
export type { KlOptions } from "./internal/addedTerms.ts"
export { within } from "./internal/within.ts"
export { importanceRatios, withImportanceCorrection } from "./ImportanceCorrection.ts"
export type { ImportanceCorrection } from "./ImportanceCorrection.ts"
