/**
 * Passes of chunks of tokens through a model and back, layer by layer, for the verbs of a policy. Only gradients
 * outlive a call; the optimiser holds them.
 */
import type { Chunk } from "./chunks.ts"
import type { Feeds, Tensor } from "../worker/device.ts"
import { type Abort, throwIfAborted } from "../worker/failure.ts"
import { layerTensors, modules } from "../graph/network.ts"
import type { Optimizer } from "./optimizer.ts"
import * as Graphs from "./policyGraphs.ts"
import type { Sessions } from "../graph/sessions.ts"
import { factorName, layerPrefix, type Owner, type Weights } from "../worker/weights.ts"

/** Most logits held at once. */
const LOGITS = 1 << 24

/** Weights that a pass uses. */
export interface Source {
  readonly owner: Owner
  /** Tensors of the base, by name. */
  readonly base: (name: string) => Tensor
}

/** Gradients of a whole forest's targets. */
export interface Slopes {
  readonly logprobs: Float32Array
  readonly entropy: Float32Array | null
}

/** Some of a chunk's predicting rows, and their targets. */
interface Slice {
  readonly rows: BigInt64Array
  /** Index of the slice's first row, and of its first pair, in the chunk. */
  readonly first: number
  readonly from: number
  /** Targets in the form of a chunk's, counted from the slice's first row. */
  readonly targets: BigInt64Array
}

/** Inputs that all layers of a chunk share. */
interface Place {
  readonly feeds: Feeds
  readonly rows: number
}

export class Passes {
  readonly #weights: Weights
  readonly #optimizer: Optimizer
  readonly #sessions: Sessions

  constructor(weights: Weights, optimizer: Optimizer, sessions: Sessions) {
    this.#weights = weights
    this.#optimizer = optimizer
    this.#sessions = sessions
  }

  /** Returns the adapter of a layer, and a key that distinguishes its graphs. */
  #layerAdapter(owner: Owner, layer: number): { readonly key: string; readonly adapter?: Graphs.LayerAdapter } {
    const adapter = this.#weights.adapter(owner)
    if (adapter === undefined) return { key: "" }
    const own = modules.filter((module) => adapter.modules.has(layerPrefix(layer) + module))
    const { rank, scale } = adapter
    return { key: `${rank} ${scale} ${own.join()}`, adapter: { modules: own, rank, scale } }
  }

  /** Names of a layer's weights: in its graphs, and in their owner. */
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
    const feeds: Record<string, Tensor> = {}
    try {
      feeds["cos"] = await device.upload(cos, dims)
      feeds["sin"] = await device.upload(sin, dims)
      feeds["mask"] = await device.upload(chunk.mask, [rows, rows])
      return { feeds, rows }
    } catch (cause) {
      device.free(...Object.values(feeds))
      throw cause
    }
  }

  /** Runs the layers. Returns the input of each and the last output, or only that output without `keep`. */
  async forward(chunk: Chunk, source: Source, keep: boolean, abort: Abort | undefined): Promise<ReadonlyArray<Tensor>> {
    const { device, shape } = this.#weights
    const place = await this.#place(chunk)
    const streams: Array<Tensor> = []
    try {
      const embed = await this.#sessions.get("embed", () => Graphs.embed(shape))
      const tokens = device.host(chunk.tokens, [place.rows], "int64")
      streams.push((await embed.run({ tokens, table: source.base("model.embed_tokens.weight") }))["y"]!)
      for (let layer = 0; layer < shape.layers; layer++) {
        throwIfAborted(abort, "forward")
        const { adapter, key } = this.#layerAdapter(source.owner, layer)
        const session = await this.#sessions.get(`forward ${place.rows} ${key}`, () =>
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

  /** Splits a chunk's predicting rows, with their targets, into parts whose logits fit. */
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

  /** Computes log-probabilities of a chunk's pairs and entropies of its rows. */
  async head(chunk: Chunk, x: Tensor, source: Source, temperature: number, abort: Abort | undefined) {
    const logprobs = new Float32Array(chunk.targets.length / 2)
    const entropy = new Float32Array(chunk.rows.length)
    const session = await this.#sessions.get("head", () => Graphs.head(this.#weights.shape), ["logprobs", "entropy"])
    for (const slice of this.#slices(chunk)) {
      throwIfAborted(abort, "forward")
      const results = await session.run(this.#headFeeds(slice, x, source, temperature))
      logprobs.set(results["logprobs"]!.data as Float32Array, slice.from)
      entropy.set(results["entropy"]!.data as Float32Array, slice.first)
    }
    return { logprobs, entropy }
  }

  async backward(
    chunk: Chunk,
    inputs: ReadonlyArray<Tensor>,
    source: Source,
    temperature: number,
    slopes: Slopes,
    abort: Abort | undefined
  ): Promise<void> {
    const { device, shape } = this.#weights
    const { owner } = source
    const full = owner === undefined
    const rows = chunk.tokens.length
    // Targets of the same pair share its gradient.
    const byPair = new Float32Array(chunk.targets.length / 2)
    const byRow = new Float32Array(chunk.rows.length)
    const entropyByRow = new Float32Array(chunk.rows.length)
    for (const [i, n] of chunk.members.entries()) {
      byPair[chunk.pair[i]!]! += slopes.logprobs[n]!
      byRow[chunk.row[i]!]! += slopes.logprobs[n]!
      entropyByRow[chunk.row[i]!]! += slopes.entropy?.[n] ?? 0
    }
    const table = shape.tied ? "model.embed_tokens.weight" : "lm_head.weight"
    const place = await this.#place(chunk)
    let dx: Tensor | undefined
    const next = (tensor: Tensor) => {
      device.free(dx)
      dx = tensor
    }
    try {
      dx = await device.upload(new Float32Array(rows * shape.hidden), [rows, shape.hidden])
      const head = await this.#sessions.get(`headBackward ${full}`, () => Graphs.headBackward(shape, full))
      for (const slice of this.#slices(chunk)) {
        throwIfAborted(abort, "backward")
        const [pairs, size] = [slice.targets.length / 2, slice.rows.length]
        const results = await head.run({
          ...this.#headFeeds(slice, inputs.at(-1)!, source, temperature),
          dLogprobs: device.host(byPair.slice(slice.from, slice.from + pairs), [pairs]),
          rowSum: device.host(byRow.slice(slice.first, slice.first + size), [size, 1]),
          dEntropy: device.host(entropyByRow.slice(slice.first, slice.first + size), [size, 1]),
          places: device.host(slice.rows, [size, 1], "int64"),
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
        const session = await this.#sessions.get(`backward ${rows} ${key}`, () =>
          Graphs.layerBackward(shape, rows, adapter)
        )
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
      const embed = await this.#sessions.get("embedBackward", () => Graphs.embedBackward(shape))
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
