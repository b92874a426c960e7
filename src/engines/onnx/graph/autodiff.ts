/** Reverse-mode differentiation over a {@link Graph}: appends the nodes that compute gradients. Shapes must be numbers. */
import { type Graph, type Node, type Shape, sizeOf, type Value } from "./graph.ts"

/** Sums a gradient over the axes along which its value was broadcast. */
const unbroadcast = (graph: Graph, gradient: Value, shape: Shape): Value => {
  const lead = gradient.shape.length - shape.length
  const axes = gradient.shape.flatMap((dim, i) => (i < lead || (shape[i - lead] === 1 && dim !== 1) ? [i] : []))
  return axes.length === 0 ? gradient : graph.reshape(graph.sum(gradient, axes, false), shape)
}

const flip = (x: Value): ReadonlyArray<number> => {
  const axes = x.shape.map((_, i) => i)
  return [...axes.slice(0, -2), axes.at(-1)!, axes.at(-2)!]
}

/** Computes gradients of a node's inputs from those of its outputs; undefined if an input has none. */
type Rule = (graph: Graph, node: Node, gradients: ReadonlyArray<Value | undefined>) => ReadonlyArray<Value | undefined>

/** Makes the rule of a node with one result. */
const single =
  (
    rule: (
      graph: Graph,
      gradient: Value,
      inputs: ReadonlyArray<Value>,
      output: Value,
      node: Node
    ) => ReadonlyArray<Value | undefined>
  ): Rule =>
  (graph, node, [gradient]) =>
    rule(graph, gradient!, node.inputs as ReadonlyArray<Value>, node.outputs[0]!, node)

const rules: Readonly<Record<string, Rule>> = {
  Add: single((g, d, [a, b]) => [unbroadcast(g, d, a!.shape), unbroadcast(g, d, b!.shape)]),
  Sub: single((g, d, [a, b]) => [unbroadcast(g, d, a!.shape), unbroadcast(g, g.unary("Neg", d), b!.shape)]),
  Mul: single((g, d, [a, b]) => [unbroadcast(g, g.mul(d, b!), a!.shape), unbroadcast(g, g.mul(d, a!), b!.shape)]),
  Neg: single((g, d) => [g.unary("Neg", d)]),
  Sqrt: single((g, d, _, y) => [g.scale(g.binary("Div", d, y), 0.5)]),
  Reciprocal: single((g, d, _, y) => [g.unary("Neg", g.mul(d, g.mul(y, y)))]),
  Sigmoid: single((g, d, _, y) => [g.mul(d, g.mul(y, g.sub(g.scalar(1), y)))]),
  Softmax: single((g, d, _, y) => {
    const weighted = g.mul(d, y)
    return [g.sub(weighted, g.mul(y, g.reduce("ReduceSum", weighted)))]
  }),
  ReduceMean: single((g, d, [x]) => {
    const ones = g.constant(
      new Float32Array(sizeOf(x!.shape.slice(-1))).fill(1 / sizeOf(x!.shape.slice(-1))),
      x!.shape.slice(-1)
    )
    return [g.mul(d, ones), undefined]
  }),
  Reshape: single((g, d, [x]) => [g.reshape(d, x!.shape), undefined]),
  Transpose: single((g, d, _, __, node) => {
    const order = node.attributes["perm"] as ReadonlyArray<number>
    return [
      g.transpose(
        d,
        order.map((_, i) => order.indexOf(i))
      )
    ]
  }),
  MatMul: single((g, d, [a, b]) => [
    unbroadcast(g, g.matmul(d, g.transpose(b!, flip(b!))), a!.shape),
    unbroadcast(g, g.matmul(g.transpose(a!, flip(a!)), d), b!.shape)
  ]),
  Gemm: single((g, d, [a, b, c], _, node) => {
    const [ta, tb] = [node.attributes["transA"] === 1, node.attributes["transB"] === 1]
    return [
      ta ? g.gemm(b!, d, { transA: tb, transB: true }) : g.gemm(d, b!, { transB: !tb }),
      tb ? g.gemm(d, a!, { transA: true, transB: ta }) : g.gemm(a!, d, { transA: !ta }),
      c === undefined ? undefined : unbroadcast(g, d, c.shape)
    ]
  }),
  Split: (g, node, gradients) => {
    const parts = gradients.map(
      (gradient, i) => gradient ?? g.constant(new Float32Array(sizeOf(node.outputs[i]!.shape)), node.outputs[i]!.shape)
    )
    return [g.concat(parts, node.attributes["axis"] as number), undefined]
  },
  Concat: single((g, d, inputs, _, node) => {
    const axis = node.attributes["axis"] as number
    if (axis !== d.shape.length - 1)
      throw new Error("onnx autodiff: only a concatenation along the last axis has a gradient")
    return g.split(
      d,
      inputs.map((input) => input.shape[axis] as number)
    )
  })
}

/**
 * Gradients of `wrt` from `seeds`: pairs of a value and its own gradient. Only nodes between the two are visited. A
 * value that no seed depends on has none.
 */
export const gradients = (
  graph: Graph,
  seeds: ReadonlyArray<readonly [Value, Value]>,
  wrt: ReadonlyArray<Value>
): ReadonlyArray<Value | undefined> => {
  const forward = [...graph.nodes]
  const reaches = new Set(wrt.map(({ name }) => name))
  for (const node of forward) {
    if (node.inputs.some((input) => input !== undefined && reaches.has(input.name))) {
      for (const { name } of node.outputs) reaches.add(name)
    }
  }
  const found = new Map<string, Value>()
  const accumulate = (value: Value, gradient: Value) => {
    const known = found.get(value.name)
    found.set(value.name, known === undefined ? gradient : graph.add(known, gradient))
  }
  for (const [value, gradient] of seeds) accumulate(value, gradient)
  for (const node of forward.toReversed()) {
    const own = node.outputs.map(({ name }) => found.get(name))
    if (own.every((gradient) => gradient === undefined)) continue
    if (!node.inputs.some((input) => input !== undefined && reaches.has(input.name))) continue
    const rule = rules[node.op]
    if (rule === undefined) throw new Error(`onnx autodiff: ${node.op} has no rule`)
    for (const [i, gradient] of rule(graph, node, own).entries()) {
      const input = node.inputs[i]
      // Unused products are dropped when the graph is built.
      if (gradient !== undefined && input !== undefined && reaches.has(input.name)) accumulate(input, gradient)
    }
  }
  return wrt.map(({ name }) => found.get(name))
}
