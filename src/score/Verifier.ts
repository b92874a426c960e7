/**
 * Judges one trajectory of one task.
 *
 * A verdict is a score with a reason, or *unscorable* if the infrastructure failed. An unscorable verdict is retried,
 * then left out of the group's baseline and counted. It never becomes a silent 0.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import type { Task } from "../data/Task.ts"
import type { Trajectory } from "../rollout/Trajectory.ts"
import { outcome, type Outcome, unscorable, type UnscorableKind, type Verdict } from "./outcome.ts"
import type { VerifierPool, WorkerVerifier } from "./VerifierPool.ts"

export { outcome, unscorable } from "./outcome.ts"
export type { Outcome, Scored, Unscorable, UnscorableKind, Verdict } from "./outcome.ts"
export type { WorkerVerifier } from "./VerifierPool.ts"

export interface VerifierInput<out Data = unknown> {
  readonly task: Task<Data>
  readonly trajectory: Trajectory
  /** Aborted at the verifier's deadline and when the run is interrupted. */
  readonly signal: AbortSignal
}

/**
 * A verifier function: sync, async or Effect. A throw, a rejection or a failure is unscorable, because judging failed,
 * not the policy.
 */
export interface VerifierFunction<Data = any, R = never> {
  (input: VerifierInput<Data>): Verdict | Promise<Verdict> | Effect.Effect<Verdict, unknown, R>
  /** Milliseconds of one verdict. Default: the stage's deadline. See {@link withDeadline}. */
  readonly deadline?: number
}

/**
 * A verifier: a function on the main thread, or a {@link WorkerVerifier} in the pool.
 *
 * A function is cheap, but its deadline takes effect only while it awaits; one that never yields blocks the run. In the
 * pool a deadline ends even an endless loop.
 */
export type Verifier<Data = any, R = never> =
  | VerifierFunction<Data, R>
  | (VerifierPool extends R ? WorkerVerifier<Data> : never)

/**
 * Names a verifier that runs in the pool.
 *
 * With `options` the export is a factory `(options) => VerifierFunction`, called once per worker. Without, it is the
 * verifier function itself. `options` must be cloneable data.
 *
 * @example
 * ```ts
 * const proof = Verifier.worker({ module: new URL("./proof.ts", import.meta.url), options: { strict: true } })
 * const reward = Reward.all({ proof, brevity: Reward.weight(0.1, ({ trajectory }) => 1 / trajectory.text.length) })
 * ```
 */
export const worker = <Data = any>(spec: {
  /** A file URL, such as `new URL("./proof.ts", import.meta.url)` or `import.meta.resolve("quintain/rewards")`. */
  readonly module: URL | string
  /** Default `"default"`. */
  readonly export?: string
  readonly options?: unknown
  /** Milliseconds of one call. Default: the pool's deadline. */
  readonly deadline?: number
}): WorkerVerifier<Data> => ({
  _tag: "WorkerVerifier",
  module: String(spec.module),
  export: spec.export ?? "default",
  ...(spec.options === undefined ? {} : { options: spec.options }),
  ...(spec.deadline === undefined ? {} : { deadline: spec.deadline })
})

/**
 * Gives a verifier its own deadline in milliseconds, in place of the stage's (`Reward.score`).
 *
 * Use it for a verifier that first waits for a sandbox or a judge, and has its own clocks afterwards.
 *
 * @example
 * ```ts
 * const slow = Verifier.withDeadline(60_000, async ({ trajectory, signal }) => {
 *   const answer = await fetch("http://localhost:8080/score", { method: "POST", body: trajectory.text, signal })
 *   return Number(await answer.text())
 * })
 * ```
 */
export const withDeadline = <Data, R>(
  deadline: number,
  verifier: (input: VerifierInput<Data>) => ReturnType<VerifierFunction<Data, R>>
): VerifierFunction<Data, R> => Object.assign(verifier, { deadline })

/**
 * Runs a verifier function on the main thread, and never fails.
 *
 * A passed deadline (milliseconds), a throw and an invalid verdict are outcomes. `input.signal` aborts at the deadline
 * and on interruption.
 */
export const run = <Data, R>(
  verifier: VerifierFunction<Data, R>,
  input: Omit<VerifierInput<Data>, "signal">,
  deadline: number
): Effect.Effect<Outcome, never, R> =>
  invoke(
    (signal) => verifier({ ...input, signal }),
    deadline,
    (verdict) => outcome(verdict, input.trajectory),
    unscorable
  )

/** Runs any function that judges like {@link run}. Terms of a whole group use it. */
export const invoke = <A, B, R>(
  call: (signal: AbortSignal) => A | Promise<A> | Effect.Effect<A, unknown, R>,
  deadline: number,
  onValue: (value: A) => B,
  onFault: (reason: string, kind: UnscorableKind) => B
): Effect.Effect<B, never, R> =>
  Effect.suspend(() => {
    const controller = new AbortController()
    return Effect.suspend((): Effect.Effect<A, unknown, R> => {
      const value = call(controller.signal)
      if (Effect.isEffect(value)) return value as Effect.Effect<A, unknown, R>
      return value instanceof Promise ? Effect.promise(() => value) : Effect.succeed(value as A)
    }).pipe(
      Effect.map(onValue),
      Effect.timeoutOrElse({
        duration: deadline,
        orElse: () => Effect.succeed(onFault(`no verdict within ${deadline} ms`, "timeout"))
      }),
      Effect.catchCause((cause) =>
        Cause.hasInterrupts(cause)
          ? Effect.failCause(cause as Cause.Cause<never>)
          : Effect.succeed(onFault(`the verifier failed: ${faultOf(Cause.squash(cause))}`, "error"))
      ),
      Effect.ensuring(Effect.sync(() => controller.abort()))
    )
  })

const faultOf = (fault: unknown): string => {
  try {
    return String(fault).slice(0, 1000)
  } catch {
    return "it threw something that has no text"
  }
}
