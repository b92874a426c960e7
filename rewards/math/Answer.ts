/**
 * Verifiers of final answers: find the one answer in a completion, compare it with the task's. An answer is one: the first
 * way of extraction that finds something decides, whatever the others would have found, and a completion that names
 * several answers has none.
 */
import { OptionError } from "../../src/OptionError.ts"
import type { Task } from "../../src/data/Task.ts"
import * as Verifier from "../../src/score/Verifier.ts"
import * as Extract from "./internal/extractAnswer.ts"
import { lastNumber, numbers, type Found } from "./internal/numbers.ts"
import * as Q from "./internal/rational.ts"
import { exactMatch, tokenF1 } from "./internal/normaliseAnswer.ts"
import { lastText } from "../../src/rollout/Trajectory.ts"
import { equivalent } from "./MathEquivalence.ts"

/**
 * Where the answer is looked for.
 * `boxed`: content of the last `\boxed{}`. `hash`: the line after the last `####`. `phrase`: what follows the last "answer is" or
 * "answer:", to the end of the sentence. `latex`: the last formula between dollars or `\\(\\)`. `lastNumber`: the last number of the text. `choice`: the letter of a multiple
 * choice, where only one is named. `whole`: the text. Or a function of your own, `undefined` where it finds none.
 */
export type Extraction =
  | "boxed"
  | "hash"
  | "phrase"
  | "latex"
  | "lastNumber"
  | "choice"
  | "whole"
  | ((text: string) => string | undefined)

export type AnswerComparisonName = "exact" | "normalised" | "f1" | "number" | "math" | "choice"

/**
 * `exact`: the same characters, except spaces around. `normalised`: SQuAD's exact match, with numbers kept apart. `f1`:
 * SQuAD's token F1, a score between. `number`: the same number, exactly unless a tolerance is given. `math`: the same
 * mathematics (see `equivalent`). `choice`: the same letter.
 */
export type AnswerComparison<Data = unknown> =
  | AnswerComparisonName
  /** True, false or a score; may be asynchronous. */
  | ((actual: string, expected: string, task: Task<Data>) => boolean | number | Promise<boolean | number>)

export interface AnswerOptions<Data> {
  /** Default `task.data.answer`. Several: any of them will do. What holds `####` is GSM8K's solution, whose answer counts. */
  readonly expected?: (task: Task<Data>) => string | number | ReadonlyArray<string | number>
  /** In this order. Default by comparison: `choice`; else `boxed`, `hash`, `phrase`, then `lastNumber` for numbers, `whole` for texts. */
  readonly extract?: Extraction | ReadonlyArray<Extraction>
  /** Default `math`. */
  readonly compare?: AnswerComparison<Data>
  /** How far a `number` may be off: absolutely, or relative to the expected one. Default 0, and no rounding on the way. */
  readonly tolerance?: { readonly absolute?: number; readonly relative?: number }
  /** `value`: 50% is 1/2. `unit`: 50% is 50 where the expected answer has no percent sign. Default `value`. */
  readonly percent?: "value" | "unit"
  /** Letters of a multiple choice. Default `ABCDEFGHIJ`. */
  readonly choices?: string
  /** Milliseconds of one evaluation of mathematics that needs the library. Default 2000. */
  readonly deadline?: number
}

/**
 * Judges the answer in the policy's last turn, after its reasoning (`</think>`): 1, 0, or F1. Metric `extracted`: 1 where an
 * answer was found. An expected answer that is missing or that nothing can equal is unscorable.
 *
 * @example
 * ```ts
 * const gsm8k = answer<{ answer: string }>({ extract: ["boxed", "hash", "lastNumber"], compare: "number" })
 * const mmlu = answer<{ answer: string }>({ compare: "choice", choices: "ABCD" })
 * const math = answer<{ solution: string }>({ extract: "boxed", expected: (task) => task.data.solution })
 * ```
 */
