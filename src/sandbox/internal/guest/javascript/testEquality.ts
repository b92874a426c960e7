/** When two values, or an error and what was wanted of it, are the same to a test. */
import { getPrototypeOf, isArray, StringOf } from "./intrinsics.ts"
import { Opaque } from "./testCandidate.ts"
import type { Loose } from "./loose.ts"

/** Such as `expect.anything()`. */
export class Matcher {
  readonly text: string
  readonly accepts: (value: Loose) => boolean
  constructor(text: string, accepts: (value: Loose) => boolean) {
    this.text = text
    this.accepts = accepts
  }
}

type Pair = readonly [unknown, unknown]

/** @param strict tells a missing key from one that is undefined, and minds classes. */
export const same = (left: Loose, right: Loose, strict: boolean, seen: ReadonlyArray<Pair> = []): boolean => {
  if (right instanceof Matcher) return right.accepts(left)
  if (Object.is(left, right)) return true
  if (typeof left !== "object" || typeof right !== "object" || left === null || right === null) return false
  if (left instanceof Opaque || right instanceof Opaque) return false
  if (seen.some(([a, b]) => a === left && b === right)) return true
  const deeper: ReadonlyArray<Pair> = [...seen, [left, right]]
  const inner = (a: unknown, b: unknown): boolean => same(a, b, strict, deeper)
  if (isArray(left) !== isArray(right)) return false
  if (strict && getPrototypeOf(left) !== getPrototypeOf(right)) return false
  for (const kind of [Date, RegExp, Map, Set, Error]) if (left instanceof kind !== right instanceof kind) return false
  if (left instanceof Date) return Object.is(left.getTime(), right.getTime())
  if (left instanceof RegExp) return StringOf(left) === StringOf(right)
  if (left instanceof Error) return left.message === right.message && left.name === right.name
  if (left instanceof Set || left instanceof Map) return sameItems(left, right, inner)
  if (isArray(left)) return sameArray(left, right, strict, inner)
  const keys = (object: Loose): ReadonlyArray<string> =>
    Object.keys(object).filter((key) => strict || object[key] !== undefined)
  const names = keys(left)
  return (
    names.length === keys(right).length &&
    names.every((key) => Object.hasOwn(right, key) && inner(left[key], right[key]))
  )
}

type Same = (a: unknown, b: unknown) => boolean

const sameItems = (left: Loose, right: Loose, inner: Same): boolean => {
  if (left.size !== right.size) return false
  const rest: Array<unknown> = [...right]
  return [...left].every((item) => {
    const index = rest.findIndex((other) => inner(item, other))
    if (index >= 0) rest.splice(index, 1)
    return index >= 0
  })
}

const sameArray = (left: ReadonlyArray<unknown>, right: Loose, strict: boolean, inner: Same): boolean => {
  if (left.length !== right.length) return false
  for (let index = 0; index < left.length; index++) {
    if (strict && index in left !== index in right) return false
    if (!inner(left[index], right[index])) return false
  }
  return true
}

/** Whether an object has at least the properties of another one, at any depth. */
export const contains = (whole: Loose, part: Loose): boolean => {
  if (
    part instanceof Matcher ||
    typeof part !== "object" ||
    part === null ||
    isArray(part) ||
    typeof whole !== "object" ||
    whole === null
  ) {
    if (isArray(part) && isArray(whole)) {
      return part.length === whole.length && part.every((item, index) => contains(whole[index], item))
    }
    return same(whole, part, false)
  }
  return Object.keys(part).every((key) => key in whole && contains(whole[key], part[key]))
}

/** The value at a path such as `a.b[0]`. */
export const at = (
  start: Loose,
  path: unknown
): { readonly found: false } | { readonly found: true; readonly value: unknown } => {
  let value = start
  const keys: ReadonlyArray<string> = isArray(path)
    ? path
    : StringOf(path).replaceAll("[", ".").replaceAll("]", "").split(".")
  for (const key of keys) {
    if (value === null || value === undefined || !(key in Object(value))) return { found: false }
    value = value[key]
  }
  return { found: true, value }
}

/** Whether an error is the wanted one: by text, pattern, class or message. */
export const caught = (error: Loose, wanted: Loose): boolean => {
  if (wanted === undefined) return true
  if (typeof wanted === "string") return StringOf(error?.message ?? error).includes(wanted)
  if (wanted instanceof RegExp) return wanted.test(StringOf(error?.message ?? error))
  if (wanted instanceof Matcher) return wanted.accepts(error)
  if (typeof wanted === "function") return error instanceof wanted || error?.name === wanted.name
  return StringOf(error?.message ?? error) === wanted.message
}

export const isClose = (a: number, b: number, digits = 2): boolean => a === b || Math.abs(a - b) < 10 ** -digits / 2
