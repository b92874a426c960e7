/** The input of the packer, and the packs it gives. */
import type { Forest } from "../engine/Forest.ts"
import type { Numbers, Sequence, Total, Unit } from "./lossContract.ts"

/**
 * How the losses of policy tokens add up to one number. With B sequences, n_i policy tokens in sequence i:
 * - `token`: each weighs 1 / sum of all n_i of the batch (DAPO, TAPO, verl token-mean)
 * - `sequence`: 1 / (B n_i), the mean over sequences of the mean over tokens (GRPO as published)
 * - `{ constant: L }`: 1 / (B L), L the longest completion allowed (Dr.GRPO)
 * - `sum`: 1 (Tinker)
 *
 * B counts every sequence given, those without a target included (TRL's convention).
 */
export type Aggregate = "token" | "sequence" | "sum" | { readonly constant: number }

/** Targets named one by one, in the order of a sequence's numbers. All arrays are [n]. */
export interface Targets {
  /** Branch of each target: 0, or 1 + its index in `forks`. Default: all in branch 0. */
  readonly branch?: Uint32Array
  /** Place among the branch's own tokens that the target would take; the tokens before it predict it. */
  readonly position: Uint32Array
  /** The token whose log-probability is wanted: the one at `position`, or any other. A position may have several. */
  readonly token: Uint32Array
}

/** A further branch of a rollout. */
export interface Fork {
  /** The earlier branch that it leaves after `length` tokens, the prompt's included. Absent: it begins by itself. */
  readonly parent?: { readonly branch: number; readonly length: number }
  /** Own tokens: those that come after the parent's. */
  readonly tokens: Uint32Array
}

/** One rollout that begins with a shared prompt. It has n targets. */
export interface PackSequence {
  /** Everything after the prompt; of a rollout with several branches, of branch 0. */
  readonly tokens: Uint32Array
  /** Branches 1, 2, ... */
  readonly forks?: ReadonlyArray<Fork>
  /** A mask over `tokens`, or targets named one by one. */
  readonly target: ArrayLike<boolean | number> | Targets
  /** One number for every target alike, or [n]. */
  readonly advantage: number | Float64Array
  /** [n]; absent where no sampler was involved (supervised data): the pack then holds NaN. */
  readonly samplerLogprobs?: Float32Array
  /** [n] each: further numbers for the loss, by name. All sequences with targets have the same names. */
  readonly columns?: Readonly<Record<string, Numbers>>
  /** Which rollout of its group, for the loss. Default: its index among those given. */
  readonly index?: number
  readonly label?: string
  readonly numbers?: Readonly<Record<string, number>>
  /** Temperature of each turn. All sequences of an update must agree: log-probabilities are taken at one. */
  readonly temperatures?: ReadonlyArray<number>
}

/** Sequences that share a prompt, which is computed once in every pack it appears in. */
export interface PackGroup {
  readonly prompt: Uint32Array
  readonly sequences: ReadonlyArray<PackSequence>
  /** Which group of the batch, for the loss. Default: its index among those given. */
  readonly index?: number
}

/** Shapes: T tokens of the forest, N targets, Q sequences. */
export interface Pack {
  readonly forest: Forest
  /** [N] */
  readonly advantages: Float64Array
  /** [N] log-probabilities at sampling; NaN if there was no sampler. */
  readonly samplerLogprobs: Float32Array
  /** [N] the aggregation's share of each target. */
  readonly weights: Float64Array
  /** [N] each */
  readonly columns: Readonly<Record<string, Numbers>>
  /** [Q+1] offsets into the targets: sequence q owns targets `sequenceStart[q]` to `sequenceStart[q + 1] - 1`. */
  readonly sequenceStart: Uint32Array
  /** [Q] */
  readonly sequences: ReadonlyArray<Sequence>
  /** Counts of everything that was packed together. */
  readonly total: Total
}

export interface PackOptions {
  readonly aggregate: Aggregate
  /** Most forest tokens in a pack; one unit longer than that still gets a pack of its own. Default: no limit. */
  readonly maxTokens?: number
  /**
   * The part that is never cut: a `sequence`; a `group`; the whole `batch`, which is refused if it exceeds `maxTokens`. Default
   * `sequence`, which leaves out sequences without a target. The others keep them: `sequenceStart[q]` is
   * `sequenceStart[q + 1]`.
   */
  readonly unit?: Unit
  /**
   * Compute common prefixes of a group's sequences once, beyond the prompt. It saves tokens when rollouts repeat each
   * other, and changes rounding. Branches of one rollout share prefixes always. Default false.
   */
  readonly sharePrefixes?: boolean
}
