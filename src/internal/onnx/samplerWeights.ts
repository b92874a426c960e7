/**
 * Weights of the sampler's graph: inputs (the policy's own tensors: an update is seen at once) or constants of the graph
 * (laid out for the processor when the session is made, possibly quantised).
 */
import type { NativeModel } from "../Native.ts"
import type { Device, Feeds, Tensor } from "./device.ts"
import type { Graph, Value } from "./graph.ts"
import { layerTensors, type Module, moduleShape, type Shape } from "./network.ts"
import { type BlockWeight, pack, quantise } from "./samplerBlocks.ts"
import type { Linears } from "./samplerGraph.ts"
import { layerPrefix, type Owner, type Weights } from "./weights.ts"

/** How constants are held. `file`: as the store holds them. */
export type Form = "f32" | "f16" | "q8" | "q4" | "file"

const EMBEDDING = "model.embed_tokens.weight"
const headName = (shape: Shape): string => (shape.tied ? EMBEDDING : "lm_head.weight")

export interface WeightSource {
  /** What a graph is built with, for the time of building it. */
  readonly linears: () => Promise<Linears>
  /** What every run is given. */
  readonly feeds: () => Feeds
  readonly close: () => void
}

/** The base's own tensors, as inputs. */
export const inputWeights = (weights: Weights): WeightSource => {
  const { shape } = weights
  const names = [EMBEDDING, "model.norm.weight", headName(shape)]
  for (let layer = 0; layer < shape.layers; layer++) {
    for (const [name] of layerTensors(shape)) names.push(`${layerPrefix(layer)}${name}`)
  }
  const linears = (): Linears => {
    const known = new Map<string, Value>()
    const input = (graph: Graph, name: string, dims: ReadonlyArray<number>): Value => {
      const value = known.get(name) ?? graph.input(name, dims)
      known.set(name, value)
      return value
    }
    return {
      products: (graph, layer, modules, x) =>
        modules.map((module) => {
          const name = `${layerPrefix(layer)}${module}`
          const dims = moduleShape(shape, module)
          const bias = hasBias(shape, module) ? { c: input(graph, `${name}.bias`, [dims[0]]) } : {}
          return graph.gemm(x, input(graph, `${name}.weight`, dims), { transB: true, ...bias })
        }),
      vector: (graph, name, size) => input(graph, name, [size]),
      embedding: (graph) => input(graph, EMBEDDING, [shape.vocabulary, shape.hidden]),
      head: (graph, x) =>
        graph.gemm(x, input(graph, headName(shape), [shape.vocabulary, shape.hidden]), { transB: true })
    }
  }
  return {
    linears: () => Promise.resolve(linears()),
    feeds: () => Object.fromEntries(names.map((name) => [name, weights.tensor(undefined, name)])),
    close: () => {}
  }
}

const hasBias = (shape: Shape, module: Module): boolean => shape.qkvBias && /[qkv]_proj$/.test(module)

export interface ConstantOptions {
  readonly form: Form
  /** Of MatMulNBits: 4 rounds the rows to 8 bits too, 0 leaves the choice to the runtime. */
  readonly accuracy: number
}

type Held = { readonly values: Float32Array } | { readonly blocks: BlockWeight }

/** A frozen base, read from its store each time a graph is built and not kept here. */
export const constantWeights = async (weights: Weights, { accuracy, form }: ConstantOptions): Promise<WeightSource> => {
  const { device, shape, store } = weights
  const embedding = await upload(device, store, EMBEDDING)
  const half = form === "f16" && device.provider !== "cpu"
  const read = async (name: string, head: boolean): Promise<Held> => {
    const stored = form === "file" ? await store.blocks(name, "base") : null
    if (stored !== null) return { blocks: pack(stored) }
    const { shape: dims, values } = await store.parameter(name, "base")
    // The processor has no products of 16 bits: it computes with the rounded numbers.
    if (form === "f16" && !half) return { values: Float32Array.from(Float16Array.from(values)) }
    if (form === "q8" || form === "q4") return { blocks: quantise(values, dims, head ? 8 : form === "q8" ? 8 : 4) }
    return { values }
  }
  return {
    linears: async () => {
      const held = new Map<string, Held>()
      const vectors = new Map<string, Float32Array>()
      for (let layer = 0; layer < shape.layers; layer++) {
        for (const [name, dims] of layerTensors(shape)) {
          const full = `${layerPrefix(layer)}${name}`
          if (dims.length === 1) vectors.set(full, (await store.parameter(full, "base")).values)
          else held.set(full, await read(full, false))
        }
      }
      vectors.set("model.norm.weight", (await store.parameter("model.norm.weight", "base")).values)
      const head = await read(headName(shape), true)
      const vector = (graph: Graph, name: string, size: number) => graph.constant(vectors.get(name)!, [size])
      return {
        products: (graph, layer, modules, x) => {
          const names = modules.map((module) => `${layerPrefix(layer)}${module}`)
          const parts = names.map((name) => held.get(`${name}.weight`)!)
          const outputs = modules.map((module) => moduleShape(shape, module)[0])
          const y = product(graph, x, parts, accuracy, half)
          const biased = y.length === 1 && modules.length > 1 ? graph.split(y[0]!, outputs) : y
          return biased.map((value, i) =>
            hasBias(shape, modules[i]!) ? graph.add(value, vector(graph, `${names[i]}.bias`, outputs[i]!)) : value
          )
        },
        vector,
        embedding: (graph) => graph.input(EMBEDDING, [shape.vocabulary, shape.hidden]),
        head: (graph, x) => product(graph, x, [head], accuracy, half)[0]!
      }
    },
    feeds: () => ({ [EMBEDDING]: embedding }),
    close: () => device.free(embedding)
  }
}

