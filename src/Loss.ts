/**
 * A loss is a pure function from the log-probabilities of the policy's tokens to a number and its gradient with respect
 * to them. The engine needs nothing else: a new algorithm is a new function.
 */

export type Numbers = Float32Array | Float64Array

/** Shapes: N targets (policy tokens of a pack), Q sequences. */
export interface LossInput {
  /** [N] of the policy being trained, at the sampling temperature. */
  readonly logprobs: Numbers
  /** [N] of the policy before this batch's updates; the same numbers as `logprobs` when there is one update per batch. */
  readonly oldLogprobs: Numbers
  /** [N] at sampling; NaN where there was no sampler. */
  readonly samplerLogprobs: Numbers
  /** [N] of the frozen reference; present when the loss says that it needs them. */
  readonly referenceLogprobs?: Numbers
  /** [N] entropy of the distribution that predicted each target, in nats. */
  readonly entropy?: Numbers
  /** [N] */
  readonly advantages: Numbers
  /** [N] see `Pack`: a loss is the sum over targets of weight times per-target loss. */
  readonly weights: Numbers
  /** [Q+1] offsets of the sequences into the targets. */
  readonly sequenceStart: Uint32Array
}

/** A metric that is combined over packs: `mean` by `weight` (default: targets of the pack), or as named. */
export interface Measure {
  readonly by: "mean" | "sum" | "min" | "max"
  readonly value: number
  readonly weight?: number
}

export interface LossOutput {
  readonly loss: number
  /** [N] d loss / d logprobs */
  readonly dLogprobs: Float64Array
  /** [N] d loss / d entropy */
  readonly dEntropy?: Float64Array
  /** A bare number is a mean over the pack's targets. Names are TRL's where TRL has one. */
  readonly metrics: Readonly<Record<string, number | Measure>>
}

export interface Loss {
  (input: LossInput): LossOutput
  /** Whether `referenceLogprobs` must be computed. Default false. */
  readonly reference?: boolean
}

export interface Clipped {
  /** Ratios below 1 - low are clipped. Default 0.2. */
  readonly low?: number
  /** Ratios above 1 + high are clipped. Default 0.2; DAPO and TAPO 0.28. */
  readonly high?: number
  /** TRL's two-sided clipping: upper bound of the ratio in the unclipped term. */
  readonly delta?: number
  /** verl's dual clip c > 1: a negative advantage loses at most c |A|. */
  readonly dualClip?: number
}

export declare const clipped: (options?: Clipped) => Loss
export declare const importanceSampling: (options?: { readonly against?: "sampler" | "old" }) => Loss
export declare const gspo: (options?: { readonly low?: number; readonly high?: number }) => Loss
export declare const cispo: (options?: { readonly low?: number; readonly high?: number }) => Loss
export declare const sapo: (options?: { readonly positive?: number; readonly negative?: number }) => Loss
export declare const crossEntropy: Loss
export declare const withEntropy: (loss: Loss, coefficient: number) => Loss

export type KlEstimator = "k1" | "k2" | "k3" | "abs"
export declare const withKl: (
  loss: Loss,
  options: { readonly coefficient: number; readonly estimator?: KlEstimator }
) => Loss

export interface ImportanceCorrection {
  readonly level?: "token" | "sequence"
  readonly mode?: "truncate" | "mask"
  readonly max?: number
  readonly min?: number
}
export declare const withImportanceCorrection: (loss: Loss, options?: ImportanceCorrection) => Loss
