/** Keys and values of the sequences under way. */
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

/** What a slot's tokens may look at: this much of its grid row's shared region, and of its own. */
export interface Occupied extends Slot {
  readonly shared: number
  readonly own: number
}

export type Results = Readonly<Record<string, Tensor>>

/** Sizes of the parts of a row of scores: shared region, own region, and what comes with or just before the new tokens. */
export type Parts = readonly [shared: number, own: number, fresh: number]

/** Keys and values of prompts that are being computed, the same number of positions for each. */
export interface Prompts {
  /** Positions so far. */
  readonly length: number
  /** Regions for a run of more tokens. */
  readonly feeds: () => Feeds
  readonly parts: (tokens: number) => Parts
  /** Where in a row of scores the positions so far begin. */
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
  /** Other sizes; `copies` is all that stays. */
  readonly arrange: (layout: Layout, copies: ReadonlyArray<Copy>) => Promise<void>
  /** An empty store for that many prompts of up to `capacity` positions. */
  readonly prompts: (count: number, capacity: number) => Promise<Prompts>
  readonly write: (prompts: Prompts, targets: ReadonlyArray<Filling>) => Promise<void>
  /** How many grid rows a run has to compute of which the first `used` matter. */
  readonly gridRows: (used: number) => number
  /** Regions for a run of one token for each slot of the first `gridRows` grid rows. */
  readonly feeds: (gridRows: number) => Feeds
  readonly parts: () => Parts
  /** Writes 0 where a slot's new token may look, in a row of scores that is forbidden everywhere. */
  readonly allow: (row: Float32Array, slot: Occupied) => void
  /** Takes the new keys and values of these slots, behind what each has. */
  readonly append: (results: Results, slots: ReadonlyArray<Occupied>) => Promise<void>
  /** The slot is free. */
  readonly leave: (slot: Slot) => void
  /** Forgets everything. */
  readonly reset: () => void
}

/** Of the mask: makes a share exactly 0. */
export const FORBIDDEN = -1e30

export const EMPTY: Layout = { gridRows: 0, width: 1, shared: 1, own: 1 }

/** `k.0`, `v.0`, `k.1`, ... */
export const cacheNames = (layers: number): ReadonlyArray<string> =>
  Array.from({ length: layers }, (_, layer) => [`k.${layer}`, `v.${layer}`]).flat()
