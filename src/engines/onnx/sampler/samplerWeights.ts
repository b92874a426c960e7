/**
 * Weights of the sampler's graph: inputs or constants. Inputs are the policy's own tensors, so an update takes effect
 * at once. Constants are laid out for the processor when the session is made, possibly quantised.
 */
import type { NativeModel } from "../../internal/nativeModel.ts"
import type { Device, Feeds, Tensor } from "../worker/device.ts"
import type { Graph, Value } from "../graph/graph.ts"
import { layerTensors, type Module, moduleShape, type Shape } from "../graph/network.ts"
import { type BlockWeight, pack, quantise } from "./weightBlocks.ts"
import type { Linears } from "./samplerGraph.ts"
import { layerPrefix, type Owner, type Weights } from "../worker/weights.ts"

/** Storage of constants. `file`: as the store holds them. */
export type Form = "f32" | "f16" | "q8" | "q4" | "file"

const EMBEDDING = "model.embed_tokens.weight"
const headName = (shape: Shape): string => (shape.tied ? EMBEDDING : "lm_head.weight")

/**
 * Order of products. `columns` multiplies the weight by the transposed rows and transposes the result. The runtime then
 * reads an input weight in place; with `rows` it copies the weight into its own layout in every run. This pays for a
 * batch of rows on the processor, and not for one.
 */
export type Order = "rows" | "columns"

export interface WeightSource {
  /** Returns the better order for one new token in each of so many rows. */
  readonly orderOf: (rows: number) => Order
  /** Returns the weights for the time in which a graph is built. */
  readonly linears: (order: Order) => Promise<Linears>
  /** Inputs of every run. */
  readonly feeds: () => Feeds
  readonly close: () => void
}

/** Takes the base's own tensors as inputs. */
export const inputWeights = (weights: Weights): WeightSource => {
  const { device, shape } = weights
  const names = [EMBEDDING, "model.norm.weight", headName(shape)]
  for (let layer = 0; layer < shape.layers; layer++) {
    for (const [name] of layerTensors(shape)) names.push(`${layerPrefix(layer)}${name}`)
  }
  const linears = (order: Order): Linears => {
    const known = new Map<string, Value>()
    const input = (graph: Graph, name: string, dims: ReadonlyArray<number>): Value => {
      const value = known.get(name) ?? graph.input(name, dims)
      known.set(name, value)
      return value
    }
    const product = (graph: Graph, x: Value, weight: Value): Value => {
      if (order === "rows") return graph.gemm(x, weight, { transB: true })
      // The runtime would transpose a Gemm back.
      const columns = graph.op("FusedMatMul", [weight, x], [[weight.shape[0]!, x.shape[0]!]], { transB: 1 })[0]!
      return graph.transpose(columns, [1, 0])
    }
    return {
      products: (graph, layer, modules, x) =>
        modules.map((module) => {
          const name = `${layerPrefix(layer)}${module}`
          const dims = moduleShape(shape, module)
          const y = product(graph, x, input(graph, `${name}.weight`, dims))
          return hasBias(shape, module) ? graph.add(y, input(graph, `${name}.bias`, [dims[0]])) : y
        }),
      vector: (graph, name, size) => input(graph, name, [size]),
      embedding: (graph) => input(graph, EMBEDDING, [shape.vocabulary, shape.hidden]),
      head: (graph, x) => product(graph, x, input(graph, headName(shape), [shape.vocabulary, shape.hidden]))
    }
  }
  return {
    orderOf: (rows) => (device.provider === "cpu" && rows >= FEW ? "columns" : "rows"),
    linears: (order) => Promise.resolve(linears(order)),
    feeds: () => Object.fromEntries(names.map((name) => [name, weights.tensor(undefined, name)])),
    close: () => {}
  }
}

/** Rows from which `columns` is the faster order. Measured: 4 to 96 rows take 20 to 40 % less time. */
const FEW = 4

const hasBias = (shape: Shape, module: Module): boolean => shape.qkvBias && /[qkv]_proj$/.test(module)

