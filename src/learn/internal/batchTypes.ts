/** A batch: the groups of one update, and what was left out of it. */
import type { ScoredGroup } from "../../score/Reward.ts"
import type { AdvantagedGroup } from "../Advantage.ts"

/** Why groups of a batch were not used, in groups; and what its groups lost, in trajectories. */
export interface Dropped {
  /** Every reward the same and good. */
  readonly allGood: number
  /** Every reward the same and not good. */
  readonly allBad: number
  /** No trajectory could be scored, or none survived its environment. */
  readonly unscorable: number
  /** Trajectories whose reward is missing. */
  readonly unscorableTrajectories: number
  /** Trajectories that their environment lost. */
  readonly failedTrajectories: number
}

export interface Batch<out Data = unknown> {
  readonly groups: ReadonlyArray<AdvantagedGroup<Data>>
  /** Drawn for this batch and not used; metrics look at them too, or a filter would flatter the reward. */
  readonly unused: ReadonlyArray<ScoredGroup<Data>>
  /** Groups drawn for this batch, used or not. */
  readonly drawn: number
  readonly dropped: Dropped
  /** Groups that were used though their rewards are all the same, so that they teach nothing. */
  readonly constant: number
  /** Cursor of the first task not yet drawn: where a resumed run continues. Present in batches made by `rounds`. */
  readonly next?: number
}
