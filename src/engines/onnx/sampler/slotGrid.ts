/** Assigns slots of the cache, and lists the copies for a new arrangement. */
import type { Copy, Occupied, Place } from "./cache.ts"
import { EMPTY } from "./cache.ts"
import type { Layout, Plan, Slot } from "./slotLayout.ts"

/** Samples of one prompt. */
export interface PromptGroup {
  /** Positions before the prompt's last token, which is the first that each sample computes for itself. */
  readonly prefix: number
}

export interface Member<F extends PromptGroup> {
  readonly group: F
  /** Positions whose keys and values are in the cache; 0 until the prompt is stored. */
  stored: number
  filled: boolean
  shares: boolean
  slot: Slot | undefined
}

interface GridRow<F> {
  /** Group whose prompt is, or will be, in the shared region. */
  sharer: F | undefined
  filled: boolean
}

export class Grid<F extends PromptGroup, M extends Member<F>> {
  layout: Layout = EMPTY
  #gridRows: Array<GridRow<F>> = []
  /** Slots, grid row by grid row. */
  #slots: Array<M | undefined> = []

  /** Members by grid rows and columns. */
  get members(): ReadonlyArray<M> {
    return this.#slots.filter((member) => member !== undefined)
  }
  /** Number of grid rows up to the last with an occupied slot. */
  get used(): number {
    const last = this.#slots.findLastIndex((member) => member !== undefined)
    return Math.floor(last / this.layout.width) + 1
  }

  /** Returns the positions that a member's tokens may attend to. */
  occupied(member: M): Occupied {
    const shared = member.shares ? member.group.prefix : 0
    return { ...member.slot!, shared, own: Math.max(0, member.stored - shared) }
  }

  #at({ column, gridRow }: Slot): number {
    return gridRow * this.layout.width + column
  }

  #occupy(member: M, slot: Slot, shares: boolean): void {
    member.slot = slot
    member.shares = shares
    this.#slots[this.#at(slot)] = member
    const gridRow = this.#gridRows[slot.gridRow]!
    if (shares) gridRow.sharer = member.group
    if (!member.filled && ((shares && gridRow.filled) || member.group.prefix === 0)) {
      member.filled = true
      member.stored = member.group.prefix
    }
  }

  leave(member: M): void {
    const { slot } = member
    if (slot === undefined) return
    this.#slots[this.#at(slot)] = undefined
    member.slot = undefined
    member.filled = false
    member.stored = 0
    const start = slot.gridRow * this.layout.width
    const others = this.#slots.slice(start, start + this.layout.width)
    if (!others.some((other) => other?.shares === true))
      this.#gridRows[slot.gridRow] = { sharer: undefined, filled: false }
  }

  /** Finds a free slot for a member that needs this many positions in all. Returns false if there is none. */
  assign(member: M, needed: number, siblings: boolean): boolean {
    const { own, shared, width } = this.layout
    const { group } = member
    const free = (gridRow: number): number => {
      for (let column = 0; column < width; column++)
        if (this.#slots[gridRow * width + column] === undefined) return column
      return -1
    }
    let [joining, opening, alone]: Array<Slot | undefined> = []
    for (const [gridRow, { sharer }] of this.#gridRows.entries()) {
      const column = free(gridRow)
      if (column < 0) continue
      if (sharer === group) joining ??= { gridRow, column }
      else if (sharer === undefined) opening ??= { gridRow, column }
      alone ??= { gridRow, column }
    }
    const fits = needed - group.prefix <= own
    if (joining !== undefined && fits) this.#occupy(member, joining, true)
    else if (opening !== undefined && fits && siblings && shared > 1 && group.prefix > 0 && group.prefix <= shared) {
      this.#occupy(member, opening, true)
    } else if (alone !== undefined && needed <= own) this.#occupy(member, alone, false)
    else return false
    return true
  }

  /** Returns the places for a group's computed prompt; its members can then continue. */
  fill(group: F): ReadonlyArray<Place> {
    const places: Array<Place> = []
    for (const member of this.members) {
      if (member.group !== group || member.filled) continue
      const { column, gridRow } = member.slot!
      if (!member.shares) places.push({ region: "own", gridRow, column, at: 0 })
      else if (!this.#gridRows[gridRow]!.filled) {
        places.push({ region: "shared", gridRow, at: 0 })
        this.#gridRows[gridRow]!.filled = true
      }
      member.filled = true
      member.stored = group.prefix
    }
    return places
  }

  /**
   * Gives every member its planned slot; members outside the plan must have left. Returns the copies that keep the
   * cache's content, and that bring a prompt to new members.
   */
  arrange({ layout, slots }: Plan<M>): ReadonlyArray<Copy> {
    const copies: Array<Copy> = []
    const before = new Map(this.members.map((member) => [member, this.occupied(member)]))
    const prompts = new Map<F, Place>()
    for (const [member, { column, gridRow, shared }] of before) {
      if (!member.filled) continue
      const place: Place = shared > 0 ? { region: "shared", gridRow, at: 0 } : { region: "own", gridRow, column, at: 0 }
      prompts.set(member.group, place)
    }
    this.layout = layout
    this.#gridRows = Array.from({ length: layout.gridRows }, () => ({ sharer: undefined, filled: false }))
    this.#slots = Array.from({ length: layout.gridRows * layout.width }, () => undefined)
    const push = (from: Place, to: Place, length: number) => {
      if (length > 0) copies.push({ from, to, length })
    }
    for (const [member, { column, gridRow, shares }] of slots) {
      const old = before.get(member)
      const { prefix } = member.group
      const prompt = prompts.get(member.group)
      const wasFilled = member.filled
      const covered = this.#gridRows[gridRow]!.filled && shares
      this.#occupy(member, { gridRow, column }, shares)
      if (prompt !== undefined && !covered) {
        const source: Place =
          wasFilled && old?.shared === 0 ? { region: "own", gridRow: old.gridRow, column: old.column, at: 0 } : prompt
        push(source, shares ? { region: "shared", gridRow, at: 0 } : { region: "own", gridRow, column, at: 0 }, prefix)
        if (shares) this.#gridRows[gridRow]!.filled = true
      }
      if (prompt !== undefined && !wasFilled) {
        member.filled = true
        member.stored = prefix
      }
      if (old === undefined || !wasFilled) continue
      // Positions after the prompt.
      const from: Place = { region: "own", gridRow: old.gridRow, column: old.column, at: prefix - old.shared }
      push(from, { region: "own", gridRow, column, at: shares ? 0 : prefix }, member.stored - prefix)
    }
    return copies
  }
}
