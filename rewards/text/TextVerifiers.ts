/**
 * Verifiers of what a text looks like: a pattern, its length, its script, tags, repetition, citations. Each takes
 * time linear in the text, and says why it scored as it did. They hold little by themselves: gate another reward with
 * them, or weigh them low.
 */
import { RE2JS } from "re2js"
import { OptionError } from "../../src/OptionError.ts"
import { policyIds, policyTokens } from "../../src/rollout/Trajectory.ts"
import type * as Verifier from "../../src/score/Verifier.ts"
import { linearPattern } from "../internal/linearPattern.ts"
import { byTask, type ByTask, textOf, type TextOptions } from "./textOptions.ts"

export type { ByTask, TextOptions } from "./textOptions.ts"

export interface PatternOptions extends TextOptions {
  /** Whether the pattern must match the whole text. Default false: anywhere in it. */
  readonly whole?: boolean
  /** Whether the text must not match. Default false. */
  readonly absent?: boolean
  /**
   * Any of `i` (letters of either case), `m` (`^` and `$` at line breaks) and `s` (`.` matches line breaks). Default
   * none.
   */
  readonly flags?: string
}

/**
 * Scores 1 when the text matches a pattern of ECMAScript, as with the flag `u`, else 0. It runs in RE2: no text makes
 * it backtrack. Throws a `TypeError` for look-around and back-references, which RE2 has not; a task's pattern that
 * has them is unscorable.
 *
 * @example
 * ```ts
 * const dated = matchesPattern("\\b\\d{4}-\\d{2}-\\d{2}\\b")
 * const noApology = matchesPattern<{ taboo: string }>((task) => task.data.taboo, { absent: true, flags: "i" })
 * ```
 */
export const matchesPattern = <Data = any>(
  pattern: ByTask<string | RegExp, Data>,
  options: PatternOptions = {}
): Verifier.VerifierFunction<Data> => {
  const { whole = false, absent = false, flags = "" } = options
  if (/[^ims]/.test(flags))
    throw new OptionError({
      module: "matchesPattern",
      option: "flags",
      value: flags,
      expected: "any of the flags i, m and s",
      remedy: "Leave the others out"
    })
  const compile = (given: string | RegExp): RE2JS => {
    const source = typeof given === "string" ? given : given.source
    const all = flags + (typeof given === "string" ? "" : given.flags)
    const bits = [...all].reduce((sum, flag) => sum | (flagBits[flag] ?? 0), 0)
    try {
      return linearPattern(whole ? `^(?:${source})$` : source, whole ? bits & ~RE2JS.MULTILINE : bits)
    } catch (fault) {
      if (!(fault instanceof TypeError)) throw fault
      const expected = "a pattern that is matched in linear time"
      throw new OptionError({
        module: "matchesPattern",
        option: "pattern",
        value: source,
        expected,
        remedy: fault.message
      })
    }
  }
  const fixed = typeof pattern === "function" ? undefined : compile(pattern)
  return ({ task, trajectory }) => {
    const compiled = fixed ?? compile(byTask(pattern, task))
    const matches = compiled.matcher(textOf(options, trajectory)).find()
    return { score: Number(matches !== absent), reason: matches ? "it matches" : "it does not match" }
  }
}

const flagBits: Readonly<Record<string, number>> = {
  i: RE2JS.CASE_INSENSITIVE,
  m: RE2JS.MULTILINE,
  s: RE2JS.DOTALL
}

export interface LengthLimits {
  readonly min?: number
  readonly max?: number
}

export interface LengthOptions extends TextOptions {
  /**
   * The unit of length: code points, words, or the trajectory's policy tokens (whatever `text` is). Default `words`.
   */
  readonly unit?: "characters" | "words" | "tokens"
  /** How far beyond a limit the score falls from 1 to 0, in the same unit, on a line. Default 0: at once. */
  readonly margin?: number
}

/**
 * Scores 1 for a text within limits, and `max(0, 1 - distance / margin)` beyond them. A word is a run of letters,
 * digits, marks and what joins them; in scripts that are written without spaces it is a character.
 *
 * @example
 * ```ts
 * const brief = textLength({ max: 200 }, { unit: "words", margin: 50 })
 * const asAsked = textLength<{ words: number }>((task) => ({ min: task.data.words, max: task.data.words }), { margin: 20 })
 * ```
 */
