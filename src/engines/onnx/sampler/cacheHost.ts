/**
 * The cache in arrays of the host. Regions are views that the runtime reads in place, and new positions are written
 * into them.
 */
import type { Device, Feeds, Tensor } from "../worker/device.ts"
import type { Shape } from "../graph/network.ts"
import {
  cacheNames,
  type Copy,
  EMPTY,
  type Filling,
  type Occupied,
  type Parts,
  type Place,
  type Prompts,
  type Results,
  type SamplerCache
} from "./cache.ts"
import type { Layout } from "./slotLayout.ts"

/** Start of positions in an array for the first head, and the distance to the next head's. */
type Span = readonly [start: number, stride: number]

const move = (shape: Shape, source: Float32Array, from: Span, target: Float32Array, to: Span, length: number): void => {
  const { headDim, kvHeads } = shape
  for (let head = 0; head < kvHeads; head++) {
    const start = from[0] + head * from[1]
    target.set(source.subarray(start, start + length * headDim), to[0] + head * to[1])
  }
}

class HostPrompts implements Prompts {
  readonly start = 1
  length = 0
  /** [prompt, head, room, headDim], for each name. */
  arrays: ReadonlyArray<Float32Array> = []
  room = 0
  readonly #device: Device
  readonly #shape: Shape
  readonly #names: ReadonlyArray<string>
  readonly #count: number
  readonly #capacity: number

  constructor(device: Device, shape: Shape, count: number, capacity: number) {
    this.#device = device
    this.#shape = shape
    this.#names = cacheNames(shape.layers)
    this.#count = count
    this.#capacity = capacity
  }

  parts(tokens: number): Parts {
    return [1, Math.max(1, this.room), tokens]
  }

