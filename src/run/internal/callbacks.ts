/** Callbacks of a run, and what they may ask of it. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

/** The requests that a callback may return. The next checkpoint holds them, so a resumed run has them. */
export interface Control {
  /** Ends the run after this step, with this reason. */
  readonly stop?: string
  /** Numbers for the steps to come, such as `learningRate`. */
  readonly set?: Readonly<Record<string, number>>
}

/** Sync, a promise or an Effect. It is awaited. If it throws, rejects or fails, the run fails after a checkpoint. */
export type Callback<in A, out R = never> = (
  event: A
) => void | Control | Promise<void | Control> | Effect.Effect<void | Control, unknown, R>

/** A step is done; its weights are updated, and nothing of it is written yet. */
export interface StepEvent {
  /** Steps done. */
  readonly step: number
  readonly steps: number
  /** All that is written of the step, by the names of `Metrics`. */
  readonly metrics: Readonly<Record<string, number>>
}

export interface EvaluateEvent {
  readonly step: number
  readonly metrics: Readonly<Record<string, number>>
}

export interface CheckpointEvent {
  readonly step: number
  /** Holds the policy's files. It is removed when newer ones have come. */
  readonly directory: string
}

/** A callback threw, rejected, failed, or asked for what the run does not know. */
export class CallbackError extends Schema.TaggedError<CallbackError>()("CallbackError", {
  callback: Schema.String,
  step: Schema.Int,
  cause: Schema.Defect()
}) {
  override get message(): string {
    return `${this.callback} of step ${this.step} failed: ${this.cause instanceof Error ? this.cause.message : String(this.cause)}`
  }
}

export const call = <A extends { readonly step: number }, R>(
  name: string,
  callback: Callback<A, R> | undefined,
  event: A,
  settable: ReadonlyArray<string>
): Effect.Effect<Control, CallbackError, R> => {
  if (callback === undefined) return Effect.succeed({})
  const failed = (cause: unknown) => new CallbackError({ callback: name, step: event.step, cause })
  return Effect.try({ try: () => callback(event), catch: failed }).pipe(
    Effect.flatMap((answer): Effect.Effect<void | Control, CallbackError, R> => {
      if (Effect.isEffect(answer)) return Effect.mapError(answer, failed)
      return answer instanceof Promise
        ? Effect.tryPromise({ try: () => answer, catch: failed })
        : Effect.succeed(answer)
    }),
    Effect.flatMap((answer) => {
      const control = answer ?? {}
      for (const [key, value] of Object.entries(control.set ?? {})) {
        if (settable.includes(key) && Number.isFinite(value)) continue
        const expected = settable.length === 0 ? "nothing" : `a finite number for ${settable.join(", ")}`
        return Effect.fail(
          failed(new RangeError(`set.${key} is ${value}; expected ${expected}. Correct the callback.`))
        )
      }
      return Effect.succeed(control)
    })
  )
}
