/**
 * A device for ONNX graphs: the first execution provider of a list that opens, its sessions, and its tensors. Only the
 * worker thread uses this: a session's `run` blocks its thread.
 *
 * With WebGPU tensors live in GPU buffers. One is read back only by a session whose output is declared to be on the
 * host. `getData` of the runtime would abort the process. On other providers a tensor is a typed array.
 */
import type * as Ort from "onnxruntime-node"
import { EngineFailure } from "./failure.ts"
import { Gate } from "./gate.ts"
import { Graph, type Model, type Numbers, type Shape, type Type } from "../graph/graph.ts"

export type Tensor = Ort.Tensor
/** An execution provider, by ONNX Runtime's name. */
export type Provider = "cpu" | "webgpu" | "cuda" | "dml" | "coreml"

export interface DeviceOptions {
  /** Providers in order of preference; the first that opens is used. */
  readonly providers: ReadonlyArray<Provider>
  /** Threads of the processor. Default: the runtime's. */
  readonly threads?: number
  /** Most bytes of tensors on the device. Default: until the device refuses. */
  readonly deviceBytes?: number
  /** Entries of the runtime's own session configuration (`disable_cpu_ep_fallback`, ...). */
  readonly config?: Readonly<Record<string, string>>
  /** Prefix of the files in which the runtime records the time of each node; each session has its own file. */
  readonly profile?: string
  /** Gate that every call of the runtime passes. Default: a new one. */
  readonly gate?: Gate
}

const failure = (operation: string, cause: unknown): EngineFailure => {
  if (cause instanceof EngineFailure) return cause
  const text = (cause instanceof Error ? cause.message : String(cause)).slice(0, 2000)
  const code = /device (was |is )?lost|lost device|DXGI_ERROR_DEVICE|CUDA_ERROR|cudaError/i.test(text)
    ? "DEVICE_LOST"
    : /out of memory|bad_alloc|failed to allocate|allocation failed|exceeds the max|OOM/i.test(text)
      ? "OUT_OF_MEMORY"
      : "RUNTIME"
  return new EngineFailure(code, `${operation}: ${text}`)
}

export type Feeds = Readonly<Record<string, Tensor>>

export interface Session {
  readonly model: Pick<Model, "inputs" | "outputs" | "nodes">
  /**
   * Returns results by name, on the device unless they were declared to be on the host. `wanted` leaves out the others,
   * which would be copied if tensors are on the host.
   */
  readonly run: (feeds: Feeds, wanted?: ReadonlyArray<string>) => Promise<Readonly<Record<string, Tensor>>>
  readonly release: () => Promise<void>
}

/**
 * Each session has threads of its own, and many take turns. Waiting threads must not occupy the cores of working ones.
 */
const patient = { "intra_op.allow_spinning": "0" }

/** Bytes of one element. */
const widths: Readonly<Record<Type, number>> = { float32: 4, float16: 2, int64: 8, int32: 4, uint8: 1, bool: 1 }

/**
 * A session of the runtime. A tensor on the device is freed through the session that computed it; without the session
 * the process would crash. So the session stays as long as such tensors exist.
 */
interface Held {
  readonly session: Ort.InferenceSession
  tensors: number
  /** Whether no run will use it again. */
  released: boolean
}

export class Device {
  readonly provider: Provider
  /** Preferred providers that did not open, with the reason. */
  readonly refused: ReadonlyArray<{ readonly provider: Provider; readonly reason: string }>
  /** Whether tensors stay on the device. */
  readonly resident: boolean
  readonly #ort: typeof Ort
  readonly #options: DeviceOptions
  readonly #gate: Gate
  readonly #sessions = new Set<Held>()
  /** Tensors on the device, by the session that computed them. */
  readonly #tensors = new Map<Tensor, Held>()
  readonly #copies = new Map<string, Promise<Session>>()
  #bytes = 0

  private constructor(ort: typeof Ort, options: DeviceOptions, provider: Provider, refused: Device["refused"]) {
    this.#ort = ort
    this.#options = options
    this.#gate = options.gate ?? new Gate()
    this.provider = provider
    this.refused = refused
    this.resident = provider === "webgpu"
  }

