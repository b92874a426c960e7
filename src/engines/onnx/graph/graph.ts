/**
 * Builds ONNX graphs: typed values with shapes, one method for each operator used here, and the bytes of a model. Sizes
 * that are known only when a graph runs have names; differentiation (`autodiff.ts`) requires numbers.
 */
import { create, toBinary } from "@bufbuild/protobuf"
import {
  type AttributeProto,
  AttributeProto_AttributeType as AttributeType,
  AttributeProtoSchema,
  ModelProtoSchema,
  NodeProtoSchema,
  StringStringEntryProtoSchema,
  TensorProto_DataLocation as DataLocation,
  TensorProto_DataType as DataType,
  TensorProtoSchema,
  type TensorProto,
  ValueInfoProtoSchema
} from "onnx-buf"

export type Type = "float32" | "float16" | "int64" | "int32" | "uint8" | "bool"
export type Dim = number | string
export type Shape = ReadonlyArray<Dim>

/** A value on an edge of a graph. */
export interface Value {
  readonly name: string
  readonly type: Type
  readonly shape: Shape
}

type Attribute = number | string | ReadonlyArray<number> | { readonly float: number }

export interface Node {
  readonly op: string
  readonly inputs: ReadonlyArray<Value | undefined>
  readonly outputs: ReadonlyArray<Value>
  readonly attributes: Readonly<Record<string, Attribute>>
}

export type Numbers = Float32Array | Uint16Array | BigInt64Array | Int32Array | Uint8Array

/** A graph's bytes, and its large constants in the form that the runtime takes: `externalData` of a session. */
export interface Model {
  readonly bytes: Uint8Array
  readonly externalData: ReadonlyArray<{ readonly path: string; readonly data: Uint8Array }>
  readonly inputs: ReadonlyArray<Value>
  readonly outputs: ReadonlyArray<Value>
  readonly nodes: number
}

const dataTypes: Readonly<Record<Type, DataType>> = {
  float32: DataType.FLOAT,
  float16: DataType.FLOAT16,
  int64: DataType.INT64,
  int32: DataType.INT32,
  uint8: DataType.UINT8,
  bool: DataType.BOOL
}

/** Operators of ONNX Runtime's own. */
const contributed = new Set([
  "FusedMatMul",
  "MatMulNBits",
  "RotaryEmbedding",
  "SkipSimplifiedLayerNormalization",
  "QuickGelu"
])

/** Constants above this many bytes are stored outside the graph. */
const inlineBytes = 1024

const bytesOf = (values: Numbers): Uint8Array => new Uint8Array(values.buffer, values.byteOffset, values.byteLength)

export const int64 = (values: Iterable<number>): BigInt64Array => BigInt64Array.from(values, (value) => BigInt(value))

/** Elements of a shape without names. */
export const sizeOf = (shape: Shape): number =>
  shape.reduce<number>((product, dim) => {
    if (typeof dim === "string") throw new Error(`onnx graph: the size ${dim} is known only when the graph runs`)
    return product * dim
  }, 1)

const broadcast = (a: Shape, b: Shape): Shape => {
  const rank = Math.max(a.length, b.length)
  return Array.from({ length: rank }, (_, i) => {
    const x = a[i - rank + a.length] ?? 1
    const y = b[i - rank + b.length] ?? 1
    if (x === 1) return y
    if (y === 1 || x === y) return x
    throw new Error(`onnx graph: shapes [${a}] and [${b}] do not broadcast`)
  })
}

const attributeOf = (name: string, value: Attribute): AttributeProto => {
  const fields =
    typeof value === "number"
      ? { type: AttributeType.INT, i: BigInt(value) }
      : typeof value === "string"
        ? { type: AttributeType.STRING, s: new TextEncoder().encode(value) }
        : "float" in value
          ? { type: AttributeType.FLOAT, f: value.float }
          : { type: AttributeType.INTS, ints: value.map(BigInt) }
  return create(AttributeProtoSchema, { name, ...fields })
}

export class Graph {
  readonly nodes: Array<Node> = []
  readonly #inputs: Array<Value> = []
  readonly #outputs = new Map<string, Value>()
  readonly #constants: Array<TensorProto> = []
  readonly #external: Array<{ readonly path: string; readonly data: Uint8Array }> = []
  readonly #shared = new Map<string, Value>()
  #names = 0

  input(name: string, shape: Shape, type: Type = "float32"): Value {
    const value = { name, type, shape }
    this.#inputs.push(value)
    return value
  }

  /** Names a value as a result of the graph. */
  output(name: string, value: Value): void {
    this.#outputs.set(name, value)
  }

