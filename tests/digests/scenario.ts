/** Common parts of all scenarios. */
import type * as Effect from "effect/Effect"

export interface RunOptions {
  /** An empty folder, or the one that a killed process left. */
  readonly root: string
  /** Step after which the process ends itself. */
  readonly killAfter?: number
}

export interface Scenario {
  readonly name: string
  /** Runs in `npm test` too. */
  readonly quick: boolean
  /** Its numbers depend on more than the instruction set; no expected value is committed. */
  readonly thisMachineOnly?: boolean
  /** A first process is killed after this step; a second one resumes. */
  readonly killAfter?: number
  /** Trains, and gives the run directories whose digests are taken. */
  readonly run: (options: RunOptions) => Effect.Effect<ReadonlyArray<string>, unknown>
}
