/**
 * Decides whether two answers are the same mathematics, in LaTeX or plain text: numbers, radicals, algebra, intervals,
 * sets, tuples, matrices, equations, units. Exact algebra decides first, with bounded work. The Compute Engine decides the
 * rest in a child process that a deadline ends. Nothing is equal "nearly".
 *
 * The rules, in which a false positive is worse than a false negative:
 *
 * - 1/2 = 0.5 = \frac{1}{2} = 50%; 1,000 = 1000; 2\frac{1}{3} and "2 1/3" are mixed numbers; 0.\overline{3} = 1/3. A decimal is
 *   exact: 0.333 is not 1/3, 3.14 is not \pi.
 * - A unit, a currency and "degrees" are dropped if the expected answer names none. If it names one, the answer has to name
 *   the same. Nothing is converted.
 * - "x = 5" is 5, and so is "2 + 3 = 5", whose sides have to agree. Equations are equal if one is a multiple of the other.
 * - {1, 2} and "1, 2" and "1 or 2" have no order, (1, 2) has one; (1, 2] is an interval, as is 1 < x \le 2. A list is never
 *   equal to one of its members.
 * - Infinity, a division by zero and 0^0 are equal to nothing, themselves included, except as ends of intervals.
 * - `e` and `i` are the constants; a letter's case counts; `\log` is to base 10. A text that is not mathematics is
 *   compared as words.
 * - If algebra cannot decide, two answers are equal if their first 100 digits agree to 75. Expressions with symbols have to
 *   agree so at three or more rational points, and disagree at no real one.
 */
import { compare, finite, type Oracle } from "./internal/compare.ts"
import * as Evaluator from "./internal/evaluator.ts"
import type { Measured } from "./internal/expression.ts"
import { parse } from "./internal/parse.ts"
import { agree, mathJson } from "./internal/numeric.ts"
import { NonFinite, TooLarge } from "./internal/rational.ts"
import { maxLength, Unreadable } from "./internal/latexText.ts"

export interface EquivalenceOptions {
  /** `value`: 50% is 1/2. `unit`: 50% is 50 where the expected answer has no percent sign. Default `value`. */
  readonly percent?: "value" | "unit"
  /** Milliseconds of an evaluation by the library. Default 2000. */
  readonly deadline?: number
  readonly signal?: AbortSignal
}

/**
 * `by`: what decided. `exact`: algebra; `numeric`: digits of the library's; `text`: the words.
 * `reason` of what is not equal, also `timeout` and `memory`: the answer was too much for the library.
 */
export type Equivalence =
  | { readonly _tag: "Equal"; readonly by: "exact" | "numeric" | "text" }
  | { readonly _tag: "Different"; readonly reason: string; readonly asked: boolean }
  /** The expected answer is at fault (`expected`) or the library's process is (`infrastructure`): nothing is judged. */
  | { readonly _tag: "Undecided"; readonly fault: "expected" | "infrastructure"; readonly detail: string }

class Stopped extends Error {
  readonly outcome: Equivalence
  constructor(outcome: Equivalence) {
    super("stopped")
    this.outcome = outcome
  }
}

/**
 * Compares an answer with the expected one. Never rejects, never hangs: length, depth, exponents and factorials are
 * bounded before anything is computed.
 *
 * @param actual the policy's text: hostile until read
 * @param expected the task's
 * @example
 * ```ts
 * const verdict = await equivalent("x = \\frac{\\sqrt{8}}{2}", "\\sqrt{2}")   // { _tag: "Equal", by: "exact" }
 * ```
 */