export const textLength = <Data = any>(
  limits: ByTask<LengthLimits, Data>,
  options: LengthOptions = {}
): Verifier.VerifierFunction<Data> => {
  const { unit = "words", margin = 0 } = options
  if (!(margin >= 0))
    throw new OptionError({
      module: "textLength",
      option: "margin",
      value: margin,
      expected: `0 or more ${unit}`,
      remedy: "Leave it out for none"
    })
  const checked = (given: LengthLimits) => {
    const { min = 0, max = Number.POSITIVE_INFINITY } = given
    if (!(min >= 0 && max >= min))
      throw new OptionError({
        module: "textLength",
        option: "limits",
        value: `min ${min}, max ${max}`,
        expected: "0 <= min <= max",
        remedy: "Raise max, or lower min"
      })
    return { min, max }
  }
  const fixed = typeof limits === "function" ? undefined : checked(limits)
  return ({ task, trajectory }) => {
    const { min, max } = fixed ?? checked(byTask(limits, task))
    const length =
      unit === "tokens"
        ? policyTokens(trajectory)
        : unit === "words"
          ? words(textOf(options, trajectory)).length
          : codePoints(textOf(options, trajectory))
    const distance = Math.max(0, min - length, length - max)
    return {
      score: distance === 0 ? 1 : margin === 0 ? 0 : Math.max(0, 1 - distance / margin),
      reason: `${length} ${unit}${distance === 0 ? "" : `, ${distance} too ${length < min ? "few" : "many"}`}`,
      metrics: { length }
    }
  }
}

const codePoints = (text: string): number => {
  let count = 0
  for (const _ of text) count++
  return count
}

