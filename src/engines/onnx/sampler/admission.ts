/** Schedules samples: admits them to slots of the cache, makes room for their tokens, and evicts the youngest if it is full. */
import type { SamplerCache } from "./cache.ts"
import { Grid } from "./slotGrid.ts"
import { type Plan, plan, positionsOf } from "./slotLayout.ts"
import type { Job, Sequence } from "./sequence.ts"

export interface Bounds {
  /** Size of the cache, for all running samples. */
  readonly positions: number
  readonly maxSequences: number
}

interface Room {
  /** Positions that a sample gets beyond those it has. */
  readonly room: number
  /** Sizes are multiples of this. */
  readonly grain: number
}
const ample: Room = { room: 64, grain: 32 }
/** Room for a sample that has the cache to itself; the first that fits is used. */
const scant: ReadonlyArray<Room> = [
  { room: 16, grain: 16 },
  { room: 1, grain: 1 }
]
/** Room for a sample that takes an existing slot. */
const ENOUGH = 16
/** Tokens that a sample is expected to draw, before any sample has ended. */
const EXPECTED = 128

/** Steps after which slots may be arranged again for speed. */
const SETTLED = 16

export class Admission {
  readonly cache: SamplerCache
  grid = new Grid<Job, Sequence>()
  /** Running samples, by age. */
  running: Array<Sequence> = []
  readonly #jobs: ReadonlyMap<number, Job>
  readonly #bounds: Bounds
  #settled = 0
  /** Whether a request arrived or a slot became free. */
  #news = false
  /** Recent number of tokens per sample. */
  #typical = EXPECTED

  constructor(jobs: ReadonlyMap<number, Job>, cache: SamplerCache, bounds: Bounds) {
    this.#jobs = jobs
    this.cache = cache
    this.#bounds = bounds
  }

  /** Notes that a request arrived. */
  noteRequest(): void {
    this.#news = true
  }

  /** Notes that a sample ended. */
  finish(sequence: Sequence): void {
    this.#typical += (sequence.tokens.length - this.#typical) / 16
    this.leave(sequence)
  }

  leave(sequence: Sequence): void {
    if (sequence.slot !== undefined) this.cache.leave(sequence.slot)
    this.grid.leave(sequence)
    this.#news = true
  }

  /** Removes samples without a slot from the running ones. */
  sweep(): void {
    this.running = this.running.filter(({ slot }) => slot !== undefined)
  }

  /** Drops the cache: every running sample is evicted and computed again. */
  forget(): void {
    for (const sequence of this.running.splice(0).toReversed()) this.#evict(sequence)
    this.grid = new Grid()
    this.cache.reset()
  }

  #evict(sequence: Sequence): void {
    this.leave(sequence)
    if (this.#jobs.has(sequence.group.id)) sequence.group.waiting.unshift(sequence)
  }

  get #waits(): boolean {
    return Array.from(this.#jobs.values()).some((job) => job.waits > 0)
  }

  /** Before a step: gives every running sample room for it, and admits more. */
  async admit(): Promise<void> {
    this.#settled += 1
    if (this.#news && this.running.length > 0) this.#admitFitting()
    const full = this.running.some((sequence) => {
      return sequence.filled && this.grid.occupied(sequence).own >= this.grid.layout.own
    })
    const waits = this.#waits
    const begins = this.running.length === 0 && waits
    const grows = this.#news && this.#settled >= SETTLED / 2 && waits
    if (full || begins || grows) return this.#arrange(full)
    this.#news = this.#news && waits
    if (this.#settled % SETTLED !== 0 || waits) return
    // Many samples have ended: the rest decodes faster in a smaller grid.
    const smaller = this.#planned([], ample)
    if (positionsOf(smaller.layout) <= positionsOf(this.grid.layout) / 2) await this.#apply(smaller, [])
  }

  #admitFitting(): void {
    for (const job of this.#jobs.values()) {
      const siblings = job.waits > 1
      while (job.waits > 0 && this.running.length < this.#bounds.maxSequences) {
        const [sequence] = job.peek(1)
        if (!this.grid.assign(sequence!, this.#needs(sequence!, ENOUGH), siblings)) break
        job.begin(sequence!)
        this.running.push(sequence!)
      }
    }
  }

  /** Returns the positions that a sample needs for its tokens and some more. */
  #needs(sequence: Sequence, room: number): number {
    return Math.max(1, Math.min(sequence.length - 1 + room, sequence.most))
  }

  /** With `expected`, each sample has room for all that it is likely to draw. */
  #planned(more: ReadonlyArray<Sequence>, { grain, room }: Room, expected = false): Plan<Sequence> {
    const groups = new Map<Job, Array<{ readonly sequence: Sequence; readonly length: number }>>()
    for (const sequence of [...this.running, ...more]) {
      const members = groups.get(sequence.group) ?? []
      const likely = expected ? Math.ceil(this.#typical) - sequence.tokens.length : 0
      members.push({ sequence, length: this.#needs(sequence, Math.max(room, likely)) })
      groups.set(sequence.group, members)
    }
    return plan(
      Array.from(groups, ([{ prefix }, members]) => ({ prefix, members })),
      grain
    )
  }

  #fits({ layout }: Plan<Sequence>): boolean {
    return positionsOf(layout) <= this.#bounds.positions
  }

  /** Makes a new arrangement with as many waiting samples as fit. `full`: the running ones need it. */
  async #arrange(full: boolean): Promise<void> {
    let best = this.#planned([], ample)
    // The youngest is evicted. The oldest can always continue alone: its request would have been refused otherwise.
    while (this.running.length > 1 && !this.#fits(best)) {
      this.#evict(this.running.pop()!)
      best = this.#planned([], ample)
    }
    const admitted = this.#fits(best) ? this.#admissible() : []
    if (admitted.length > 0) return this.#apply(this.#planned(admitted, ample), admitted)
    if (this.running.length > 0 && !full) {
      this.#news = false
      return
    }
    const alone = this.running.length > 0 ? [] : this.#first()
    const fitting = [ample, ...scant].map((room) => this.#planned(alone, room)).find((next) => this.#fits(next))
    if (fitting === undefined) throw new Error("onnx sampler: a request was admitted that does not fit into the cache")
    await this.#apply(fitting, alone)
  }

  /** Returns the sample that has waited longest. */
  #first(): ReadonlyArray<Sequence> {
    return Array.from(this.#jobs.values(), (job) => job.peek(1)).find((samples) => samples.length > 0) ?? []
  }

  /**
   * Returns the waiting samples that are likely to finish together with the running ones, in the order of their
   * requests.
   */
  #admissible(): ReadonlyArray<Sequence> {
    let admitted: ReadonlyArray<Sequence> = []
    for (const job of this.#jobs.values()) {
      const free = this.#bounds.maxSequences - this.running.length - admitted.length
      const before = admitted.length
      for (let count = Math.min(job.waits, free); count > 0; count = Math.floor(count / 2)) {
        const more = [...admitted, ...job.peek(count)]
        if (!this.#fits(this.#planned(more, ample, true))) continue
        admitted = more
        break
      }
      // A later request does not overtake an earlier one.
      if (admitted.length - before < job.waits) break
    }
    return admitted
  }

  async #apply(next: Plan<Sequence>, admitted: ReadonlyArray<Sequence>): Promise<void> {
    for (const sequence of admitted) {
      sequence.group.begin(sequence)
      this.running.push(sequence)
    }
    const copies = this.grid.arrange(next)
    await this.cache.arrange(next.layout, copies)
    this.#settled = 0
    this.#news = false
  }
}
