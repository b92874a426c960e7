/** `expect`, as vitest and jest have it. */
import { isArray } from "./intrinsics.ts"
import { show } from "./testCandidate.ts"
import { at, caught, contains, isClose, Matcher, same } from "./testEquality.ts"
import type { Loose } from "./loose.ts"

class AssertionError extends Error {
  override name = "AssertionError"
}
export const check = (holds: boolean, message: string): void => {
  if (!holds) throw new AssertionError(message)
}

/**
 * @param count of the arguments after the actual value.
 * @param from `rejects` if the value is what a promise was rejected with.
 */
type Matches = (actual: Loose, first: Loose, second: Loose, count: number, from: string | undefined) => unknown

const toThrow: Matches = (a, wanted, _, __, from) => {
  if (from !== undefined) return caught(a, wanted)
  try {
    a()
  } catch (error) {
    return caught(error, wanted)
  }
  return false
}

const matchers: Readonly<Record<string, Matches>> = {
  toBe: (a, b) => Object.is(a, b),
  toEqual: (a, b) => same(a, b, false),
  toStrictEqual: (a, b) => same(a, b, true),
  toBeCloseTo: (a, b, digits) => typeof a === "number" && isClose(a, b, digits),
  toBeTruthy: (a) => Boolean(a),
  toBeFalsy: (a) => !a,
  toBeNull: (a) => a === null,
  toBeUndefined: (a) => a === undefined,
  toBeDefined: (a) => a !== undefined,
  toBeNullable: (a) => a === null || a === undefined,
  toBeNaN: (a) => Number.isNaN(a),
  toBeGreaterThan: (a, b) => a > b,
  toBeGreaterThanOrEqual: (a, b) => a >= b,
  toBeLessThan: (a, b) => a < b,
  toBeLessThanOrEqual: (a, b) => a <= b,
  toBeTypeOf: (a, b) => typeof a === b,
  toBeInstanceOf: (a, b) => a instanceof b,
  toBeOneOf: (a, b) => [...b].some((item) => same(a, item, false)),
  toContain: (a, b) => (typeof a === "string" ? a.includes(b) : [...a].includes(b)),
  toContainEqual: (a, b) => [...a].some((item) => same(item, b, false)),
  toHaveLength: (a, b) => a?.length === b,
  toHaveProperty: (a, path, value, count) => {
    const got = at(a, path)
    return got.found && (count < 2 || same(got.value, value, false))
  },
  toMatch: (a, b) => typeof a === "string" && (typeof b === "string" ? a.includes(b) : b.test(a)),
  toMatchObject: contains,
  toSatisfy: (a, b) => Boolean(b(a)),
  toThrow,
  toThrowError: toThrow
}

type Checks = Readonly<Record<string, (...args: ReadonlyArray<Loose>) => void>>

const expectation = (value: unknown, negated: boolean, from?: string): Checks => {
  const made: Record<string, (...args: ReadonlyArray<Loose>) => void> = {}
  for (const [name, matches] of Object.entries(matchers)) {
    made[name] = (...args) => {
      const holds = Boolean(matches(value, args[0], args[1], args.length, from))
      const wanted = args.length > 0 ? " " + show(args[0]) : ""
      check(holds !== negated, (negated ? "not " : "") + name + wanted + ", got " + show(value))
    }
  }
  return made
}

/** The checks of what a promise comes to. */
const later = (promise: Loose, negated: boolean, side: "resolves" | "rejects"): object =>
  new Proxy(
    {},
    {
      get: (_, name: string) =>
        name === "not"
          ? later(promise, !negated, side)
          : async (...args: ReadonlyArray<unknown>) => {
              let value: Loose
              let ok: boolean
              try {
                value = await (typeof promise === "function" ? promise() : promise)
                ok = true
              } catch (error) {
                value = error
                ok = false
              }
              check(
                ok === (side === "resolves"),
                side === "resolves"
                  ? "it was rejected: " + show(value?.message ?? value)
                  : "it was not rejected but " + show(value)
              )
              return expectation(value, negated, side === "rejects" ? side : undefined)[name]!(...args)
            }
    }
  )

const primitives = new Map<unknown, string>([
  [Number, "number"],
  [String, "string"],
  [Boolean, "boolean"],
  [BigInt, "bigint"],
  [Symbol, "symbol"],
  [Function, "function"]
])

const isOf = (kind: Loose, value: unknown): boolean =>
  typeof value === primitives.get(kind) ||
  (kind === Object ? typeof value === "object" && value !== null : value instanceof kind)

export const expect = Object.assign(
  (value: unknown) =>
    Object.assign(expectation(value, false), {
      not: expectation(value, true),
      resolves: later(value, false, "resolves"),
      rejects: later(value, false, "rejects")
    }),
  {
    anything: () => new Matcher("anything", (value) => value !== null && value !== undefined),
    any: (kind: unknown) => new Matcher("any", (value) => isOf(kind, value)),
    closeTo: (wanted: number, digits?: number) =>
      new Matcher("close", (value) => typeof value === "number" && isClose(value, wanted, digits)),
    objectContaining: (part: Loose) =>
      new Matcher(
        "object",
        (value) =>
          typeof value === "object" &&
          value !== null &&
          Object.keys(part).every((key) => key in value && same(value[key], part[key], false))
      ),
    arrayContaining: (part: ReadonlyArray<unknown>) =>
      new Matcher(
        "array",
        (value) => isArray(value) && part.every((item) => value.some((other) => same(other, item, false)))
      ),
    stringContaining: (part: string) =>
      new Matcher("string", (value) => typeof value === "string" && value.includes(part)),
    stringMatching: (part: string | RegExp) =>
      new Matcher("string", (value) => typeof value === "string" && new RegExp(part).test(value)),
    fail: (message?: string) => check(false, message ?? "fail")
  }
)
