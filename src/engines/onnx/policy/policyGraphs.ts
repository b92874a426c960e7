/**
 * The graphs of a policy's verbs. A layer is one graph, run for every layer with its weights as inputs. So there are
 * few sessions, and only a layer's input outlives it. The backward graph of a layer computes the layer again, then its
 * gradients, and adds them to the accumulated ones.
 */
import { gradients } from "../graph/autodiff.ts"
import { Graph, type Model, type Value } from "../graph/graph.ts"
import {
  attendByMask,
  layer,
  layerTensors,
  type Linear,
  modules,
  moduleShape,
  rmsNorm,
  type Shape
} from "../graph/network.ts"

/** The adapter of a layer: the modules it applies to, its rank and scale. */
export interface LayerAdapter {
  readonly modules: ReadonlyArray<string>
  readonly rank: number
  readonly scale: number
}

/** Inputs of a layer's graphs for the factors of a module. */
export const factorInput = (module: string, factor: "A" | "B"): string => `${module}.lora_${factor}`

interface Parts {
  readonly graph: Graph
  readonly x: Value
  readonly y: Value
  /** Weights by the name of their input. */
  readonly weights: ReadonlyMap<string, Value>
}

const layerParts = (shape: Shape, rows: number, adapter: LayerAdapter | undefined): Parts => {
  const graph = new Graph()
  const x = graph.input("x", [rows, shape.hidden])
  const angles = [rows, shape.headDim]
  const [cos, sin] = [graph.input("cos", angles), graph.input("sin", angles)]
  const mask = graph.input("mask", [rows, rows])
  const weights = new Map(layerTensors(shape).map(([name, dims]) => [name, graph.input(name, dims)]))
  for (const module of modules) {
    if (adapter?.modules.includes(module) !== true) continue
    const [outputs, inputs] = moduleShape(shape, module)
    for (const [factor, dims] of [
      ["A", [adapter.rank, inputs]],
      ["B", [outputs, adapter.rank]]
    ] as const) {
      const name = factorInput(module, factor)
      weights.set(name, graph.input(name, dims))
    }
  }
  const linear: Linear = (graph, module, x) => {
    const bias = weights.get(`${module}.bias`)
    const product = graph.gemm(x, weights.get(`${module}.weight`)!, {
      transB: true,
      ...(bias === undefined ? {} : { c: bias })
    })
    const a = weights.get(factorInput(module, "A"))
    if (a === undefined) return product
    const low = graph.scale(graph.gemm(x, a, { transB: true }), adapter!.scale)
    return graph.add(product, graph.gemm(low, weights.get(factorInput(module, "B"))!, { transB: true }))
  }
  const vector = (name: string) => weights.get(name)!
  const y = layer(graph, shape, x, { linear, vector, cos, sin, attend: attendByMask(shape, mask) })
  return { graph, x, y, weights }
}

/** Computes y from x, cos, sin, mask and weights. */
export const layerForward = (shape: Shape, rows: number, adapter: LayerAdapter | undefined): Model => {
  const { graph, y } = layerParts(shape, rows, adapter)
  graph.output("y", y)
  return graph.build()
}

/**
 * Computes dx from dy and the inputs of {@link layerForward}. For each trained weight `w` it adds to the accumulated
 * gradient, `w.sum`, and returns `w.grad`. An adapter is trained alone; without one, all weights are.
 */
export const layerBackward = (shape: Shape, rows: number, adapter: LayerAdapter | undefined): Model => {
  const { graph, weights, x, y } = layerParts(shape, rows, adapter)
  const dy = graph.input("dy", [rows, shape.hidden])
  const trained = [...weights].filter(([name]) => adapter === undefined || /\.lora_[AB]$/.test(name))
  const [dx, ...own] = gradients(graph, [[y, dy]], [x, ...trained.map(([, value]) => value)])
  graph.output("dx", dx!)
  for (const [i, [name, weight]] of trained.entries()) {
    graph.output(`${name}.grad`, graph.add(graph.input(`${name}.sum`, weight.shape), own[i]!))
  }
  return graph.build()
}

/** Looks up tokens [t] in the embedding. */
export const embed = (shape: Shape): Model => {
  const graph = new Graph()
  const table = graph.input("table", [shape.vocabulary, shape.hidden])
  graph.output("y", graph.gather(table, graph.input("tokens", ["t"], "int64")))
  return graph.build()
}

/** Computes the embedding's gradient from dy and tokens [t, 1]. */
export const embedBackward = (shape: Shape): Model => {
  const graph = new Graph()
  const sum = graph.input("sum", [shape.vocabulary, shape.hidden])
  const tokens = graph.input("tokens", ["t", 1], "int64")
  const dy = graph.input("dy", ["t", shape.hidden])
  graph.output("grad", graph.op("ScatterND", [sum, tokens, dy], [sum.shape], { reduction: "add" })[0]!)
  return graph.build()
}

interface HeadParts {
  readonly graph: Graph
  /** [t, hidden], reduced to the rows that predict. */
  readonly x: Value
  readonly rows: Value
  readonly chosen: Value
  readonly norm: Value
  readonly normed: Value
  readonly table: Value
  readonly inverseTemperature: Value
  readonly targets: Value
  /** [r, vocabulary] */
  readonly logprobs: Value
  readonly shares: Value
  /** [r, 1] */
  readonly entropy: Value
}

