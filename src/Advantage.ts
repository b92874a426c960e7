/**
 * Credit for each trajectory (or each of its policy tokens), from the rewards of its group or of the whole batch. An
 * `Advantage` is a pure function of a batch's groups. Unscorable trajectories are left out of every baseline and get 0.
 */
import type { ScoredGroup } from "./Reward.ts"

export interface AdvantagedGroup<out Data = unknown> extends ScoredGroup<Data> {
  /** Of each trajectory: a number for all its policy tokens, or one per policy token. 0 for unscorable ones. */
  readonly advantages: ReadonlyArray<number | Float64Array>
}

export interface Advantage {
  <Data>(groups: ReadonlyArray<ScoredGroup<Data>>): ReadonlyArray<AdvantagedGroup<Data>>
}

export declare const groupRelative: (
  options?: { readonly scale?: "std" | "none" | "batch"; readonly epsilon?: number }
) => Advantage
export declare const rloo: () => Advantage
export declare const tokenLevel: (options?: { readonly gamma?: number; readonly scale?: "std" | "none" }) => Advantage
