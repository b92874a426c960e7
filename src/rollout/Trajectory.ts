/**
 * What happened in one episode, as token ids with the log-probability and the producer of each. Masks come from
 * `producer`, never from comparing ids; `text` is derived from the ids, never the reverse.
 */
import type { EnvironmentError } from "./Environment.ts"
import type { Task } from "../data/Task.ts"

/** Who produced a token. Only `Policy` tokens are ever trained on. */
export const Producer = { Template: 0, Environment: 1, Policy: 2 } as const
export type Producer = (typeof Producer)[keyof typeof Producer]

/**
 * Why an episode ended: the policy ended its turn (`stop`) and the environment had nothing to add, a turn or token
 * limit (`length`), the model's context was full (`context`), the environment ended it (`environment`).
 */
export type StopReason = "stop" | "length" | "context" | "environment"

export interface Trajectory {
  readonly taskId: string
  /** Position within its group, 0 to G-1; with the task and the run's seed it keys the random numbers. */
  readonly index: number
  /** All tokens of the episode: prompt, policy turns, observations. */
  readonly tokens: Uint32Array
  /** {@link Producer} of each token. */
  readonly producer: Uint8Array
  /** Log-probability of each policy token at the sampling temperature; 0 at every other token. */
  readonly logprobs: Float32Array
  /** The first `promptLength` tokens were given, and are shared by the whole group. */
  readonly promptLength: number
  readonly stopReason: StopReason
  /** Text of everything after the prompt. */
  readonly text: string
  /** Text of each policy turn, in order. A single-turn episode has one. */
  readonly turns: ReadonlyArray<string>
  /** What the environment wants its verifiers to see (final state, tool log): plain, cloneable data. */
  readonly info: Readonly<Record<string, unknown>>
  readonly metrics: Readonly<Record<string, number>>
  readonly seconds: { readonly sample: number; readonly environment: number }
  /** Version of the weights that sampled the first policy token; staleness is the difference at the update. */
  readonly policyVersion: number
}

/** How many tokens of the trajectory the policy produced. */
export const policyTokens = (trajectory: Trajectory): number => {
  let count = 0
  for (const producer of trajectory.producer) if (producer === Producer.Policy) count++
  return count
}

/** The G trajectories of one task: the unit on which group-relative advantages are computed. */
export interface Group<out Data = unknown> {
  readonly task: Task<Data>
  /** In the order of their index; fewer than asked for when an environment failed. */
  readonly trajectories: ReadonlyArray<Trajectory>
  /** Which draw of the task stream this is: a task drawn again has another cursor, hence other random numbers. */
  readonly cursor?: number
  /** Why trajectories are missing: their environment failed, retries included. */
  readonly failures?: ReadonlyArray<EnvironmentError>
}