const upload = async (device: Device, store: NativeModel, name: string): Promise<Tensor> => {
  const { shape, values } = await store.parameter(name, "base")
  return device.upload(values, shape)
}

/** Products with constant matrices: one of all of them where they can be joined, else one each. */
const product = (
  graph: Graph,
  x: Value,
  parts: ReadonlyArray<Held>,
  accuracy: number,
  half: boolean
): ReadonlyArray<Value> => {
  const inputs = x.shape[1] as number
  const dense = parts.flatMap((part) => ("values" in part ? [part.values] : []))
  if (dense.length === parts.length) {
    const joined = dense.length === 1 ? dense[0]! : concatenate(Float32Array, dense)
    const outputs = joined.length / inputs
    if (!half) return [graph.gemm(x, graph.constant(joined, [outputs, inputs]), { transB: true })]
    const matrix = graph.constant(new Uint16Array(Float16Array.from(joined).buffer), [outputs, inputs], "float16")
    return [graph.cast(graph.gemm(graph.cast(x, "float16"), matrix, { transB: true }), "float32")]
  }
  const blocks = parts.flatMap((part) => ("blocks" in part ? [part.blocks] : []))
  const [first] = blocks
  const alike = blocks.every(
    ({ bits, offsets, size }) =>
      bits === first!.bits && size === first!.size && (offsets === null) === (first!.offsets === null)
  )
  if (blocks.length < parts.length || !alike) {
    return parts.map((part) => product(graph, x, [part], accuracy, half)[0]!)
  }
  return [blockProduct(graph, x, blocks, accuracy)]
}

/** Rows by matrices in blocks, one above the other. */
const blockProduct = (graph: Graph, x: Value, blocks: ReadonlyArray<BlockWeight>, accuracy: number): Value => {
  const { bits, inputs, size } = blocks[0]!
  const outputs = blocks.reduce((sum, block) => sum + block.outputs, 0)
  const count = Math.ceil(inputs / size)
  const codes = graph.constant(
    concatenate(
      Uint8Array,
      blocks.map((block) => block.codes)
    ),
    [outputs, count, (size * bits) / 8],
    "uint8"
  )
  const scales = graph.constant(
    concatenate(
      Float32Array,
      blocks.map((block) => block.scales)
    ),
    [outputs, count]
  )
  const zeros = concatenate(
    Uint8Array,
    blocks.map((block) => block.zeros)
  )
  const shape = [x.shape[0]!, outputs]
  const y = graph.op(
    "MatMulNBits",
    [x, codes, scales, graph.constant(zeros, [outputs, zeros.length / outputs], "uint8")],
    [shape],
    { K: inputs, N: outputs, bits, block_size: size, accuracy_level: accuracy }
  )[0]!
  if (blocks[0]!.offsets === null) return y
  // A block's offset counts once for each of its inputs: it multiplies their sum.
  const offsets = concatenate(
    Float32Array,
    blocks.map((block) => block.offsets!)
  )
  const sums = graph.sum(graph.reshape(x, [x.shape[0]!, count, size]), [2], false)
  return graph.add(y, graph.gemm(sums, graph.constant(offsets, [outputs, count]), { transB: true }))
}

const concatenate = <A extends Float32Array | Uint8Array>(
  Kind: new (length: number) => A,
  parts: ReadonlyArray<A>
): A => {
  if (parts.length === 1) return parts[0]!
  const joined = new Kind(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    joined.set(part, at)
    at += part.length
  }
  return joined
}

/** Feeds of an adapter's factors for a graph in which adapters may sit on `modules`; zeros where this one does not. */
export const adapterFeeds = (weights: Weights, owner: Owner, modules: ReadonlySet<string>, zeros: Zeros): Feeds => {
  const adapter = weights.adapter(owner)
  const feeds: Record<string, Tensor> = {
    "adapter.scale": weights.device.host(Float32Array.of(adapter?.scale ?? 0), [1])
  }
  for (const module of modules) {
    const there = adapter?.modules.has(module) === true
    const factor = (name: "A" | "B") =>
      there ? weights.tensor(owner, `base_model.model.${module}.lora_${name}.weight`) : zeros(module, name)
    feeds[`${module}.A`] = factor("A")
    feeds[`${module}.B`] = factor("B")
  }
  return feeds
}

/** Factors of rank 1 that change nothing. */
export type Zeros = (module: string, factor: "A" | "B") => Tensor

export const zeroFactors = (weights: Weights): Zeros => {
  const known = new Map<number, Tensor>()
  return (module, factor) => {
    const short = module.replace(/^model\.layers\.\d+\./, "") as Module
    const [outputs, inputs] = moduleShape(weights.shape, short)
    const size = factor === "A" ? inputs : outputs
    const key = factor === "A" ? size : -size
    const dims = factor === "A" ? [1, size] : [size, 1]
    const tensor = known.get(key) ?? weights.device.host(new Float32Array(size), dims)
    known.set(key, tensor)
    return tensor
  }
}
