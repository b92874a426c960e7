/** The loop of a trainer, and the state that its checkpoints hold. */
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { call, type CallbackError, type Control } from "./callbacks.ts"
import { type Participant, saveAll, versionsOf } from "./participants.ts"
import { type Phases, split } from "./phases.ts"
import { FORMAT, type State } from "./record.ts"
import type { RunError } from "./RunError.ts"
import type { Progress } from "../Progress.ts"
import type { Run } from "../Run.ts"
import type { Stepped, TrainOptions, TrainResult } from "./trainOptions.ts"

type Numbers = Readonly<Record<string, number>>

interface Parts<E, R> {
  readonly run: Run | undefined
  readonly participants: ReadonlyArray<Participant<E, R>>
  /** Services that participants need. */
  readonly context: Context.Context<R>
  readonly progress: Progress
  readonly phases: Phases
}

/** A step whose weights are updated and whose metrics are known: it only has to be written. */
interface Updated {
  readonly stepped: Stepped
  readonly metrics: Numbers
  readonly seconds: Numbers
}

export class LoopControl<E, R> {
  state: State
  readonly #parts: Parts<E, R>
  /** Step of the newest checkpoint. */
  #newest: number
  /** Versions of the participants after the last whole step. */
  #whole: string | undefined
  #updated: Updated | undefined
  #lastSeconds = Number.NaN
  #evaluation: { readonly step: number; readonly metrics: Numbers } | undefined

  constructor(parts: Parts<E, R>) {
    this.#parts = parts
    this.state = parts.run?.resumed?.state ?? { format: FORMAT, step: 0, tokens: 0, set: {} }
    this.#newest = this.state.step
  }

