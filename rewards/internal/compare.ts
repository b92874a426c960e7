/**
 * Compares what a candidate returned or printed with what is expected, on the host. Every comparison reads both sides whole,
 * at most n log n, and never accepts a part of what is expected, or more than it.
 */
import { Opaque, PythonFloat, PythonTuple } from "../../src/sandbox/TypedData.ts"

/** How far a number may be from the expected one: `absolute`, or `relative` times the expected one, whichever is more. */
export interface Tolerance {
  /** From 0 to below 1. Default 0. */
  readonly relative?: number
  /** Default 0. */
  readonly absolute?: number
}

/**
 * - `exact`: same type, same value, no coercion. `true` is not 1, "1" is not 1, a tuple is not a list, bytes are no text. One
 *   number of Python's is an int or a float as JavaScript's are both: 1 is 1.0. NaN is NaN, 0 is -0. The order of keys and
 *   of members of sets does not matter. Printed text: the same lines, except blanks at their ends and empty lines at the end.
 * - `json`: exact, as far as JSON can tell: a tuple is a list. For expected values that come out of JSON files.
 * - `unordered`: exact, but the items of the outermost list (the printed lines) stand in any order, each as often.
 * - `approximate`: blanks in text count as one and not at all at its ends, a tuple is a list, and numbers that are not both
 *   integers may differ by 1e-6 of the expected one, or 1e-9. Printed text: the same words in the same lines, numbers likewise.
 * - `tolerance`: exact, but numbers anywhere (except keys and members of sets) may differ by so much. A number that is not
 *   finite is within no tolerance, not even of itself.
 */
export type NamedComparison = "exact" | "json" | "unordered" | "approximate" | { readonly tolerance: Tolerance }

/** Says what is wrong with a comparison that comes from outside. */
export const comparisonFault = (comparison: unknown): string | undefined => {
  if (["exact", "json", "unordered", "approximate"].includes(comparison as string)) return undefined
  const tolerance =
    typeof comparison === "object" && comparison !== null
      ? (comparison as { tolerance?: unknown }).tolerance
      : undefined
  if (typeof tolerance !== "object" || tolerance === null) {
    return `comparison: ${String(JSON.stringify(comparison)).slice(0, 80)} is none. Use "exact", "json", "unordered", "approximate", { tolerance: { relative, absolute } } or a function`
  }
  const { relative = 0, absolute = 0 } = tolerance as Record<string, unknown>
  if (typeof relative !== "number" || !(relative >= 0 && relative < 1)) {
    return `comparison.tolerance.relative is ${String(relative)}. Use a number from 0 to below 1; from 1 on every 0 would do`
  }
  if (typeof absolute !== "number" || !(absolute >= 0 && absolute < Infinity)) {
    return `comparison.tolerance.absolute is ${String(absolute)}. Use a finite number from 0 on`
  }
  return undefined
}

const approximately: Required<Tolerance> = { relative: 1e-6, absolute: 1e-9 }

const within = (actual: number, expected: number, { absolute = 0, relative = 0 }: Tolerance): boolean =>
  Number.isFinite(actual) &&
  Number.isFinite(expected) &&
  Math.abs(actual - expected) <= Math.max(absolute, relative * Math.abs(expected))

interface Rules {
  readonly number: (actual: number, expected: number) => boolean
  readonly text: (actual: string, expected: string) => boolean
  /** Compare bigints with numbers, by `number`. */
  readonly mixed: boolean
  /** A tuple is a list. */
  readonly tuples: boolean
}

const same = (actual: unknown, expected: unknown): boolean => actual === expected
const strict: Rules = {
  number: (actual, expected) => actual === expected || (Number.isNaN(actual) && Number.isNaN(expected)),
  text: same,
  mixed: false,
  tuples: false
}
const rules = (comparison: NamedComparison): Rules => {
  if (comparison === "json") return { ...strict, tuples: true }
  if (comparison === "approximate") {
    return {
      number: (actual, expected) =>
        actual === expected ||
        (!(Number.isInteger(actual) && Number.isInteger(expected)) && within(actual, expected, approximately)),
      text: (actual, expected) => actual === expected || blanks(actual) === blanks(expected),
      mixed: true,
      tuples: true
    }
  }
  if (typeof comparison === "string") return strict
  const { tolerance } = comparison
  return { ...strict, number: (actual, expected) => within(actual, expected, tolerance), mixed: true }
}

const blanks = (text: string): string => text.trim().replaceAll(/\s+/g, " ")

/** Whether a returned value is the expected one. */
export const valuesMatch = (actual: unknown, expected: unknown, comparison: NamedComparison = "exact"): boolean => {
  if (comparison === "unordered") {
    const [left, right] = [itemsOf(actual), itemsOf(expected)]
    if (left !== undefined && right !== undefined && Array.isArray(actual) === Array.isArray(expected)) {
      return left.length === right.length && asOften(left, right, strict)
    }
  }
  return alike(actual, expected, rules(comparison))
}

/**
 * Equality of data, as `exact` has it: same type, same value, no coercion; a missing key differs from one that holds
 * `undefined`.
 */
export const equals = (left: unknown, right: unknown): boolean => alike(left, right, strict)

const itemsOf = (value: unknown): ReadonlyArray<unknown> | undefined =>
  Array.isArray(value) ? value : value instanceof PythonTuple ? value.items : undefined

