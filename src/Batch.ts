/** The groups of one update: collected, filtered with a bound, given their advantages; and packed for the policy. */
import type * as Stream from "effect/Stream"
import type { Advantage, AdvantagedGroup } from "./Advantage.ts"
import type { Pack, PackOptions } from "./Pack.ts"
import type { ScoredGroup } from "./Reward.ts"
import type { Drawn } from "./Task.ts"

/** What was drawn for a batch and not used, by reason; in groups, except the last two. */
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
  /** Groups drawn for this batch, used or not. */
  readonly drawn: number
  readonly dropped: Dropped
  /** Of the groups used, how many are of constant reward: they fill up a batch when the bound on draws was reached. */
  readonly constant: number
  /** Cursor of the first task not yet drawn: where a resumed run continues. Present in batches made by `rounds`. */
  readonly next?: number
}

export interface CollectOptions {
  /** Groups in a batch. */
  readonly groups: number
  readonly advantage?: Advantage
  /** Leave out groups of constant reward and draw others (DAPO's dynamic sampling). Default true. */
  readonly dropConstant?: boolean
  /** Most groups drawn for a batch, as a multiple of `groups`. Default 10. */
  readonly maxDraws?: number
  /** A constant group whose reward is above this counts as all good. Default 0.5. */
  readonly good?: number
}

/**
 * Collects batches by rounds: each round draws tasks, runs them through `pipeline` to the end, and the next starts when
 * a batch is asked for. Nothing is sampled while the policy is being updated, so every batch is on-policy and a resumed
 * run repeats it bit for bit; inside a round generation and scoring overlap.
 */
export declare const rounds: <Data, E2, R2>(
  options: CollectOptions,
  pipeline: (draws: Stream.Stream<Drawn<Data>>) => Stream.Stream<ScoredGroup<Data>, E2, R2>
) => <E, R>(draws: Stream.Stream<Drawn<Data>, E, R>) => Stream.Stream<Batch<Data>, E | E2, R | R2>

/** The plain stage: takes groups as they come. What runs upstream may be ahead of the policy by its concurrency. */
export declare const collect: (
  options: CollectOptions
) => <Data, E, R>(groups: Stream.Stream<ScoredGroup<Data>, E, R>) => Stream.Stream<Batch<Data>, E, R>

export declare const pack: (
  batch: Pick<Batch, "groups">,
  options: PackOptions & { readonly maskTruncated?: boolean }
) => ReadonlyArray<Pack>

/** `reward`, `reward_std`, `frac_reward_zero_std`, `completions/*`, `rewards/{verifier}/mean`, ... (TRL's names). */
export declare const metrics: (batch: Batch) => Record<string, number>
