/**
 * The cache in tensors of a device, which a graph can read but not change. New positions wait in a small third region,
 * which every run returns one position longer. From time to time a graph that gathers rows merges it into the other
 * regions.
 */
import type { Device, Feeds, Session, Tensor } from "../worker/device.ts"
import { Graph, int64, type Model } from "../graph/graph.ts"
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
import type { Layout, Slot } from "./slotLayout.ts"

/** Steps after which recent positions are written to their region. */
const RECENT = 16

/** Tensors, by the names of {@link cacheNames}. */
type Region = ReadonlyMap<string, Tensor>

/** Tensors [gridRows, kvHeads, 1, 1, headDim] of zeros. */
class Zeros {
  readonly #device: Device
  readonly #shape: Shape
  readonly #known = new Map<number, Tensor>()

  constructor(device: Device, shape: Shape) {
    this.#device = device
    this.#shape = shape
  }

  async of(gridRows: number, width = 1): Promise<Tensor> {
    const { headDim, kvHeads } = this.#shape
    const key = gridRows * 2 ** 20 + width
    const dims = [gridRows, kvHeads, width, 1, headDim]
    const size = gridRows * kvHeads * width * headDim
    const tensor = this.#known.get(key) ?? (await this.#device.upload(new Float32Array(size), dims))
    this.#known.set(key, tensor)
    return tensor
  }
  owns(tensor: Tensor): boolean {
    return Array.from(this.#known.values()).includes(tensor)
  }
}

class DevicePrompts implements Prompts {
  readonly start = 3
  length = 0
  recent: Region
  readonly #device: Device
  readonly #zeros: Tensor

  constructor(device: Device, names: ReadonlyArray<string>, zeros: Tensor) {
    this.#device = device
    this.#zeros = zeros
    this.recent = new Map(names.map((name) => [name, zeros]))
  }

  parts(tokens: number): Parts {
    return [1, 1, 1 + this.length + tokens]
  }
  feeds(): Feeds {
    const feeds: Record<string, Tensor> = {}
    for (const [name, tensor] of this.recent) {
      feeds[`shared.${name}`] = this.#zeros
      feeds[`own.${name}`] = this.#zeros
      feeds[`recent.${name}`] = tensor
    }
    return feeds
  }
  append(results: Results, tokens: number): void {
    this.free()
    this.recent = new Map(Array.from(this.recent.keys(), (name) => [name, results[`new.${name}`]!]))
    this.length += tokens
  }
  free(): void {
    this.#device.free(...Array.from(this.recent.values()).filter((tensor) => tensor !== this.#zeros))
  }
}

/** Positions of a slot in the recent region: its own ones from `base` on. */
interface Late extends Slot {
  readonly base: number
  readonly steps: Array<number>
}

export class DeviceCache implements SamplerCache {
  layout = EMPTY
  readonly #device: Device
  readonly #shape: Shape
  readonly #names: ReadonlyArray<string>
  readonly #zeros: Zeros
  #session: Promise<Session> | undefined
  readonly #shared = new Map<string, Tensor>()
  readonly #own = new Map<string, Tensor>()
  readonly #recent = new Map<string, Tensor>()
  /** Positions of the recent region; the first is empty. */
  #length = 1
  readonly #late = new Map<string, Late>()

  constructor(device: Device, shape: Shape) {
    this.#device = device
    this.#shape = shape
    this.#names = cacheNames(shape.layers)
    this.#zeros = new Zeros(device, shape)
  }

  gridRows(): number {
    return this.layout.gridRows
  }

  feeds(): Feeds {
    const feeds: Record<string, Tensor> = {}
    for (const name of this.#names) {
      feeds[`shared.${name}`] = this.#shared.get(name)!
      feeds[`own.${name}`] = this.#own.get(name)!
      feeds[`recent.${name}`] = this.#recent.get(name)!
    }
    return feeds
  }

