/**
 * The weights of ONNX graphs: tensors on a device, read from a native model (the store). The store opens every
 * checkpoint and adapter, and writes them. A tensor is never changed: an update replaces it.
 */
import type { NativeInfo, NativeModel } from "../../internal/nativeModel.ts"
import type { Device, Tensor } from "./device.ts"
import { EngineFailure } from "./failure.ts"
import { sizeOf } from "../graph/graph.ts"
import type { Shape } from "../graph/network.ts"

/** The adapter of calls that name none, if it exists. */
const DEFAULT = "default"
const BASE = "base"

/** `model.layers.3.` */
export const layerPrefix = (layer: number): string => `model.layers.${layer}.`

/** Owner of tensors: an adapter, or (undefined) the base. */
export type Owner = string | undefined

export interface Adapter {
  /** alpha / rank, or alpha / sqrt(rank). */
  readonly scale: number
  readonly rank: number
  /** Paths of the modules that it applies to: `model.layers.0.self_attn.q_proj`. */
  readonly modules: ReadonlySet<string>
}

/** Names a module's factor in PEFT's files: A [rank, inputs] and B [outputs, rank]; y += scale * (x A^T) B^T. */
export const factorName = (module: string, factor: "A" | "B"): string =>
  `base_model.model.${module}.lora_${factor}.weight`

/** Parses the facts of a store. */
export const factsOf = (store: Pick<NativeModel, "info">): NativeInfo => JSON.parse(store.info()) as NativeInfo

export class Weights {
  readonly shape: Shape
  /** [headDim / 2] radians from one position to the next. */
  readonly frequencies: Float32Array
  /** Whether the base is trained. */
  readonly full: boolean
  readonly store: NativeModel
  readonly device: Device
  readonly #tensors = new Map<Owner, Map<string, Tensor>>()
  readonly #adapters = new Map<string, Adapter>()
  readonly #versions = new Map<Owner, number>()
  readonly #pinned = new Set<Tensor>()
  readonly #torn = new Set<Owner>()
  #replaced = 0

  private constructor(store: NativeModel, device: Device) {
    const facts = factsOf(store)
    this.store = store
    this.device = device
    this.shape = facts.shape
    this.frequencies = Float32Array.from(facts.ropeFrequencies)
    this.full = !facts.frozen
  }

  /** Copies the model of a store to a device with its adapters; if `base` is false, the adapters alone. */
  static async open(
    store: NativeModel,
    device: Device,
    { base = true }: { readonly base?: boolean } = {}
  ): Promise<Weights> {
    const weights = new Weights(store, device)
    if (base) await weights.reload(undefined)
    for (const { name } of factsOf(store).adapters) await weights.reload(name)
    return weights
  }

