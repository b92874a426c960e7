/**
 * What one forward and backward computes: a forest of token segments with one target per policy token, and for each
 * target what a loss needs. Aggregation is folded into `weights`, so a loss is a plain sum over targets and the gradient
 * of a batch does not depend on how it is cut into packs.
 */
import type { Forest } from "./Policy.ts"

/**
 * How the losses of policy tokens add up to one number. With B sequences, n_i policy tokens in sequence i:
 * - `token`: each weighs 1 / sum of all n_i of the batch (DAPO, TAPO, verl token-mean)
 * - `sequence`: 1 / (B n_i), the mean over sequences of the mean over tokens (GRPO as published)
 * - `{ constant: L }`: 1 / (B L), L the longest completion allowed (Dr.GRPO)
 * - `sum`: 1 (Tinker)
 */
export type Aggregate = "token" | "sequence" | "sum" | { readonly constant: number }

/** One sequence that hangs from a shared prompt. `n` policy tokens are its targets. */
export interface PackSequence {
  /** Everything after the prompt. */
  readonly tokens: Uint32Array
  /** Of each of `tokens`: whether it is a target (produced by the policy). */
  readonly target: ArrayLike<boolean | number>
  /** One number for every target alike, or [n]. */
  readonly advantage: number | Float64Array
  /** [n]; absent where no sampler was involved (supervised data): the pack then holds NaN. */
  readonly samplerLogprobs?: Float32Array
}

/** Sequences that share a prompt, which is computed once in every pack it appears in. */
export interface PackGroup {
  readonly prompt: Uint32Array
  readonly sequences: ReadonlyArray<PackSequence>
}

/** Shapes: T tokens of the forest, N targets, Q sequences. */
export interface Pack {
  readonly forest: Forest
  /** [N] */
  readonly advantages: Float64Array
  /** [N] log-probabilities at sampling; NaN where there was no sampler. */
  readonly samplerLogprobs: Float32Array
  /** [N] the aggregation's share of each target. */
  readonly weights: Float64Array
  /** [Q+1] offsets into the targets: sequence q owns targets `sequenceStart[q]` to `sequenceStart[q + 1] - 1`. */
  readonly sequenceStart: Uint32Array
  /** [Q] which group and which of its sequences, as indexes into what was packed. */
  readonly sequences: ReadonlyArray<{ readonly group: number; readonly sequence: number }>
}

export interface PackOptions {
  readonly aggregate: Aggregate
  /** Most forest tokens in a pack; one sequence longer than that still gets a pack of its own. Default: no limit. */
  readonly maxTokens?: number
}

export declare const pack: (groups: ReadonlyArray<PackGroup>, options: PackOptions) => ReadonlyArray<Pack>
