/**
 * The sampler's graph. It computes keys and values of any number of tokens of every sequence, after those in the cache.
 * It draws a token from each selected row. One graph computes prompts and decodes, so that constant weights exist once.
 *
 * Sequences have slots in `n` grid rows of `w` slots. A grid row's shared region holds a prompt for all of its slots; a
 * slot's own region holds the rest. Both are read-only. The keys and values of the `t` new tokens are outputs of the
 * graph, and its caller stores them in the cache. Attention is one softmax over the shared region, the own region and
 * the new tokens, under an additive mask.
 *
 * | input           | shape                    |                                                             |
 * |-----------------|--------------------------|-------------------------------------------------------------|
 * | `tokens`        | [n w t]                  | int64                                                       |
 * | `cos`, `sin`    | [n w t, headDim / 2]     | of each token's position                                    |
 * | `rows`          | [1, n w t]               | int64: 0, 1, 2, ...                                         |
 * | `mask`          | [n, 1, w, g t, P+M+t]    | any of the first four may be 1; `g` query heads share a key |
 * | `shared.*.i`    | [n, kvHeads, 1, P, headDim] | `k` and `v` of layer i                                      |
 * | `own.*.i`       | [n, kvHeads, w, M, headDim] |                                                          |
 * | `select`        | [s]                      | int64: rows to draw from                                    |
 * | `inverseTemperature` | [s, 1]              | factor of `logits` [s, vocabulary]                          |
 *
 * The sizes above are inputs too, as lists ({@link sizes}), because a graph cannot name a product. On a device that
 * keeps the cache there is a third region before the new tokens: `recent.*.i` [n, kvHeads, w, r, headDim]. It is an
 * output, with the new tokens behind it, so the mask is `r` wider.
 */
import { Graph, type Model, type Shape as Dims, type Value } from "../graph/graph.ts"
import { type Module, modules, moduleShape, type Shape } from "../graph/network.ts"
import { draw } from "./drawGraph.ts"

/** Weights of the graph. */
export interface Linears {
  /** Multiplies rows [rows, inputs] by some modules of a layer that take the same rows: with bias, without adapters. */
  readonly products: (graph: Graph, layer: number, names: ReadonlyArray<Module>, x: Value) => ReadonlyArray<Value>
  /** Returns a vector by its whole name. */
  readonly vector: (graph: Graph, name: string, size: number) => Value
  /** [vocabulary, hidden] */
  readonly embedding: (graph: Graph) => Value
  /** Computes the logits of rows. */
  readonly head: (graph: Graph, x: Value) => Value
}

/** Makes the lists of sizes that reshapes need: see {@link samplerGraph}. */
export const sizes = (
  shape: Shape,
  n: number,
  w: number,
  t: number
): Readonly<Record<string, ReadonlyArray<number>>> => {
  const { headDim, heads, kvHeads } = shape
  const g = heads / kvHeads
  return {
    "sizes.queries": [n, w, t, kvHeads, g, headDim],
    "sizes.keys": [n, w, t, kvHeads, headDim],
    "sizes.slots": [n, kvHeads, w, g * t, -1],
    "sizes.gridRows": [n, kvHeads, 1, w * g * t, -1],
    "sizes.heads": [n, kvHeads, w, g, t, headDim]
  }
}

export interface SamplerGraphOptions {
  readonly linears: Linears
  /** Modules that adapters may apply to: their factors are inputs. */
  readonly adapted: ReadonlySet<string>
  /** Whether the cache stays on the device. */
  readonly resident: boolean
}