  train<E2, R2, R3>(
    options: TrainOptions<E2, R2, R3>
  ): Effect.Effect<TrainResult, E | E2 | RunError | CallbackError, R2 | R3> {
    const once = Effect.gen({ self: this }, function* () {
      if (options.continueStopped === true) this.#forgetStop()
      const before = yield* this.#evaluate(options)
      // A process that died before its callback returned: the callback has not seen the checkpoint.
      const { resumed } = this.#parts.run ?? {}
      if (this.state.announcing === true && resumed !== undefined) yield* this.#announce(options, resumed.checkpoint)
      this.#whole = yield* this.#versions()
      this.#parts.phases.lap()
      while (this.state.step < options.steps && this.state.stopped === undefined) {
        if (!(yield* this.#step(options))) break
      }
      // The data ended, or `onCheckpoint` stopped the run, between two evaluations.
      if (this.#newest < this.state.step) yield* this.#checkpoint(options)
      if (this.#evaluation?.step !== this.state.step) yield* this.#evaluate(options)
      this.#parts.progress.end()
      const after = this.#evaluation?.metrics
      const { step, stopped } = this.state
      return {
        steps: step,
        ...(stopped === undefined ? {} : { stopped }),
        ...(before === undefined ? {} : { before }),
        ...(after === undefined ? {} : { after })
      }
    })
    return Effect.onExit(once, (exit) => (Exit.isSuccess(exit) ? Effect.void : this.#rescue(options)))
  }

  /** One step. False: the data has ended. */
  #step<E2, R2, R3>(
    options: TrainOptions<E2, R2, R3>
  ): Effect.Effect<boolean, E | E2 | RunError | CallbackError, R2 | R3> {
    return Effect.gen({ self: this }, function* () {
      const { phases } = this.#parts
      const step = this.state.step + 1
      const stepped = yield* options.step({ step: this.state.step, phase: phases.run })
      if (stepped === undefined) return false
      let control: Control = {}
      const add = (more: Control): void => {
        control = { ...control, ...more, set: { ...control.set, ...more.set } }
      }
      const evaluate = Effect.gen({ self: this }, function* () {
        const metrics = yield* phases.run("evaluate", this.#evaluate(options, step))
        if (metrics !== undefined) {
          add(yield* call("onEvaluate", options.onEvaluate, { step, metrics }, options.settable ?? []))
        }
      })
      const due = step === options.steps || (options.evaluate !== undefined && step % options.evaluate.every === 0)
      let failure: CallbackError | undefined
      const attempt = <A, E3, R4>(effect: Effect.Effect<A, E3 | CallbackError, R4>) =>
        Effect.catchIf(
          effect,
          (error): error is CallbackError => isCallbackError(error),
          (error) => Effect.sync(() => void (failure = error))
        )
      if (due) yield* attempt(evaluate)
      const counters = yield* options.counters ?? Effect.succeed({})
      this.#updated = this.#measure(step, stepped, counters, {})
      if (failure === undefined) {
        const event = { step, steps: options.steps, metrics: this.#updated.metrics }
        yield* attempt(Effect.map(call("onStep", options.onStep, event, options.settable ?? []), add))
      }
      if (control.stop !== undefined && !due && failure === undefined) {
        yield* attempt(evaluate)
        this.#updated = this.#measure(step, stepped, counters, this.#updated.seconds)
      }
      const directory = yield* this.#finish(options, this.#updated, control, failure !== undefined)
      if (failure !== undefined) return yield* failure
      this.#show(options, stepped)
      if (directory !== undefined) yield* this.#announce(options, directory)
      return true
    })
  }

  /** All metrics of a step. `earlier` are seconds that were measured before. */
  #measure(step: number, stepped: Stepped, counters: Numbers, earlier: Numbers): Updated {
    const { seconds: own } = this.#parts.phases.lap()
    const lap = Object.keys(earlier).length === 0 ? split(own, stepped.seconds ?? {}) : own
    const seconds: Record<string, number> = { ...earlier }
    for (const [name, value] of Object.entries(lap)) seconds[name] = (seconds[name] ?? 0) + value
    const evaluation = this.#evaluation?.step === step ? this.#evaluation.metrics : {}
    this.#lastSeconds = Object.values(seconds).reduce((sum, value) => sum + value, 0)
    const metrics = {
      step,
      ...stepped.metrics,
      ...counters,
      num_tokens: this.state.tokens + stepped.tokens,
      step_time: this.#lastSeconds,
      ...Object.fromEntries(Object.entries(seconds).map(([name, value]) => [`timing_s/${name}`, value])),
      ...evaluation
    }
    return { stepped, metrics, seconds }
  }

  /** Writes a step and, if due, its checkpoint, whose folder is the result. */
  #finish<E2, R2, R3>(
    options: TrainOptions<E2, R2, R3>,
    { metrics, stepped }: Updated,
    control: Control,
    ending: boolean
  ): Effect.Effect<string | undefined, E | RunError> {
    const { phases, run } = this.#parts
    return Effect.gen({ self: this }, function* () {
      const step = this.state.step + 1
      const last = ending || step === options.steps || control.stop !== undefined
      const { recordEvery = 1 } = options
      if (run !== undefined) {
        yield* phases.run("record", run.metrics(metrics))
        if (stepped.groups !== undefined && recordEvery > 0 && (step % recordEvery === 0 || last)) {
          yield* phases.run("record", run.trajectories(step, stepped.groups))
        }
      }
      this.state = {
        format: FORMAT,
        step,
        tokens: this.state.tokens + stepped.tokens,
        set: { ...this.state.set, ...control.set },
        ...(control.stop === undefined ? {} : { stopped: control.stop })
      }
      this.#updated = undefined
      this.#whole = yield* this.#versions()
      const due = last || step % (options.checkpointEvery ?? 50) === 0
      return due ? yield* this.#checkpoint(options) : undefined
    }).pipe(Effect.uninterruptible)
  }

  #checkpoint<E2, R2, R3>(options: TrainOptions<E2, R2, R3>): Effect.Effect<string | undefined, E | RunError> {
    const { context, participants, phases, run } = this.#parts
    if (run === undefined) return Effect.undefined
    return Effect.suspend(() => {
      if (options.onCheckpoint !== undefined) this.state = { ...this.state, announcing: true }
      return phases.run("checkpoint", run.checkpoint(this.state, saveAll(participants)))
    }).pipe(
      Effect.provideContext(context),
      Effect.tap(() => Effect.sync(() => void (this.#newest = this.state.step))),
      Effect.uninterruptible
    )
  }

  /** Calls `onCheckpoint`, and adds what it asks for to the checkpoint. */
  #announce<E2, R2, R3>(
    options: TrainOptions<E2, R2, R3>,
    directory: string
  ): Effect.Effect<void, RunError | CallbackError, R3> {
    const { run } = this.#parts
    if (run === undefined) return Effect.void
    return Effect.gen({ self: this }, function* () {
      const event = { step: this.state.step, directory }
      const control = yield* call("onCheckpoint", options.onCheckpoint, event, options.settable ?? [])
      if (this.state.announcing === undefined) return
      const { announcing: _, ...state } = this.state
      this.state = {
        ...state,
        set: { ...state.set, ...control.set },
        ...(control.stop === undefined ? {} : { stopped: control.stop })
      }
      yield* run.amend(this.state)
    })
  }

  #evaluate<E2, R2, R3>(
    options: TrainOptions<E2, R2, R3>,
    step = this.state.step
  ): Effect.Effect<Numbers | undefined, E2, R2> {
    if (options.evaluate === undefined) return Effect.undefined
    return Effect.tap(options.evaluate.run, (metrics) => Effect.sync(() => void (this.#evaluation = { step, metrics })))
  }

  #versions(): Effect.Effect<string | undefined, E> {
    const { context, participants, run } = this.#parts
    return run === undefined ? Effect.undefined : Effect.provideContext(versionsOf(participants), context)
  }

  #show<E2, R2, R3>(options: TrainOptions<E2, R2, R3>, { shown, tokens }: Stepped): void {
    const heldOut = this.#evaluation?.metrics["eval_accuracy"]
    this.#parts.progress.step({
      step: this.state.step,
      steps: options.steps,
      tokensPerSecond: tokens / this.#lastSeconds,
      ...shown,
      ...(heldOut === undefined ? {} : { heldOut })
    })
  }

  #forgetStop(): void {
    const { stopped: _, ...state } = this.state
    this.state = state
  }

  /** After an abort or a failure: the last whole step is kept, unless the weights have moved on. */
  #rescue<E2, R2, R3>(options: TrainOptions<E2, R2, R3>): Effect.Effect<void> {
    return Effect.gen({ self: this }, function* () {
      if (this.#updated !== undefined) return yield* this.#finish(options, this.#updated, {}, true)
      if (this.state.step === this.#newest || this.#whole === undefined) return
      if ((yield* this.#versions()) === this.#whole) yield* this.#checkpoint(options)
    }).pipe(
      Effect.catchCause((cause) => Effect.logWarning("no checkpoint could be written", cause)),
      Effect.asVoid
    )
  }
}

const isCallbackError = (error: unknown): error is CallbackError =>
  typeof error === "object" && error !== null && "_tag" in error && error._tag === "CallbackError"
