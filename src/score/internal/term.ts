/** Parts of a reward, and the scored groups that it produces. */
import type * as Effect from "effect/Effect"
import type { Task } from "../../data/Task.ts"
import type { EnvironmentError } from "../../rollout/Environment.ts"
import type { Trajectory } from "../../rollout/Trajectory.ts"
import type { Outcome, Verdict } from "../outcome.ts"
import type { Verifier, VerifierFunction, WorkerVerifier } from "../Verifier.ts"

export interface ScoredTrajectory {
  readonly trajectory: Trajectory
  /** Reward, or `undefined` if unscorable: then it is left out of the group's baseline and counted. */
  readonly reward: number | undefined
  /** The outcome of each verifier, by its name in the composition. `/` joins the names of nested rewards. */
  readonly outcomes: Readonly<Record<string, Outcome>>
  /** One number per policy token, in their order in the trajectory; sums to `reward`. */
  readonly tokenRewards?: Float64Array
  /** Metrics of the verifiers besides the score, as `{name}/{metric}`. */
  readonly metrics: Readonly<Record<string, number>>
  /** The cost of each verdict: seconds of the last attempt, and attempts. */
  readonly timings?: Readonly<Record<string, { readonly seconds: number; readonly attempts: number }>>
}

export interface ScoredGroup<out Data = unknown> {
  readonly task: Task<Data>
  /** Trajectories in the group's order. */
  readonly trajectories: ReadonlyArray<ScoredTrajectory>
  /** Draw of the task stream, as in `Group`. */
  readonly cursor?: number
  readonly failures?: ReadonlyArray<EnvironmentError>
}

/** Scores all trajectories of a group at once: one verdict each, in their order. */
export type GroupFunction<Data = any, R = never> = (input: {
  readonly task: Task<Data>
  readonly trajectories: ReadonlyArray<Trajectory>
  readonly signal: AbortSignal
}) => ReadonlyArray<Verdict> | Promise<ReadonlyArray<Verdict>> | Effect.Effect<ReadonlyArray<Verdict>, unknown, R>

/** A part of `Reward.all`. A bare verifier is a term of weight 1. */
export type Part<Data = any, R = never> = Verifier<Data, R> | Term<Data, R>

/** A part and its role. `R` is what its effects need; it holds `VerifierPool` when a part runs in the pool. */
export interface Term<Data = any, R = never> {
  readonly _tag: "Term"
  readonly role: "weight" | "gate" | "metric"
  readonly weight: number
  readonly judge: Judge
  readonly "~data"?: (data: Data) => void
  readonly "~services"?: () => R
}

/** A composition of named parts; itself a term of weight 1, so rewards nest. */
export type Reward<Data = any, R = never> = Term<Data, R>

export type Judge =
  | { readonly _tag: "Single"; readonly verifier: VerifierFunction<any, any> | WorkerVerifier }
  | { readonly _tag: "Group"; readonly verifier: GroupFunction<any, any> }
  | { readonly _tag: "All"; readonly terms: ReadonlyArray<readonly [name: string, term: Term<any, any>]> }

export const asTerm = (part: Part<any, any>): Term<any, any> =>
  typeof part === "function" || part._tag === "WorkerVerifier"
    ? { _tag: "Term", role: "weight", weight: 1, judge: { _tag: "Single", verifier: part } }
    : part
