/**
 * The verbs of a policy on an ONNX device. Activations, gradients and the optimiser's state stay where the device
 * computes; log-probabilities and their gradients are what crosses. Of a forward that backward will follow, the input of
 * every layer is kept, as far as `activationBytes` reaches; the rest of it is computed again.
 */
import type { Forest, Forward } from "../../Policy.ts"
import type { LogprobSettings, NativeInfo, StepReport, StepSettings } from "../Native.ts"
import { type Chunk, chunksOf } from "./chunks.ts"
import type { Feeds, Session, Tensor } from "./device.ts"
import { type Abort, EngineFailure, throwIfAborted } from "./engine.ts"
import { type Model, sizeOf } from "./graph.ts"
import { layerTensors, modules } from "./network.ts"
import { Optimizer } from "./optimizer.ts"
import * as Graphs from "./policyGraphs.ts"
import { factorName, factsOf, layerPrefix, type Owner, type Weights } from "./weights.ts"

export interface PolicyOptions {
  /** Most tokens computed at once; a single longer sequence is computed whole. Default 1024. */
  readonly chunkTokens?: number
  /** Bytes of layer inputs kept for backward. Default 1 GiB. */
  readonly activationBytes?: number
}

/** Logits held at once, in numbers. */
const LOGITS = 1 << 24

/** Which weights a pass goes through. */
interface Source {
  readonly owner: Owner
  /** Tensors of the base, by name. */
  readonly base: (name: string) => Tensor
}

interface Kept {
  readonly source: Source
  readonly chunks: ReadonlyArray<{ readonly chunk: Chunk; readonly inputs: ReadonlyArray<Tensor> | undefined }>
  readonly targets: number
  readonly temperature: number
}

/** Some of a chunk's predicting rows, and the targets in them. */
interface Slice {
  readonly rows: BigInt64Array
  /** The first of the rows, and of the pairs, among the chunk's. */
  readonly first: number
  readonly from: number
  /** As a chunk's, counted from the slice's first row. */
  readonly targets: BigInt64Array
}

/** What a chunk's layers are run with. */
interface Place {
  readonly feeds: Feeds
  readonly rows: number
}

export class PolicyEngine {
  readonly #weights: Weights
  readonly #optimizer: Optimizer
  readonly #chunkTokens: number
  readonly #activationBytes: number
  readonly #sessions = new Map<string, Promise<Session>>()
  readonly #kept = new Map<number, Kept>()
  #reference: ReadonlyMap<string, Tensor> | undefined
  #ids = 0

  private constructor(weights: Weights, options: PolicyOptions) {
    this.#weights = weights
    this.#optimizer = new Optimizer(weights, (key, make) => this.#session(key, make, ["sum"]))
    this.#chunkTokens = options.chunkTokens ?? 1024
    this.#activationBytes = options.activationBytes ?? 2 ** 30
  }

  static async open(weights: Weights, options: PolicyOptions = {}): Promise<PolicyEngine> {
    const engine = new PolicyEngine(weights, options)
    for (const { lora, name } of factsOf(weights.store).adapters) engine.#refuseDropout(name, lora.dropout)
    await engine.#optimizer.read(undefined)
    for (const { name } of factsOf(weights.store).adapters) await engine.#optimizer.read(name)
    return engine
  }

