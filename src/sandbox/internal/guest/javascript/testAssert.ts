/** `assert`, as node and chai have it. */
import { isArray } from "./intrinsics.ts"
import { show } from "./testCandidate.ts"
import { caught, contains, same } from "./testEquality.ts"
import { check } from "./testExpect.ts"
import type { Loose } from "./loose.ts"

const isWanted = (error: unknown, wanted: Loose): boolean =>
  typeof wanted === "object" && !(wanted instanceof RegExp) ? contains(error, wanted) : caught(error, wanted)

const throws = (action: () => unknown, ...rest: ReadonlyArray<Loose>): void => {
  const wanted = typeof rest[0] === "string" ? undefined : rest[0]
  try {
    action()
  } catch (error) {
    return check(isWanted(error, wanted), "another error was thrown: " + show((error as Loose)?.message))
  }
  check(false, "nothing was thrown")
}

const pair =
  (matches: (a: Loose, b: Loose) => boolean, text: string) =>
  (a: unknown, b: unknown, message?: string): void =>
    check(matches(a, b), message ?? show(a) + " " + text + " " + show(b))

/** The rejection of a promise, or of what a function returns. */
export const rejected = async (work: Loose): Promise<{ readonly error: unknown } | undefined> => {
  try {
    await (typeof work === "function" ? work() : work)
  } catch (error) {
    return { error }
  }
  return undefined
}

const isTrue = (value: unknown, message?: string): void =>
  check(Boolean(value), message ?? show(value) + " is not true")
const isEqual = pair((a, b) => same(a, b, true), "is not")
const isNotEqual = pair((a, b) => !same(a, b, true), "is")

export const assert = Object.assign((value: unknown, message?: string): void => isTrue(value, message), {
  ok: isTrue,
  isOk: isTrue,
  isTrue: (value: unknown, message?: string) => check(value === true, message ?? show(value) + " is not true"),
  isFalse: (value: unknown, message?: string) => check(value === false, message ?? show(value) + " is not false"),
  // oxlint-disable-next-line eslint/eqeqeq -- it is what node's loose form does
  equal: pair((a, b) => a == b || Object.is(a, b), "is not"),
  // oxlint-disable-next-line eslint/eqeqeq
  notEqual: pair((a, b) => a != b, "is"),
  strictEqual: pair(Object.is, "is not"),
  notStrictEqual: pair((a, b) => !Object.is(a, b), "is"),
  deepEqual: isEqual,
  deepStrictEqual: isEqual,
  notDeepEqual: isNotEqual,
  notDeepStrictEqual: isNotEqual,
  closeTo: (a: number, b: number, delta: number, message?: string) =>
    check(Math.abs(a - b) <= delta, message ?? show(a) + " is not near " + show(b)),
  include: pair(
    (a, b) => (typeof a === "string" || isArray(a) ? a.includes(b as never) : contains(a, b)),
    "does not include"
  ),
  lengthOf: pair((a, b) => a?.length === b, "is not of length"),
  isNull: (value: unknown) => check(value === null, show(value) + " is not null"),
  isUndefined: (value: unknown) => check(value === undefined, show(value) + " is not undefined"),
  match: (a: string, b: RegExp, message?: string) => check(b.test(a), message ?? show(a) + " does not match"),
  doesNotMatch: (a: string, b: RegExp, message?: string) => check(!b.test(a), message ?? show(a) + " matches"),
  throws,
  doesNotThrow: (action: () => unknown): void => {
    action()
  },
  rejects: async (work: unknown, wanted?: unknown): Promise<void> => {
    const got = await rejected(work)
    check(got !== undefined, "it was not rejected")
    check(isWanted(got!.error, wanted), "it was rejected with another error")
  },
  doesNotReject: async (work: unknown): Promise<void> => check((await rejected(work)) === undefined, "it was rejected"),
  fail: (message?: string) => check(false, message ?? "fail")
})
Object.assign(assert, { assert, strict: assert })
