/**
 * The decoder of the Llama family (Llama, Mistral, Qwen2, Qwen3) as parts of ONNX graphs. Its operators execute on
 * every provider and can be differentiated. Weights have the shapes of Hugging Face: [outputs, inputs].
 */
import type { NativeInfo } from "../../internal/nativeModel.ts"
import { type Graph, sizeOf, type Value } from "./graph.ts"

/** Sizes and settings of a model, with every default filled in. */
export type Shape = NativeInfo["shape"]

/** The products of a layer, by the path that Hugging Face gives their modules within the layer. */
export const modules = [
  "self_attn.q_proj",
  "self_attn.k_proj",
  "self_attn.v_proj",
  "self_attn.o_proj",
  "mlp.gate_proj",
  "mlp.up_proj",
  "mlp.down_proj"
] as const
export type Module = (typeof modules)[number]

/** [outputs, inputs] of a module. */
export const moduleShape = (shape: Shape, module: Module): readonly [number, number] => {
  const { headDim, heads, hidden, inner, kvHeads } = shape
  switch (module) {
    case "self_attn.q_proj":
      return [heads * headDim, hidden]
    case "self_attn.k_proj":
    case "self_attn.v_proj":
      return [kvHeads * headDim, hidden]
    case "self_attn.o_proj":
      return [hidden, heads * headDim]
    case "mlp.gate_proj":
    case "mlp.up_proj":
      return [inner, hidden]
    case "mlp.down_proj":
      return [hidden, inner]
  }
}

/** Names and shapes of a layer's tensors, within the layer. */
export const layerTensors = (shape: Shape): ReadonlyArray<readonly [string, ReadonlyArray<number>]> => [
  ["input_layernorm.weight", [shape.hidden]],
  ["post_attention_layernorm.weight", [shape.hidden]],
  ...modules.map((module) => [`${module}.weight`, moduleShape(shape, module)] as const),
  ...(shape.qkvBias
    ? modules.slice(0, 3).map((module) => [`${module}.bias`, [moduleShape(shape, module)[0]]] as const)
    : []),
  ...(shape.qkNorm
    ? (["self_attn.q_norm.weight", "self_attn.k_norm.weight"] as const).map((name) => [name, [shape.headDim]] as const)
    : [])
]

/** Multiplies rows by a module's weight: [rows, inputs] to [rows, outputs]. It also applies bias and adapter. */
export type Linear = (graph: Graph, module: Module, x: Value) => Value

/** Inputs of a layer's computation. */
export interface LayerParts {
  readonly linear: Linear
  /** Returns a vector of the layer by its name within the layer. */
  readonly vector: (name: string) => Value
  /** [rows, headDim]: cosines of each row's position. The halves of a row are equal. */
  readonly cos: Value
  readonly sin: Value
  /** Computes heads from rotated queries and new keys and values, rows first: see {@link Heads}. */
  readonly attend: (graph: Graph, heads: Heads) => Value
}

/** [rows, heads, headDim], [rows, kvHeads, headDim] twice. */
export interface Heads {
  readonly q: Value
  readonly k: Value
  readonly v: Value
}

/** Root mean square norm over the last axis (Zhang and Sennrich 2019). */
export const rmsNorm = (graph: Graph, x: Value, weight: Value, epsilon: number): Value => {
  const mean = graph.reduce("ReduceMean", graph.mul(x, x))
  const inverse = graph.unary("Reciprocal", graph.unary("Sqrt", graph.add(mean, graph.scalar(epsilon))))
  return graph.mul(graph.mul(x, inverse), weight)
}

/** Rotary positions on [rows, heads, headDim] (Su et al. 2021), halves rotated as in Hugging Face. */
const rotate = (graph: Graph, x: Value, cos: Value, sin: Value): Value => {
  const half = (x.shape[2] as number) / 2
  const [left, right] = graph.split(x, [half, half])
  const turned = graph.concat([graph.unary("Neg", right!), left!], -1, 2 * half)
  return graph.add(graph.mul(x, cos), graph.mul(turned, sin))
}

/** One layer, [rows, hidden] to the same. */
export const layer = (graph: Graph, shape: Shape, x: Value, parts: LayerParts): Value => {
  const { headDim, heads, kvHeads } = shape
  const rows = x.shape[0]!
  const split = (value: Value, count: number) => graph.reshape(value, [rows, count, headDim])
  const [cos, sin] = [parts.cos, parts.sin].map((angles) => graph.reshape(angles, [rows, 1, headDim])) as [Value, Value]

  const normed = rmsNorm(graph, x, parts.vector("input_layernorm.weight"), shape.epsilon)
  let q = split(parts.linear(graph, "self_attn.q_proj", normed), heads)
  let k = split(parts.linear(graph, "self_attn.k_proj", normed), kvHeads)
  const v = split(parts.linear(graph, "self_attn.v_proj", normed), kvHeads)
  if (shape.qkNorm) {
    q = rmsNorm(graph, q, parts.vector("self_attn.q_norm.weight"), shape.epsilon)
    k = rmsNorm(graph, k, parts.vector("self_attn.k_norm.weight"), shape.epsilon)
  }
  const attended = parts.attend(graph, { q: rotate(graph, q, cos, sin), k: rotate(graph, k, cos, sin), v })
  const joined = graph.reshape(attended, [rows, heads * headDim])
  const middle = graph.add(x, parts.linear(graph, "self_attn.o_proj", joined))

  const normedAgain = rmsNorm(graph, middle, parts.vector("post_attention_layernorm.weight"), shape.epsilon)
  const gate = parts.linear(graph, "mlp.gate_proj", normedAgain)
  const up = parts.linear(graph, "mlp.up_proj", normedAgain)
  const inner = graph.mul(graph.mul(gate, graph.unary("Sigmoid", gate)), up)
  return graph.add(middle, parts.linear(graph, "mlp.down_proj", inner))
}

/**
 * Attention between rows under an additive mask [rows, rows]: 0 or a large negative number. Query heads that share a
 * key-value head are stacked, so that no key is repeated.
 */
export const attendByMask =
  (shape: Shape, mask: Value) =>
  (graph: Graph, { k, q, v }: Heads): Value => {
    const { headDim, heads, kvHeads } = shape
    const group = heads / kvHeads
    const rows = sizeOf([q.shape[0]!])
    const stacked = group * rows
    // [kvHeads, group, rows, headDim]
    const queries = graph.transpose(graph.reshape(q, [rows, kvHeads, group, headDim]), [1, 2, 0, 3])
    const keys = graph.transpose(k, [1, 2, 0])
    const values = graph.transpose(v, [1, 0, 2])
    const scaled = graph.scale(graph.reshape(queries, [kvHeads, stacked, headDim]), 1 / Math.sqrt(headDim))
    const scores = graph.matmul(scaled, keys)
    const apart = (x: Value, last: number): Value => graph.reshape(x, [kvHeads, group, rows, last])
    const masked = graph.add(apart(scores, rows), mask)
    const shares = graph.reshape(graph.softmax(masked), [kvHeads, stacked, rows])
    const mixed = apart(graph.matmul(shares, values), headDim)
    return graph.transpose(mixed, [2, 0, 1, 3])
  }
