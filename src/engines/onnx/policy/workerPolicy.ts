/**
 * The verbs of a policy on an ONNX device. Activations, gradients and the optimiser's state stay on the device; only
 * log-probabilities and their gradients cross. A kept forward stores the input of every layer, within
 * `activationBytes`; the rest is recomputed.
 */
import type { Forest } from "../../../engine/Policy.ts"
import type { Forward, ForwardSettings, NativeInfo, StepReport, StepSettings } from "../../internal/nativeModel.ts"
import { type Chunk, chunksOf } from "./chunks.ts"
import type { Tensor } from "../worker/device.ts"
import { type Abort, EngineFailure } from "../worker/failure.ts"
import { sizeOf } from "../graph/graph.ts"
import { Optimizer } from "./optimizer.ts"
import { Passes, type Source } from "./policyPasses.ts"
import { Sessions } from "../graph/sessions.ts"
import { factsOf, type Owner, type Weights } from "../worker/weights.ts"

export interface PolicyOptions {
  /** Most tokens computed at once; a single longer sequence is computed whole. Default 1024. */
  readonly chunkTokens?: number
  /** Bytes of layer inputs kept for backward. Default 1 GiB. */
  readonly activationBytes?: number
}

interface Kept {
  readonly source: Source
  readonly chunks: ReadonlyArray<{ readonly chunk: Chunk; readonly inputs: ReadonlyArray<Tensor> | undefined }>
  readonly targets: number
  readonly temperature: number
}

export class WorkerPolicy {
  readonly #weights: Weights
  readonly #optimizer: Optimizer
  readonly #chunkTokens: number
  readonly #activationBytes: number
  readonly #sessions: Sessions
  readonly #passes: Passes
  readonly #kept = new Map<number, Kept>()
  #reference: ReadonlyMap<string, Tensor> | undefined
  #ids = 0

  private constructor(weights: Weights, options: PolicyOptions) {
    this.#weights = weights
    this.#sessions = new Sessions(weights.device)
    this.#optimizer = new Optimizer(weights, this.#sessions)
    this.#passes = new Passes(weights, this.#optimizer, this.#sessions)
    this.#chunkTokens = options.chunkTokens ?? 1024
    this.#activationBytes = options.activationBytes ?? 2 ** 30
  }

  static async open(weights: Weights, options: PolicyOptions = {}): Promise<WorkerPolicy> {
    const engine = new WorkerPolicy(weights, options)
    for (const { lora, name } of factsOf(weights.store).adapters) engine.#refuseDropout(name, lora.dropout)
    await engine.#optimizer.read(undefined)
    for (const { name } of factsOf(weights.store).adapters) await engine.#optimizer.read(name)
    return engine
  }

