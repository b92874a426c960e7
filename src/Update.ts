/** One batch into the policy: forward, loss, backward for each pack, then one step. */
import type * as Effect from "effect/Effect"
import type { Batch } from "./Batch.ts"
import type { Loss } from "./Loss.ts"
import type { Aggregate, Pack } from "./Pack.ts"
import type { Policy, PolicyError, StepSettings } from "./Policy.ts"

export interface Dump {
  readonly step: number
  readonly reason: string
  readonly packs: ReadonlyArray<Pack>
  readonly batch?: Batch
}

export interface UpdateSettings extends Omit<StepSettings, "learningRate"> {
  readonly loss: Loss
  /** A number, or a function of the step (0, 1, ...). */
  readonly learningRate: number | ((step: number) => number)
  /** Default `token`. */
  readonly aggregate?: Aggregate
  /** Sampling temperature: logits are divided by it before log-softmax. Default 1. */
  readonly temperature?: number
  /** Most tokens in one forward. Default 16384. */
  readonly maxTokens?: number
  /** Passes over the batch (TRL's num_iterations). Default 1. */
  readonly epochs?: number
  /** Parts of a batch, each with its own step. Default 1. */
  readonly minibatches?: number
  /** Leave out truncated trajectories (DAPO's overlong filtering). Default false. */
  readonly maskTruncated?: boolean
  /** Receives what a skipped step was computed from. */
  readonly dump?: (dump: Dump) => Effect.Effect<void>
}

export interface StepReport {
  readonly step: number
  readonly loss: number
  /** Before clipping; of several updates the mean. */
  readonly gradNorm: number
  readonly learningRate: number
  /** Updates skipped because loss or gradient was not finite; 0 when all went well. */
  readonly skipped: number
  readonly updates: number
  /** Mean entropy of the policy at its tokens, in nats. */
  readonly entropy: number
  readonly metrics: Readonly<Record<string, number>>
  readonly tokens: { readonly forward: number; readonly trained: number }
  readonly seconds: Readonly<
    Record<"pack" | "old" | "reference" | "forward" | "loss" | "backward" | "step" | "total", number>
  >
  /** Of the weights after the update. */
  readonly version: number
}

export interface Updater {
  readonly batch: (batch: Batch, step: number) => Effect.Effect<StepReport, PolicyError, Policy>
  /** The same for packs made otherwise (supervised data); one update. */
  readonly packs: (packs: ReadonlyArray<Pack>, step: number) => Effect.Effect<StepReport, PolicyError, Policy>
}

export declare const make: (settings: UpdateSettings) => Updater
