/**
 * Sampling through ONNX Runtime: continuous batching over seats. A step computes prompts, or one token for everybody.
 *
 * Every sample's first own position is its prompt's last token: computing a prompt only fills the cache, and all draws
 * happen in one place. A sample that has to give way is computed anew later, its tokens fed again, with the same result.
 */
import type { SampleRequest } from "../Native.ts"
import type { Tensor } from "./device.ts"
import { EngineFailure, type SamplerEngine } from "./engine.ts"
import type { Shape } from "./network.ts"
import { FORBIDDEN, type Parts, type Prompts, type SamplerCache } from "./samplerCache.ts"
import { HostCache } from "./samplerCacheHost.ts"
import { DeviceCache } from "./samplerCacheDevice.ts"
import { chooseFiltered } from "./samplerChoose.ts"
import { Grid } from "./samplerGrid.ts"
import { type Plan, plan, positionsOf } from "./samplerLayout.ts"
import { Vocabulary } from "./samplerRequest.ts"
import { type Drawing, SamplerRun } from "./samplerRun.ts"
import { type Emit, Job, type Sequence } from "./samplerSequence.ts"
import { constantWeights, type Form, inputWeights } from "./samplerWeights.ts"
import type { Owner, Weights } from "./weights.ts"

export interface SamplerOptions {
  readonly weights: Weights
  /**
   * `inputs`: the tensors of `weights` themselves, so an update is seen at once. `constants`: a base that never changes, in
   * the runtime's own layout and as `form` has it.
   */
  readonly source: "inputs" | "constants"
  /** Of constants. Default f32. */
  readonly form?: Form
  /** Of products with weights in blocks: 4 rounds the rows to 8 bits too, 0 and 1 do not. Default 4 on the processor, else 0. */
  readonly accuracy?: 0 | 1 | 4
  /** Of keys and values. Default 512 MiB. */
  readonly cacheBytes?: number
  /** Samples that decode at once. Default 256. */
  readonly maxSequences?: number
  /** Prompt tokens that one step computes. Default 256. */
  readonly prefillRows?: number
}

export interface Sampler extends SamplerEngine {
  /** Builds what sampling with an adapter, or the base, needs, ahead of the first request. */
  readonly prepare: (adapter?: string) => Promise<void>
  /** Ends what is under way and frees the device's memory. */
  readonly close: () => Promise<void>
}

export const openSampler = async (options: SamplerOptions): Promise<Sampler> => {
  const { weights } = options
  const { headDim, kvHeads, layers } = weights.shape
  const bytes = 2 * layers * kvHeads * headDim * Float32Array.BYTES_PER_ELEMENT
  const positions = Math.floor((options.cacheBytes ?? 512 * 2 ** 20) / bytes)
  const maxSequences = options.maxSequences ?? 256
  const accuracy = options.accuracy ?? (weights.device.provider === "cpu" ? 4 : 0)
  const source =
    options.source === "inputs"
      ? inputWeights(weights)
      : await constantWeights(weights, { form: options.form ?? "f32", accuracy })
  const cache = weights.device.resident
    ? new DeviceCache(weights.device, weights.shape)
    : new HostCache(weights.device, weights.shape, positions + maxSequences)
  const run = new SamplerRun(weights, source, options.source === "constants")
  return new Engine(weights, run, cache, {
    bytes,
    positions,
    maxSequences,
    prefillRows: options.prefillRows ?? 256
  })
}

interface Bounds {
  /** Of one position. */
  readonly bytes: number
  readonly positions: number
  readonly maxSequences: number
  readonly prefillRows: number
}

/** Positions that a sample is given beyond those it has, and what sizes are multiples of; the first that fit are taken. */
const rooms = [
  { room: 64, grain: 32 },
  { room: 16, grain: 16 },
  { room: 1, grain: 1 }
]
/** Steps after which seats may be arranged anew for the sake of speed. */
const SETTLED = 16

/** Prompts that are being computed. */
interface Filling {
  readonly jobs: ReadonlyArray<Job>
  readonly prompts: Prompts
}

class Engine implements Sampler {
  readonly #weights: Weights
  readonly #shape: Shape
  readonly #run: SamplerRun
  readonly #cache: SamplerCache
  readonly #bounds: Bounds
  readonly #jobs = new Map<number, Job>()
  /** By age. */
  #running: Array<Sequence> = []
  #grid = new Grid<Job, Sequence>()
  #filling: Filling | undefined
  #vocabulary: Vocabulary | undefined
  #settled = 0
  /** A request has come, or a seat has become free. */
  #news = false

