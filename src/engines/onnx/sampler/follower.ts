/**
 * A sampler without a policy, on weights that are constants of its graph. It loads others from files. The former
 * weights are freed when the new ones are ready, so an unreadable folder changes nothing.
 */
import type { WeightUpdate } from "../../../engine/Sampler.ts"
import type { NativeModel } from "../../internal/nativeModel.ts"
import type { Device } from "../worker/device.ts"
import { type Abort, EngineFailure, type WorkerSampler, throwIfAborted } from "../worker/failure.ts"
import { Graph } from "../graph/graph.ts"
import type { SamplerWeights } from "../worker/protocol.ts"
import { openSampler, type Sampler } from "./batchingSampler.ts"
import type { Form } from "./samplerWeights.ts"
import { Weights } from "../worker/weights.ts"

export interface FollowerOptions {
  /** Opens the store of a folder, or (undefined) that of the engine's own model. */
  readonly open: (path: string | undefined) => Promise<NativeModel>
  readonly device: Device
  readonly form: SamplerWeights
  readonly cacheBytes?: number
}

interface Opened {
  readonly store: NativeModel
  readonly weights: Weights
  readonly sampler: Sampler
}

const forms: Readonly<Record<SamplerWeights, Form>> = { f32: "f32", f16: "f16", q8_0: "q8", q4_0: "q4", file: "file" }

/** Names the adapter of an update; the last one serves requests without a name. */
const followed = (update: number): string => `update-${update}`

export class Follower implements WorkerSampler {
  readonly #options: FollowerOptions
  #opened: Opened
  #adapter: string | undefined
  /** Version that samples carry. */
  #version = 0
  #updates = 0
  #vocabulary: Parameters<WorkerSampler["setVocabulary"]> | undefined

  private constructor(options: FollowerOptions, opened: Opened) {
    this.#options = options
    this.#opened = opened
  }

  static async open(options: FollowerOptions): Promise<Follower> {
    if (options.form === "f16") await needHalf(options.device)
    return new Follower(options, await openAt(options, undefined))
  }

  get store(): NativeModel {
    return this.#opened.store
  }

  setVocabulary(bytes: Uint8Array, offsets: Uint32Array): void {
    this.#opened.sampler.setVocabulary(bytes, offsets)
    this.#vocabulary = [bytes, offsets]
  }

  submit(...[id, request, emit]: Parameters<WorkerSampler["submit"]>): void {
    const version = this.#version
    const ours = this.#adapter !== undefined && (request.adapter ?? "default") === "default"
    const adapter = ours ? this.#adapter : request.adapter
    this.#opened.sampler.submit(id, adapter === undefined ? request : { ...request, adapter }, (error, events) =>
      emit(error, events === undefined || this.#updates === 0 ? events : { ...events, version })
    )
  }

  cancel(id: number): void {
    this.#opened.sampler.cancel(id)
  }
  busy(): boolean {
    return this.#opened.sampler.busy()
  }
  step(): Promise<void> {
    return this.#opened.sampler.step()
  }

  /** Requires that the sampler is idle. */
  async update({ directory, kind, version }: WeightUpdate, abort: Abort): Promise<void> {
    if (kind === "adapter") await this.#takeAdapter(directory, abort)
    else await this.#takeModel(directory, abort)
    this.#version = version
    this.#updates += 1
  }

  async #takeAdapter(directory: string, abort: Abort): Promise<void> {
    const { sampler, store, weights } = this.#opened
    const name = followed(this.#updates + 1)
    await store.addAdapter(name, null, directory)
    try {
      await weights.reload(name)
      await sampler.prepare(name)
      throwIfAborted(abort, "update")
    } catch (cause) {
      await this.#remove(name)
      throw cause
    }
    const former = this.#adapter
    this.#adapter = name
    if (former !== undefined) await this.#remove(former)
  }

  async #remove(adapter: string): Promise<void> {
    await this.#opened.store.removeAdapter(adapter)
    this.#opened.weights.remove(adapter)
  }

  async #takeModel(directory: string, abort: Abort): Promise<void> {
    if (this.#options.form === "file") {
      const remedy = 'open the sampler with weights "q8_0" or "q4_0", or push an adapter'
      throw new EngineFailure("CONFIG", `weights "file" need a GGUF file; ${directory} is a folder: ${remedy}`)
    }
    const opened = await openAt(this.#options, directory)
    try {
      throwIfAborted(abort, "update")
      if (this.#vocabulary !== undefined) opened.sampler.setVocabulary(...this.#vocabulary)
    } catch (cause) {
      await closeAll(opened)
      throw cause
    }
    const former = this.#opened
    this.#opened = opened
    this.#adapter = undefined
    await closeAll(former)
  }

  close(): Promise<void> {
    return closeAll(this.#opened)
  }
}

/** Fails if the device cannot compute in 16 bits, which it would otherwise report only at the first sample. */
const needHalf = async (device: Device): Promise<void> => {
  const graph = new Graph()
  const half = graph.cast(graph.input("x", [2]), "float16")
  graph.output("y", graph.cast(graph.add(half, half), "float32"))
  const session = await device.session(graph.build(), { host: ["y"] })
  try {
    await session.run({ x: device.host(Float32Array.of(1, 2), [2]) })
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause)
    const remedy = 'use "f32", "q8_0" or "q4_0"'
    throw new EngineFailure(
      "CONFIG",
      `weights "f16": ${device.provider} cannot compute in them here: ${remedy} (${reason})`
    )
  } finally {
    await session.release()
  }
}

const openAt = async (options: FollowerOptions, path: string | undefined): Promise<Opened> => {
  const { cacheBytes, device, form } = options
  const store = await options.open(path)
  try {
    const weights = await Weights.open(store, device, { base: false })
    const sampler = await openSampler({
      weights,
      source: "constants",
      form: forms[form],
      ...(cacheBytes === undefined ? {} : { cacheBytes })
    })
    try {
      await sampler.prepare()
      return { store, weights, sampler }
    } catch (cause) {
      await sampler.close()
      throw cause
    }
  } catch (cause) {
    await store.close()
    throw cause
  }
}

const closeAll = async ({ sampler, store, weights }: Opened): Promise<void> => {
  await sampler.close()
  weights.free()
  await store.close()
}