const headParts = (shape: Shape): HeadParts => {
  const graph = new Graph()
  const x = graph.input("x", ["t", shape.hidden])
  const rows = graph.input("rows", ["r"], "int64")
  const norm = graph.input("norm", [shape.hidden])
  const table = graph.input("table", [shape.vocabulary, shape.hidden])
  const inverseTemperature = graph.input("inverseTemperature", [1])
  const targets = graph.input("targets", ["n", 2], "int64")
  const chosen = graph.gather(x, rows)
  const normed = rmsNorm(graph, chosen, norm, shape.epsilon)
  const logits = graph.mul(graph.gemm(normed, table, { transB: true }), inverseTemperature)
  const shifted = graph.sub(logits, graph.reduce("ReduceMax", logits))
  const exponentials = graph.unary("Exp", shifted)
  const total = graph.reduce("ReduceSum", exponentials)
  const logprobs = graph.sub(shifted, graph.unary("Log", total))
  const shares = graph.mul(exponentials, graph.unary("Reciprocal", total))
  // A probability of exactly 0 has a finite logarithm here: its product is 0, as the limit is.
  const entropy = graph.unary("Neg", graph.reduce("ReduceSum", graph.mul(shares, logprobs)))
  return { graph, x, rows, chosen, norm, normed, table, inverseTemperature, targets, logprobs, shares, entropy }
}

/** Computes log-probabilities [n] and entropies [r, 1] of targets in some rows of x. */
export const head = (shape: Shape): Model => {
  const { entropy, graph, logprobs, targets } = headParts(shape)
  graph.output("logprobs", graph.op("GatherND", [logprobs, targets], [["n"]])[0]!)
  graph.output("entropy", entropy)
  return graph.build()
}

/**
 * Computes dx, which is added to `dxSum`, from dLogprobs [n], their sum by row [r, 1] and dEntropy [r, 1]. If the base
 * is `trained`, it also adds to the gradients of norm and head. Let p be the probabilities and H the entropy of a row.
 * Then d logprob(target) / d logit(v) is [v = target] - p(v). Likewise d H / d logit(v) is -p(v) (log p(v) + H).
 */
export const headBackward = (shape: Shape, trained: boolean): Model => {
  const parts = headParts(shape)
  const { chosen, entropy, graph, logprobs, norm, normed, shares, table, targets } = parts
  const dLogprobs = graph.input("dLogprobs", ["n"])
  const rowSum = graph.input("rowSum", ["r", 1])
  const dEntropy = graph.input("dEntropy", ["r", 1])
  const slope = graph.add(rowSum, graph.mul(dEntropy, graph.add(logprobs, entropy)))
  const spread = graph.unary("Neg", graph.mul(shares, slope))
  const scattered = graph.op("ScatterND", [spread, targets, dLogprobs], [spread.shape], { reduction: "add" })[0]!
  const dLogits = graph.mul(scattered, parts.inverseTemperature)
  const dNormed = graph.gemm(dLogits, table)
  const [dChosen, dNorm] = gradients(graph, [[normed, dNormed]], [chosen, norm])
  const dxSum = graph.input("dxSum", ["t", shape.hidden])
  // The rows again: WebGPU does not reshape 64-bit numbers.
  const places = graph.input("places", ["r", 1], "int64")
  graph.output("dx", graph.op("ScatterND", [dxSum, places, dChosen!], [dxSum.shape], { reduction: "add" })[0]!)
  if (trained) {
    const sum = graph.input("table.sum", table.shape)
    graph.output("table.grad", graph.gemm(dLogits, normed, { transA: true, c: sum }))
    graph.output("norm.grad", graph.add(graph.input("norm.sum", norm.shape), dNorm!))
  }
  return graph.build()
}

/** Shapes of tensors that are updated together. */
export type Shapes = ReadonlyArray<ReadonlyArray<number>>

/** Computes the sum of the squares of gradients `g0`, `g1`, ... */
export const squares = (shapes: Shapes): Model => {
  const graph = new Graph()
  const sums = shapes.map((dims, i) => {
    const g = graph.input(`g${i}`, dims)
    // Two steps: one sum over millions of similar numbers would lose the last of them.
    const rows = dims.length === 1 ? graph.reshape(graph.mul(g, g), [1, dims[0]!]) : graph.mul(g, g)
    return graph.sum(graph.reduce("ReduceSum", rows), [0], false)
  })
  graph.output(
    "sum",
    sums.reduce((a, b) => graph.add(a, b))
  )
  return graph.build()
}

/** Numbers of a step, each an input [1]. */
export const stepInputs = ["gradientScale", "decay", "beta1", "beta2", "stepSize", "correction", "epsilon"] as const

/**
 * AdamW with decoupled decay (Loshchilov and Hutter 2019), as PyTorch computes it. It maps weight `w`, gradient `g` and
 * moments `m`, `v` of each tensor to `w.next`, `m.next`, `v.next`. Vectors do not decay.
 */
export const adamW = (shapes: Shapes): Model => {
  const graph = new Graph()
  const [scale, decay, beta1, beta2, stepSize, correction, epsilon] = stepInputs.map((name) => graph.input(name, [1]))
  const one = graph.scalar(1)
  for (const [i, dims] of shapes.entries()) {
    const [w, g, m, v] = ["w", "g", "m", "v"].map((name) => graph.input(`${name}${i}`, dims))
    const gradient = graph.mul(g!, scale!)
    const first = graph.add(m!, graph.mul(graph.sub(one, beta1!), graph.sub(gradient, m!)))
    const squared = graph.mul(gradient, gradient)
    const second = graph.add(graph.mul(beta2!, v!), graph.mul(graph.sub(one, beta2!), squared))
    const root = graph.binary("Div", graph.unary("Sqrt", second), correction!)
    const move = graph.binary("Div", graph.mul(stepSize!, first), graph.add(root, epsilon!))
    const kept = dims.length === 1 ? w! : graph.mul(w!, decay!)
    graph.output(`w${i}.next`, graph.sub(kept, move))
    graph.output(`m${i}.next`, first)
    graph.output(`v${i}.next`, second)
  }
  return graph.build()
}
