/**
 * Judges one trajectory of one task. Three outcomes, not two: a score with a reason, or *unscorable* when the fault is
 * the infrastructure's. Unscorable is retried, then left out of the group's baseline and counted; never a silent 0.
 */
import type * as Effect from "effect/Effect"
import type { Task } from "./Task.ts"
import type { Trajectory } from "./Trajectory.ts"

export interface Scored {
  readonly _tag: "Scored"
  readonly score: number
  readonly reason?: string
  readonly metrics?: Readonly<Record<string, number>>
  /** Where the score was earned: one number per policy token, summing to `score`. Advantages by token use it. */
  readonly tokenScores?: ReadonlyArray<number>
}

export interface Unscorable {
  readonly _tag: "Unscorable"
  readonly reason: string
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
export type VerifierFunction<Data = any, R = never> = (
  input: VerifierInput<Data>
) => Verdict | Promise<Verdict> | Effect.Effect<Verdict, unknown, R>