export const samplerGraph = (shape: Shape, { adapted, linears, resident }: SamplerGraphOptions): Model => {
  const graph = new Graph()
  const { epsilon, headDim, heads, hidden, inner, kvHeads } = shape
  const half = headDim / 2
  const cos = graph.input("cos", ["rows", half])
  const sin = graph.input("sin", ["rows", half])
  const rows = graph.input("rows", [1, "rows"], "int64")
  const attend = attention(graph, shape, resident)
  const scaling = adapted.size === 0 ? undefined : graph.input("adapter.scale", [1])

  const products = (layer: number, names: ReadonlyArray<Module>, x: Value): ReadonlyArray<Value> =>
    linears.products(graph, layer, names, x).map((y, i) => {
      const path = `model.layers.${layer}.${names[i]!}`
      if (scaling === undefined || !adapted.has(path)) return y
      const [outputs, inputs] = moduleShape(shape, names[i]!)
      const a = graph.input(`${path}.A`, [`rank ${path}`, inputs])
      const b = graph.input(`${path}.B`, [outputs, `rank ${path}`])
      const narrow = graph.mul(graph.gemm(x, a, { transB: true }), scaling)
      return graph.add(y, graph.gemm(narrow, b, { transB: true }))
    })
  const norm = (x: Value, name: string, size: number): Value =>
    graph.op("SimplifiedLayerNormalization", [x, linears.vector(graph, name, size)], [x.shape], {
      axis: -1,
      epsilon: { float: epsilon }
    })[0]!
  /** Returns the norm of a sum, and the sum. */
  const addAndNorm = (x: Value, y: Value, name: string): readonly [Value, Value] => {
    const inputs = [x, y, linears.vector(graph, name, hidden)]
    const shapes: ReadonlyArray<Dims> = [x.shape, [], [], x.shape]
    const out = graph.op("SkipSimplifiedLayerNormalization", inputs, shapes, { epsilon: { float: epsilon } })
    return [out[0]!, out[3]!]
  }
  const rotate = (x: Value, count: number, name: string): Value => {
    const heads = shape.qkNorm ? norm(graph.reshape(x, ["heads", headDim]), name, headDim) : x
    const flat = graph.reshape(heads, [1, "rows", count * headDim])
    return graph.op("RotaryEmbedding", [flat, rows, cos, sin], [flat.shape])[0]!
  }

  let x = graph.gather(linears.embedding(graph), graph.input("tokens", ["rows"], "int64"))
  let normed = norm(x, "model.layers.0.input_layernorm.weight", hidden)
  for (let layer = 0; layer < shape.layers; layer++) {
    const prefix = `model.layers.${layer}`
    const [q, k, v] = products(layer, modules.slice(0, 3), normed) as [Value, Value, Value]
    const attended = attend(
      layer,
      rotate(q, heads, `${prefix}.self_attn.q_norm.weight`),
      rotate(k, kvHeads, `${prefix}.self_attn.k_norm.weight`),
      v
    )
    const [joined] = products(layer, ["self_attn.o_proj"], attended)
    ;[normed, x] = addAndNorm(joined!, x, `${prefix}.post_attention_layernorm.weight`)
    const [gate, up] = products(layer, ["mlp.gate_proj", "mlp.up_proj"], normed) as [Value, Value]
    const active = graph.op("QuickGelu", [gate], [["rows", inner]], { alpha: { float: 1 } })[0]!
    const [down] = products(layer, ["mlp.down_proj"], graph.mul(active, up))
    const next = layer + 1 < shape.layers ? `model.layers.${layer + 1}.input_layernorm.weight` : "model.norm.weight"
    ;[normed, x] = addAndNorm(down!, x, next)
  }
  const selected = graph.gather(normed, graph.input("select", ["selected"], "int64"))
  // The temperature is applied to the few numbers before the head.
  const tempered = graph.mul(selected, graph.input("inverseTemperature", ["selected", 1]))
  const logits = linears.head(graph, tempered)
  const { logprob, token } = draw(graph, logits, "selected")
  graph.output("token", token)
  graph.output("logprob", logprob)
  graph.output("logits", logits)
  return graph.build()
}