  constructor(weights: Weights, run: SamplerRun, cache: SamplerCache, bounds: Bounds) {
    this.#weights = weights
    this.#shape = weights.shape
    this.#run = run
    this.#cache = cache
    this.#bounds = bounds
  }

  prepare(adapter?: string): Promise<void> {
    return this.#run.prepare(this.#weights.owner("sample", adapter))
  }

  setVocabulary(bytes: Uint8Array, offsets: Uint32Array): void {
    this.#vocabulary = new Vocabulary(bytes, offsets)
  }

  submit(id: number, request: SampleRequest, emit: Emit): void {
    try {
      const owner = this.#weights.owner("sample", request.adapter)
      const job = new Job(id, request, emit, { owner, shape: this.#shape, vocabulary: this.#vocabulary })
      const { bytes, positions } = this.#bounds
      if (job.longest - 1 > positions) {
        const [needed, limit] = [(job.longest - 1) * bytes, positions * bytes]
        const detail = `needs ${needed} bytes, the limit is ${limit}: raise the limit or make the batch smaller`
        throw new EngineFailure("OUT_OF_MEMORY", `sample: key-value cache for one sample: ${detail}`)
      }
      this.#jobs.set(id, job)
      this.#news = true
    } catch (cause) {
      emit(cause instanceof Error ? cause : new Error(String(cause)))
    }
  }

  cancel(id: number): void {
    const job = this.#jobs.get(id)
    if (job === undefined) return
    for (const sequence of this.#running) if (sequence.family === job) job.gathered.finish(sequence.sample, "abort")
    job.finishWaiting("abort")
    this.#drop(job)
    job.emit(null, job.gathered.take(this.#weights.version(job.owner), true))
  }

  busy(): boolean {
    return this.#jobs.size > 0
  }

  async step(): Promise<void> {
    try {
      for (const job of this.#jobs.values()) {
        if (job.owner === undefined || this.#weights.adapter(job.owner) !== undefined) continue
        this.#fail(job, new EngineFailure("STATE", "sample: the adapter was removed while it was sampled from"))
      }
      await this.#admit()
      if (this.#running.some(({ filled }) => !filled)) await this.#prefill()
      else if (this.#running.length > 0) await this.#decode()
    } catch (cause) {
      const error = cause instanceof Error ? cause : new Error(String(cause))
      for (const job of this.#jobs.values()) this.#fail(job, error)
      this.#forget()
    }
    this.#deliver()
  }

  async close(): Promise<void> {
    for (const job of this.#jobs.values()) this.#fail(job, new EngineFailure("STATE", "sample: the model is closed"))
    this.#forget()
    await this.#run.close()
  }

  #fail(job: Job, error: Error): void {
    this.#drop(job)
    job.emit(error)
  }

  /** Takes a request and its samples out. */
  #drop(job: Job): void {
    this.#jobs.delete(job.id)
    for (const sequence of this.#running) if (sequence.family === job) this.#leave(sequence)
    this.#running = this.#running.filter(({ family }) => family !== job)
  }

  #leave(sequence: Sequence): void {
    if (sequence.seat !== undefined) this.#cache.leave(sequence.seat)
    this.#grid.leave(sequence)
    this.#news = true
  }

  /** Nothing in the cache is trusted any more: everybody computes anew. */
  #forget(): void {
    for (const sequence of this.#running.splice(0).toReversed()) this.#giveWay(sequence)
    this.#filling?.prompts.free()
    this.#filling = undefined
    this.#grid = new Grid()
    this.#cache.reset()
  }

  #giveWay(sequence: Sequence): void {
    this.#leave(sequence)
    if (this.#jobs.has(sequence.family.id)) sequence.family.waiting.unshift(sequence)
  }

  #deliver(): void {
    for (const job of this.#jobs.values()) {
      if (job.gathered.empty) continue
      const done = job.unfinished === 0
      if (done) this.#drop(job)
      job.emit(null, job.gathered.take(this.#weights.version(job.owner), done))
    }
  }

  // ---- who sits where

  /** Gives seats to those who wait, and room to those who sit. */
  async #admit(): Promise<void> {
    this.#settled += 1
    const waits = () => Array.from(this.#jobs.values()).some((job) => job.waits > 0)
    if (this.#news && this.#running.length > 0) this.#seatThoseWhoFit()
    const full = this.#running.some((sequence) => {
      return sequence.filled && this.#grid.occupied(sequence).own >= this.#grid.layout.own
    })
    const begins = this.#running.length === 0 && waits()
    const grows = this.#news && this.#settled >= SETTLED / 2 && waits()
    if (full || begins || grows) return this.#arrange(full)
    this.#news = this.#news && waits()
    if (this.#settled < SETTLED || this.#settled % SETTLED !== 0 || waits()) return
    // Many have left: the rest decodes faster in a smaller grid.
    const smaller = this.#planned([], rooms[0]!)
    if (positionsOf(smaller.layout) <= positionsOf(this.#grid.layout) / 2) await this.#seat(smaller, [])
  }

  #seatThoseWhoFit(): void {
    for (const job of this.#jobs.values()) {
      const siblings = job.waits > 1
      while (job.waits > 0 && this.#running.length < this.#bounds.maxSequences) {
        const [sequence] = job.peek(1)
        if (!this.#grid.seat(sequence!, this.#needs(sequence!, rooms[1]!.room), siblings)) break
        job.begin(sequence!)
        this.#running.push(sequence!)
      }
    }
  }

  /** Positions of the cache for a sample's tokens and some more. */
  #needs(sequence: Sequence, room: number): number {
    return Math.max(1, Math.min(sequence.length - 1 + room, sequence.most))
  }

  #planned(more: ReadonlyArray<Sequence>, { grain, room }: (typeof rooms)[number]): Plan<Sequence> {
    const groups = new Map<Job, Array<{ readonly sequence: Sequence; readonly length: number }>>()
    for (const sequence of [...this.#running, ...more]) {
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
    const fits = ({ layout }: Plan<Sequence>): boolean => positionsOf(layout) <= this.#bounds.positions
    for (;;) {
      for (const room of rooms) {
        let best = this.#planned([], room)
        if (!fits(best)) continue
        let admitted: ReadonlyArray<Sequence> = []
        for (const job of this.#jobs.values()) {
          const free = this.#bounds.maxSequences - this.#running.length - admitted.length
          for (let count = Math.min(job.waits, free); count > 0; count = Math.floor(count / 2)) {
            const more = [...admitted, ...job.peek(count)]
            const next = this.#planned(more, room)
            if (!fits(next)) continue
            ;[best, admitted] = [next, more]
            break
          }
          if (job.waits > admitted.length) break
        }
        if (admitted.length === 0 && !full) {
          if (this.#running.length > 0) return void (this.#news = false)
          continue
        }
        return this.#seat(best, admitted)
      }
      // The youngest gives way; the oldest can go on alone, or its request would have been refused.
      this.#giveWay(this.#running.pop()!)
    }
  }

  async #seat(next: Plan<Sequence>, admitted: ReadonlyArray<Sequence>): Promise<void> {
    for (const sequence of admitted) {
      sequence.family.begin(sequence)
      this.#running.push(sequence)
    }
    const copies = this.#grid.arrange(next)
    await this.#cache.arrange(next.layout, copies)
    this.#settled = 0
    this.#news = false
  }

  // ---- prompts

  async #prefill(): Promise<void> {
    if (this.#filling?.jobs.every(({ id }) => !this.#jobs.has(id)) === true) {
      this.#filling.prompts.free()
      this.#filling = undefined
    }
    const { jobs, prompts } = (this.#filling ??= await this.#nextPrompts())
    const [longest, count] = [Math.max(...jobs.map(({ prefix }) => prefix)), jobs.length]
    const length = Math.min(longest - prompts.length, Math.max(1, Math.floor(this.#bounds.prefillRows / count)))
    const tokens: Array<number> = []
    const positions: Array<number> = []
    for (const { request } of jobs) {
      for (let at = prompts.length; at < prompts.length + length; at++) {
        tokens.push(request.prompt[at] ?? 0)
        positions.push(at)
      }
    }
    const parts = prompts.parts(length)
    const { results } = await this.#run.run({
      owner: jobs[0]!.owner,
      lanes: count,
      width: 1,
      length,
      tokens,
      positions,
      mask: this.#causal(prompts, parts, length),
      parts,
      cache: prompts.feeds(),
      draws: [{ row: 0, inverseTemperature: 1, uniform: 0, greedy: true }],
      logits: false
    })
    prompts.append(results, length)
    if (prompts.length < longest) return
    this.#filling = undefined
    const targets = jobs.flatMap((job, prompt) => {
      return this.#grid.fill(job).map((to) => ({ prompt, length: job.prefix, to }))
    })
    if (targets.length > 0) await this.#cache.write(prompts, targets)
    prompts.free()
  }

  /** The oldest prompt that is not in the cache, and others of about its length with the same weights. */
  async #nextPrompts(): Promise<Filling> {
    const missing = new Set(this.#running.flatMap(({ family, filled }) => (filled ? [] : [family])))
    const [first, ...others] = missing
    const jobs = [first!]
    let [shortest, longest] = [first!.prefix, first!.prefix]
    for (const job of others) {
      const [low, high] = [Math.min(shortest, job.prefix), Math.max(longest, job.prefix)]
      if (job.owner !== first!.owner || high > 1.25 * low + 8) continue
      if (high * (jobs.length + 1) > this.#bounds.prefillRows) continue
      jobs.push(job)
      ;[shortest, longest] = [low, high]
    }
    return { jobs, prompts: await this.#cache.prompts(jobs.length, longest) }
  }

  /** New tokens see what is stored, and one another up to themselves; the rows of query heads that share a key alike. */
  #causal({ length: stored, start }: Prompts, parts: Parts, tokens: number): Tensor {
    const width = parts[0] + parts[1] + parts[2]
    const group = this.#shape.heads / this.#shape.kvHeads
    const mask = new Float32Array(group * tokens * width).fill(FORBIDDEN)
    const fresh = width - tokens
    for (let row = 0; row < group * tokens; row++) {
      const at = row * width
      mask.fill(0, at + start, at + start + stored)
      mask.fill(0, at + fresh, at + fresh + 1 + (row % tokens))
    }
    return this.#weights.device.host(mask, [1, 1, 1, group * tokens, width])
  }

  // ---- decoding

  async #decode(): Promise<void> {
    for (const owner of new Set(this.#running.map(({ family }) => family.owner))) {
      const rows = this.#running.filter(({ family, seat }) => family.owner === owner && seat !== undefined)
      if (rows.length > 0) await this.#decodeFor(owner, rows)
    }
    this.#running = this.#running.filter(({ seat }) => seat !== undefined)
  }

  /** One token for the samples of one owner's weights. */
  async #decodeFor(owner: Owner, sequences: ReadonlyArray<Sequence>): Promise<void> {
    const { device } = this.#weights
    const lanes = this.#cache.lanes(this.#grid.used)
    const { width } = this.#grid.layout
    const parts = this.#cache.parts()
    const scores = parts[0] + parts[1] + parts[2]
    const mask = new Float32Array(lanes * width * scores).fill(FORBIDDEN)
    const tokens = Array.from({ length: lanes * width }, () => 0)
    const positions = Array.from(tokens)
    // Rows of empty seats see themselves only.
    for (let row = 0; row < lanes * width; row++) mask[(row + 1) * scores - 1] = 0
    const seats = sequences.map((sequence) => this.#grid.occupied(sequence))
    const draws = sequences.map((sequence, i): Drawing => {
      const { family, sample, stored } = sequence
      const row = seats[i]!.lane * width + seats[i]!.column
      tokens[row] = sequence.next
      positions[row] = stored
      this.#cache.allow(mask.subarray(row * scores, (row + 1) * scores), seats[i]!)
      const { inverseTemperature, request } = family
      const uniform = family.uniform(sample, stored + 1)
      return { row, inverseTemperature, uniform, greedy: request.temperature === 0 }
    })
    const outcome = await this.#run.run({
      owner,
      lanes,
      width,
      length: 1,
      tokens,
      positions,
      mask: device.host(mask, [lanes, 1, width, 1, scores]),
      parts,
      cache: this.#cache.feeds(lanes),
      draws,
      logits: sequences.some(({ draws, family }) => draws && family.filtered)
    })
    // A request that was cancelled meanwhile has no seats any more.
    await this.#cache.append(
      outcome.results,
      seats.filter((_, i) => sequences[i]!.seat !== undefined)
    )
    const failed = new Map<Job, number>()
    for (const [i, sequence] of sequences.entries()) {
      if (sequence.seat === undefined) continue
      const known = !sequence.draws
      sequence.stored += 1
      if (known) continue
      const { family } = sequence
      let [token, logprob] = [outcome.tokens[i]!, outcome.logprobs[i]!]
      if (family.filtered) {
        const { vocabulary } = this.#shape
        const row = outcome.logits!.subarray(i * vocabulary, (i + 1) * vocabulary)
        ;({ logprob, token } = chooseFiltered(row, family.request, draws[i]!.uniform))
      }
      if (!Number.isFinite(logprob)) {
        failed.set(family, logprob)
        continue
      }
      family.gathered.add(sequence.sample, token, logprob)
      const reason = sequence.accept(token, this.#shape.context)
      if (reason === undefined) continue
      family.gathered.finish(sequence.sample, reason)
      family.unfinished -= 1
      this.#leave(sequence)
    }
    for (const [job, value] of failed) {
      const detail = `the logits are not finite (log-sum-exp ${value}): the weights have diverged`
      this.#fail(job, new EngineFailure("NON_FINITE", `sample: ${detail}`))
    }
    if (failed.size > 0) this.#forget()
  }
}
