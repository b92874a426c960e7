/**
 * Deterministic draws for task generators. A draw depends on its seed and its name alone, not on draws under other
 * names. So task 1000 can be made without the 999 before it.
 */

/** A stream of uniform draws; every call advances it. */
export interface Draw {
  /** A whole number from `low` to `high`, both included. */
  readonly between: (low: number, high: number) => number
  /** True with this probability. */
  readonly chance: (probability: number) => boolean
  readonly pick: <A>(from: readonly [A, ...Array<A>]) => A
}

/** FNV-1a over UTF-16 units, then a finalizer: neighbouring names give unrelated states. */
const hash = (text: string): number => {
  let h = 0x811c9dc5
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193)
  return mix(h)
}

/** The 32-bit finalizer of MurmurHash3. */
const mix = (value: number): number => {
  let h = value | 0
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
  return (h ^ (h >>> 16)) >>> 0
}

/**
 * Makes the stream of `seed` and `name`.
 *
 * @example
 * ```ts
 * Draw.of(7, "task/12").between(0, 9) // the same digit at every call
 * ```
 */
export const of = (seed: number, name: string): Draw => {
  const key = hash(`${seed}/${name}`)
  let counter = 0
  // A Weyl sequence through the finalizer; 32 bits are ample for ranges of a few thousand.
  const unit = (): number => mix(key + Math.imul(++counter, 0x9e3779b9)) / 2 ** 32
  const between = (low: number, high: number): number => low + Math.floor(unit() * (high - low + 1))
  return {
    between,
    chance: (probability) => unit() < probability,
    pick: (from) => from[between(0, from.length - 1)]!
  }
}

/** Returns the items in an order that `draw` selects (Fisher and Yates). */
export const shuffled = <A>(draw: Draw, items: ReadonlyArray<A>): ReadonlyArray<A> => {
  const order = [...items]
  for (let i = order.length - 1; i > 0; i--) {
    const j = draw.between(0, i)
    const kept = order[i]!
    order[i] = order[j]!
    order[j] = kept
  }
  return order
}