/** Attention over the cache and the new tokens. New keys and values become results of the graph. */
const attention = (graph: Graph, shape: Shape, resident: boolean) => {
  const { headDim, heads, kvHeads } = shape
  const listOf = (name: string, length: number) => graph.input(`sizes.${name}`, [length], "int64")
  const [toQueries, toKeys, toHeads] = [listOf("queries", 6), listOf("keys", 5), listOf("heads", 6)]
  const [toSlots, toGridRows] = [listOf("slots", 5), listOf("gridRows", 5)]
  const parts = graph.input("sizes.parts", [3], "int64")
  const mask = graph.input("mask", ["mask n", 1, "mask w", "mask t", "S"])
  const g = heads / kvHeads
  const scale = 1 / Math.sqrt(headDim)
  const [slots, gridRows] = [
    ["n", kvHeads, "w", "gt"],
    ["n", kvHeads, 1, "wgt"]
  ] as [Dims, Dims]

  /** Multiplies query rows by keys, both [..., headDim]. */
  const scores = (q: Value, k: Value): Value => {
    const shapeOf = [...q.shape.slice(0, -1), k.shape.at(-2)!]
    if (!resident) {
      return graph.op("FusedMatMul", [q, k], [shapeOf], { transB: 1, alpha: { float: scale } })[0]!
    }
    // Few rows by long caches: the device's matrix product would fill tiles of 32 rows with one.
    return graph.op("Einsum", [q, k], [shapeOf], { equation: "nkwqd,nkwsd->nkwqs" })[0]!
  }
  /** Mixes values [..., headDim] by shares [..., keys]. */
  const mix = (shares: Value, v: Value): Value => {
    if (!resident) return graph.matmul(shares, v)
    const shapeOf = [...shares.shape.slice(0, -1), headDim]
    return graph.op("Einsum", [shares, v], [shapeOf], { equation: "nkwqs,nkwsd->nkwqd" })[0]!
  }

  return (layer: number, q: Value, k: Value, v: Value): Value => {
    const fresh = (name: string, x: Value): Value => {
      const own = graph.transpose(graph.reshapeTo(x, toKeys, ["n", "w", "t", kvHeads, headDim]), [0, 3, 1, 2, 4])
      if (!resident) {
        graph.output(`new.${name}.${layer}`, own)
        return own
      }
      const recent = graph.input(`recent.${name}.${layer}`, ["n", kvHeads, "w", "r", headDim])
      const grown = graph.concat([recent, own], 3, "r t")
      graph.output(`new.${name}.${layer}`, grown)
      return grown
    }
    const cached = (region: "shared" | "own", name: string): Value =>
      graph.input(
        `${region}.${name}.${layer}`,
        region === "shared" ? ["n", kvHeads, 1, "P", headDim] : ["n", kvHeads, "w", "M", headDim]
      )
    const [newKeys, newValues] = [fresh("k", k), fresh("v", v)]
    const apart = graph.reshapeTo(q, toQueries, ["n", "w", "t", kvHeads, g, headDim])
    const turned = graph.transpose(apart, [0, 3, 1, 4, 2, 5])
    const queries = graph.reshapeTo(resident ? graph.scale(turned, scale) : turned, toSlots, [...slots, headDim])
    const rowQueries = graph.reshapeTo(queries, toGridRows, [...gridRows, headDim])

    const all = graph.concat(
      [
        graph.reshapeTo(scores(rowQueries, cached("shared", "k")), toSlots, [...slots, "P"]),
        scores(queries, cached("own", "k")),
        scores(queries, newKeys)
      ],
      4,
      "S"
    )
    const shares = graph.softmax(graph.op("Add", [all, mask], [all.shape])[0]!)
    const split = graph.op(
      "Split",
      [shares, parts],
      ["P", "M", "r t"].map((size) => [...slots, size]),
      { axis: 4 }
    )
    const fromGridRow = mix(graph.reshapeTo(split[0]!, toGridRows, [...gridRows, "P"]), cached("shared", "v"))
    const mixed = graph.add(
      graph.add(mix(split[1]!, cached("own", "v")), mix(split[2]!, newValues)),
      graph.reshapeTo(fromGridRow, toSlots, [...slots, headDim])
    )
    const separate = graph.reshapeTo(mixed, toHeads, ["n", kvHeads, "w", g, "t", headDim])
    return graph.reshape(graph.transpose(separate, [0, 2, 4, 1, 3, 5]), ["rows", heads * headDim])
  }
}