  /**
   * Returns the owner of the weights that a call names by `adapter`. Refuses weights that were replaced only in part.
   */
  owner(operation: string, adapter: string | undefined): Owner {
    const owner = this.named(operation, adapter)
    if (!this.#torn.has(owner) && !this.#torn.has(undefined)) return owner
    const problem = "an update or a load broke off in the middle, which left the weights undefined"
    throw new EngineFailure("STATE", `${operation}: ${problem}: load a checkpoint`)
  }

  /** Returns the same owner, whatever state its weights are in. */
  named(operation: string, adapter: string | undefined): Owner {
    if (adapter === undefined) return this.#adapters.has(DEFAULT) ? DEFAULT : undefined
    if (adapter === BASE) return undefined
    if (this.#adapters.has(adapter)) return adapter
    const known = [...this.#adapters.keys()].join(", ") || "none"
    throw new EngineFailure("STATE", `${operation}: there is no adapter \`${adapter}\` (there are: ${known})`)
  }

  adapter(owner: Owner): Adapter | undefined {
    return owner === undefined ? undefined : this.#adapters.get(owner)
  }

  /** Tensors of the base by Hugging Face's names, of an adapter by PEFT's. */
  names(owner: Owner): ReadonlyArray<string> {
    return [...(this.#tensors.get(owner)?.keys() ?? [])]
  }

  tensor(owner: Owner, name: string): Tensor {
    const tensor = this.#tensors.get(owner)?.get(name)
    if (tensor === undefined) throw new EngineFailure("STATE", `${owner ?? "the base"} has no tensor ${name}`)
    return tensor
  }

  /** Replaces a tensor, and frees the former one unless the reference policy holds it. */
  replace(owner: Owner, name: string, tensor: Tensor): void {
    const old = this.tensor(owner, name)
    this.#tensors.get(owner)!.set(name, tensor)
    this.#replaced++
    if (old !== tensor && !this.#pinned.has(old)) this.device.free(old)
  }

  /** Replaces many tensors. If that fails halfway, the owner's weights are invalid until they are loaded again. */
  async whole(owner: Owner, change: () => Promise<void>): Promise<void> {
    const before = this.#replaced
    try {
      await change()
      this.#torn.delete(owner)
    } catch (cause) {
      if (this.#replaced > before) this.#torn.add(owner)
      throw cause
    }
  }

  /** Counts changes of an owner's weights; samples carry it. */
  version(owner: Owner): number {
    return this.#versions.get(owner) ?? 0
  }
  changed(owner: Owner): number {
    const version = this.version(owner) + 1
    this.#versions.set(owner, version)
    return version
  }

  /** Copies an owner's tensors from the store over the present ones. */
  async reload(owner: Owner): Promise<void> {
    const facts = factsOf(this.store)
    if (owner !== undefined) {
      const info = facts.adapters.find(({ name }) => name === owner)
      if (info === undefined) throw new EngineFailure("STATE", `the store has no adapter \`${owner}\``)
      const { alpha, rank, rsLora } = info.lora
      const names = await this.store.parameterNames(owner)
      const modules = new Set(facts.modules.filter((module) => names.includes(factorName(module, "A"))))
      this.#adapters.set(owner, { scale: alpha / (rsLora ? Math.sqrt(rank) : rank), rank, modules })
    }
    const own = this.#tensors.get(owner) ?? new Map<string, Tensor>()
    this.#tensors.set(owner, own)
    await this.whole(owner, async () => {
      for (const name of await this.store.parameterNames(owner ?? BASE)) {
        const { shape, values } = await this.store.parameter(name, owner ?? BASE)
        const tensor = await this.device.upload(values, shape)
        if (own.has(name)) this.replace(owner, name, tensor)
        else own.set(name, tensor)
      }
    })
    this.#versions.set(owner, (await this.store.counters(owner ?? BASE)).version)
  }

  remove(adapter: string): void {
    this.device.free(...(this.#tensors.get(adapter)?.values() ?? []))
    this.#tensors.delete(adapter)
    this.#adapters.delete(adapter)
    this.#torn.delete(adapter)
    this.#versions.delete(adapter)
  }

  /** Keeps the present base across updates. */
  pin(): ReadonlyMap<string, Tensor> {
    const base = new Map(this.#tensors.get(undefined))
    this.unpin()
    for (const tensor of base.values()) this.#pinned.add(tensor)
    return base
  }
  unpin(): void {
    const current = new Set(this.#tensors.get(undefined)?.values())
    for (const tensor of this.#pinned) if (!current.has(tensor)) this.device.free(tensor)
    this.#pinned.clear()
  }

  /** Frees all tensors. */
  free(): void {
    this.unpin()
    for (const own of this.#tensors.values()) this.device.free(...own.values())
    this.#tensors.clear()
    this.#adapters.clear()
  }

  /** Counts the bytes of the base, of adapters, and of a reference policy that differs from the base. */
  memory(): { readonly weights: number; readonly adapters: number; readonly reference: number } {
    const bytes = (tensors: Iterable<Tensor>) => [...tensors].reduce((sum, { dims }) => sum + 4 * sizeOf(dims), 0)
    const base = new Set(this.#tensors.get(undefined)?.values())
    const adapters = [...this.#tensors].flatMap(([owner, own]) => (owner === undefined ? [] : [...own.values()]))
    const reference = [...this.#pinned].filter((tensor) => !base.has(tensor))
    return { weights: bytes(base), adapters: bytes(adapters), reference: bytes(reference) }
  }
}
