/** What a loss takes and gives. */

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

/** A metric and how it is combined over packs: a `mean` by `weight` (default: targets of the pack), or as named. */
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
  /**
   * Of a loss that adds a term to another: the same with `wrap` around the other alone. What weighs targets, such as an
   * importance correction, goes inside by it, and leaves KL and entropy as they are.
   */
  readonly within?: (wrap: (loss: Loss) => Loss) => Loss
  /**
   * Whether it takes its ratio against the sampler, so that an importance correction has nothing left to correct. Default
   * false.
   */
  readonly againstSampler?: boolean
}