  async logprobs(forest: Forest, settings: LogprobSettings, abort?: Abort): Promise<Forward> {
    const source = this.#source(settings)
    if (!(settings.temperature > 0)) {
      throw new EngineFailure("CONFIG", `temperature is ${settings.temperature}, must be positive`)
    }
    if (settings.keep) this.#dropKept(source.owner)
    const logprobs = new Float32Array(forest.targetToken.length)
    const entropy = new Float32Array(settings.entropy ? logprobs.length : 0)
    const kept: Array<Kept["chunks"][number]> = []
    let room = settings.keep ? this.#activationBytes : 0
    try {
      for (const chunk of chunksOf(forest, this.#weights.shape, this.#chunkTokens)) {
        const { hidden, layers } = this.#weights.shape
        const bytes = chunk.tokens.length * hidden * 4 * (layers + 1)
        const keep = bytes <= room
        if (keep) room -= bytes
        const inputs = await this.#forward(chunk, source, keep, abort)
        if (settings.keep) kept.push({ chunk, inputs: keep ? inputs : undefined })
        try {
          const values = await this.#head(chunk, inputs.at(-1)!, source, settings.temperature, abort)
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
    return { id, logprobs, entropy }
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
    try {
      for (const { chunk, inputs } of kept.chunks) {
        const own = inputs ?? (await this.#forward(chunk, kept.source, true, abort))
        try {
          await this.#backward(chunk, own, kept, dLogprobs, dEntropy, abort)
        } finally {
          this.#weights.device.free(...own)
        }
      }
      this.#optimizer.accumulated(owner)
    } catch (cause) {
      // Half of a gradient is none.
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

  /** The gradient so far of a tensor, by the names of the store. */
  async gradient(name: string, adapter?: string | null): Promise<Float32Array> {
    const owner = this.#weights.owner("gradient", adapter ?? undefined)
    return this.#weights.device.download(await this.#optimizer.gradient(owner, name))
  }

  async zeroGradients(adapter?: string | null): Promise<void> {
    this.#optimizer.clear(this.#weights.owner("zeroGradients", adapter ?? undefined))
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
    const owner = this.#weights.owner("load", adapter ?? undefined)
    await this.#weights.store.load(directory, owner ?? "base")
    await this.#weights.reload(owner)
    await this.#optimizer.read(owner)
    this.#weightsChanged(owner)
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
    this.#dropKept(name)
    this.#optimizer.remove(name)
    this.#weights.remove(name)
  }

  /** The store's facts with what is so here. */
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
    for (const session of this.#sessions.values()) await (await session).release()
    this.#sessions.clear()
  }

  #source({ adapter, weights }: LogprobSettings): Source {
    const current = (name: string) => this.#weights.tensor(undefined, name)
    if (weights === "policy") return { owner: this.#weights.owner("logprobs", adapter), base: current }
    if (!this.#weights.full) return { owner: undefined, base: current }
    const reference = this.#reference
    if (reference === undefined) {
      throw new EngineFailure("STATE", "logprobs: there is no reference policy: call freezeReference first")
    }
    return { owner: undefined, base: (name) => reference.get(name)! }
  }

  #refuseFrozen(operation: string, owner: Owner): void {
    if (owner !== undefined || this.#weights.full) return
    const remedy = "name an adapter, add one first, or open the model with `lora`"
    throw new EngineFailure("STATE", `${operation}: the base is frozen: ${remedy}`)
  }

  #refuseDropout(name: string, dropout: number): void {
    if (dropout === 0) return
    const problem = `lora.dropout of \`${name}\` is ${dropout}, which this engine does not have`
    throw new EngineFailure("CONFIG", `${problem}: set it to 0, or train with engine "native"`)
  }

  #dropKept(owner: Owner): void {
    for (const [id, kept] of this.#kept) {
      if (kept.source.owner !== owner && owner !== undefined) continue
      for (const { inputs } of kept.chunks) this.#weights.device.free(...(inputs ?? []))
      this.#kept.delete(id)
    }
  }

  /** What was computed with the weights as they were is of no use any more; of another base, nothing is. */
  #weightsChanged(owner: Owner): void {
    this.#dropKept(owner)
  }

  #session(key: string, make: () => Model, host: ReadonlyArray<string> = []): Promise<Session> {
    const known = this.#sessions.get(key)
    if (known !== undefined) return known
    const session = this.#weights.device.session(make(), { host })
    session.catch(() => this.#sessions.delete(key))
    this.#sessions.set(key, session)
    return session
  }

  /** The adapter of a layer, and what tells graphs for it from others. */
  #layerAdapter(owner: Owner, layer: number): { readonly key: string; readonly adapter?: Graphs.LayerAdapter } {
    const adapter = this.#weights.adapter(owner)
    if (adapter === undefined) return { key: "" }
    const own = modules.filter((module) => adapter.modules.has(layerPrefix(layer) + module))
    const { rank, scale } = adapter
    return { key: `${rank} ${scale} ${own.join()}`, adapter: { modules: own, rank, scale } }
  }

  /** Names of a layer's weights: as its graphs have them, as their owner has them. */
  #layerNames(owner: Owner, layer: number): ReadonlyArray<readonly [string, Owner, string]> {
    const prefix = layerPrefix(layer)
    const base = layerTensors(this.#weights.shape).map(([name]) => [name, undefined, prefix + name] as const)
    const adapted = modules.filter((module) => this.#weights.adapter(owner)?.modules.has(prefix + module) === true)
    const factors = adapted.flatMap((module) =>
      (["A", "B"] as const).map(
        (factor) => [Graphs.factorInput(module, factor), owner, factorName(prefix + module, factor)] as const
      )
    )
    return [...base, ...factors]
  }

  #layerFeeds({ base, owner }: Source, layer: number): Feeds {
    return Object.fromEntries(
      this.#layerNames(owner, layer).map(([input, of, name]) => [
        input,
        of === undefined ? base(name) : this.#weights.tensor(of, name)
      ])
    )
  }

  /** Mask and angles of a chunk, on the device. */
  async #place(chunk: Chunk): Promise<Place> {
    const { device, frequencies, shape } = this.#weights
    const rows = chunk.tokens.length
    const half = shape.headDim / 2
    const [cos, sin] = [new Float32Array(rows * shape.headDim), new Float32Array(rows * shape.headDim)]
    for (let row = 0; row < rows; row++) {
      for (let i = 0; i < half; i++) {
        const angle = Math.fround(chunk.positions[row]! * frequencies[i]!)
        const at = row * shape.headDim + i
        cos[at] = cos[at + half] = Math.cos(angle)
        sin[at] = sin[at + half] = Math.sin(angle)
      }
    }
    const dims = [rows, shape.headDim]
    const feeds = {
      cos: await device.upload(cos, dims),
      sin: await device.upload(sin, dims),
      mask: await device.upload(chunk.mask, [rows, rows])
    }
    return { feeds, rows }
  }

  /** Runs the layers; gives the input of each and the last output, or (not `keep`) that alone. */
  async #forward(
    chunk: Chunk,
    source: Source,
    keep: boolean,
    abort: Abort | undefined
  ): Promise<ReadonlyArray<Tensor>> {
    const { device, shape } = this.#weights
    const place = await this.#place(chunk)
    const streams: Array<Tensor> = []
    try {
      const embed = await this.#session("embed", () => Graphs.embed(shape))
      const tokens = device.host(chunk.tokens, [place.rows], "int64")
      streams.push((await embed.run({ tokens, table: source.base("model.embed_tokens.weight") }))["y"]!)
      for (let layer = 0; layer < shape.layers; layer++) {
        throwIfAborted(abort, "logprobs")
        const { adapter, key } = this.#layerAdapter(source.owner, layer)
        const session = await this.#session(`forward ${place.rows} ${key}`, () =>
          Graphs.layerForward(shape, place.rows, adapter)
        )
        const x = streams.at(-1)!
        const { y } = await session.run({ x, ...place.feeds, ...this.#layerFeeds(source, layer) })
        streams.push(y!)
        if (!keep) device.free(streams.shift())
      }
      return streams
    } catch (cause) {
      device.free(...streams)
      throw cause
    } finally {
      device.free(...Object.values(place.feeds))
    }
  }

  /** Parts of a chunk's predicting rows, few enough for their logits to be held, and the targets in them. */
  #slices({ rows, targets }: Chunk): ReadonlyArray<Slice> {
    const step = Math.max(1, Math.floor(LOGITS / this.#weights.shape.vocabulary))
    const slices: Array<Slice> = []
    for (let [first, from] = [0, 0]; first < rows.length; first += step) {
      let to = from
      while (2 * to < targets.length && targets[2 * to]! < first + step) to++
      const own = targets.slice(2 * from, 2 * to).map((value, i) => (i % 2 === 0 ? value - BigInt(first) : value))
      slices.push({ rows: rows.subarray(first, first + step), first, targets: own, from })
      from = to
    }
    return slices
  }

  #headFeeds(slice: Slice, x: Tensor, source: Source, temperature: number): Feeds {
    const { device, shape } = this.#weights
    return {
      x,
      rows: device.host(slice.rows, [slice.rows.length], "int64"),
      targets: device.host(slice.targets, [slice.targets.length / 2, 2], "int64"),
      norm: source.base("model.norm.weight"),
      table: source.base(shape.tied ? "model.embed_tokens.weight" : "lm_head.weight"),
      inverseTemperature: device.host(Float32Array.of(1 / temperature), [1])
    }
  }

  /** Log-probabilities of a chunk's pairs, entropies of its rows. */
  async #head(chunk: Chunk, x: Tensor, source: Source, temperature: number, abort: Abort | undefined) {
    const logprobs = new Float32Array(chunk.targets.length / 2)
    const entropy = new Float32Array(chunk.rows.length)
    const session = await this.#session("head", () => Graphs.head(this.#weights.shape), ["logprobs", "entropy"])
    for (const slice of this.#slices(chunk)) {
      throwIfAborted(abort, "logprobs")
      const results = await session.run(this.#headFeeds(slice, x, source, temperature))
      logprobs.set(results["logprobs"]!.data as Float32Array, slice.from)
      entropy.set(results["entropy"]!.data as Float32Array, slice.first)
    }
    return { logprobs, entropy }
  }

  async #backward(
    chunk: Chunk,
    inputs: ReadonlyArray<Tensor>,
    { source, temperature }: Kept,
    dLogprobs: Float32Array,
    dEntropy: Float32Array | null,
    abort: Abort | undefined
  ): Promise<void> {
    const { device, shape } = this.#weights
    const { owner } = source
    const full = owner === undefined
    const rows = chunk.tokens.length
    // Targets that ask for the same number share its gradient.
    const byPair = new Float32Array(chunk.targets.length / 2)
    const byRow = new Float32Array(chunk.rows.length)
    const entropyByRow = new Float32Array(chunk.rows.length)
    for (const [i, n] of chunk.members.entries()) {
      byPair[chunk.pair[i]!]! += dLogprobs[n]!
      byRow[chunk.row[i]!]! += dLogprobs[n]!
      if (dEntropy !== null) entropyByRow[chunk.row[i]!]! += dEntropy[n]!
    }
    const table = shape.tied ? "model.embed_tokens.weight" : "lm_head.weight"
    const place = await this.#place(chunk)
    let dx = await device.upload(new Float32Array(rows * shape.hidden), [rows, shape.hidden])
    const next = (tensor: Tensor) => {
      device.free(dx)
      dx = tensor
    }
    try {
      const head = await this.#session(`headBackward ${full}`, () => Graphs.headBackward(shape, full))
      for (const slice of this.#slices(chunk)) {
        throwIfAborted(abort, "backward")
        const [pairs, size] = [slice.targets.length / 2, slice.rows.length]
        const results = await head.run({
          ...this.#headFeeds(slice, inputs.at(-1)!, source, temperature),
          dLogprobs: device.host(byPair.slice(slice.from, slice.from + pairs), [pairs]),
          rowSum: device.host(byRow.slice(slice.first, slice.first + size), [size, 1]),
          dEntropy: device.host(entropyByRow.slice(slice.first, slice.first + size), [size, 1]),
          dxSum: dx,
          ...(full
            ? {
                "table.sum": await this.#optimizer.gradient(owner, table),
                "norm.sum": await this.#optimizer.gradient(owner, "model.norm.weight")
              }
            : {})
        })
        next(results["dx"]!)
        if (full) {
          this.#optimizer.accumulate(owner, table, results["table.grad"]!)
          this.#optimizer.accumulate(owner, "model.norm.weight", results["norm.grad"]!)
        }
      }
      for (let layer = shape.layers - 1; layer >= 0; layer--) {
        throwIfAborted(abort, "backward")
        const { adapter, key } = this.#layerAdapter(owner, layer)
        const session = await this.#session(`backward ${rows} ${key}`, () => Graphs.layerBackward(shape, rows, adapter))
        const trained = this.#layerNames(owner, layer).filter(([, of]) => of === owner)
        const sums = await Promise.all(
          trained.map(async ([input, , name]) => [`${input}.sum`, await this.#optimizer.gradient(owner, name)] as const)
        )
        const results = await session.run({
          x: inputs[layer]!,
          dy: dx,
          ...place.feeds,
          ...this.#layerFeeds(source, layer),
          ...Object.fromEntries(sums)
        })
        next(results["dx"]!)
        for (const [input, , name] of trained) this.#optimizer.accumulate(owner, name, results[`${input}.grad`]!)
      }
      if (!full) return
      const embed = await this.#session("embedBackward", () => Graphs.embedBackward(shape))
      const { grad } = await embed.run({
        sum: await this.#optimizer.gradient(owner, "model.embed_tokens.weight"),
        tokens: device.host(chunk.tokens, [rows, 1], "int64"),
        dy: dx
      })
      this.#optimizer.accumulate(owner, "model.embed_tokens.weight", grad!)
    } finally {
      device.free(dx, ...Object.values(place.feeds))
    }
  }
}

/** Of tensors of 32-bit numbers. */
export const bytesOf = (tensors: Iterable<Tensor>): number =>
  [...tensors].reduce((sum, tensor) => sum + 4 * sizeOf(tensor.dims), 0)
