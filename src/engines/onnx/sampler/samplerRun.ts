/** Runs the sampler's graph: the inputs of every run besides the cache, and the sessions. */
import type { Device, Feeds, Session, Tensor } from "../worker/device.ts"
import { int64 } from "../graph/graph.ts"
import { type Parts, type Results } from "./cache.ts"
import { blocksOf } from "./drawGraph.ts"
import { samplerGraph, sizes } from "./samplerGraph.ts"
import { adapterFeeds, type Order, type WeightSource, zeroFactors } from "./samplerWeights.ts"
import type { Owner, Weights } from "../worker/weights.ts"

/** A row to draw a token from. */
export interface Drawing {
  readonly row: number
  readonly inverseTemperature: number
  readonly uniform: number
  readonly greedy: boolean
}

export interface Step {
  readonly owner: Owner
  readonly gridRows: number
  readonly width: number
  /** New tokens of each slot. */
  readonly length: number
  /** [gridRows x width x length], like their positions. */
  readonly tokens: ReadonlyArray<number>
  readonly positions: ReadonlyArray<number>
  readonly mask: Tensor
  readonly parts: Parts
  readonly cache: Feeds
  readonly draws: ReadonlyArray<Drawing>
  /** Whether to return logits too. */
  readonly logits: boolean
}

export interface Outcome {
  readonly tokens: Float32Array
  readonly logprobs: Float32Array
  /** [draws, vocabulary] */
  readonly logits: Float32Array | undefined
  readonly results: Results
}

/** The largest f32 number below 1. */
const BELOW_ONE = 1 - 2 ** -24

interface Made {
  readonly session: Session
  readonly adapted: ReadonlySet<string>
  readonly order: Order
}

export class SamplerRun {
  readonly #weights: Weights
  readonly #source: WeightSource
  readonly #device: Device
  readonly #constant: boolean
  readonly #zeros
  readonly #sessions: Array<Made> = []
  #angles: { readonly cos: Float32Array; readonly sin: Float32Array; readonly positions: number }

  constructor(weights: Weights, source: WeightSource, constant: boolean) {
    this.#weights = weights
    this.#source = source
    this.#device = weights.device
    this.#constant = constant
    this.#zeros = zeroFactors(weights)
    this.#angles = { cos: new Float32Array(), sin: new Float32Array(), positions: 0 }
  }

  /** Makes what a run with these weights needs, unless it exists. */
  async prepare(owner: Owner): Promise<void> {
    for (const order of new Set([this.#source.orderOf(1), this.#source.orderOf(Infinity)])) {
      await this.#session(owner, order)
    }
  }

  async run(step: Step): Promise<Outcome> {
    const { draws, gridRows, length, logits, owner, parts, width } = step
    const rows = gridRows * width * length
    const order = length === 1 ? this.#source.orderOf(rows) : "rows"
    const { adapted, session } = await this.#session(owner, order)
    const device = this.#device
    const count = draws.length
    const list = (values: ReadonlyArray<number>, dims: ReadonlyArray<number>) =>
      device.host(int64(values), dims, "int64")
    const column = (value: (draw: Drawing) => number) => device.host(Float32Array.from(draws, value), [count, 1])
    const shapes = Object.entries({ ...sizes(this.#weights.shape, gridRows, width, length), "sizes.parts": parts })
    const blocks = blocksOf(this.#weights.shape.vocabulary)
    const feeds: Record<string, Tensor> = {
      ...this.#source.feeds(),
      ...(adapted.size === 0 ? {} : adapterFeeds(this.#weights, owner, adapted, this.#zeros)),
      ...step.cache,
      ...this.#rotations(step.positions),
      ...Object.fromEntries(shapes.map(([name, values]) => [name, list(values, [values.length])])),
      tokens: list(step.tokens, [rows]),
      rows: list(
        step.tokens.map((_, row) => row),
        [1, rows]
      ),
      mask: step.mask,
      select: list(
        draws.map(({ row }) => row),
        [count]
      ),
      inverseTemperature: column((draw) => draw.inverseTemperature),
      uniform: column((draw) => Math.min(draw.uniform, BELOW_ONE)),
      greedy: device.host(
        Uint8Array.from(draws, ({ greedy }) => Number(greedy)),
        [count, 1],
        "bool"
      ),
      first: device.host(
        Int32Array.from(draws, (_, row) => row * blocks),
        [count, 1],
        "int32"
      )
    }
    const names = session.model.outputs.map(({ name }) => name).filter((name) => name !== "logits" || logits)
    const results = await session.run(feeds, names)
    const wide = results["logits"]
    const values = logits && wide !== undefined ? await device.download(wide) : undefined
    device.free(wide)
    const numbers = (name: string) => results[name]!.data as Float32Array
    return { tokens: numbers("token"), logprobs: numbers("logprob"), logits: values, results }
  }

  async close(): Promise<void> {
    await this.#release()
    this.#source.close()
  }

  async #release(): Promise<void> {
    for (const { session } of this.#sessions.splice(0)) await session.release()
  }

  /** Graphs differ by the modules that adapters apply to, and by the order of products. */
  async #session(owner: Owner, order: Order): Promise<Made> {
    const modules = this.#weights.adapter(owner)?.modules
    // Constants are copied into every session. A session that has adapters can compute the bare base as well.
    const serves = (made: Made): boolean =>
      made.order === order &&
      (modules === undefined ? this.#constant || made.adapted.size === 0 : modules.isSubsetOf(made.adapted))
    const known = this.#sessions.find(serves)
    if (known !== undefined) return known
    const adapted =
      modules === undefined
        ? new Set<string>()
        : this.#sessions.reduce((all, made) => all.union(made.adapted), new Set(modules))
    const model = samplerGraph(this.#weights.shape, {
      linears: await this.#source.linears(order),
      adapted,
      resident: this.#device.resident
    })
    if (this.#constant) await this.#release()
    const session = await this.#device.session(model, { host: ["token", "logprob"], name: "sampler" })
    const made = { session, adapted, order }
    this.#sessions.push(made)
    return made
  }

  /** Cosines and sines of positions. */
  #rotations(positions: ReadonlyArray<number>): Feeds {
    const { context, headDim } = this.#weights.shape
    const half = headDim / 2
    const last = positions.reduce((most, position) => Math.max(most, position), 0)
    if (last >= this.#angles.positions) {
      const count = Math.min(context, Math.max(256, 2 * (last + 1)))
      const angle = (i: number) => Math.fround(Math.floor(i / half) * this.#weights.frequencies[i % half]!)
      const table = (of: (angle: number) => number) =>
        Float32Array.from({ length: count * half }, (_, i) => of(angle(i)))
      this.#angles = { cos: table(Math.cos), sin: table(Math.sin), positions: count }
    }
    const rows = (table: Float32Array): Tensor => {
      const values = new Float32Array(positions.length * half)
      for (const [row, position] of positions.entries()) {
        for (let i = 0; i < half; i++) values[row * half + i] = table[position * half + i]!
      }
      return this.#device.host(values, [positions.length, half])
    }
    return { cos: rows(this.#angles.cos), sin: rows(this.#angles.sin) }
  }
}
