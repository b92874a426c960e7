/**
 * Values as text that keeps their exact types: what goes into a sandbox and comes out of it. Every runtime has its own
 * writer and reader of the same format, in a realm that model-written code shares; this side trusts nothing that it reads.
 *
 * JSON stands for itself except that an array is tagged: `["a", ...items]`, `["o", key, value, ...]`, `["u"]` undefined,
 * `["n", "NaN" | "Infinity" | "-Infinity" | "-0"]`, `["i", digits]` bigint, `["d", ms]` Date, `["m", key, value, ...]` Map,
 * `["s", ...items]` Set, `["h"]` a hole, `["b", hex]` bytes, `["x", kind]` what is no data (a function, a class instance, an
 * accessor). Python only: `["t", ...items]` tuple, `["f", number]` a float that has an integer's value.
 *
 * Python's values: `None` is null, `int` a number or, from 2^53 on, a bigint, `float` a number, `list` an array, `tuple` a
 * {@link PythonTuple}, `bytes` a Uint8Array, `set` and `frozenset` a Set, and `dict` an object where all keys are text, else a
 * Map. On the way in a number that is a safe integer is an `int`, unless it is a {@link PythonFloat}.
 */

/** A value that is no data, such as a function: equal to nothing. */
export class Opaque {
  readonly kind: string
  constructor(kind: string) {
    this.kind = kind
  }
}

/**
 * A tuple of Python's, as an argument, an expected value or a result. As plain data, such as in a JSON file or in a task that
 * was sent to a worker: `{ "~python": "tuple", "items": [...] }`.
 */
export class PythonTuple {
  readonly "~python" = "tuple"
  readonly items: ReadonlyArray<unknown>
  constructor(items: Iterable<unknown>) {
    this.items = [...items]
  }
}

/**
 * A number that is a `float` in Python though its value is an integer's, as an argument. Results are plain numbers. As plain
 * data: `{ "~python": "float", "value": 1 }`.
 */
export class PythonFloat {
  readonly "~python" = "float"
  readonly value: number
  constructor(value: number) {
    this.value = value
  }
}

/** Ours, or what became of it on the way; never asked of what a candidate returned. */
const pythonOf = (value: object): PythonTuple | PythonFloat | undefined => {
  if (value instanceof PythonTuple || value instanceof PythonFloat) return value
  const { "~python": kind, items, value: number } = value as Readonly<Record<string, unknown>>
  if (kind === "tuple" && Array.isArray(items)) return new PythonTuple(items)
  return kind === "float" && typeof number === "number" ? new PythonFloat(number) : undefined
}

const maxDepth = 200

/** Throws a `TypeError` for values that have no exact form, such as functions, or none in the language that reads them. */
export const encode = (value: unknown, reader: "script" | "python" = "python"): string =>
  JSON.stringify(toTagged(value, reader === "python", 0))

const toTagged = (value: unknown, python: boolean, depth: number): unknown => {
  if (depth > maxDepth) throw new TypeError("nested too deeply")
  const next = (item: unknown) => toTagged(item, python, depth + 1)
  switch (typeof value) {
    case "string":
    case "boolean":
      return value
    case "undefined":
      return ["u"]
    case "bigint":
      return ["i", String(value)]
    case "number":
      return Number.isFinite(value) && !Object.is(value, -0)
        ? value
        : ["n", Object.is(value, -0) ? "-0" : String(value)]
    case "object":
      break
    default:
      throw new TypeError(`a ${typeof value} is no data`)
  }
  if (value === null) return null
  if (Array.isArray(value)) return ["a", ...Array.from(value, (item, index) => (index in value ? next(item) : ["h"]))]
  const own = pythonOf(value)
  if (!python && (own !== undefined || value instanceof Uint8Array)) {
    throw new TypeError(`a ${(own ?? value).constructor.name} is no data for JavaScript here`)
  }
  if (own instanceof PythonTuple) return ["t", ...own.items.map(next)]
  if (own instanceof PythonFloat) {
    return Number.isInteger(own.value) && !Object.is(own.value, -0) ? ["f", own.value] : next(own.value)
  }
  if (value instanceof Uint8Array) return ["b", Buffer.from(value).toString("hex")]
  if (value instanceof Date) return ["d", value.getTime()]
  if (value instanceof Map) return ["m", ...[...value].flatMap(([key, item]) => [next(key), next(item)])]
  if (value instanceof Set) return ["s", ...[...value].map(next)]
  const prototype: unknown = Object.getPrototypeOf(value)
  if (prototype !== Object.prototype && prototype !== null) throw new TypeError("an instance of a class is no data")
  return ["o", ...Object.entries(value).flatMap(([key, item]) => [key, next(item)])]
}

/** Throws for text that is not in the format: the sandbox was tampered with. */
export const decode = (text: string): unknown => fromTagged(JSON.parse(text), 0)

const fromTagged = (tagged: unknown, depth: number): unknown => {
  if (!Array.isArray(tagged)) {
    if (typeof tagged === "object" && tagged !== null) throw new TypeError("an untagged object")
    return tagged
  }
  if (depth > maxDepth) throw new TypeError("nested too deeply")
  const [tag, ...items] = tagged as Array<unknown>
  const next = (item: unknown) => fromTagged(item, depth + 1)
  switch (tag) {
    case "u":
      return undefined
    case "n":
      return Number(items[0])
    case "i":
      return BigInt(String(items[0]))
    case "d":
      return new Date(Number(items[0]))
    case "a": {
      const array: Array<unknown> = []
      array.length = items.length
      items.forEach((item, index) => {
        if (!(Array.isArray(item) && item[0] === "h")) array[index] = next(item)
      })
      return array
    }
    case "t":
      return new PythonTuple(items.map(next))
    case "f":
      return Number(items[0])
    case "b":
      return Uint8Array.from(Buffer.from(String(items[0]), "hex"))
    case "s":
      return new Set(items.map(next))
    case "m":
      return new Map(pairs(items).map(([key, item]) => [next(key), next(item)]))
    case "o":
      // fromEntries defines own properties: a key named __proto__ is a key
      return Object.fromEntries(pairs(items).map(([key, item]) => [String(key), next(item)]))
    case "x":
      return new Opaque(String(items[0]).slice(0, 40))
    default:
      throw new TypeError("an unknown tag")
  }
}

const pairs = (items: ReadonlyArray<unknown>): Array<readonly [unknown, unknown]> =>
  Array.from({ length: items.length >> 1 }, (_, index) => [items[2 * index], items[2 * index + 1]] as const)