/** A run longer than this is not a word: its characters are, so that what has no spaces can be long, and repeat itself. */
const longestWord = 40
const run = /[\p{L}\p{N}\p{M}_]+(?:['’.,-][\p{L}\p{N}\p{M}_]+)*/gu
const unspaced = /[\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}\p{sc=Thai}\p{sc=Lao}\p{sc=Khmer}\p{sc=Myanmar}]/u

const words = (text: string): ReadonlyArray<string> => {
  const found: Array<string> = []
  for (const [word] of text.matchAll(run)) {
    if (word.length <= longestWord && !unspaced.test(word)) found.push(word)
    else for (const character of word) found.push(character)
  }
  return found
}

export interface TagOptions extends TextOptions {
  /** Whether text may stand before, between and after the elements. Default false: white space alone. */
  readonly outside?: boolean
  /** Whether elements may be empty. Default false. */
  readonly empty?: boolean
  /** Whether the prompt has opened the first element already, as templates of reasoning models do. Default false. */
  readonly opened?: boolean
}

/**
 * Scores 1 when each element is there exactly once, in the order given, none within another, else 0. Tags are
 * literal: `<think>` and `</think>` are, `<Think>` and `<think id="1">` are text.
 *
 * @example
 * ```ts
 * const reward = Reward.all({ format: Reward.gate(formatTags(["think", "answer"])), result: answer() })
 * ```
 */
export const formatTags = (names: ReadonlyArray<string>, options: TagOptions = {}): Verifier.VerifierFunction => {
  if (names.length === 0 || new Set(names).size < names.length) {
    throw new OptionError({
      module: "formatTags",
      option: "names",
      value: names,
      expected: "at least one name, each once",
      remedy: "Name each element once"
    })
  }
  return ({ trajectory }) => {
    const text = (options.opened ? `<${names[0]}>` : "") + textOf(options, trajectory)
    const fail = (reason: string) => ({ score: 0, reason })
    let end = 0
    for (const name of names) {
      const open = only(text, `<${name}>`)
      const close = only(text, `</${name}>`)
      if (typeof open === "string") return fail(open)
      if (typeof close === "string") return fail(close)
      if (open < end || close < open) return fail(`<${name}> is out of order`)
      const content = open + name.length + 2
      if (!options.outside && text.slice(end, open).trim() !== "") return fail(`text before <${name}>`)
      if (!options.empty && text.slice(content, close).trim() === "") return fail(`<${name}> is empty`)
      end = close + name.length + 3
    }
    if (!options.outside && text.slice(end).trim() !== "") return fail(`text after </${names.at(-1)}>`)
    return { score: 1, reason: "as asked" }
  }
}

/** Where a tag is, or why it is not there exactly once. */
const only = (text: string, tag: string): number | string => {
  const at = text.indexOf(tag)
  if (at < 0) return `no ${tag}`
  return text.indexOf(tag, at + tag.length) < 0 ? at : `${tag} more than once`
}

export interface RepetitionOptions extends TextOptions {
  /** Length of the n-grams. Default 4. */
  readonly n?: number
  /** Share of repeated n-grams up to which the score is 1, from 0 to 1. Default 0. */
  readonly allowed?: number
  /**
   * The parts of an n-gram: words in lower case, as in {@link textLength}, or tokens of the policy. Default `words`.
   */
  readonly unit?: "words" | "tokens"
}

/**
 * Scores how little a text repeats itself: with `share = 1 - distinct n-grams / n-grams`, it is 1 up to `allowed` and
 * `(1 - share) / (1 - allowed)` beyond. It is 1 for a text of fewer than n words, which repeats nothing.
 *
 * The share is the penalty of Yeo et al., Demystifying Long Chain-of-Thought Reasoning in LLMs (arXiv:2502.03373).
 *
 * @example
 * ```ts
 * const fresh = Reward.weight(0.2, ngramRepetition({ n: 4, allowed: 0.1 }))
 * ```
 */
export const ngramRepetition = (options: RepetitionOptions = {}): Verifier.VerifierFunction => {
  const { n = 4, allowed = 0, unit = "words" } = options
  if (!(Number.isInteger(n) && n >= 1))
    throw new OptionError({
      module: "ngramRepetition",
      option: "n",
      value: n,
      expected: "a whole number from 1",
      remedy: "Leave it out for 4"
    })
  if (!(allowed >= 0 && allowed < 1))
    throw new OptionError({
      module: "ngramRepetition",
      option: "allowed",
      value: allowed,
      expected: "a number from 0 to below 1",
      remedy: "Give the share that may repeat"
    })
  return ({ trajectory }) => {
    const items =
      unit === "tokens" ? Array.from(policyIds(trajectory)) : words(textOf(options, trajectory).toLowerCase())
    const total = items.length - n + 1
    if (total < 1) return { score: 1, reason: `fewer than ${n} ${unit}`, metrics: { repeated: 0 } }
    const distinct = new Set<string>()
    for (let index = 0; index < total; index++) distinct.add(items.slice(index, index + n).join(" "))
    const share = 1 - distinct.size / total
    return {
      score: Math.min(1, distinct.size / total / (1 - allowed)),
      reason: `${total - distinct.size} of ${total} ${n}-grams are repeated`,
      metrics: { repeated: share }
    }
  }
}

export interface CitationOptions extends TextOptions {
  /** How many different sources must be cited. Default 1. */
  readonly required?: number
}

/**
 * Scores 1 when the text cites enough of the given sources and nothing else, as `[2]` or `[1, 3]`, else 0: one number
 * that is not a source fails it. Sources are their numbers, or how many there are, from 1. It sees that there are
 * citations, not that they bear out what is said.
 *
 * @example
 * ```ts
 * const cited = citations<{ documents: Array<string> }>((task) => task.data.documents.length, { required: 2 })
 * ```
 */
export const citations = <Data = any>(
  sources: ByTask<number | ReadonlyArray<number>, Data>,
  options: CitationOptions = {}
): Verifier.VerifierFunction<Data> => {
  const { required = 1 } = options
  if (!(Number.isInteger(required) && required >= 0)) {
    throw new OptionError({
      module: "citations",
      option: "required",
      value: required,
      expected: "a whole number from 0",
      remedy: "Leave it out for 1"
    })
  }
  return ({ task, trajectory }) => {
    const given = byTask(sources, task)
    const known = typeof given === "number" ? undefined : new Set(given)
    const isKnown = (number: number) =>
      known === undefined ? number >= 1 && number <= (given as number) : known.has(number)
    const cited = new Set<number>()
    for (const [, list] of textOf(options, trajectory).matchAll(/\[(\d+(?: ?, ?\d+)*)\]/g)) {
      for (const item of list!.split(",")) {
        const number = Number(item)
        if (!isKnown(number)) return { score: 0, reason: `[${number}] is none of the sources` }
        cited.add(number)
      }
    }
    const enough = cited.size >= required
    return {
      score: Number(enough),
      reason: `${cited.size} sources cited${enough ? "" : `, ${required} are required`}`,
      metrics: { cited: cited.size }
    }
  }
}
