/** Options that verifiers of texts share. */
import type { Task } from "../../src/data/Task.ts"
import { policyText, type Trajectory } from "../../src/rollout/Trajectory.ts"

export interface TextOptions {
  /** The text that is judged. Default: what the policy wrote, all turns. */
  readonly text?: (trajectory: Trajectory) => string
}

export const textOf = (options: TextOptions, trajectory: Trajectory): string => (options.text ?? policyText)(trajectory)

/** A value, or how a task says it. */
export type ByTask<A, Data> = A | ((task: Task<Data>) => A)

export const byTask = <A, Data>(value: ByTask<A, Data>, task: Task<Data>): A =>
  typeof value === "function" ? (value as (task: Task<Data>) => A)(task) : value