  static async open(options: DeviceOptions): Promise<Device> {
    const ort = await load()
    const refused: Array<Device["refused"][number]> = []
    const graph = new Graph()
    graph.output("y", graph.scale(graph.input("x", ["n"]), 2))
    const model = graph.build()
    const offered = new Set(ort.listSupportedBackends().map(({ name }) => name))
    for (const provider of options.providers) {
      const device = new Device(ort, options, provider, refused)
      try {
        // The runtime would continue without it, and report it only in its log.
        if (!offered.has(provider)) throw new Error(`not in the runtime for ${process.platform}-${process.arch}`)
        const session = await device.session(model, { host: ["y"] })
        const { y } = await session.run({ x: device.host(Float32Array.of(1, 2), [2]) })
        if (y?.data[1] !== 4) throw new Error(`2 x 2 gave ${y?.data[1]}`)
        await session.release()
        return device
      } catch (cause) {
        // Its libraries are not in the package. An install script, which npm may be told to skip, downloads them.
        const remedy =
          provider === "cuda" ? " (are CUDA 12 and what onnxruntime-node's postinstall fetches there?)" : ""
        refused.push({ provider, reason: `${briefly(cause)}${remedy}` })
        await device.close()
      }
    }
    const reasons = refused.map(({ provider, reason }) => `${provider}: ${reason}`).join("\n")
    const remedy = 'Install a driver for one of them, or add "cpu" to executionProviders'
    throw new EngineFailure("PROVIDER", `no execution provider opened\n${reasons}\n${remedy}`)
  }

  /** Counts the bytes of tensors on the device; those on the host are not counted. */
  get bytes(): number {
    return this.#bytes
  }

