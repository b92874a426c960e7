/** Keys and values of the sequences in flight. */
import type { Feeds, Tensor } from "../worker/device.ts"
import type { Layout, Slot } from "./slotLayout.ts"

/** Positions in the cache from `at` on. */
export type Place =
  | { readonly region: "shared"; readonly gridRow: number; readonly at: number }
  | ({ readonly region: "own"; readonly at: number } & Slot)

export interface Copy {
  readonly from: Place
  readonly to: Place
  readonly length: number
}

/** Positions that a slot's tokens may attend to: this many of its grid row's shared region, and of its own. */
export interface Occupied extends Slot {
  readonly shared: number
  readonly own: number
}

export type Results = Readonly<Record<string, Tensor>>

/** Sizes of the parts of a row of scores: shared region, own region, and the recent and new tokens. */
export type Parts = readonly [shared: number, own: number, fresh: number]

/** Keys and values of prompts in computation, the same number of positions for each. */
export interface Prompts {
  /** Number of positions so far. */
  readonly length: number
  /** Regions for a run of more tokens. */
  readonly feeds: () => Feeds
  readonly parts: (tokens: number) => Parts
  /** Column of a row of scores at which the positions so far begin. */
  readonly start: number
  readonly append: (results: Results, tokens: number) => void
  readonly free: () => void
}

/** Positions of a prompt, to be copied into the cache. */
export interface Filling {
  readonly prompt: number
  readonly from: number
  readonly length: number
  readonly to: Place
}

export interface SamplerCache {
  readonly layout: Layout
  /** Changes the sizes; only `copies` are kept. */
  readonly arrange: (layout: Layout, copies: ReadonlyArray<Copy>) => Promise<void>
  /** Makes an empty store for that many prompts of up to `capacity` positions. */
  readonly prompts: (count: number, capacity: number) => Promise<Prompts>
  readonly write: (prompts: Prompts, targets: ReadonlyArray<Filling>) => Promise<void>
  /** Returns how many grid rows a run must compute if the first `used` matter. */
  readonly gridRows: (used: number) => number
  /** Returns the regions for a run of one token for each slot of the first `gridRows` grid rows. */
  readonly feeds: (gridRows: number) => Feeds
  readonly parts: () => Parts
  /** Writes 0 where a slot's new token may attend, in a row of scores that is forbidden everywhere. */
  readonly allow: (row: Float32Array, slot: Occupied) => void
  /** Stores the new keys and values of these slots, behind what each has. */
  readonly append: (results: Results, slots: ReadonlyArray<Occupied>) => Promise<void>
  /** Frees the slot. */
  readonly leave: (slot: Slot) => void
  /** Forgets everything. */
  readonly reset: () => void
}

/** Value in the mask that makes a probability exactly 0. */
export const FORBIDDEN = -1e30

export const EMPTY: Layout = { gridRows: 0, width: 1, shared: 1, own: 1 }

/** `k.0`, `v.0`, `k.1`, ... */
export const cacheNames = (layers: number): ReadonlyArray<string> =>
  Array.from({ length: layers }, (_, layer) => [`k.${layer}`, `v.${layer}`]).flat()