  async forward(forest: Forest, settings: ForwardSettings, abort?: Abort): Promise<Forward> {
    const source = this.#source(settings)
    if (!(settings.temperature > 0)) {
      throw new EngineFailure("CONFIG", `temperature is ${settings.temperature}, must be positive`)
    }
    if (settings.keep) this.#dropKept((other) => other === source.owner)
    const logprobs = new Float32Array(forest.targetToken.length)
    const entropy = new Float32Array(settings.entropy ? logprobs.length : 0)
    const kept: Array<Kept["chunks"][number]> = []
    // A processor gains nothing from larger products; a GPU does.
    const enough = this.#weights.device.resident ? 512 : 256
    let room = settings.keep ? this.#activationBytes : 0
    try {
      for (const chunk of chunksOf(forest, this.#weights.shape, this.#chunkTokens, enough)) {
        const { hidden, layers } = this.#weights.shape
        const bytes = chunk.tokens.length * hidden * 4 * (layers + 1)
        const keep = bytes <= room
        if (keep) room -= bytes
        const inputs = await this.#passes.forward(chunk, source, keep, abort)
        if (settings.keep) kept.push({ chunk, inputs: keep ? inputs : undefined })
        try {
          const values = await this.#passes.head(chunk, inputs.at(-1)!, source, settings.temperature, abort)
          for (const [i, n] of chunk.members.entries()) {
            logprobs[n] = values.logprobs[chunk.pair[i]!]!
            if (settings.entropy) entropy[n] = values.entropy[chunk.row[i]!]!
          }
        } finally {
          if (!keep) this.#weights.device.free(...inputs)
        }
      }
    } catch (cause) {
      for (const { inputs } of kept) this.#weights.device.free(...(inputs ?? []))
      throw cause
    }
    const id = ++this.#ids
    if (settings.keep) {
      this.#kept.set(id, { source, chunks: kept, targets: logprobs.length, temperature: settings.temperature })
    }
    return { id, logprobs, entropy, recorded: false }
  }

  async backward(id: number, dLogprobs: Float32Array, dEntropy: Float32Array | null, abort?: Abort): Promise<void> {
    const kept = this.#kept.get(id)
    if (kept === undefined) {
      const why = "it was never kept, was consumed, or the weights have changed since"
      throw new EngineFailure("STATE", `backward: there is no forward ${id}: ${why}`)
    }
    const { owner } = kept.source
    for (const [name, values] of [
      ["dLogprobs", dLogprobs],
      ["dEntropy", dEntropy]
    ] as const) {
      if (values === null) continue
      if (values.length !== kept.targets) {
        throw new EngineFailure("SHAPE", `backward: ${name} has ${values.length} values for ${kept.targets} targets`)
      }
      const at = values.findIndex((value) => !Number.isFinite(value))
      if (at !== -1) throw new EngineFailure("NON_FINITE", `backward: ${name}[${at}] is ${values[at]}`)
    }
    this.#refuseFrozen("backward", owner)
    this.#kept.delete(id)
    const slopes = { logprobs: dLogprobs, entropy: dEntropy }
    try {
      for (const { chunk, inputs } of kept.chunks) {
        const own = inputs ?? (await this.#passes.forward(chunk, kept.source, true, abort))
        try {
          await this.#passes.backward(chunk, own, kept.source, kept.temperature, slopes, abort)
        } finally {
          this.#weights.device.free(...own)
        }
      }
      this.#optimizer.accumulated(owner)
    } catch (cause) {
      // A partial gradient is invalid.
      this.#optimizer.clear(owner)
      for (const { inputs } of kept.chunks) this.#weights.device.free(...(inputs ?? []))
      throw cause
    }
  }

  async release(id: number): Promise<void> {
    for (const { inputs } of this.#kept.get(id)?.chunks ?? []) this.#weights.device.free(...(inputs ?? []))
    this.#kept.delete(id)
  }

  async step(settings: StepSettings): Promise<StepReport> {
    const owner = this.#weights.owner("step", settings.adapter)
    this.#refuseFrozen("step", owner)
    const report = await this.#optimizer.step(owner, settings)
    if (!report.skipped) this.#weightsChanged(owner)
    return report
  }

  /** Returns the accumulated gradient of a tensor, by the names of the store. */
  async gradient(name: string, adapter?: string | null): Promise<Float32Array> {
    const owner = this.#weights.owner("gradient", adapter ?? undefined)
    return this.#weights.device.download(await this.#optimizer.gradient(owner, name))
  }

  async zeroGradients(adapter?: string | null): Promise<void> {
    this.#optimizer.clear(this.#weights.named("zeroGradients", adapter ?? undefined))
  }

  async freezeReference(): Promise<void> {
    if (this.#weights.full) this.#reference = this.#weights.pin()
  }

  async save(directory: string, options: { readonly optimizer: boolean; readonly adapter?: string }): Promise<void> {
    const owner = this.#weights.owner("save", options.adapter)
    await this.#optimizer.write(owner, options.optimizer)
    await this.#weights.store.save(directory, { optimizer: options.optimizer, adapter: owner ?? "base" })
    await this.#optimizer.forget(owner)
  }

  async load(directory: string, adapter?: string | null): Promise<void> {
    const owner = this.#weights.named("load", adapter ?? undefined)
    await this.#weights.store.load(directory, owner ?? "base")
    this.#weightsChanged(owner)
    await this.#weights.whole(owner, async () => {
      await this.#weights.reload(owner)
      await this.#optimizer.read(owner)
    })
  }

  async exportModel(
    directory: string,
    options: { readonly dtype: "f32" | "bf16" | "f16"; readonly shardBytes?: number; readonly adapter?: string }
  ): Promise<void> {
    const owner = this.#weights.owner("exportModel", options.adapter)
    if (this.#weights.full) await this.#optimizer.write(undefined, false)
    if (owner !== undefined) await this.#optimizer.write(owner, false)
    await this.#weights.store.exportModel(directory, { ...options, adapter: owner ?? "base" })
  }

  async addAdapter(name: string, settings: string | null, directory?: string | null): Promise<void> {
    const { store } = this.#weights
    await store.addAdapter(name, settings, directory ?? null)
    try {
      this.#refuseDropout(name, factsOf(store).adapters.find((adapter) => adapter.name === name)?.lora.dropout ?? 0)
      await this.#weights.reload(name)
      await this.#optimizer.read(name)
    } catch (cause) {
      await store.removeAdapter(name)
      this.#weights.remove(name)
      throw cause
    }
  }

  async removeAdapter(name: string): Promise<void> {
    await this.#weights.store.removeAdapter(name)
    this.#dropKept((other) => other === name)
    this.#optimizer.remove(name)
    this.#weights.remove(name)
  }

  /** The store's facts, with those of this device in their place. */
  info(): NativeInfo {
    const facts = factsOf(this.#weights.store)
    const kept = [...this.#kept.values()].flatMap(({ chunks }) => chunks.flatMap(({ inputs }) => inputs ?? []))
    const sizes = { ...this.#weights.memory(), ...this.#optimizer.memory(), activations: bytesOf(kept) }
    // The store's copy of the weights, from which checkpoints are written.
    const buffers = facts.memory.weights + facts.memory.adapters
    const total = Object.values(sizes).reduce((sum, bytes) => sum + bytes, buffers)
    return {
      ...facts,
      version: this.#weights.version(undefined),
      steps: this.#optimizer.steps(undefined),
      adapters: facts.adapters.map((adapter) => ({
        ...adapter,
        version: this.#weights.version(adapter.name),
        steps: this.#optimizer.steps(adapter.name)
      })),
      memory: { ...facts.memory, ...sizes, buffers, cache: 0, total }
    }
  }

  async close(): Promise<void> {
    await this.#sessions.release()
  }

  #source({ adapter, weights }: ForwardSettings): Source {
    const current = (name: string) => this.#weights.tensor(undefined, name)
    if (weights === "policy") return { owner: this.#weights.owner("forward", adapter), base: current }
    if (!this.#weights.full) return { owner: undefined, base: current }
    const reference = this.#reference
    if (reference === undefined) {
      throw new EngineFailure("STATE", "forward: there is no reference policy: call freezeReference first")
    }
    return { owner: undefined, base: (name) => reference.get(name)! }
  }

  #refuseFrozen(operation: string, owner: Owner): void {
    if (owner !== undefined || this.#weights.full) return
    const remedy = "name an adapter, add one first, or open the model with `adapter`"
    throw new EngineFailure("STATE", `${operation}: the base is frozen: ${remedy}`)
  }

  #refuseDropout(name: string, dropout: number): void {
    if (dropout === 0) return
    const problem = `lora.dropout of \`${name}\` is ${dropout}, which this engine does not have`
    throw new EngineFailure("CONFIG", `${problem}: set it to 0, or train with engine "native"`)
  }

  #dropKept(matches: (owner: Owner) => boolean): void {
    for (const [id, kept] of this.#kept) {
      if (!matches(kept.source.owner)) continue
      for (const { inputs } of kept.chunks) this.#weights.device.free(...(inputs ?? []))
      this.#kept.delete(id)
    }
  }

  /** Results that used the former weights are stale; after a change of the base, all are. */
  #weightsChanged(owner: Owner): void {
    this.#dropKept((other) => owner === undefined || other === owner)
  }
}

/** Counts the bytes of 32-bit tensors. */
export const bytesOf = (tensors: Iterable<Tensor>): number =>
  [...tensors].reduce((sum, tensor) => sum + 4 * sizeOf(tensor.dims), 0)