  /** `host` names results that are read on the host. `name` is the graph's name in a profile. */
  async session(
    model: Model,
    { host = [], name = "other" }: { readonly host?: ReadonlyArray<string>; readonly name?: string } = {}
  ): Promise<Session> {
    const where = Object.fromEntries(
      model.outputs.map(({ name }) => [name, host.includes(name) ? ("cpu" as const) : ("gpu-buffer" as const)])
    )
    // Naming the processor as well would contradict this setting.
    const strict = this.#options.config?.["disable_cpu_ep_fallback"] === "1"
    try {
      const session = await this.#call(() =>
        this.#ort.InferenceSession.create(model.bytes, {
          executionProviders: this.provider === "cpu" || strict ? [this.provider] : [this.provider, "cpu"],
          graphOptimizationLevel: "all",
          logSeverityLevel: 4,
          ...(this.#options.threads === undefined ? {} : { intraOpNumThreads: this.#options.threads }),
          extra: { session: { ...patient, ...this.#options.config } },
          ...(this.#options.profile === undefined
            ? {}
            : { enableProfiling: true, profileFilePrefix: `${this.#options.profile}${name}` }),
          ...(model.externalData.length === 0 ? {} : { externalData: [...model.externalData] }),
          ...(this.resident ? { preferredOutputLocation: where } : {})
        })
      )
      const held: Held = { session, tensors: 0, released: false }
      this.#sessions.add(held)
      return {
        model: { inputs: model.inputs, outputs: model.outputs, nodes: model.nodes },
        run: async (feeds, wanted) => {
          try {
            const results = await this.#call(() =>
              wanted === undefined || this.resident ? session.run(feeds) : session.run(feeds, wanted)
            )
            this.#keepAll(Object.values(results), held)
            return results
          } catch (cause) {
            throw failure("run", cause)
          }
        },
        release: () => this.#release(held)
      }
    } catch (cause) {
      throw failure("session", cause)
    }
  }

  /** Frees every tensor and releases every session. The garbage collector would do it while another engine computes. */
  async close(): Promise<void> {
    this.free(...this.#tensors.keys())
    for (const held of this.#sessions) await this.#release(held)
    this.#copies.clear()
  }

  async #release(held: Held): Promise<void> {
    held.released = true
    if (held.tensors > 0 || !this.#sessions.delete(held)) return
    if (this.#options.profile !== undefined) held.session.endProfiling()
    await this.#call(() => held.session.release())
  }

  /** Makes a tensor over an array of this thread, without a copy. */
  host(values: Numbers, dims: ReadonlyArray<number>, type: Type = "float32"): Tensor {
    return new this.#ort.Tensor(type, values as never, dims) as Tensor
  }

  /** Copies numbers to a tensor on the device. */
  async upload(values: Numbers, dims: ReadonlyArray<number>, type: Type = "float32"): Promise<Tensor> {
    const tensor = this.host(values, dims, type)
    if (!this.resident) return tensor
    this.#reserve(values.byteLength)
    const copy = await this.#copy(dims.length, type, false)
    return (await copy.run({ x: tensor }))["y"]!
  }

  /** Returns the numbers of a tensor: a view if it is on the host, else a copy. */
  async download(tensor: Tensor): Promise<Float32Array> {
    if (tensor.location === "cpu") return tensor.data as Float32Array
    const copy = await this.#copy(tensor.dims.length, tensor.type as Type, true)
    return (await copy.run({ x: tensor }))["y"]!.data as Float32Array
  }

  /** Frees tensors on the device; those on the host are left to the garbage collector. */
  free(...tensors: ReadonlyArray<Tensor | undefined>): void {
    for (const tensor of tensors) {
      if (tensor?.location !== "gpu-buffer") continue
      const held = this.#tensors.get(tensor)
      if (held === undefined) continue
      this.#tensors.delete(tensor)
      this.#bytes -= bytesOf(tensor)
      this.#dispose(tensor)
      held.tensors -= 1
      if (held.released) this.#release(held).catch(() => {})
    }
  }

  #dispose(tensor: Tensor): void {
    this.#gate.throughSync(() => tensor.dispose(), this.#alone)
  }

  #call<A>(run: () => Promise<A>): Promise<A> {
    return this.#gate.through(run, this.#alone)
  }

  get #alone(): boolean {
    return this.provider === "webgpu"
  }

  #copy(rank: number, type: Type, host: boolean): Promise<Session> {
    const key = `${rank} ${type} ${host}`
    const known = this.#copies.get(key)
    if (known !== undefined) return known
    const graph = new Graph()
    const shape: Shape = Array.from({ length: rank }, (_, i) => `d${i}`)
    graph.output("y", graph.input("x", shape, type))
    const made = this.session(graph.build(), { host: host ? ["y"] : [] })
    made.catch(() => this.#copies.delete(key))
    this.#copies.set(key, made)
    return made
  }

  #reserve(bytes: number): void {
    const limit = this.#options.deviceBytes
    if (limit === undefined || this.#bytes + bytes <= limit) return
    const detail = `${bytes} bytes more than the ${this.#bytes} in use exceed deviceBytes = ${limit}`
    throw new EngineFailure(
      "OUT_OF_MEMORY",
      `${detail}: raise it, lower cacheBytes, activationBytes or chunkTokens, or use a smaller model`
    )
  }

  /** Keeps either all of a run's results on the device, or none. */
  #keepAll(results: ReadonlyArray<Tensor>, held: Held): void {
    const own = results.filter(({ location }) => location === "gpu-buffer")
    const bytes = own.reduce((sum, tensor) => sum + bytesOf(tensor), 0)
    try {
      this.#reserve(bytes)
    } catch (cause) {
      for (const tensor of own) this.#dispose(tensor)
      throw cause
    }
    for (const tensor of own) this.#tensors.set(tensor, held)
    held.tensors += own.length
    this.#bytes += bytes
  }
}

const bytesOf = ({ dims, type }: Tensor): number => dims.reduce((size, dim) => size * dim, widths[type as Type])

/** Returns the end of the runtime's message, which begins with paths and conditions of its source. */
const briefly = (cause: unknown): string => {
  const text = cause instanceof Error ? cause.message : String(cause)
  const line = text.split("\n").find((line) => line.trim() !== "") ?? ""
  const said = line.replace(/^(session|run): /, "").replace(/^.* was false\. /, "")
  return said.replace(/^\/onnxruntime_src\/\S+ /, "").slice(0, 300)
}

/** The runtime, an optional dependency. */
const load = async (): Promise<typeof Ort> => {
  try {
    const ort = await import("onnxruntime-node")
    // Prevents pages of messages on standard error about providers that do not open.
    ort.env.logLevel = "fatal"
    return ort
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause)
    const remedy = "npm install onnxruntime-node@1.30.0 (Linux and Windows on x64 and arm64, macOS on arm64)"
    throw new EngineFailure("PROVIDER", `onnxruntime-node cannot be loaded: ${reason}\nInstall it with: ${remedy}`)
  }
}
