import { assert, describe, it } from "@effect/vitest"
import { gradients } from "../../../../../src/engines/onnx/graph/autodiff.ts"
import { Device } from "../../../../../src/engines/onnx/worker/device.ts"
import { Graph, int64, type Model, type Value } from "../../../../../src/engines/onnx/graph/graph.ts"

const device = await Device.open({ providers: ["cpu"] })

const run = async (model: Model, feeds: Record<string, readonly [ReadonlyArray<number>, ReadonlyArray<number>]>) => {
  const session = await device.session(model, { host: model.outputs.map(({ name }) => name) })
  const results = await session.run(
    Object.fromEntries(
      Object.entries(feeds).map(([name, [values, dims]]) => [name, device.host(Float32Array.from(values), dims)])
    )
  )
  await session.release()
  return Object.fromEntries(
    Object.entries(results).map(([name, { data, dims }]) => [name, { data: [...(data as Float32Array)], dims }])
  )
}

describe("Graph", () => {
  it("computes with named sizes, large constants, and results that are inputs or one another", async () => {
    const graph = new Graph()
    const x = graph.input("x", ["n", 4])
    const table = graph.constant(
      Float32Array.from({ length: 1000 }, (_, i) => i),
      [4, 250]
    )
    const y = graph.matmul(x, table)
    const halves = graph.split(graph.reshape(y, ["n", 2, 125]), [100, 25])
    graph.output("first", halves[1]!)
    graph.output("again", halves[1]!)
    graph.output("same", x)
    const model = graph.build()
    assert.strictEqual(model.externalData.length, 1)
    const { again, first, same } = await run(model, {
      x: [
        [1, 0, 0, 0, 0, 0, 0, 2],
        [2, 4]
      ]
    })
    assert.deepStrictEqual(first!.dims, [2, 2, 25])
    assert.deepStrictEqual([first!.data[0], first!.data[25], first!.data[99]], [100, 225, 2 * 999])
    assert.deepStrictEqual(again, first)
    assert.deepStrictEqual(same!.data, [1, 0, 0, 0, 0, 0, 0, 2])
  })

  it("leaves out what no result needs, and asks for no input of it", () => {
    const graph = new Graph()
    const [x, unused] = [graph.input("x", [2]), graph.input("unused", [2])]
    graph.mul(unused, x)
    graph.output("y", graph.add(x, graph.scalar(1)))
    const model = graph.build()
    assert.deepStrictEqual(
      model.inputs.map(({ name }) => name),
      ["x"]
    )
    assert.strictEqual(model.nodes, 1)
  })

  it("refuses shapes that do not fit", () => {
    const graph = new Graph()
    assert.throws(() => graph.add(graph.input("a", [2, 3]), graph.input("b", [2, 4])), "do not broadcast")
    assert.throws(() => graph.concat([graph.input("c", ["n"]), graph.input("d", [2])], 0), "only when the graph runs")
  })
})

describe("gradients", () => {
  /**
   * Checks gradients of the sum of `f` weighted by 1, 2, 3, ..., against central differences. These are exact except for
   * rounding if `f` is at most quadratic in each number. Otherwise the step of 1/64 leaves a third of its square times
   * the third derivative.
   */
  const check = async (
    shapes: ReadonlyArray<ReadonlyArray<number>>,
    f: (graph: Graph, inputs: ReadonlyArray<Value>) => Value,
    tolerance = 1e-4
  ) => {
    const graph = new Graph()
    const inputs = shapes.map((dims, i) => graph.input(`x${i}`, dims))
    const y = f(graph, inputs)
    const size = y.shape.reduce<number>((a, b) => a * (b as number), 1)
    const weights = Float32Array.from({ length: size }, (_, i) => (i % 7) + 1)
    const found = gradients(graph, [[y, graph.constant(weights, y.shape)]], inputs)
    graph.output("y", y)
    for (const [i, gradient] of found.entries()) graph.output(`d${i}`, gradient!)
    const model = graph.build()
    const values = shapes.map((dims, s) =>
      Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => 0.5 + ((i * 37 + s * 11) % 16) / 8)
    )
    const at = async (numbers: ReadonlyArray<ReadonlyArray<number>>) => {
      const results = await run(
        model,
        Object.fromEntries(numbers.map((own, i) => [`x${i}`, [own, shapes[i]!] as const]))
      )
      return { results, total: results["y"]!.data.reduce((sum, value, i) => sum + value * weights[i]!, 0) }
    }
    const { results } = await at(values)
    const step = 1 / 64
    for (const [s, own] of values.entries()) {
      assert.deepStrictEqual(results[`d${s}`]!.dims, shapes[s])
      for (const i of own.keys()) {
        const moved = (by: number) => at(values.map((other, j) => (j === s ? other.with(i, other[i]! + by) : other)))
        const slope = ((await moved(step)).total - (await moved(-step)).total) / (2 * step)
        const actual = results[`d${s}`]!.data[i]!
        assert.closeTo(actual, slope, tolerance * Math.max(1, Math.abs(slope)), `input ${s}, number ${i}`)
      }
    }
  }

  it("of sums, differences and products, also where one is repeated along an axis", () =>
    check([[2, 3], [3], [2, 1]], (g, [a, b, c]) => g.sub(g.mul(g.add(a!, b!), c!), g.unary("Neg", g.mul(b!, a!)))))

  it("of products of matrices, in stacks and transposed", async () => {
    await check(
      [
        [2, 3, 2],
        [2, 3]
      ],
      (g, [a, b]) => g.matmul(a!, b!)
    )
    await check([[2, 3], [4, 3], [4]], (g, [a, b, c]) => g.gemm(a!, b!, { transB: true, c: c! }))
    await check(
      [
        [3, 2],
        [3, 4]
      ],
      (g, [a, b]) => g.gemm(a!, b!, { transA: true })
    )
    await check(
      [
        [3, 2],
        [4, 3]
      ],
      (g, [a, b]) => g.gemm(a!, b!, { transA: true, transB: true })
    )
  })

  it("of moved, cut and joined axes", () =>
    check([[2, 3, 4]], (g, [x]) => {
      const [left, right] = g.split(g.transpose(x!, [1, 0, 2]), [1, 3])
      return g.reshape(g.concat([g.mul(right!, right!), left!], -1), [6, 4])
    }))

  it("of what norms and activations are made of", async () => {
    await check([[2, 3]], (g, [x]) => g.reduce("ReduceMean", g.mul(x!, x!)))
    await check([[2, 3]], (g, [x]) => g.unary("Sigmoid", x!), 1e-3)
    await check([[2, 3]], (g, [x]) => g.unary("Reciprocal", g.unary("Sqrt", x!)), 5e-3)
    await check([[2, 3]], (g, [x]) => g.softmax(g.mul(x!, x!)), 5e-3)
  })

  it("only of what depends on what is asked for, and says which operator has none", () => {
    const graph = new Graph()
    const [x, other] = [graph.input("x", [2]), graph.input("other", [2])]
    const y = graph.mul(x, x)
    assert.deepStrictEqual(gradients(graph, [[y, y]], [other]), [undefined])
    const gathered = graph.gather(x, graph.constant(int64([1]), [1], "int64"))
    assert.throws(() => gradients(graph, [[gathered, gathered]], [x]), "Gather has no rule")
  })
})
