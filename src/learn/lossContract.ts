/** The contract of a loss: its input, its output, and what it says about itself. */
import type { Identity } from "../data/Identity.ts"

export type Numbers = Float32Array | Float64Array

/** A sequence of a loss: one rollout with all its branches. Its targets are contiguous and in the order of its turns. */
export interface Sequence {
  /** Which group of the batch. */
  readonly group: number
  /** Which rollout of its group. */
  readonly index: number
  /** Its role in its group: `chosen`, `rejected`, ... */
  readonly label?: string
  /** Numbers of the whole sequence: a margin, a score, ... */
  readonly numbers?: Readonly<Record<string, number>>
}

/** Counts of a whole update, however many packs it is cut into. Groups and sequences without a target count. */
export interface Total {
  readonly groups: number
  readonly sequences: number
  readonly targets: number
}

/** Shapes: N targets (policy tokens of a pack), Q sequences. */
export interface LossInput {
  /** [N] of the policy being trained, at the sampling temperature. */
  readonly logprobs: Numbers
  /** [N] of the policy before this batch's updates; the same numbers as `logprobs` when there is one update per batch. */
  readonly oldLogprobs: Numbers
  /** [N] at sampling; NaN if there was no sampler. */
  readonly samplerLogprobs: Numbers
  /** [N] of the frozen reference; present if the loss needs `reference`. */
  readonly referenceLogprobs?: Numbers
  /** [N] entropy of the distribution that predicted each target, in nats. */
  readonly entropy?: Numbers
  /** [N] */
  readonly advantages: Numbers
  /** [N] see `Pack`: a loss is the sum over targets of weight times per-target loss. */
  readonly weights: Numbers
  /** [Q+1] offsets of the sequences into the targets. Under the units `group` and `batch` a sequence may have none. */
  readonly sequenceStart: Uint32Array
  /** [N] each: further numbers of the targets, by name, that a recipe added. */
  readonly columns: Readonly<Record<string, Numbers>>
  /** Numbers of the whole batch, by name, that a recipe added. */
  readonly constants: Readonly<Record<string, number>>
  /** [Q] */
  readonly sequences: ReadonlyArray<Sequence>
  /** Counts of the whole update, not of the pack. */
  readonly total: Total
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

/** An input that a loss cannot go without. */
export type Need = "reference" | "entropy"

/** The part of a batch that one call of a loss must see whole. */
export type Unit = "sequence" | "group" | "batch"

export interface Loss {
  (input: LossInput): LossOutput
  /** Name and settings, which the record of a run keeps. Default: opaque, by the function's name. */
  readonly identity?: Identity
  /** Inputs that must be there. Default: none. */
  readonly needs?: ReadonlyArray<Need>
  /** The part that packs must not cut. Default `sequence`. */
  readonly unit?: Unit
  /**
   * For a loss that adds a term to another: the same with `wrap` around the other alone. An importance correction goes
   * inside this way, and leaves KL and entropy as they are.
   */
  readonly within?: (wrap: (loss: Loss) => Loss) => Loss
  /** Whether it takes its ratio against the sampler, so an importance correction has nothing left to correct. Default false. */
  readonly againstSampler?: boolean
}

/** Whether a loss cannot go without an input. */
export const needs = (loss: Loss, need: Need): boolean => loss.needs?.includes(need) === true