export const equivalent = async (
  actual: string,
  expected: string,
  options: EquivalenceOptions = {}
): Promise<Equivalence> => {
  const percent = options.percent ?? "value"
  let asked = false
  const oracle: Oracle = async (constants) => {
    asked = true
    const evaluated = await Evaluator.evaluate({ constants }, options.deadline ?? 2000, options.signal)
    if (evaluated._tag === "Values") return evaluated.values
    throw new Stopped(
      evaluated._tag === "Limit"
        ? { _tag: "Different", reason: evaluated.reason, asked }
        : { _tag: "Undecided", fault: "infrastructure", detail: evaluated.detail }
    )
  }
  const wanted = read(expected, percent)
  if (wanted._tag === "Bad")
    return { _tag: "Undecided", fault: "expected", detail: `the expected answer: ${wanted.reason}` }
  if (actual.length > maxLength) return { _tag: "Different", reason: `longer than ${maxLength} characters`, asked }
  const [letter, right] = [actual, expected].map(letterOf)
  if (right !== undefined && letter === right) return { _tag: "Equal", by: "text" }
  const given = read(actual, percent)
  try {
    if (given._tag === "Bad") return { _tag: "Different", reason: given.reason, asked }
    if (given._tag === "Read" && wanted._tag === "Read") {
      const decided = await compare(given.value, wanted.value, oracle)
      return decided.equal ? { _tag: "Equal", by: decided.by } : { _tag: "Different", reason: decided.reason, asked }
    }
    if ((given._tag === "Heavy" && wanted._tag !== "Text") || (wanted._tag === "Heavy" && given._tag === "Read")) {
      const constants = ([given, wanted] as const).map((side) => constantOf(side))
      if (constants.every((constant) => constant !== undefined)) {
        const [a, b] = await oracle(constants)
        return agree(a!, b!, true) === true
          ? { _tag: "Equal", by: "numeric" }
          : { _tag: "Different", reason: "a different value", asked }
      }
    }
    if (wanted._tag === "Read" && !/^[\s\p{L}]{2,}$/u.test(expected)) {
      return { _tag: "Different", reason: `not read: ${"detail" in given ? given.detail : ""}`, asked }
    }
    const [a, b] = [words(actual), words(expected)]
    return a !== "" && a === b ? { _tag: "Equal", by: "text" } : { _tag: "Different", reason: "different words", asked }
  } catch (fault) {
    if (fault instanceof Stopped) return fault.outcome
    if (fault instanceof TooLarge || fault instanceof NonFinite || fault instanceof Unreadable) {
      return { _tag: "Different", reason: reasonOf(fault), asked }
    }
    return {
      _tag: "Undecided",
      fault: "infrastructure",
      detail: `the comparison failed: ${String(fault).slice(0, 200)}`
    }
  }
}

/** A letter that stands alone, in brackets or not: a choice. */
const letterOf = (text: string): string | undefined =>
  /^\(?([A-Z])\)?$/.exec((text.length > 40 ? "" : text).replace(/\\(?:text|textbf|mathrm|mathbf)\b|[\s{}$]/g, ""))?.[1]

type Side =
  | { readonly _tag: "Read"; readonly value: Measured }
  /** Mathematics that only the library reads: a sum, an integral, a limit. */
  | { readonly _tag: "Heavy"; readonly source: string; readonly detail: string }
  | { readonly _tag: "Text"; readonly detail: string }
  /** Too large, or without a finite value. */
  | { readonly _tag: "Bad"; readonly reason: string }

const read = (source: string, percent: "value" | "unit"): Side => {
  try {
    const value = parse(source, percent)
    finite(value)
    return { _tag: "Read", value }
  } catch (fault) {
    if (fault instanceof Unreadable)
      return fault.library ? { _tag: "Heavy", source, detail: fault.message } : { _tag: "Text", detail: fault.message }
    if (fault instanceof TooLarge || fault instanceof NonFinite) return { _tag: "Bad", reason: reasonOf(fault) }
    throw fault
  }
}

const reasonOf = (fault: TooLarge | NonFinite | Unreadable): string =>
  fault instanceof TooLarge
    ? `too large: ${fault.message}`
    : fault instanceof NonFinite
      ? `no finite value: ${fault.message}`
      : `not read: ${fault.message}`

const constantOf = (side: Side) => {
  if (side._tag === "Heavy") return { latex: side.source.replace(/^\s*\$+|\$+\s*$/g, "") }
  return side._tag === "Read" && side.value.answer.kind === "value"
    ? { json: mathJson(side.value.answer.value) }
    : undefined
}

/** The words of an answer that is not mathematics: without markup, case and spaces at the ends. */
const words = (text: string): string =>
  text
    .normalize("NFKC")
    .replace(
      /\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\b|\\[,;:! ]|\\(?:left|right)(?![a-z])|[${}]/gi,
      " "
    )
    .replace(/\s+/g, " ")
    .trim()
    .replace(/[.,;]+$/, "")
    .toLowerCase()