  /** A constant; large ones are not copied until a session is made. */
  constant(values: Numbers, shape: Shape, type: Type = "float32"): Value {
    const name = `_c${this.#names++}`
    const bytes = bytesOf(values)
    const tensor = create(TensorProtoSchema, { name, dataType: dataTypes[type], dims: shape.map((d) => BigInt(d)) })
    if (bytes.length <= inlineBytes) tensor.rawData = bytes.slice()
    else {
      const path = `${name}.bin`
      const entry = (key: string, value: string) => create(StringStringEntryProtoSchema, { key, value })
      tensor.dataLocation = DataLocation.EXTERNAL
      tensor.externalData = [entry("location", path), entry("offset", "0"), entry("length", String(bytes.length))]
      this.#external.push({ path, data: bytes })
    }
    this.#constants.push(tensor)
    return { name, type, shape }
  }

  /** A number, as a tensor without dimensions. */
  scalar(value: number): Value {
    return this.#share(`f ${value}`, () => this.constant(Float32Array.of(value), []))
  }

  /** A list of whole numbers: shapes, axes. */
  integers(values: ReadonlyArray<number>): Value {
    return this.#share(`i ${values}`, () => this.constant(int64(values), [values.length], "int64"))
  }

  #share(key: string, make: () => Value): Value {
    const known = this.#shared.get(key) ?? make()
    this.#shared.set(key, known)
    return known
  }

  /** Adds any operator, with the shapes of its results, and their type if it differs from the first input's. */
  op(
    op: string,
    inputs: ReadonlyArray<Value | undefined>,
    shapes: ReadonlyArray<Shape>,
    attributes: Readonly<Record<string, Attribute>> = {},
    type: Type = inputs.find((input) => input !== undefined)!.type
  ): ReadonlyArray<Value> {
    const outputs = shapes.map((shape) => ({ name: `_v${this.#names++}`, type, shape }))
    this.nodes.push({ op, inputs, outputs, attributes })
    return outputs
  }

  #one(
    op: string,
    inputs: ReadonlyArray<Value | undefined>,
    shape: Shape,
    attributes: Readonly<Record<string, Attribute>> = {},
    type?: Type
  ): Value {
    return this.op(op, inputs, [shape], attributes, type)[0]!
  }

  unary(op: "Neg" | "Exp" | "Log" | "Sqrt" | "Reciprocal" | "Sigmoid", x: Value): Value {
    return this.#one(op, [x], x.shape)
  }
  binary(op: "Add" | "Sub" | "Mul" | "Div" | "Min", a: Value, b: Value): Value {
    return this.#one(op, [a, b], broadcast(a.shape, b.shape))
  }
  add(a: Value, b: Value): Value {
    return this.binary("Add", a, b)
  }
  sub(a: Value, b: Value): Value {
    return this.binary("Sub", a, b)
  }
  mul(a: Value, b: Value): Value {
    return this.binary("Mul", a, b)
  }
  scale(x: Value, by: number): Value {
    return this.mul(x, this.scalar(by))
  }
  compare(op: "Less" | "Greater" | "LessOrEqual" | "GreaterOrEqual" | "Equal", a: Value, b: Value): Value {
    return this.#one(op, [a, b], broadcast(a.shape, b.shape), {}, "bool")
  }
  where(condition: Value, a: Value, b: Value): Value {
    return this.#one("Where", [condition, a, b], broadcast(condition.shape, broadcast(a.shape, b.shape)), {}, a.type)
  }
  cast(x: Value, to: Type): Value {
    return x.type === to ? x : this.#one("Cast", [x], x.shape, { to: dataTypes[to] }, to)
  }

  /** Stacks of matrices, [..., m, k] x [..., k, n]. */
  matmul(a: Value, b: Value): Value {
    const stack = broadcast(a.shape.slice(0, -2), b.shape.slice(0, -2))
    return this.#one("MatMul", [a, b], [...stack, a.shape.at(-2)!, b.shape.at(-1)!])
  }
  /** Two matrices, either of them transposed, [m, k] x [k, n]; `c` is added. */
  gemm(
    a: Value,
    b: Value,
    options: { readonly transA?: boolean; readonly transB?: boolean; readonly c?: Value } = {}
  ): Value {
    const { c, transA = false, transB = false } = options
    const shape = [a.shape[transA ? 1 : 0]!, b.shape[transB ? 0 : 1]!]
    const inputs = c === undefined ? [a, b] : [a, b, c]
    return this.#one("Gemm", inputs, shape, { transA: Number(transA), transB: Number(transB) })
  }

  softmax(x: Value): Value {
    return this.#one("Softmax", [x], x.shape, { axis: -1 })
  }
  /** Reduces the last axis, which stays with size 1. */
  reduce(op: "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin", x: Value): Value {
    return this.#one(op, [x, this.integers([-1])], [...x.shape.slice(0, -1), 1], { keepdims: 1 })
  }
  /** Sums over some axes, which keep size 1 or are removed. */
  sum(x: Value, axes: ReadonlyArray<number>, keep: boolean): Value {
    const kept = x.shape.flatMap((dim, i) => (axes.includes(i) ? (keep ? [1] : []) : [dim]))
    return this.#one("ReduceSum", [x, this.integers(axes)], kept, { keepdims: Number(keep) })
  }

  /** Sums up to and including each place of the last axis. */
  cumulate(x: Value): Value {
    const axis = this.#share(`axis ${x.shape.length - 1}`, () =>
      this.constant(Int32Array.of(x.shape.length - 1), [], "int32")
    )
    return this.#one("CumSum", [x, axis], x.shape)
  }

  /** Reshapes. At most one named size may be new; other names must keep their positions. */
  reshape(x: Value, shape: Shape): Value {
    const named = shape.map((dim, i) => (typeof dim === "number" ? dim : dim === x.shape[i] ? 0 : -1))
    return this.#one("Reshape", [x, this.integers(named)], shape)
  }
  /** Reshapes to sizes that are known when the graph runs: `sizes` is a list of whole numbers. */
  reshapeTo(x: Value, sizes: Value, shape: Shape): Value {
    return this.#one("Reshape", [x, sizes], shape)
  }
  transpose(x: Value, order: ReadonlyArray<number>): Value {
    return this.#one(
      "Transpose",
      [x],
      order.map((axis) => x.shape[axis]!),
      { perm: order }
    )
  }
  concat(parts: ReadonlyArray<Value>, axis: number, size?: Dim): Value {
    const first = parts[0]!
    const at = axis < 0 ? axis + first.shape.length : axis
    const total = size ?? parts.reduce((sum, part) => sum + sizeOf([part.shape[at]!]), 0)
    return this.#one(
      "Concat",
      parts,
      first.shape.map((dim, i) => (i === at ? total : dim)),
      { axis: at }
    )
  }
  /** Cuts the last axis into parts of these sizes. */
  split(x: Value, sizes: ReadonlyArray<number>): ReadonlyArray<Value> {
    if (sizes.length === 1) return [x]
    const shapes = sizes.map((size) => [...x.shape.slice(0, -1), size])
    return this.op("Split", [x, this.integers(sizes)], shapes, { axis: x.shape.length - 1 })
  }
  /** Rows of `x` by number. */
  gather(x: Value, rows: Value): Value {
    return this.#one("Gather", [x, rows], [...rows.shape, ...x.shape.slice(1)], { axis: 0 })
  }

  /** Builds the model. Values that no output needs are not computed, and unused inputs are left out. */
  build(): Model {
    const needed = new Set(Array.from(this.#outputs.values(), ({ name }) => name))
    const nodes: Array<Node> = []
    for (const node of this.nodes.toReversed()) {
      if (!node.outputs.some(({ name }) => needed.has(name))) continue
      for (const input of node.inputs) if (input !== undefined) needed.add(input.name)
      nodes.unshift(node)
    }
    const info = ({ name, shape, type }: Value, as = name) =>
      create(ValueInfoProtoSchema, {
        name: as,
        type: {
          value: {
            case: "tensorType",
            value: {
              elemType: dataTypes[type],
              shape: {
                dim: shape.map((dim) => ({
                  value:
                    typeof dim === "number"
                      ? ({ case: "dimValue", value: BigInt(dim) } as const)
                      : ({ case: "dimParam", value: dim } as const)
                }))
              }
            }
          }
        }
      })
    // A result has the name it was given, and may also be an input, a constant or another result.
    const computed = new Set(nodes.flatMap(({ outputs }) => outputs.map(({ name }) => name)))
    const renamed = new Map<string, string>()
    for (const [name, value] of this.#outputs) {
      if (computed.has(value.name) && !renamed.has(value.name)) renamed.set(value.name, name)
    }
    const nameOf = (value: Value | undefined): string =>
      value === undefined ? "" : (renamed.get(value.name) ?? value.name)
    const protos = nodes.map((node, i) =>
      create(NodeProtoSchema, {
        name: `${node.op}_${i}`,
        opType: node.op,
        domain: contributed.has(node.op) ? "com.microsoft" : "",
        input: node.inputs.map(nameOf),
        output: node.outputs.map(nameOf),
        attribute: Object.entries(node.attributes).map(([name, value]) => attributeOf(name, value))
      })
    )
    for (const [name, value] of this.#outputs) {
      if (renamed.get(value.name) === name) continue
      protos.push(
        create(NodeProtoSchema, { name: `out_${name}`, opType: "Identity", input: [nameOf(value)], output: [name] })
      )
    }
    const constants = this.#constants.filter(({ name }) => needed.has(name))
    const inputs = this.#inputs.filter(({ name }) => needed.has(name))
    const outputs = Array.from(this.#outputs, ([name, value]) => ({ ...value, name }))
    const model = create(ModelProtoSchema, {
      irVersion: 10n,
      producerName: "quintain",
      opsetImport: [
        { domain: "", version: 20n },
        { domain: "com.microsoft", version: 1n }
      ],
      graph: {
        name: "quintain",
        node: protos,
        input: inputs.map((value) => info(value)),
        output: outputs.map((value) => info(value)),
        initializer: constants
      }
    })
    const large = new Set(constants.map(({ name }) => `${name}.bin`))
    return {
      bytes: toBinary(ModelProtoSchema, model),
      externalData: this.#external.filter(({ path }) => large.has(path)),
      inputs,
      outputs,
      nodes: nodes.length
    }
  }
}
