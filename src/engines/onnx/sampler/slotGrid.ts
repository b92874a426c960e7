/** Who sits where in the cache, and what has to be copied when the seats are arranged anew. */
import type { Copy, Occupied, Place } from "./cache.ts"
import { EMPTY } from "./cache.ts"
import type { Layout, Plan, Seat } from "./slotLayout.ts"

/** Samples of one prompt. */
export interface Family {
  /** Positions before the prompt's last token, which is the first that each sample computes for itself. */
  readonly prefix: number
}

export interface Member<F extends Family> {
  readonly family: F
  /** Positions whose keys and values are in the cache; 0 as long as the prompt is not there. */
  stored: number
  filled: boolean
  shares: boolean
  seat: Seat | undefined
}

interface Lane<F> {
  /** Whose prompt is, or will be, in the shared region. */
  sharer: F | undefined
  filled: boolean
}

export class Grid<F extends Family, M extends Member<F>> {
  layout: Layout = EMPTY
  #lanes: Array<Lane<F>> = []
  /** Lane by lane. */
  #seats: Array<M | undefined> = []

  /** By lanes and columns. */
  get members(): ReadonlyArray<M> {
    return this.#seats.filter((member) => member !== undefined)
  }
  /** Lanes up to the last that somebody sits in. */
  get used(): number {
    const last = this.#seats.findLastIndex((member) => member !== undefined)
    return Math.floor(last / this.layout.width) + 1
  }

  /** What a member's tokens may look at. */
  occupied(member: M): Occupied {
    const shared = member.shares ? member.family.prefix : 0
    return { ...member.seat!, shared, own: Math.max(0, member.stored - shared) }
  }

  #at({ column, lane }: Seat): number {
    return lane * this.layout.width + column
  }

  #sit(member: M, seat: Seat, shares: boolean): void {
    member.seat = seat
    member.shares = shares
    this.#seats[this.#at(seat)] = member
    const lane = this.#lanes[seat.lane]!
    if (shares) lane.sharer = member.family
    if (!member.filled && ((shares && lane.filled) || member.family.prefix === 0)) {
      member.filled = true
      member.stored = member.family.prefix
    }
  }

  leave(member: M): void {
    const { seat } = member
    if (seat === undefined) return
    this.#seats[this.#at(seat)] = undefined
    member.seat = undefined
    member.filled = false
    member.stored = 0
    const start = seat.lane * this.layout.width
    const others = this.#seats.slice(start, start + this.layout.width)
    if (!others.some((other) => other?.shares === true)) this.#lanes[seat.lane] = { sharer: undefined, filled: false }
  }

  /** Finds a seat among those there are, for a member that needs this many positions in all. False: there is none. */
  seat(member: M, needed: number, siblings: boolean): boolean {
    const { own, shared, width } = this.layout
    const { family } = member
    const free = (lane: number): number => {
      for (let column = 0; column < width; column++) if (this.#seats[lane * width + column] === undefined) return column
      return -1
    }
    let [joining, opening, alone]: Array<Seat | undefined> = []
    for (const [lane, { sharer }] of this.#lanes.entries()) {
      const column = free(lane)
      if (column < 0) continue
      if (sharer === family) joining ??= { lane, column }
      else if (sharer === undefined) opening ??= { lane, column }
      alone ??= { lane, column }
    }
    const fits = needed - family.prefix <= own
    if (joining !== undefined && fits) this.#sit(member, joining, true)
    else if (opening !== undefined && fits && siblings && shared > 1 && family.prefix > 0 && family.prefix <= shared) {
      this.#sit(member, opening, true)
    } else if (alone !== undefined && needed <= own) this.#sit(member, alone, false)
    else return false
    return true
  }

  /** The family's prompt has been computed: where it goes. Its members can go on from there. */
  fill(family: F): ReadonlyArray<Place> {
    const places: Array<Place> = []
    for (const member of this.members) {
      if (member.family !== family || member.filled) continue
      const { column, lane } = member.seat!
      if (!member.shares) places.push({ region: "own", lane, column, at: 0 })
      else if (!this.#lanes[lane]!.filled) {
        places.push({ region: "shared", lane, at: 0 })
        this.#lanes[lane]!.filled = true
      }
      member.filled = true
      member.stored = family.prefix
    }
    return places
  }

  /**
   * Seats everybody as planned; who is not in the plan must have left. What is in the cache is to be copied, also a prompt
   * to members that have come anew.
   */
  arrange({ layout, seats }: Plan<M>): ReadonlyArray<Copy> {
    const copies: Array<Copy> = []
    const before = new Map(this.members.map((member) => [member, this.occupied(member)]))
    const prompts = new Map<F, Place>()
    for (const [member, { column, lane, shared }] of before) {
      if (!member.filled) continue
      const place: Place = shared > 0 ? { region: "shared", lane, at: 0 } : { region: "own", lane, column, at: 0 }
      prompts.set(member.family, place)
    }
    this.layout = layout
    this.#lanes = Array.from({ length: layout.lanes }, () => ({ sharer: undefined, filled: false }))
    this.#seats = Array.from({ length: layout.lanes * layout.width }, () => undefined)
    const push = (from: Place, to: Place, length: number) => {
      if (length > 0) copies.push({ from, to, length })
    }
    for (const [member, { column, lane, shares }] of seats) {
      const old = before.get(member)
      const { prefix } = member.family
      const prompt = prompts.get(member.family)
      const wasFilled = member.filled
      const covered = this.#lanes[lane]!.filled && shares
      this.#sit(member, { lane, column }, shares)
      if (prompt !== undefined && !covered) {
        const source: Place =
          wasFilled && old?.shared === 0 ? { region: "own", lane: old.lane, column: old.column, at: 0 } : prompt
        push(source, shares ? { region: "shared", lane, at: 0 } : { region: "own", lane, column, at: 0 }, prefix)
        if (shares) this.#lanes[lane]!.filled = true
      }
      if (prompt !== undefined && !wasFilled) {
        member.filled = true
        member.stored = prefix
      }
      if (old === undefined || !wasFilled) continue
      // What came after the prompt.
      const from: Place = { region: "own", lane: old.lane, column: old.column, at: prefix - old.shared }
      push(from, { region: "own", lane, column, at: shares ? 0 : prefix }, member.stored - prefix)
    }
    return copies
  }
}
