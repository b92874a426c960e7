/**
 * Sampling through ONNX Runtime: continuous batching over slots. A step computes prompts, or one token for every
 * running sample.
 *
 * Samples share their prompt up to its last token, which is each sample's first own position. So a later sample of a
 * cached prompt begins with that token. An evicted sample is computed again later from its tokens, with the same
 * result.
 */
import type { SampleRequest } from "../../internal/nativeModel.ts"
import { EngineFailure, type WorkerSampler } from "../worker/failure.ts"
import type { SamplerCache } from "./cache.ts"
import { DeviceCache } from "./cacheDevice.ts"
import { HostCache } from "./cacheHost.ts"
import { Decode } from "./decode.ts"
import type { Accept } from "./drawRows.ts"
import { Prefill } from "./prefill.ts"
import { Vocabulary } from "./request.ts"
import { SamplerRun } from "./samplerRun.ts"
import { type Bounds, Admission } from "./admission.ts"
import { type Emit, Job, type Sequence } from "./sequence.ts"
import { constantWeights, type Form, inputWeights } from "./samplerWeights.ts"
import type { Weights } from "../worker/weights.ts"

export interface SamplerOptions {
  readonly weights: Weights
  /**
   * `inputs`: the tensors of `weights` themselves, so an update takes effect at once. `constants`: a base that never
   * changes, in the runtime's own layout and the type `form`.
   */
  readonly source: "inputs" | "constants"
  /** Storage of constants. Default f32. */
  readonly form?: Form
  /**
   * Accuracy of products with weights in blocks: 4 also rounds the rows to 8 bits, 0 and 1 do not. Default 4 on the
   * processor, else 0.
   */
  readonly accuracy?: 0 | 1 | 4
  /** Bytes of keys and values. Default 512 MiB. */
  readonly cacheBytes?: number
  /** Most samples that decode at once. Default 256. */
  readonly maxSequences?: number
  /** Prompt tokens that one step computes. Default 256. */
  readonly prefillRows?: number
}

export interface Sampler extends WorkerSampler {
  /** Builds what sampling with an adapter or the base needs, before the first request. */
  readonly prepare: (adapter?: string) => Promise<void>
  /** Ends requests in flight and frees the device's memory. */
  readonly close: () => Promise<void>
}

export const openSampler = async (options: SamplerOptions): Promise<Sampler> => {
  const { cacheBytes = 512 * 2 ** 20, form = "f32", maxSequences = 256, prefillRows = 256, weights } = options
  for (const [name, value] of Object.entries({ cacheBytes, maxSequences, prefillRows })) {
    if (!(value >= 1)) throw new EngineFailure("CONFIG", `sampler: ${name} is ${value}: use at least 1`)
  }
  const { device, shape } = weights
  const positionBytes = 2 * shape.layers * shape.kvHeads * shape.headDim * Float32Array.BYTES_PER_ELEMENT
  const positions = Math.floor(cacheBytes / positionBytes)
  const constant = options.source === "constants"
  const accuracy = options.accuracy ?? (device.provider === "cpu" ? 4 : 0)
  const source = constant ? await constantWeights(weights, { form, accuracy }) : inputWeights(weights)
  return new BatchingSampler({
    weights,
    run: new SamplerRun(weights, source, constant),
    cache: device.resident ? new DeviceCache(device, shape) : new HostCache(device, shape, positions + maxSequences),
    bounds: { positions, maxSequences },
    positionBytes,
    prefillRows
  })
}

interface SamplerParts {
  readonly weights: Weights
  readonly run: SamplerRun
  readonly cache: SamplerCache
  readonly bounds: Bounds
  readonly positionBytes: number
  readonly prefillRows: number
}

class BatchingSampler implements Sampler {
  readonly #weights: Weights
  readonly #run: SamplerRun
  readonly #bounds: Bounds
  readonly #positionBytes: number
  readonly #jobs = new Map<number, Job>()
  readonly #admission: Admission
  readonly #prefill: Prefill
  readonly #decode: Decode
  #vocabulary: Vocabulary | undefined

  constructor({ bounds, cache, positionBytes, prefillRows, run, weights }: SamplerParts) {
    this.#weights = weights
    this.#run = run
    this.#bounds = bounds
    this.#positionBytes = positionBytes
    this.#admission = new Admission(this.#jobs, cache, bounds)
    this.#prefill = new Prefill(weights, run, this.#admission, prefillRows)
    this.#decode = new Decode(weights, run, this.#admission)
  }

