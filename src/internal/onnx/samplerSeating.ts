/** Who waits and who sits: gives seats to samples, room to those who sit, and takes both away when the cache is full. */
import type { SamplerCache } from "./samplerCache.ts"
import { Grid } from "./samplerGrid.ts"
import { type Plan, plan, positionsOf } from "./samplerLayout.ts"
import type { Job, Sequence } from "./samplerSequence.ts"

export interface Bounds {
  /** Of the cache, for all who sit. */
  readonly positions: number
  readonly maxSequences: number
}

/** Positions that a sample is given beyond those it has, and what sizes are multiples of; the first that fit are taken. */
const rooms = [
  { room: 64, grain: 32 },
  { room: 16, grain: 16 },
  { room: 1, grain: 1 }
] as const

/** Steps after which seats may be arranged anew for the sake of speed. */
const SETTLED = 16

export class Seating {
  readonly cache: SamplerCache
  grid = new Grid<Job, Sequence>()
  /** By age. */
  running: Array<Sequence> = []
  readonly #jobs: ReadonlyMap<number, Job>
  readonly #bounds: Bounds
  #settled = 0
  /** A request has come, or a seat has become free. */
  #news = false

  constructor(jobs: ReadonlyMap<number, Job>, cache: SamplerCache, bounds: Bounds) {
    this.#jobs = jobs
    this.cache = cache
    this.#bounds = bounds
  }

  /** A request has come. */
  noteRequest(): void {
    this.#news = true
  }

  leave(sequence: Sequence): void {
    if (sequence.seat !== undefined) this.cache.leave(sequence.seat)
    this.grid.leave(sequence)
    this.#news = true
  }

  /** Those who have left are no longer running. */
  sweep(): void {
    this.running = this.running.filter(({ seat }) => seat !== undefined)
  }

  /** Nothing in the cache is trusted any more: everybody computes anew. */
  forget(): void {
    for (const sequence of this.running.splice(0).toReversed()) this.#giveWay(sequence)
    this.grid = new Grid()
    this.cache.reset()
  }

  #giveWay(sequence: Sequence): void {
    this.leave(sequence)
    if (this.#jobs.has(sequence.family.id)) sequence.family.waiting.unshift(sequence)
  }

  get #waits(): boolean {
    return Array.from(this.#jobs.values()).some((job) => job.waits > 0)
  }

  /** Before a step: everybody who sits has room for it. */
  async admit(): Promise<void> {
    this.#settled += 1
    if (this.#news && this.running.length > 0) this.#seatThoseWhoFit()
    const full = this.running.some((sequence) => {
      return sequence.filled && this.grid.occupied(sequence).own >= this.grid.layout.own
    })
    const waits = this.#waits
    const begins = this.running.length === 0 && waits
    const grows = this.#news && this.#settled >= SETTLED / 2 && waits
    if (full || begins || grows) return this.#arrange(full)
    this.#news = this.#news && waits
    if (this.#settled % SETTLED !== 0 || waits) return
    // Many have left: the rest decodes faster in a smaller grid.
    const smaller = this.#planned([], rooms[0])
    if (positionsOf(smaller.layout) <= positionsOf(this.grid.layout) / 2) await this.#seat(smaller, [])
  }

  #seatThoseWhoFit(): void {
    for (const job of this.#jobs.values()) {
      const siblings = job.waits > 1
      while (job.waits > 0 && this.running.length < this.#bounds.maxSequences) {
        const [sequence] = job.peek(1)
        if (!this.grid.seat(sequence!, this.#needs(sequence!, rooms[1].room), siblings)) break
        job.begin(sequence!)
        this.running.push(sequence!)
      }
    }
  }

  /** Positions of the cache for a sample's tokens and some more. */
  #needs(sequence: Sequence, room: number): number {
    return Math.max(1, Math.min(sequence.length - 1 + room, sequence.most))
  }

  #planned(more: ReadonlyArray<Sequence>, { grain, room }: (typeof rooms)[number]): Plan<Sequence> {
    const groups = new Map<Job, Array<{ readonly sequence: Sequence; readonly length: number }>>()
    for (const sequence of [...this.running, ...more]) {
      const members = groups.get(sequence.family) ?? []
      members.push({ sequence, length: this.#needs(sequence, room) })
      groups.set(sequence.family, members)
    }
    return plan(
      Array.from(groups, ([{ prefix }, members]) => ({ prefix, members })),
      grain
    )
  }

  /** A new arrangement with as many of those who wait as fit. `full`: those who sit need it. */
  async #arrange(full: boolean): Promise<void> {
    for (;;) {
      for (const room of rooms) {
        const found = this.#most(room)
        if (found === undefined || (found.admitted.length === 0 && this.running.length === 0)) continue
        if (found.admitted.length > 0 || full) return this.#seat(found.plan, found.admitted)
        this.#news = false
        return
      }
      // The youngest gives way; the oldest can go on alone, or its request would have been refused.
      this.#giveWay(this.running.pop()!)
    }
  }

  /** The plan for those who sit and as many others as fit, in the order of their requests. */
  #most(
    room: (typeof rooms)[number]
  ): { readonly plan: Plan<Sequence>; readonly admitted: ReadonlyArray<Sequence> } | undefined {
    const fits = ({ layout }: Plan<Sequence>): boolean => positionsOf(layout) <= this.#bounds.positions
    let best = this.#planned([], room)
    if (!fits(best)) return undefined
    let admitted: ReadonlyArray<Sequence> = []
    for (const job of this.#jobs.values()) {
      const free = this.#bounds.maxSequences - this.running.length - admitted.length
      const before = admitted.length
      for (let count = Math.min(job.waits, free); count > 0; count = Math.floor(count / 2)) {
        const more = [...admitted, ...job.peek(count)]
        const next = this.#planned(more, room)
        if (!fits(next)) continue
        ;[best, admitted] = [next, more]
        break
      }
      // Nobody is overtaken by a later request.
      if (admitted.length - before < job.waits) break
    }
    return { plan: best, admitted }
  }

  async #seat(next: Plan<Sequence>, admitted: ReadonlyArray<Sequence>): Promise<void> {
    for (const sequence of admitted) {
      sequence.family.begin(sequence)
      this.running.push(sequence)
    }
    const copies = this.grid.arrange(next)
    await this.cache.arrange(next.layout, copies)
    this.#settled = 0
    this.#news = false
  }
}
