/** Settings, steps and reports of an update. */
import type * as Effect from "effect/Effect"
import type { OptionError } from "../OptionError.ts"
import type { EngineError } from "../engine/EngineError.ts"
import type { Policy, StepSettings } from "../engine/Policy.ts"
import type { Batch } from "./internal/batchTypes.ts"
import type { Loss, Numbers } from "./lossContract.ts"
import type { Aggregate, Pack } from "./packContract.ts"

/** A pack and what was computed of it before the first update. */
export interface PreparedPack {
  readonly pack: Pack
  /** [N] log-probabilities before the first update; absent if there is one update, whose own forward has them. */
  readonly old?: Float32Array
  /** [N] log-probabilities of the reference; absent unless the loss needs them. */
  readonly reference?: Float32Array
}

/** A batch before its first update. */
export interface Prepared {
  /** Packs of each update of one pass. */
  readonly updates: ReadonlyArray<ReadonlyArray<PreparedPack>>
  /** Passes over the updates. */
  readonly passes: number
  readonly constants: Readonly<Record<string, number>>
  /** Time spent so far. */
  readonly seconds: Readonly<Record<Phase, number>>
  /** Absent if it was made of packs. */
  readonly batch?: Batch
}

/** The input of an update that was skipped. */
export interface Dump {
  readonly step: number
  readonly reason: string
  readonly packs: ReadonlyArray<Pack>
  readonly batch?: Batch
}

export interface UpdateSettings extends Omit<StepSettings, "learningRate"> {
  readonly loss: Loss
  /** A number, or a function of the step (0, 1, ...), see `LearningRate`. */
  readonly learningRate: number | ((step: number) => number)
  /** Default `token`. */
  readonly aggregate?: Aggregate
  /** Sampling temperature: logits are divided by it before log-softmax. Default 1. */
  readonly temperature?: number
  /** Most tokens in one forward. Default 16384. */
  readonly maxTokens?: number
  /** Passes over the batch (TRL's num_iterations). Default 1. */
  readonly epochs?: number
  /** Parts of a batch, by groups, each with its own step and its own aggregation. Default 1. */
  readonly minibatches?: number
  /**
   * Source of the log-probabilities before the first of several updates per batch: computed by the `policy`, or those
   * at sampling, which saves a forward where both are the same numbers. Default `policy`.
   */
  readonly old?: "policy" | "sampler"
  /** Leave out truncated trajectories (DAPO's overlong filtering). Default false. */
  readonly maskTruncated?: boolean
  /** Compute common prefixes of a group once, see {@link PackOptions}. Default false. */
  readonly sharePrefixes?: boolean
  /**
   * Further columns for the loss, once per batch: for each pack, in the shape of `updates`. A column called `advantages`
   * replaces the pack's.
   */
  readonly credit?: (prepared: Prepared) => ReadonlyArray<ReadonlyArray<Readonly<Record<string, Numbers>>>>
  /** Numbers of the whole batch for the loss, once per batch and before its first update. */
  readonly constants?: (prepared: Prepared) => Effect.Effect<Readonly<Record<string, number>>, EngineError, Policy>
  /** Receives what a skipped update was computed from. */
  readonly dump?: (dump: Dump) => Effect.Effect<void>
}

export type Phase = "pack" | "old" | "reference" | "forward" | "loss" | "backward" | "step" | "total"

/** NaN stands for a number that was not computed: there was nothing to update, or all of it was skipped. */
export interface StepReport {
  readonly step: number
  /** The mean over updates. */
  readonly loss: number
  /** Before clipping; of several updates the mean. */
  readonly gradNorm: number
  readonly learningRate: number
  /** Updates skipped because loss or gradient was not finite; 0 when all went well. */
  readonly skipped: number
  readonly updates: number
  /** Mean entropy of the policy at its tokens, in nats; NaN if the engine does not compute it. */
  readonly entropy: number
  /**
   * The loss's own metrics, and how far the sampler was from the policy before the update (all 0, ratios 1, when both
   * agree; where they do not, see `Loss.withImportanceCorrection`): `sampling/sampling_logp_difference/{mean,max}`, `sampling/importance_sampling_ratio/{min,mean,max}`,
   * `sampling/kl_v1` = mean(sampler - policy) and `sampling/kl_v2` = mean of half its square.
   */
  readonly metrics: Readonly<Record<string, number>>
  /**
   * Share of the forwards that took the activations of sampling and computed no layer again; among the metrics as
   * `update/recorded_share`.
   */
  readonly recordedShare: number
  /** Tokens that went through forward and backward in all updates, and targets among them. */
  readonly tokens: { readonly forward: number; readonly trained: number }
  readonly seconds: Readonly<Record<Phase, number>>
  /** Version of the weights after the update; absent if there was none. */
  readonly version?: number
}

export interface Updater {
  /** Packs a batch, or takes packs made otherwise, and computes what the loss needs from before the first update. */
  readonly prepare: (source: Batch | ReadonlyArray<Pack>) => Effect.Effect<Prepared, EngineError | OptionError, Policy>
  /** The same with the columns and constants of the settings. */
  readonly credit: (prepared: Prepared) => Effect.Effect<Prepared, EngineError | OptionError, Policy>
  /** Updates the policy. `step` counts from 0 and drives the learning rate. */
  readonly apply: (prepared: Prepared, step: number) => Effect.Effect<StepReport, EngineError, Policy>
  /** The three after each other. An empty batch changes nothing. */
  readonly batch: (batch: Batch, step: number) => Effect.Effect<StepReport, EngineError | OptionError, Policy>
  /** The same for packs made otherwise (supervised data): one update, whatever `epochs` and `minibatches` say. */
  readonly packs: (
    packs: ReadonlyArray<Pack>,
    step: number
  ) => Effect.Effect<StepReport, EngineError | OptionError, Policy>
}