  parts(): Parts {
    return [this.layout.shared, this.layout.own, this.#length + 1]
  }

  allow(row: Float32Array, slot: Occupied): void {
    const { own, shared } = this.layout
    const late = this.#late.get(keyOf(slot))
    row.fill(0, 0, slot.shared)
    row.fill(0, shared, shared + (late?.base ?? slot.own))
    for (const step of late?.steps ?? []) row[shared + own + step] = 0
    row[shared + own + this.#length] = 0
  }

  async append(results: Results, slots: ReadonlyArray<Occupied>): Promise<void> {
    for (const name of this.#names) {
      this.#free(this.#recent.get(name))
      this.#recent.set(name, results[`new.${name}`]!)
    }
    for (const { column, gridRow, own } of slots) {
      const key = keyOf({ gridRow, column })
      const late = this.#late.get(key) ?? { gridRow, column, base: own, steps: [] }
      late.steps.push(this.#length)
      this.#late.set(key, late)
    }
    this.#length += 1
    if (this.#length <= RECENT) return
    await this.#rewrite(this.layout, this.#everything())
  }

  leave(slot: Slot): void {
    this.#late.delete(keyOf(slot))
  }

  arrange(layout: Layout, copies: ReadonlyArray<Copy>): Promise<void> {
    return this.#rewrite(layout, copies)
  }

  async prompts(count: number): Promise<Prompts> {
    return new DevicePrompts(this.#device, this.#names, await this.#zeros.of(count))
  }

  async write(prompts: Prompts, targets: ReadonlyArray<Filling>): Promise<void> {
    if (!(prompts instanceof DevicePrompts)) throw new Error("onnx sampler: prompts of another cache")
    const { kvHeads } = this.#shape
    const room = 1 + prompts.length
    for (const region of ["shared", "own"] as const) {
      const wanted = targets.filter(({ to }) => to.region === region)
      if (wanted.length === 0) continue
      const size = this.#rows(this.layout, region)
      const rows = Int32Array.from({ length: size }, (_, row) => row)
      for (const { from, length, prompt, to } of wanted) {
        for (let head = 0; head < kvHeads; head++) {
          const target = this.#row(this.layout, to, head)
          const source = size + (prompt * kvHeads + head) * room + 1 + from
          for (let at = 0; at < length; at++) rows[target + at] = source + at
        }
      }
      const held = region === "shared" ? this.#shared : this.#own
      const zero = await this.#zeros.of(1)
      const index = await this.#device.upload(rows, [size], "int32")
      for (const name of this.#names) {
        const old = held.get(name)!
        held.set(name, await this.#gather(this.layout, region, index, [old, prompts.recent.get(name)!, zero]))
        this.#free(old)
      }
      this.#device.free(index)
    }
  }

  reset(): void {
    for (const region of [this.#shared, this.#own, this.#recent]) {
      this.#free(...region.values())
      region.clear()
    }
    this.#late.clear()
    this.#length = 1
    this.layout = EMPTY
  }

  /** Number of rows of a region: positions of all heads. */
  #rows({ gridRows, own, shared, width }: Layout, region: "shared" | "own"): number {
    return gridRows * this.#shape.kvHeads * (region === "shared" ? shared : width * own)
  }

  /** Number of a place's first row in its region. */
  #row(layout: Layout, place: Place, head: number): number {
    const gridRow = place.gridRow * this.#shape.kvHeads + head
    if (place.region === "shared") return gridRow * layout.shared + place.at
    return (gridRow * layout.width + place.column) * layout.own + place.at
  }

  /** Copies of every region onto itself, which include what is recent. */
  #everything(): ReadonlyArray<Copy> {
    const { gridRows, own, shared, width } = this.layout
    const places: Array<readonly [Place, number]> = []
    for (let gridRow = 0; gridRow < gridRows; gridRow++) {
      places.push([{ region: "shared", gridRow, at: 0 }, shared])
      for (let column = 0; column < width; column++) places.push([{ region: "own", gridRow, column, at: 0 }, own])
    }
    return places.map(([place, length]) => ({ from: place, to: place, length }))
  }

  /** Rewrites all regions, after which no position is recent. */
  async #rewrite(layout: Layout, copies: ReadonlyArray<Copy>): Promise<void> {
    const { kvHeads } = this.#shape
    const old = this.layout
    const [ownStart, recentStart] = [this.#rows(old, "shared"), this.#rows(old, "shared") + this.#rows(old, "own")]
    const rows = {
      shared: new Int32Array(this.#rows(layout, "shared")),
      own: new Int32Array(this.#rows(layout, "own"))
    }
    for (const { from, length, to } of copies) {
      const late = from.region === "own" ? this.#late.get(keyOf(from)) : undefined
      for (let head = 0; head < kvHeads; head++) {
        const target = this.#row(layout, to, head)
        const source = this.#row(old, from, head) + (from.region === "own" ? ownStart : 0)
        for (let i = 0; i < length; i++) {
          const step = late?.steps[from.at + i - late.base]
          const slot = from.region === "own" ? (from.gridRow * kvHeads + head) * old.width + from.column : 0
          rows[to.region][target + i] = step === undefined ? source + i : recentStart + slot * this.#length + step
        }
      }
    }
    const same = layout === old
    const zero = await this.#zeros.of(1)
    const nothing = await this.#zeros.of(layout.gridRows, layout.width)
    const index = {
      shared: await this.#device.upload(rows.shared, [rows.shared.length], "int32"),
      own: await this.#device.upload(rows.own, [rows.own.length], "int32")
    }
    for (const name of this.#names) {
      const held = [this.#shared, this.#own, this.#recent].map((region) => region.get(name))
      const sources = held.map((tensor) => tensor ?? zero)
      const own = await this.#gather(layout, "own", index.own, sources)
      if (!same) this.#shared.set(name, await this.#gather(layout, "shared", index.shared, sources))
      this.#own.set(name, own)
      this.#recent.set(name, nothing)
      this.#free(...(same ? held.slice(1) : held))
    }
    this.#device.free(index.shared, index.own)
    this.#length = 1
    this.#late.clear()
    this.layout = layout
  }

  /** Makes a region from rows of three tensors, numbered consecutively. */
  async #gather(
    layout: Layout,
    region: "shared" | "own",
    rows: Tensor,
    sources: ReadonlyArray<Tensor>
  ): Promise<Tensor> {
    const { headDim, kvHeads } = this.#shape
    const session = await (this.#session ??= this.#device.session(gatherGraph(this.#shape)))
    const sizes = region === "shared" ? [1, layout.shared] : [layout.width, layout.own]
    const dims = this.#device.host(int64([layout.gridRows, kvHeads, ...sizes, headDim]), [5], "int64")
    const [a, b, c] = sources as [Tensor, Tensor, Tensor]
    return (await session.run({ a, b, c, rows, dims }))["y"]!
  }

  #free(...tensors: ReadonlyArray<Tensor | undefined>): void {
    this.#device.free(...tensors.filter((tensor) => tensor !== undefined && !this.#zeros.owns(tensor)))
  }
}

const keyOf = ({ column, gridRow }: Slot): string => `${gridRow} ${column}`

const gatherGraph = ({ headDim, kvHeads }: Shape): Model => {
  const graph = new Graph()
  const rows = ["a", "b", "c"].map((name) => {
    const x = graph.input(name, [`${name} gridRows`, kvHeads, `${name} width`, `${name} length`, headDim])
    return graph.reshape(x, [`${name} rows`, headDim])
  })
  const picked = graph.gather(graph.concat(rows, 0, "all"), graph.input("rows", ["picked"], "int32"))
  graph.output("y", graph.reshapeTo(picked, graph.input("dims", [5], "int64"), ["l", kvHeads, "w", "p", headDim]))
  return graph.build()
}
