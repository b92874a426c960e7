/**
 * Where sequences sit in the cache: lanes of seats. Samples of one prompt sit in the same lane and read the prompt from the
 * lane's shared region; a seat's own region holds what is the sample's alone (of a sample without siblings, all of it).
 */

export interface Layout {
  readonly lanes: number
  /** Seats of a lane. */
  readonly width: number
  /** Positions of a lane's shared region. */
  readonly shared: number
  /** Positions of a seat's own region. */
  readonly own: number
}

export interface Seat {
  readonly lane: number
  readonly column: number
}

/** Samples of one prompt. */
export interface Siblings<S> {
  /** Positions that they can share. */
  readonly prefix: number
  /** Each with the positions that it needs, the shared ones included. */
  readonly members: ReadonlyArray<{ readonly sequence: S; readonly length: number }>
}

export interface Plan<S> {
  readonly layout: Layout
  readonly seats: ReadonlyMap<S, Seat & { readonly shares: boolean }>
}

/** Positions of a layout: what it takes of the cache. A shared region of one position is nobody's: it holds nothing. */
export const positionsOf = ({ lanes, own, shared, width }: Layout): number =>
  lanes * ((shared > 1 ? shared : 0) + width * own)

/** Wider lanes would only be filled by larger groups, whose seats end at different times. */
const WIDEST = 16
/** Shorter prompts are not worth a region. */
const SHORTEST = 8

const roundUp = (value: number, to: number): number => Math.ceil(value / to) * to

/** The layout that takes the least of the cache. `grain`: sizes of regions are multiples of it. */
export const plan = <S>(groups: ReadonlyArray<Siblings<S>>, grain: number): Plan<S> => {
  const counts = groups.map(({ members }) => Math.min(members.length, WIDEST))
  const plans = Array.from(new Set([1, ...counts]), (width) => planOf(groups, width, grain))
  return plans.reduce((best, next) => (positionsOf(next.layout) < positionsOf(best.layout) ? next : best))
}

const planOf = <S>(groups: ReadonlyArray<Siblings<S>>, width: number, grain: number): Plan<S> => {
  const seats = new Map<S, Seat & { readonly shares: boolean }>()
  const free: Array<Seat> = []
  let [lanes, shared, own] = [0, 1, 1]
  const openLane = (): void => {
    for (let column = 0; column < width; column++) free.push({ lane: lanes, column })
    lanes += 1
  }
  const shares = ({ members, prefix }: Siblings<S>): boolean => width > 1 && members.length > 1 && prefix >= SHORTEST
  for (const group of groups.filter(shares)) {
    for (let start = 0; start < group.members.length; start += width) {
      const part = group.members.slice(start, start + width)
      for (const [column, { length, sequence }] of part.entries()) {
        seats.set(sequence, { lane: lanes, column, shares: true })
        own = Math.max(own, roundUp(length - group.prefix, grain))
      }
      for (let column = part.length; column < width; column++) free.push({ lane: lanes, column })
      lanes += 1
    }
    shared = Math.max(shared, roundUp(group.prefix, Math.min(grain, 16)))
  }
  for (const group of groups) {
    if (shares(group)) continue
    for (const { length, sequence } of group.members) {
      if (free.length === 0) openLane()
      seats.set(sequence, { ...free.shift()!, shares: false })
      own = Math.max(own, roundUp(length, grain))
    }
  }
  return { layout: { lanes, width, shared, own }, seats }
}