  prepare(adapter?: string): Promise<void> {
    return this.#run.prepare(this.#weights.owner("sample", adapter))
  }

  setVocabulary(bytes: Uint8Array, offsets: Uint32Array): void {
    this.#vocabulary = new Vocabulary(bytes, offsets)
  }

  submit(id: number, request: SampleRequest, emit: Emit): void {
    try {
      const { shape } = this.#weights
      const owner = this.#weights.owner("sample", request.adapter)
      const job = new Job(id, request, emit, { owner, shape, vocabulary: this.#vocabulary })
      this.#checkRoom(job.longest - 1)
      this.#jobs.set(id, job)
      this.#admission.noteRequest()
    } catch (cause) {
      emit(errorOf(cause))
    }
  }

  #checkRoom(positions: number): void {
    if (positions <= this.#bounds.positions) return
    const [needed, limit] = [positions, this.#bounds.positions].map((count) => count * this.#positionBytes)
    const detail = `needs ${needed} bytes, the limit is ${limit}: raise the limit or make the batch smaller`
    throw new EngineFailure("OUT_OF_MEMORY", `sample: key-value cache for one sample: ${detail}`)
  }

  cancel(id: number): void {
    const job = this.#jobs.get(id)
    if (job === undefined) return
    for (const { group, sample, slot } of this.#admission.running) {
      if (group === job && slot !== undefined) job.gathered.finish(sample, "abort")
    }
    job.finishWaiting("abort")
    this.#drop(job)
    job.emit(null, job.gathered.take(this.#weights.version(job.owner), true))
  }

  busy(): boolean {
    return this.#jobs.size > 0
  }

  async step(): Promise<void> {
    try {
      this.#failRemovedAdapters()
      await this.#admission.admit()
      if (this.#admission.running.length > 0) await this.#compute()
    } catch (cause) {
      for (const job of this.#jobs.values()) this.#fail(job, errorOf(cause))
      this.#forget()
    }
    this.#deliver()
  }

  async close(): Promise<void> {
    for (const job of this.#jobs.values()) this.#fail(job, new EngineFailure("STATE", "sample: the model is closed"))
    this.#forget()
    await this.#run.close()
  }

  async #compute(): Promise<void> {
    const diverged = new Set<Job>()
    const accept: Accept = (sequence, token, logprob) => {
      if (token === undefined) diverged.add(sequence.group)
      else this.#accept(sequence, token, logprob)
    }
    const prompts = this.#admission.running.some(({ filled }) => !filled)
    if (prompts) await this.#prefill.step((job) => this.#jobs.has(job.id), accept)
    else await this.#decode.step(accept)
    for (const job of diverged) {
      const detail = "the logits are not finite (log-sum-exp NaN): the weights have diverged"
      this.#fail(job, new EngineFailure("NON_FINITE", `sample: ${detail}`))
    }
    if (diverged.size > 0) this.#forget()
  }

  #accept(sequence: Sequence, token: number, logprob: number): void {
    const { group, sample } = sequence
    group.gathered.add(sample, token, logprob)
    const reason = sequence.accept(token, this.#weights.shape.context)
    if (reason === undefined) return
    group.gathered.finish(sample, reason)
    group.unfinished -= 1
    this.#admission.finish(sequence)
  }

  #failRemovedAdapters(): void {
    for (const job of this.#jobs.values()) {
      if (job.owner === undefined || this.#weights.adapter(job.owner) !== undefined) continue
      this.#fail(job, new EngineFailure("STATE", "sample: the adapter was removed while it was sampled from"))
    }
  }

  #fail(job: Job, error: Error): void {
    this.#drop(job)
    job.emit(error)
  }

  /** Removes a request and its samples. */
  #drop(job: Job): void {
    this.#jobs.delete(job.id)
    for (const sequence of this.#admission.running) if (sequence.group === job) this.#admission.leave(sequence)
    this.#admission.sweep()
  }

  #forget(): void {
    this.#prefill.forget()
    this.#admission.forget()
  }

  #deliver(): void {
    for (const job of this.#jobs.values()) {
      if (job.gathered.empty) continue
      const done = job.unfinished === 0
      if (done) this.#drop(job)
      job.emit(null, job.gathered.take(this.#weights.version(job.owner), done))
    }
  }
}

const errorOf = (cause: unknown): Error => (cause instanceof Error ? cause : new Error(String(cause)))
