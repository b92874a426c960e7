/**
 * Judges one trajectory of one task. Three outcomes, not two: a score with a reason, or *unscorable* when the fault is
 * the infrastructure's. Unscorable is retried, then left out of the group's baseline and counted; never a silent 0.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { Task } from "../data/Task.ts"
import { Producer, type Trajectory } from "../rollout/Trajectory.ts"
import type { VerifierPool } from "./VerifierPool.ts"

export interface Scored {
  readonly _tag: "Scored"
  readonly score: number
  readonly reason?: string
  readonly metrics?: Readonly<Record<string, number>>
  /** Where the score was earned: one number per policy token, summing to `score`. Advantages by token use it. */
  readonly tokenScores?: ReadonlyArray<number>
}

/**
 * Why there is no score: the verifier's deadline passed (`timeout`), its worker died (`crash`), it threw or failed
 * (`error`), it returned something that is no verdict, such as NaN (`verdict`), or it said so itself (`declared`).
 */
export type UnscorableKind = "timeout" | "crash" | "error" | "verdict" | "declared"

export interface Unscorable {
  readonly _tag: "Unscorable"
  readonly reason: string
  readonly kind?: UnscorableKind
}

export type Outcome = Scored | Unscorable

/** What a verifier function may return; a bare number is a score without a reason. */
export type Verdict = number | Omit<Scored, "_tag"> | Unscorable

export interface VerifierInput<out Data = unknown> {
  readonly task: Task<Data>
  readonly trajectory: Trajectory
  /** Aborted at the verifier's deadline and when the run is interrupted. */
  readonly signal: AbortSignal
}

/** Sync, async or Effect. A throw, a rejection or a failure is unscorable: judging failed, not the policy. */
export interface VerifierFunction<Data = any, R = never> {
  (input: VerifierInput<Data>): Verdict | Promise<Verdict> | Effect.Effect<Verdict, unknown, R>
  /** Milliseconds of one verdict; by default the stage's. See {@link withDeadline}. */
  readonly deadline?: number
}

/** A verifier that runs in the {@link VerifierPool}, named by module and export. Make it with {@link worker}. */
export interface WorkerVerifier<in Data = any> {
  readonly _tag: "WorkerVerifier"
  /** File URL of the module. */
  readonly module: string
  readonly export: string
  /** Given: the export is a factory, called once per worker with it. Absent: the export is the verifier function. */
  readonly options?: unknown
  /** Milliseconds of one call; by default the pool's. */
  readonly deadline?: number
  readonly "~data"?: (data: Data) => void
}

/**
 * A function runs on the main thread: cheap, but a deadline can end it only while it awaits; one that never yields
 * blocks the run. A {@link WorkerVerifier} runs in the pool, where a deadline ends even an endless loop.
 */
export type Verifier<Data = any, R = never> =
  | VerifierFunction<Data, R>
  | (VerifierPool extends R ? WorkerVerifier<Data> : never)

/**
 * Names a verifier that runs in the pool. With `options` the export is a factory `(options) => VerifierFunction`,
 * called once per worker; without, it is the verifier function itself. `options` must be cloneable data.
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
  /** Milliseconds of one call; by default the pool's. */
  readonly deadline?: number
}): WorkerVerifier<Data> => ({
  _tag: "WorkerVerifier",
  module: String(spec.module),
  export: spec.export ?? "default",
  ...(spec.options === undefined ? {} : { options: spec.options }),
  ...(spec.deadline === undefined ? {} : { deadline: spec.deadline })
})

/**
 * States a verifier's own deadline in milliseconds, in place of the stage's (`Reward.score`): for one that waits for its turn
 * at something, such as a sandbox or a judge, and keeps clocks of its own once it has it.
 *
 * @example
 * ```ts
 * const slow = Verifier.withDeadline(60_000, async ({ trajectory, signal }) => (await ask(trajectory.text, signal)).score)
 * ```
 */
export const withDeadline = <Data, R>(
  deadline: number,
  verifier: (input: VerifierInput<Data>) => ReturnType<VerifierFunction<Data, R>>
): VerifierFunction<Data, R> => Object.assign(verifier, { deadline })

/** A verdict that says that there is none: the trajectory is retried, then left out of the baseline and counted. */
export const unscorable = (reason: string, kind: UnscorableKind = "declared"): Unscorable => ({
  _tag: "Unscorable",
  reason,
  kind
})

const Verdict = Schema.Union([
  Schema.Finite,
  Schema.Struct({ _tag: Schema.Literal("Unscorable"), reason: Schema.String }),
  Schema.Struct({
    score: Schema.Finite,
    reason: Schema.optionalKey(Schema.String),
    metrics: Schema.optionalKey(Schema.Record(Schema.String, Schema.Finite)),
    tokenScores: Schema.optionalKey(Schema.Array(Schema.Finite))
  })
])
const decodeVerdict = Schema.decodeUnknownResult(Verdict)

/**
 * Turns what a verifier returned into an outcome. Anything that is no verdict (NaN, Infinity, a string, token scores
 * of the wrong length or sum) is unscorable and says why: it is a fault of the verifier, never a 0 for the policy.
 */
export const outcome = (verdict: unknown, trajectory: Trajectory): Outcome => {
  if (typeof verdict === "number" && Number.isFinite(verdict)) return { _tag: "Scored", score: verdict }
  // undefined optional fields are absent fields: what JavaScript callers mean by them
  const decoded = decodeVerdict(withoutUndefined(verdict))
  if (Result.isFailure(decoded)) {
    return unscorable(`the verifier returned no verdict: ${describe(verdict)}`, "verdict")
  }
  const value = decoded.success
  if (typeof value === "number") return { _tag: "Scored", score: value }
  if ("_tag" in value) return unscorable(value.reason)
  if (value.tokenScores !== undefined) {
    const expected = policyTokens(trajectory)
    if (value.tokenScores.length !== expected) {
      return unscorable(`${value.tokenScores.length} token scores for ${expected} policy tokens`, "verdict")
    }
    const sum = value.tokenScores.reduce((total, score) => total + score, 0)
    if (Math.abs(sum - value.score) > 1e-6 * Math.max(1, Math.abs(value.score))) {
      return unscorable(`token scores sum to ${sum}, the score is ${value.score}`, "verdict")
    }
  }
  return { _tag: "Scored", ...value }
}

/** How many tokens of the trajectory the policy produced. */
export const policyTokens = (trajectory: Trajectory): number => {
  let count = 0
  for (const producer of trajectory.producer) if (producer === Producer.Policy) count++
  return count
}

/**
 * Runs a verifier function on the main thread and never fails: deadline (milliseconds), throws and wrong verdicts are
 * outcomes. `input.signal` aborts at the deadline and on interruption.
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

/** The same for any function that judges: what a group-level term needs. */
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

const describe = (value: unknown): string => {
  if (typeof value !== "object" || value === null) return String(value).slice(0, 100)
  if ("score" in value && typeof value.score === "number" && !Number.isFinite(value.score))
    return `score ${value.score}`
  try {
    return JSON.stringify(value).slice(0, 200)
  } catch {
    return "an object"
  }
}

const withoutUndefined = (value: unknown): unknown =>
  typeof value === "object" && value !== null && !Array.isArray(value)
    ? Object.fromEntries(Object.entries(value).filter(([, field]) => field !== undefined))
    : value