export const answer = <Data = { readonly answer: string }>(
  options: AnswerOptions<Data> = {}
): Verifier.VerifierFunction<Data> => {
  const compare = options.compare ?? "math"
  const extract = options.extract ?? defaults(compare)
  const ways: ReadonlyArray<Extraction> =
    typeof extract === "string" || typeof extract === "function" ? [extract] : extract
  checkOptions(options, ways)
  return Verifier.withDeadline(QUEUE, async ({ task, trajectory, signal }): Promise<Verifier.Verdict> => {
    const expected = expectedOf(task, options)
    if (typeof expected === "string") return Verifier.unscorable(expected)
    const found = extractAnswer(lastText(trajectory), ways, options.choices)
    if ("fault" in found) return { score: 0, reason: found.fault, metrics: { extracted: 0 } }
    let best: Judged = { score: 0, reason: "" }
    for (const one of expected.several) {
      const judged = await judge(found.text, one, options, compare, task, signal)
      if ("_tag" in judged) return judged
      if (judged.score >= best.score) best = judged
      if (best.score === 1) break
    }
    const { score, reason } = best
    return {
      score,
      reason: `${found.by} "${shorten(found.text)}"${reason === "" ? "" : `: ${reason}`}`,
      metrics: { extracted: 1 }
    }
  })
}

/** Milliseconds to wait for the library's processes, behind answers that use up their own time. */
const QUEUE = 600_000

const defaults = (compare: AnswerComparison<never>): ReadonlyArray<Extraction> => {
  if (compare === "choice") return ["choice"]
  if (compare === "number") return ["boxed", "hash", "phrase", "lastNumber"]
  // the last number of a formula is not its value
  return compare === "math" ? ["boxed", "hash", "phrase"] : ["boxed", "hash", "phrase", "whole"]
}

const checkOptions = (options: AnswerOptions<never>, ways: ReadonlyArray<Extraction>): void => {
  if (ways.length === 0)
    throw new OptionError({
      module: "answer",
      option: "extract",
      value: ways,
      expected: "at least one way",
      remedy: 'Name one, such as "boxed"'
    })
  for (const [name, value] of Object.entries(options.tolerance ?? {})) {
    if (!(Number.isFinite(value) && value >= 0))
      throw new OptionError({
        module: "answer",
        option: `tolerance.${name}`,
        value: value,
        expected: "a finite number from 0",
        remedy: "Leave it out for none"
      })
  }
  if (options.choices !== undefined && !/^[A-Z]{2,26}$/.test(options.choices)) {
    throw new OptionError({
      module: "answer",
      option: "choices",
      value: options.choices,
      expected: "2 to 26 capital letters",
      remedy: 'Give them in order, such as "ABCD"'
    })
  }
}

/**
 * The answer that a text gives, by the first of these ways that finds one, or why it gives none.
 *
 * @example
 * ```ts
 * extractAnswer("So 3 + 4 = 7.\n#### 7", ["boxed", "hash"])   // { by: "hash", text: "7" }
 * ```
 */
export const extractAnswer = (
  text: string,
  ways: ReadonlyArray<Extraction>,
  choices = "ABCDEFGHIJ"
): { readonly by: string; readonly text: string } | { readonly fault: string } => {
  const own = Extract.afterReasoning(text)
  if (own.trim() === "") return { fault: text.trim() === "" ? "an empty completion" : "nothing after the reasoning" }
  if (own.length > Extract.maxText) return { fault: `longer than ${Extract.maxText} characters` }
  for (const way of ways) {
    const candidate = by(own, way, choices)
    if (candidate === undefined) continue
    return "fault" in candidate ? candidate : { by: typeof way === "string" ? way : "answer", text: candidate.text }
  }
  return { fault: `no answer found (${ways.map((way) => (typeof way === "string" ? way : "own")).join(", ")})` }
}

const by = (text: string, way: Extraction, choices: string): Extract.Candidate => {
  if (typeof way === "function") {
    const found = way(text)
    return found === undefined ? undefined : { text: found }
  }
  switch (way) {
    case "boxed":
      return Extract.boxed(text)
    case "hash":
      return Extract.hash(text)
    case "phrase": {
      const said = Extract.phrase(text)
      return said !== undefined && "text" in said ? (Extract.boxed(said.text) ?? said) : said
    }
    case "latex":
      return Extract.latex(text)
    case "choice":
      return Extract.choices(text, choices)
    case "whole":
      return { text: text.trim() }
    case "lastNumber": {
      const last = lastNumber(text)
      return last === undefined ? undefined : { text: `${Q.text(last.value)}${last.percent ? "%" : ""}` }
    }
  }
}

