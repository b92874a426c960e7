/** A request in flight, and its samples. */
import type { SampleEvents, SampleRequest, StopReason } from "../../internal/nativeModel.ts"
import { uniforms } from "./philox.ts"
import type { Shape } from "../graph/network.ts"
import { hasFilters } from "./filteredDraw.ts"
import type { Member } from "./slotGrid.ts"
import type { Slot } from "./slotLayout.ts"
import { checkRequest, Gathered, longestOf, StopConditions, type Vocabulary } from "./request.ts"
import type { Owner } from "../worker/weights.ts"

export type Emit = (error: Error | null, events?: SampleEvents) => void

export class Job {
  readonly id: number
  readonly request: SampleRequest
  readonly owner: Owner
  readonly emit: Emit
  /** Tokens of the prompt before its last one. */
  readonly prefix: number
  /** Most tokens that a sample can have. */
  readonly longest: number
  readonly filtered: boolean
  readonly inverseTemperature: number
  readonly stops: StopConditions
  readonly gathered = new Gathered()
  /** Samples that wait for a slot after an eviction, or that were peeked at. */
  readonly waiting: Array<Sequence> = []
  unfinished: number
  #begun = 0
  readonly #uniform: (index: number, position: number) => number

  constructor(
    id: number,
    request: SampleRequest,
    emit: Emit,
    {
      owner,
      shape,
      vocabulary
    }: { readonly owner: Owner; readonly shape: Shape; readonly vocabulary: Vocabulary | undefined }
  ) {
    checkRequest(request, shape)
    this.id = id
    this.request = request
    this.owner = owner
    this.emit = emit
    this.prefix = request.prompt.length - 1
    this.longest = longestOf(request, shape)
    this.filtered = hasFilters(request)
    this.inverseTemperature = request.temperature === 0 ? 1 : 1 / request.temperature
    this.stops = new StopConditions(request, vocabulary)
    this.unfinished = request.count
    this.#uniform = uniforms(request.seed, request.stream)
  }

  /** Samples that wait for a slot. */
  get waits(): number {
    return this.waiting.length + this.request.count - this.#begun
  }

  /** Returns up to `count` of them, evicted ones first. They still count as waiting until {@link begin}. */
  peek(count: number): ReadonlyArray<Sequence> {
    while (this.waiting.length < count && this.#begun < this.request.count) {
      this.waiting.push(new Sequence(this, this.#begun++))
    }
    return this.waiting.slice(0, count)
  }

  begin(sequence: Sequence): void {
    this.waiting.splice(this.waiting.indexOf(sequence), 1)
  }

  /** Ends the samples that have no slot. */
  finishWaiting(reason: StopReason): void {
    for (const { sample } of this.waiting) this.gathered.finish(sample, reason)
    while (this.#begun < this.request.count) this.gathered.finish(this.#begun++, reason)
  }

  uniform(sample: number, position: number): number {
    return this.#uniform(this.request.firstIndex + sample, position)
  }
}

const NOTHING = new Uint8Array()

/** One sample. */
export class Sequence implements Member<Job> {
  readonly group: Job
  /** Offset in the request. */
  readonly sample: number
  /** Drawn tokens. */
  readonly tokens: Array<number> = []
  stored = 0
  filled = false
  shares = false
  slot: Slot | undefined
  /** End of the text, for stop strings. */
  #tail = NOTHING

  constructor(group: Job, sample: number) {
    this.group = group
    this.sample = sample
  }

  get length(): number {
    return this.group.request.prompt.length + this.tokens.length
  }
  /** Position of the first token that is not in the cache. */
  get next(): number {
    const { prompt } = this.group.request
    return this.stored < prompt.length ? prompt[this.stored]! : this.tokens[this.stored - prompt.length]!
  }
  /** Whether the token after that one is to be drawn, not known already. */
  get draws(): boolean {
    return this.stored === this.length - 1
  }
  /** Most positions that the sample can have in the cache: its last token is never stored. */
  get most(): number {
    return this.group.longest - 1
  }

  /** Appends a token; returns the stop reason if the sample ends with it. */
  accept(token: number, context: number): StopReason | undefined {
    const { request, stops } = this.group
    this.tokens.push(token)
    const { stop, tail } = stops.ends(token, this.#tail)
    this.#tail = tail as typeof NOTHING
    if (stop) return "stop"
    if (this.tokens.length >= request.maxTokens) return "length"
    return this.length >= context ? "context" : undefined
  }
}
