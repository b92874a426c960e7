/** A composition of verifiers, and the stage that scores groups with it. */
import type { Task } from "./Task.ts"
import type { Trajectory } from "./Trajectory.ts"
import type { Outcome } from "./Verifier.ts"

export interface ScoredTrajectory {
  readonly trajectory: Trajectory
  /** `undefined`: unscorable, to be left out of the group's baseline and counted. */
  readonly reward: number | undefined
  /** What each verifier said, by its name in the composition. */
  readonly outcomes: Readonly<Record<string, Outcome>>
  /** One number per policy token, in their order in the trajectory; sums to `reward`. */
  readonly tokenRewards?: Float64Array
  readonly metrics: Readonly<Record<string, number>>
}

export interface ScoredGroup<out Data = unknown> {
  readonly task: Task<Data>
  /** In the order of the group's trajectories. */
  readonly trajectories: ReadonlyArray<ScoredTrajectory>
}
