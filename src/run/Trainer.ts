/**
 * The loop of every training run: open or resume, step, evaluate, record, checkpoint, show progress, stop. `Grpo.train` and
 * `Sft.train` are compositions on top of it; so is a loop of your own.
 *
 * A step goes in this order: update; evaluate, if due; `onStep`, which sees all metrics; metrics; trajectories; checkpoint,
 * if due or stopping; `onCheckpoint`. A stop by a callback is evaluated before its metrics are written.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as path from "node:path"
import * as Capabilities from "../engine/Capabilities.ts"
import { EngineError } from "../engine/EngineError.ts"
import { Policy } from "../engine/Policy.ts"
import type { Need } from "../learn/lossContract.ts"
import { LoopControl } from "./internal/loop.ts"
import type { CallbackError } from "./internal/callbacks.ts"
import { loadAll, type Participant } from "./internal/participants.ts"
import { phases } from "./internal/phases.ts"
import type { RunRecord } from "./internal/record.ts"
import * as Progress from "./Progress.ts"
import * as Run from "./Run.ts"
import type { TrainOptions, TrainResult } from "./internal/trainOptions.ts"

export { CallbackError } from "./internal/callbacks.ts"
export type { Callback, CheckpointEvent, Control, EvaluateEvent, StepEvent } from "./internal/callbacks.ts"
export { type Participant, policy, reference, state } from "./internal/participants.ts"
export type { RunPhase } from "./internal/phases.ts"
export type { Callbacks, StepContext, Stepped, TrainOptions, TrainResult } from "./internal/trainOptions.ts"

export interface OpenOptions<P extends Participant<any, any>> {
  /** The run directory; a run found there is resumed. Default: none, nothing is written. */
  readonly directory?: string
  readonly record: RunRecord
  /** Fields of the record that a resume may change. Versions and the model's name always may. */
  readonly mayChange?: ReadonlyArray<string>
  /** The parts of a checkpoint, in the order in which they are saved and loaded. */
  readonly participants: ReadonlyArray<P>
  /** Needs of the loss, checked against the policy in context before anything is sampled. Default: none. */
  readonly needs?: ReadonlyArray<Need>
  /** Checkpoints to keep. Default 2. */
  readonly keep?: number
  /** Default: none is shown. */
  readonly progress?: Progress.Progress
}

/** An open run. `EP` is what its participants fail with. */
export interface Trainer<out EP = never> {
  /** Undefined without a directory. */
  readonly run: Run.Run | undefined
  /** Steps done before. */
  readonly step: number
  /** Values that callbacks have set so far. */
  readonly set: () => Readonly<Record<string, number>>
  /** A learning rate for `Update.make` that callbacks may replace, under the name `learningRate`. */
  readonly learningRate: (scheduled: number | ((step: number) => number)) => (step: number) => number
  /** Keeps what a skipped update was computed from; for `dump` of `Update.make`. */
  readonly dump: (dump: { readonly step: number }) => Effect.Effect<void>
  /**
   * Trains until `steps` are done, the data ends or a callback stops. An abort or a failure leaves a checkpoint of the last
   * whole step, if the weights are still those of that step.
   */
  readonly train: <E, R, R2 = never, E3 = never, R3 = never>(
    options: TrainOptions<E, R, R2, E3, R3>
  ) => Effect.Effect<TrainResult, E | E3 | EP | Run.RunError | CallbackError, R | R2 | R3>
}

/**
 * Opens a run, or resumes the one that the directory holds: participants load what they saved.
 *
 * @example
 * ```ts
 * import * as Effect from "effect/Effect"
 * import * as Schema from "effect/Schema"
 * import { Record, Trainer } from "quintain"
 *
 * const program = Effect.gen(function* () {
 *   let sum = 0
 *   const total = Trainer.state("sum", Schema.Int, { get: () => sum, set: (value) => (sum = value) })
 *   const record = yield* Record.make({ name: "count", settings: { seed: 1 } })
 *   const trainer = yield* Trainer.open({ directory: "runs/mine", record, participants: [total] })
 *   yield* trainer.train({
 *     steps: 100,
 *     step: ({ step }) => Effect.sync(() => ({ metrics: { sum: (sum += step) }, tokens: 1 }))
 *   })
 * }).pipe(Effect.scoped)
 * ```
 */
export const open = <P extends Participant<any, any>>(
  options: OpenOptions<P>
): Effect.Effect<Trainer<ErrorOf<P>>, ErrorOf<P> | EngineError | Run.RunError, ServicesOf<P> | Scope.Scope> =>
  opened<ErrorOf<P>, ServicesOf<P>>(options)

type ErrorOf<P> = P extends Participant<infer E, any> ? E : never
type ServicesOf<P> = P extends Participant<any, infer R> ? R : never

/** Fails if the policy in context cannot compute what the loss needs. */
const checkNeeds = Effect.fnUntraced(function* (needs: ReadonlyArray<Need>) {
  const policy = yield* Effect.serviceOption(Policy)
  const engine = Option.isSome(policy) ? policy.value.info.engine : "none"
  const lacking = Option.isSome(policy) ? Capabilities.missing(policy.value.capabilities, needs) : needs
  if (lacking.length === 0) return
  const what = lacking.join(" and ")
  const detail = `the loss needs ${what}, which the engine "${engine}" does not have; choose another engine or loss`
  return yield* new EngineError({ operation: "open", reason: { _tag: "Unsupported", what, engine, detail } })
})

const opened = Effect.fn("Trainer.open")(function* <E, R>(
  options: OpenOptions<Participant<E, R>>
): Effect.fn.Return<Trainer<E>, E | EngineError | Run.RunError, R | Scope.Scope> {
  const { directory, mayChange, participants, progress = Progress.silent, record } = options
  yield* checkNeeds(options.needs ?? [])
  const context = yield* Effect.context<R>()
  const run =
    directory === undefined
      ? undefined
      : yield* Run.open({
          directory,
          record,
          ...(mayChange === undefined ? {} : { mayChange }),
          ...(options.keep === undefined ? {} : { keep: options.keep })
        })
  const resumed = run?.resumed
  const ready = (participant: Participant<E, R>) => participant.ready ?? Effect.void
  for (const participant of participants.filter(({ when }) => when === "once")) {
    if (run !== undefined) {
      yield* resumed === undefined
        ? run.once(participant.name, participant.save)
        : participant.load(path.join(run.directory, participant.name))
    }
    yield* ready(participant)
  }
  if (run !== undefined && resumed !== undefined) {
    yield* loadAll(participants, resumed.checkpoint)
    progress.note(`resumed ${run.directory} after step ${resumed.state.step}`)
    if (run.opaque.length > 0) {
      progress.note(`cannot tell whether these are what they were: ${run.opaque.join(", ")}. Give them an Identity.`)
    }
  }
  for (const participant of participants.filter(({ when }) => when !== "once")) yield* ready(participant)

  const loop = new LoopControl({ run, participants, context, progress, phases: phases() })
  return {
    run,
    step: loop.state.step,
    set: () => loop.state.set,
    learningRate: (scheduled) => (step) =>
      loop.state.set["learningRate"] ?? (typeof scheduled === "number" ? scheduled : scheduled(step)),
    dump: (dump) => (run === undefined ? Effect.void : Effect.ignore(run.skipped(dump.step, dump))),
    train: <E2, R2, R3, E4, R4>(given: TrainOptions<E2, R2, R3, E4, R4>) => loop.train<E2 | E4, R2 | R4, R3>(given)
  }
})