/** Text when there is none. */
const expectedOf = <Data>(
  task: Task<Data>,
  options: AnswerOptions<Data>
): { readonly several: ReadonlyArray<string> } | string => {
  const given: unknown =
    options.expected === undefined
      ? (task.data as { readonly answer?: unknown } | null)?.answer
      : options.expected(task)
  const several = (Array.isArray(given) ? given : [given]) as ReadonlyArray<unknown>
  const texts: Array<string> = []
  for (const one of several) {
    const text = typeof one === "number" && Number.isFinite(one) ? String(one) : one
    if (typeof text !== "string" || text.trim() === "") {
      return `task ${task.id} has no expected answer (found ${shorten(String(text))}); give "expected" a text, a finite number or several`
    }
    const solution = text.includes("####") ? Extract.hash(text) : { text }
    texts.push(solution !== undefined && "text" in solution ? solution.text : text)
  }
  return several.length === 0 ? `task ${task.id} has no expected answer: an empty list` : { several: texts }
}

interface Judged {
  readonly score: number
  readonly reason: string
}

/** Characters of an answer; `math` has a narrower bound of its own. */
const maxAnswer = 50_000

const judge = async <Data>(
  actual: string,
  expected: string,
  options: AnswerOptions<Data>,
  compare: AnswerComparison<Data>,
  task: Task<Data>,
  signal: AbortSignal
): Promise<Judged | Verifier.Unscorable> => {
  const verdict = (equal: boolean): Judged => ({ score: Number(equal), reason: equal ? "" : "wrong" })
  if (typeof compare === "function") {
    const own = await compare(actual, expected, task)
    return typeof own === "boolean" ? verdict(own) : { score: own, reason: "" }
  }
  const name: AnswerComparisonName = compare
  if (actual.length > maxAnswer) return { score: 0, reason: `longer than ${maxAnswer} characters` }
  switch (name) {
    case "exact":
      return verdict(actual.trim() === expected.trim())
    case "normalised":
      return verdict(exactMatch(actual, expected))
    case "f1": {
      const score = tokenF1(actual, expected)
      return { score, reason: `F1 ${score.toFixed(3)}` }
    }
    case "choice": {
      const right = Extract.choices(expected, options.choices ?? "ABCDEFGHIJ")
      if (right === undefined || "fault" in right)
        return Verifier.unscorable(`task ${task.id}: the expected answer "${shorten(expected)}" names no choice`)
      return verdict(choiceOf(actual) === right.text)
    }
    case "number": {
      const [wanted, ...more] = numbers(expected)
      if (wanted === undefined || more.length > 0)
        return Verifier.unscorable(`task ${task.id}: the expected answer "${shorten(expected)}" is not one number`)
      const given = numbers(actual)
      if (given.length !== 1) return { score: 0, reason: given.length === 0 ? "no number" : "several numbers" }
      return verdict(near(given[0]!, wanted, options))
    }
    case "math": {
      const compared = await equivalent(actual, expected, {
        signal,
        ...(options.percent === undefined ? {} : { percent: options.percent }),
        ...(options.deadline === undefined ? {} : { deadline: options.deadline })
      })
      if (compared._tag === "Undecided") return Verifier.unscorable(`task ${task.id}: ${compared.detail}`)
      return compared._tag === "Equal" ? { score: 1, reason: "" } : { score: 0, reason: compared.reason }
    }
  }
}

const choiceOf = (text: string): string => text.replace(/\\text|[\s(){}.*$]/g, "").slice(0, 8)

/** Exact arithmetic: a tolerance is a number as well. */
const near = (given: Found, wanted: Found, { tolerance, percent }: AnswerOptions<never>): boolean => {
  const value = ({ value, percent: sign }: Found, drop: boolean) =>
    sign && !drop ? Q.div(value, Q.integer(100)) : value
  const unit = percent === "unit"
  const a = value(given, unit && !wanted.percent)
  const b = value(wanted, false)
  const size = (one: Q.Rational) => (one.n < 0n ? Q.neg(one) : one)
  const allowed = [fraction(tolerance?.absolute ?? 0), Q.mul(fraction(tolerance?.relative ?? 0), size(b))]
  return allowed.some((most) => Q.compare(size(Q.sub(a, b)), most) <= 0)
}

const fraction = (value: number): Q.Rational => {
  const [digits, exponent] = value.toExponential().split("e")
  return Q.decimal(digits!, Number(exponent))
}

const shorten = (text: string): string => (text.length > 80 ? `${text.slice(0, 77)}...` : text)