export interface ConstantOptions {
  readonly form: Form
  /** Accuracy of MatMulNBits: 4 also rounds the rows to 8 bits, 0 leaves the choice to the runtime. */
  readonly accuracy: number
}

type Held = { readonly values: Float32Array } | { readonly blocks: BlockWeight }

/** Takes a frozen base as constants. It is read from its store each time a graph is built, and not kept here. */
export const constantWeights = async (weights: Weights, { accuracy, form }: ConstantOptions): Promise<WeightSource> => {
  const { device, shape, store } = weights
  const embedding = await upload(device, store, EMBEDDING)
  const half = form === "f16" && device.provider !== "cpu"
  const read = async (name: string, head: boolean): Promise<Held> => {
    const stored = form === "file" ? await store.blocks(name, "base") : null
    if (stored !== null) return { blocks: pack(stored) }
    const { shape: dims, values } = await store.parameter(name, "base")
    // The processor has no 16-bit products: it computes with the rounded numbers.
    if (form === "f16" && !half && !head) return { values: new Float32Array(new Float16Array(values)) }
    if (form === "q8" || form === "q4") return { blocks: quantise(values, dims, head ? 8 : form === "q8" ? 8 : 4) }
    return { values }
  }
  return {
    orderOf: () => "rows",
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
      // The head keeps 32 bits: 16-bit logits would be too coarse.
      const head = half && shape.tied ? undefined : await read(headName(shape), true)
      let embedded: Value | undefined
      const embedding = (graph: Graph) => (embedded ??= graph.input(EMBEDDING, [shape.vocabulary, shape.hidden]))
      const vector = (graph: Graph, name: string, size: number) => graph.constant(vectors.get(name)!, [size])
      return {
        products: (graph, layer, modules, x) =>
          modules.map((module) => {
            const name = `${layerPrefix(layer)}${module}`
            const y = product(graph, x, held.get(`${name}.weight`)!, accuracy, half)
            const [outputs] = moduleShape(shape, module)
            return hasBias(shape, module) ? graph.add(y, vector(graph, `${name}.bias`, outputs)) : y
          }),
        vector,
        embedding,
        head: (graph, x) =>
          head === undefined
            ? graph.gemm(x, embedding(graph), { transB: true })
            : product(graph, x, head, accuracy, false)
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

/** Multiplies by a constant matrix. */
const product = (graph: Graph, x: Value, weight: Held, accuracy: number, half: boolean): Value => {
  if ("blocks" in weight) return blockProduct(graph, x, weight.blocks, accuracy)
  const shape = [weight.values.length / (x.shape[1] as number), x.shape[1]!]
  if (!half) return graph.gemm(x, graph.constant(weight.values, shape), { transB: true })
  const matrix = graph.constant(new Uint16Array(new Float16Array(weight.values).buffer), shape, "float16")
  return graph.cast(graph.gemm(graph.cast(x, "float16"), matrix, { transB: true }), "float32")
}

const blockProduct = (graph: Graph, x: Value, block: BlockWeight, accuracy: number): Value => {
  const { bits, codes, inputs, offsets, outputs, scales, size } = block
  const count = Math.ceil(inputs / size)
  const y = graph.op(
    "MatMulNBits",
    [x, graph.constant(codes, [outputs, count, (size * bits) / 8], "uint8"), graph.constant(scales, [outputs, count])],
    [[x.shape[0]!, outputs]],
    { K: inputs, N: outputs, bits, block_size: size, accuracy_level: accuracy }
  )[0]!
  if (offsets === null) return y
  // A block's offset counts once for each of its inputs: it multiplies their sum.
  const sums = graph.sum(graph.reshape(x, [x.shape[0]!, count, size]), [2], false)
  return graph.add(y, graph.gemm(sums, graph.constant(offsets, [outputs, count]), { transB: true }))
}

/** Feeds an adapter's factors to a graph whose `modules` take adapters; zeros for a module that this adapter skips. */
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
