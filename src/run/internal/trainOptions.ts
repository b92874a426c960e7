/** Options and results of a trainer's loop. */
import type * as Effect from "effect/Effect"
import type { Callback, CheckpointEvent, EvaluateEvent, StepEvent } from "./callbacks.ts"
import type { RunPhase } from "./phases.ts"
import type { ProgressStep } from "../Progress.ts"
import type { RecordedGroup } from "./trajectoryLines.ts"

/** The input of a step. */
export interface StepContext {
  /** Counts from 0. */
  readonly step: number
  /** Measures a part of the step as `timing_s/{name}`. Only for the fiber of the step: what overlaps is not a phase. */
  readonly phase: RunPhase
}

/** The result of a step. */
export interface Stepped {
  readonly metrics: Readonly<Record<string, number>>
  /** Tokens that went through the model, for `num_tokens` and tokens per second. */
  readonly tokens: number
  /** Recorded as trajectories. */
  readonly groups?: ReadonlyArray<RecordedGroup>
  /** Seconds that the step measured itself outside its phases, such as those of an update; by phase. */
  readonly seconds?: Readonly<Record<string, number>>
  /** Shown as progress. */
  readonly shown?: Pick<ProgressStep, "loss" | "reward" | "entropy">
}

/** Callbacks; see {@link Callback}. */
export interface Callbacks<R = never> {
  /** Sees every step before it is written. */
  readonly onStep?: Callback<StepEvent, R>
  /** Sees every evaluation after a step. */
  readonly onEvaluate?: Callback<EvaluateEvent, R>
  /** Sees every checkpoint on the disk; called again by a resume if the process died before it returned. */
  readonly onCheckpoint?: Callback<CheckpointEvent, R>
}

/** `E`, `R`: of a step. `R2`: of callbacks. `E3`, `R3`: of evaluation. */
export interface TrainOptions<E, R, R2 = never, E3 = E, R3 = R> extends Callbacks<R2> {
  readonly steps: number
  /** One step. `undefined`: the data has ended. */
  readonly step: (context: StepContext) => Effect.Effect<Stepped | undefined, E, R>
  /** Measures the policy before the first step, `every` so many steps and at the end. */
  readonly evaluate?: {
    readonly every: number
    readonly run: Effect.Effect<Readonly<Record<string, number>>, E3, R3>
  }
  /** Counters of services, read when a step's metrics are put together: after its evaluation. */
  readonly counters?: Effect.Effect<Readonly<Record<string, number>>, E3, R3>
  /** Steps between checkpoints. Default 50; the last step always has one. */
  readonly checkpointEvery?: number
  /** Steps between records of the trajectories. Default 1; 0 records none. */
  readonly recordEvery?: number
  /** Numbers that callbacks may set. Default: none. A step reads them from `Trainer.set`. */
  readonly settable?: ReadonlyArray<string>
  /** Continue a run that a callback stopped. Default false: it is done. */
  readonly continueStopped?: boolean
}

export interface TrainResult {
  /** Steps done, those before a resume included. */
  readonly steps: number
  /** Why a callback stopped the run. */
  readonly stopped?: string
  /** The evaluation before the first step done now, and the last one. */
  readonly before?: Readonly<Record<string, number>>
  readonly after?: Readonly<Record<string, number>>
}
