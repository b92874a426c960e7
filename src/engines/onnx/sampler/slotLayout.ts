/**
 * Assigns sequences to slots of the cache, in rows of a grid. Samples of one prompt have slots in one grid row and read
 * the prompt from its shared region. A slot's own region holds the rest; for a sample without siblings, everything.
 */

export interface Layout {
  readonly gridRows: number
  /** Number of slots in a grid row. */
  readonly width: number
  /** Positions of a grid row's shared region. */
  readonly shared: number
  /** Positions of a slot's own region. */
  readonly own: number
}

export interface Slot {
  readonly gridRow: number
  readonly column: number
}

/** Samples of one prompt. */
export interface Siblings<S> {
  /** Number of positions that they can share. */
  readonly prefix: number
  /** Samples, each with the positions that it needs, the shared ones included. */
  readonly members: ReadonlyArray<{ readonly sequence: S; readonly length: number }>
}

export interface Plan<S> {
  readonly layout: Layout
  readonly slots: ReadonlyMap<S, Slot & { readonly shares: boolean }>
}

/** Positions that a layout takes of the cache. A shared region of one position is empty. */
export const positionsOf = ({ gridRows, own, shared, width }: Layout): number =>
  gridRows * ((shared > 1 ? shared : 0) + width * own)

/** Only larger groups would fill wider grid rows, and their slots end at different times. */
const WIDEST = 16
/** Shorter prompts are not worth a region. */
const SHORTEST = 8

const roundUp = (value: number, to: number): number => Math.ceil(value / to) * to

/** Finds the layout that takes the least of the cache. Sizes of regions are multiples of `grain`. */
export const plan = <S>(groups: ReadonlyArray<Siblings<S>>, grain: number): Plan<S> => {
  const counts = groups.map(({ members }) => Math.min(members.length, WIDEST))
  const plans = Array.from(new Set([1, ...counts]), (width) => planOf(groups, width, grain))
  return plans.reduce((best, next) => (positionsOf(next.layout) < positionsOf(best.layout) ? next : best))
}

const planOf = <S>(groups: ReadonlyArray<Siblings<S>>, width: number, grain: number): Plan<S> => {
  const slots = new Map<S, Slot & { readonly shares: boolean }>()
  const free: Array<Slot> = []
  let [gridRows, shared, own] = [0, 1, 1]
  const openGridRow = (): void => {
    for (let column = 0; column < width; column++) free.push({ gridRow: gridRows, column })
    gridRows += 1
  }
  const shares = ({ members, prefix }: Siblings<S>): boolean => width > 1 && members.length > 1 && prefix >= SHORTEST
  for (const group of groups.filter(shares)) {
    for (let start = 0; start < group.members.length; start += width) {
      const part = group.members.slice(start, start + width)
      for (const [column, { length, sequence }] of part.entries()) {
        slots.set(sequence, { gridRow: gridRows, column, shares: true })
        own = Math.max(own, roundUp(length - group.prefix, grain))
      }
      for (let column = part.length; column < width; column++) free.push({ gridRow: gridRows, column })
      gridRows += 1
    }
    shared = Math.max(shared, roundUp(group.prefix, Math.min(grain, 16)))
  }
  for (const group of groups) {
    if (shares(group)) continue
    for (const { length, sequence } of group.members) {
      if (free.length === 0) openGridRow()
      slots.set(sequence, { ...free.shift()!, shares: false })
      own = Math.max(own, roundUp(length, grain))
    }
  }
  return { layout: { gridRows, width, shared, own }, slots }
}