const alike = (actual: unknown, given: unknown, rules: Rules): boolean => {
  const expected = given instanceof PythonFloat ? given.value : given
  if (typeof actual === "number" && typeof expected === "number") return rules.number(actual, expected)
  if (typeof actual === "string" && typeof expected === "string") return rules.text(actual, expected)
  if (typeof actual !== "object" || typeof expected !== "object" || actual === null || expected === null) {
    if (actual === expected) return true
    return rules.mixed && isNumeric(actual) && isNumeric(expected) && rules.number(Number(actual), Number(expected))
  }
  if (actual instanceof Opaque || expected instanceof Opaque) return false
  const [left, right] = [itemsOf(actual), itemsOf(expected)]
  if (left !== undefined || right !== undefined) {
    if (left === undefined || right === undefined || left.length !== right.length) return false
    if (!rules.tuples && Array.isArray(actual) !== Array.isArray(expected)) return false
    // not `every`, which passes over holes
    for (let index = 0; index < left.length; index++) {
      if (index in left !== index in right || !alike(left[index], right[index], rules)) return false
    }
    return true
  }
  if (actual instanceof Map && expected instanceof Map) {
    const [own, wanted] = [byKey(actual, rules), byKey(expected, rules)]
    // keys that are objects can be there twice
    if (own.size === actual.size && wanted.size === expected.size) {
      return (
        own.size === wanted.size &&
        [...own].every(([key, value]) => wanted.has(key) && alike(value, wanted.get(key), rules))
      )
    }
  }
  if (isPlain(actual) && isPlain(expected)) {
    const keys = Object.keys(actual)
    return (
      keys.length === Object.keys(expected).length &&
      keys.every((key) => Object.hasOwn(expected, key) && alike(actual[key], expected[key], rules))
    )
  }
  return keyOf(actual, rules) === keyOf(expected, rules)
}

const byKey = (map: ReadonlyMap<unknown, unknown>, rules: Rules): ReadonlyMap<string, unknown> =>
  new Map(Array.from(map, ([key, value]) => [keyOf(key, rules), value]))

const isNumeric = (value: unknown): value is number | bigint => typeof value === "number" || typeof value === "bigint"

const isPlain = (value: object): value is Record<string, unknown> =>
  !(value instanceof Map || value instanceof Set || value instanceof Date || value instanceof Uint8Array)

/** Each as often in one as in the other. */
const asOften = (left: Iterable<unknown>, right: Iterable<unknown>, rules: Rules): boolean =>
  sortedKeys(left, rules) === sortedKeys(right, rules)

const sortedKeys = (items: Iterable<unknown>, rules: Rules): string => keysOf(items, rules).toSorted().join()

const keysOf = (items: Iterable<unknown>, rules: Rules): ReadonlyArray<string> =>
  Array.from(items, (item, index) => (Array.isArray(items) && !(index in items) ? "hole" : keyOf(item, rules)))

/** Text that two values share when, and only when, they are exactly equal: what makes sets and bags cheap to compare. */
const keyOf = (value: unknown, rules: Rules): string => {
  const next = (item: unknown) => keyOf(item, rules)
  switch (typeof value) {
    case "string":
      return JSON.stringify(value)
    case "bigint":
      return `${value}n`
    case "object":
      break
    default:
      return String(value)
  }
  if (value === null) return "null"
  if (value instanceof Opaque) return `opaque ${opaques++}`
  if (value instanceof PythonFloat) return String(value.value)
  if (Array.isArray(value)) return `[${keysOf(value, rules).join()}]`
  if (value instanceof PythonTuple) {
    const items = keysOf(value.items, rules).join()
    return rules.tuples ? `[${items}]` : `(${items})`
  }
  if (value instanceof Date) return `Date ${value.getTime()}`
  if (value instanceof Uint8Array) return `bytes ${Buffer.from(value).toString("hex")}`
  if (value instanceof Set) return `Set{${sortedKeys(value, rules)}}`
  if (value instanceof Map)
    return `Map{${Array.from(value, ([key, item]) => `${next(key)}:${next(item)}`)
      .toSorted()
      .join()}}`
  return `{${Object.entries(value)
    .map(([key, item]) => `${JSON.stringify(key)}:${next(item)}`)
    .toSorted()
    .join()}}`
}

let opaques = 0

/** Whether printed text is the expected one. Line ends may be CRLF. */
export const outputsMatch = (actual: string, expected: string, comparison: NamedComparison = "exact"): boolean => {
  const [left, right] = [linesOf(actual), linesOf(expected)]
  if (left.length !== right.length) return false
  if (comparison === "unordered") return asOften(left, right, strict)
  if (comparison === "exact" || comparison === "json") return left.every((line, index) => line === right[index])
  const tolerance = comparison === "approximate" ? approximately : comparison.tolerance
  const both = comparison === "approximate"
  return left.every((line, index) => {
    if (line === right[index] && both) return true
    const [words, wanted] = [wordsOf(line), wordsOf(right[index]!)]
    return words.length === wanted.length && words.every((word, at) => wordsMatch(word, wanted[at]!, tolerance, both))
  })
}

const linesOf = (text: string): ReadonlyArray<string> => {
  const lines = text.split("\n").map((line) => line.trimEnd())
  while (lines.at(-1) === "") lines.pop()
  return lines
}

const wordsOf = (line: string): ReadonlyArray<string> => (line.trim() === "" ? [] : line.trim().split(/\s+/))

const decimal = /^[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?$/
const integer = /^[+-]?\d+$/

const wordsMatch = (actual: string, expected: string, tolerance: Tolerance, exactIntegers: boolean): boolean => {
  if (!decimal.test(actual) || !decimal.test(expected)) return actual === expected
  if (exactIntegers && integer.test(actual) && integer.test(expected)) return digits(actual) === digits(expected)
  return within(Number(actual), Number(expected), tolerance)
}

const digits = (text: string): string => {
  const own = text.replace(/^[+-]?0*(?=\d)/, "")
  return text.startsWith("-") && own !== "0" ? `-${own}` : own
}