  feeds(): Feeds {
    const { headDim, kvHeads } = this.#shape
    const nothing = new Float32Array(this.#count * kvHeads * headDim)
    const shared = this.#device.host(nothing, [this.#count, kvHeads, 1, 1, headDim])
    const feeds: Record<string, Tensor> = {}
    for (const [i, name] of this.#names.entries()) {
      const dims = [this.#count, kvHeads, 1, Math.max(1, this.room), headDim]
      feeds[`shared.${name}`] = shared
      feeds[`own.${name}`] = this.#device.host(this.arrays[i] ?? nothing, dims)
    }
    return feeds
  }

  append(results: Results, tokens: number): void {
    const { headDim, kvHeads } = this.#shape
    const fresh = this.#names.map((name) => results[`new.${name}`]!.data as Float32Array)
    if (this.length === 0 && tokens >= this.#capacity) {
      this.arrays = fresh
      this.length = this.room = tokens
      return
    }
    if (this.room === 0) {
      this.room = this.#capacity
      this.arrays = fresh.map(() => new Float32Array(this.#count * kvHeads * this.room * headDim))
    }
    for (const [i, source] of fresh.entries()) {
      for (let prompt = 0; prompt < this.#count; prompt++) {
        const from: Span = [prompt * kvHeads * tokens * headDim, tokens * headDim]
        const to: Span = [(prompt * kvHeads * this.room + this.length) * headDim, this.room * headDim]
        move(this.#shape, source, from, this.arrays[i]!, to, tokens)
      }
    }
    this.length += tokens
  }

  free(): void {
    this.arrays = []
  }
}

export class HostCache implements SamplerCache {
  layout = EMPTY
  readonly #device: Device
  readonly #shape: Shape
  readonly #names: ReadonlyArray<string>
  readonly #positions: number
  #arrays: ReadonlyArray<Float32Array> = []
  #scratch = new Float32Array()
  /** Regions of the first grid rows, by their number. */
  readonly #views = new Map<number, Feeds>()

  /** `positions` is the most that layouts will take, dummies included. Memory that is never written costs nothing. */
  constructor(device: Device, shape: Shape, positions: number) {
    this.#device = device
    this.#shape = shape
    this.#names = cacheNames(shape.layers)
    this.#positions = positions
  }

  #sharedSize({ gridRows, shared }: Layout): number {
    return gridRows * shared * this.#shape.kvHeads * this.#shape.headDim
  }

  #locate(layout: Layout, place: Place): Span {
    const { headDim, kvHeads } = this.#shape
    if (place.region === "shared") {
      return [(place.gridRow * kvHeads * layout.shared + place.at) * headDim, layout.shared * headDim]
    }
    const slot = place.gridRow * kvHeads * layout.width + place.column
    const start = this.#sharedSize(layout) + (slot * layout.own + place.at) * headDim
    return [start, layout.width * layout.own * headDim]
  }

  arrange(next: Layout, copies: ReadonlyArray<Copy>): Promise<void> {
    const { headDim, kvHeads } = this.#shape
    const width = kvHeads * headDim
    if (this.#arrays.length === 0) this.#arrays = this.#names.map(() => new Float32Array(this.#positions * width))
    const size = this.#sharedSize(this.layout) + this.layout.gridRows * this.layout.width * this.layout.own * width
    if (copies.length > 0) {
      if (this.#scratch.length < size) this.#scratch = new Float32Array(size)
      const spans = copies.map(({ from, length, to }) => {
        return [this.#locate(this.layout, from), this.#locate(next, to), length] as const
      })
      for (const array of this.#arrays) {
        this.#scratch.set(array.subarray(0, size))
        for (const [from, to, length] of spans) move(this.#shape, this.#scratch, from, array, to, length)
      }
    }
    this.layout = next
    this.#views.clear()
    return Promise.resolve()
  }

  prompts(count: number, capacity: number): Promise<Prompts> {
    return Promise.resolve(new HostPrompts(this.#device, this.#shape, count, capacity))
  }

  write(prompts: Prompts, targets: ReadonlyArray<Filling>): Promise<void> {
    if (!(prompts instanceof HostPrompts)) throw new Error("onnx sampler: prompts of another cache")
    const { headDim, kvHeads } = this.#shape
    const stride = prompts.room * headDim
    for (const { from, length, prompt, to } of targets) {
      const place = this.#locate(this.layout, to)
      const start = prompt * kvHeads * stride + from * headDim
      for (const [i, array] of this.#arrays.entries()) {
        move(this.#shape, prompts.arrays[i]!, [start, stride], array, place, length)
      }
    }
    return Promise.resolve()
  }

  gridRows(used: number): number {
    return used
  }

  feeds(gridRows: number): Feeds {
    const known = this.#views.get(gridRows)
    if (known !== undefined) return known
    const { headDim, kvHeads } = this.#shape
    const { own, shared, width } = this.layout
    const start = this.#sharedSize(this.layout)
    const feeds: Record<string, Tensor> = {}
    for (const [i, name] of this.#names.entries()) {
      const array = this.#arrays[i]!
      const prompts = array.subarray(0, gridRows * kvHeads * shared * headDim)
      const slots = array.subarray(start, start + gridRows * kvHeads * width * own * headDim)
      feeds[`shared.${name}`] = this.#device.host(prompts, [gridRows, kvHeads, 1, shared, headDim])
      feeds[`own.${name}`] = this.#device.host(slots, [gridRows, kvHeads, width, own, headDim])
    }
    this.#views.set(gridRows, feeds)
    return feeds
  }

  parts(): Parts {
    return [this.layout.shared, this.layout.own, 1]
  }

  allow(row: Float32Array, { own, shared }: Occupied): void {
    row.fill(0, 0, shared)
    row.fill(0, this.layout.shared, this.layout.shared + own)
    row[this.layout.shared + this.layout.own] = 0
  }

  append(results: Results, slots: ReadonlyArray<Occupied>): Promise<void> {
    const { headDim, kvHeads } = this.#shape
    const step = this.layout.width * headDim
    const places = slots.map(({ column, gridRow, own }) => {
      const [to, stride] = this.#locate(this.layout, { region: "own", gridRow, column, at: own })
      return { from: (gridRow * kvHeads * this.layout.width + column) * headDim, to, stride }
    })
    for (const [i, array] of this.#arrays.entries()) {
      const fresh = results[`new.${this.#names[i]!}`]!.data as Float32Array
      for (const { from, stride, to } of places) {
        // A call of `set` would cost more than copying so few numbers.
        for (let head = 0; head < kvHeads; head++) {
          for (let d = 0; d < headDim; d++) array[to + head * stride + d] = fresh[from + head * step + d]!
        }
      }
    }
    return Promise.resolve()
  }

  leave(): void {}

  reset(): void {
    this.#arrays = []
    this.layout = EMPTY
    this.#views.clear()
  }
}
