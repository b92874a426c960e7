/**
 * Verifiers of what a text looks like: a pattern, its length, its script, tags, repetition, citations. Each takes
 * time linear in the text, and says why it scored as it did. They hold little by themselves: gate another reward with
 * them, or weigh them low.
 */
import type { eld as Eld } from "eld/small"
import { RE2JS } from "re2js"
import type { Task } from "../../src/data/Task.ts"
import { policyTokens, Producer, type Trajectory } from "../../src/rollout/Trajectory.ts"
import type * as Verifier from "../../src/score/Verifier.ts"
import { linearPattern } from "../internal/linearPattern.ts"
import { policyText } from "../internal/policyText.ts"

export interface TextOptions {
  /** The text that is judged. Default: what the policy wrote, all turns. */
  readonly text?: (trajectory: Trajectory) => string
}

const textOf = (options: TextOptions, trajectory: Trajectory): string => (options.text ?? policyText)(trajectory)

/** A value, or how a task says it. */
export type ByTask<A, Data> = A | ((task: Task<Data>) => A)

const byTask = <A, Data>(value: ByTask<A, Data>, task: Task<Data>): A =>
  typeof value === "function" ? (value as (task: Task<Data>) => A)(task) : value

export interface PatternOptions extends TextOptions {
  /** Whether the pattern must match the whole text. Default false: anywhere in it. */
  readonly whole?: boolean
  /** Whether the text must not match. Default false. */
  readonly absent?: boolean
  /**
   * Of `i` (letters of either case), `m` (`^` and `$` at line breaks) and `s` (`.` matches line breaks). Default
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
    throw new TypeError(`matchesPattern takes the flags i, m and s, got ${JSON.stringify(flags)}`)
  const compile = (given: string | RegExp): RE2JS => {
    const source = typeof given === "string" ? given : given.source
    const all = flags + (typeof given === "string" ? "" : given.flags)
    const bits = [...all].reduce((sum, flag) => sum | (flagBits[flag] ?? 0), 0)
    return linearPattern(whole ? `^(?:${source})$` : source, whole ? bits & ~RE2JS.MULTILINE : bits)
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
   * What is counted: code points, words, or tokens of the policy (of the trajectory, whatever `text` is). Default
   * `words`.
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
  if (!(margin >= 0)) throw new RangeError(`textLength takes a margin of 0 or more ${unit}, got ${margin}`)
  const checked = (given: LengthLimits) => {
    const { min = 0, max = Number.POSITIVE_INFINITY } = given
    if (!(min >= 0 && max >= min))
      throw new RangeError(`textLength takes 0 <= min <= max, got min ${min} and max ${max}`)
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

/** A run longer than this is no word: its characters are, so that what has no spaces can be long, and repeat itself. */
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

export interface ScriptOptions extends TextOptions {
  /** The share of letters that must be of the scripts, from 0 to 1. Default 0.95. */
  readonly min?: number
}

/**
 * Scores 1 when the letters of the text are of the given scripts, by Unicode's property `Script`. It tells Russian
 * from English, and not French from English: a script is no language. A text without letters scores 0.
 *
 * @example
 * ```ts
 * const japanese = writtenInScript(["Han", "Hiragana", "Katakana"], { min: 0.9 })
 * ```
 */
export const writtenInScript = <Data = any>(
  scripts: ByTask<ReadonlyArray<string>, Data>,
  options: ScriptOptions = {}
): Verifier.VerifierFunction<Data> => {
  const { min = 0.95 } = options
  if (!(min >= 0 && min <= 1)) throw new RangeError(`writtenInScript takes a min from 0 to 1, got ${min}`)
  const compile = (names: ReadonlyArray<string>): RegExp => {
    const wrong = names.find((name) => !/^[A-Za-z_]+$/.test(name))
    if (names.length === 0 || wrong !== undefined) {
      throw new TypeError(
        `writtenInScript takes names of scripts such as "Latin", got ${JSON.stringify(wrong ?? names)}`
      )
    }
    try {
      return new RegExp(`[${names.map((name) => `\\p{Script=${name}}`).join("")}]`, "u")
    } catch (cause) {
      throw new TypeError(`writtenInScript takes names of Unicode scripts such as "Latin", got ${names.join()}`, {
        cause
      })
    }
  }
  const fixed = typeof scripts === "function" ? undefined : compile(scripts)
  return ({ task, trajectory }) => {
    const own = fixed ?? compile(byTask(scripts, task))
    let letters = 0
    let right = 0
    for (const character of textOf(options, trajectory)) {
      if (!/\p{L}/u.test(character)) continue
      letters++
      if (own.test(character)) right++
    }
    if (letters === 0) return { score: 0, reason: "no letters" }
    const share = right / letters
    return { score: Number(share >= min), reason: `${right} of ${letters} letters`, metrics: { share } }
  }
}

export interface LanguageOptions extends TextOptions {
  /** The share of letters that must stand in pieces of one of the languages, from 0 to 1. Default 0.9. */
  readonly min?: number
}

/** Characters of a piece whose language is told by itself, so that a beginning in one language is not the whole. */
const PIECE = 400

/** Loaded when a language is first asked for: 1.6 MB. */
let detector: Promise<{ readonly eld: typeof Eld }> | undefined

/**
 * Scores 1 when the text is written in one of the given languages (ISO 639-1, 60 of them), else 0: the language of each piece of some
 * 400 characters is told by its n-grams (the library `eld`), and each counts by its letters. A few words are too short to tell, and
 * code or formulas look like anything: give `text` the prose. A text without letters scores 0. Metric: `share`.
 *
 * @example
 * ```ts
 * const reward = Reward.all({ right: answer(), spanish: Reward.gate(writtenInLanguage(["es"])) })
 * ```
 */
export const writtenInLanguage = <Data = any>(
  languages: ByTask<ReadonlyArray<string>, Data>,
  options: LanguageOptions = {}
): Verifier.VerifierFunction<Data> => {
  const { min = 0.9 } = options
  if (!(min >= 0 && min <= 1)) throw new RangeError(`writtenInLanguage takes a min from 0 to 1, got ${min}`)
  return async ({ task, trajectory }) => {
    const { eld } = await (detector ??= import("eld/small"))
    const wanted = byTask(languages, task)
    const known = new Set(Object.values(eld.info().Languages))
    const wrong = wanted.find((language) => !known.has(language))
    if (wanted.length === 0 || wrong !== undefined) {
      throw new TypeError(`writtenInLanguage takes codes such as "en", got ${JSON.stringify(wrong ?? wanted)}`)
    }
    let letters = 0
    let right = 0
    const found = new Map<string, number>()
    for (const piece of pieces(textOf(options, trajectory))) {
      const count = piece.match(/\p{L}/gu)?.length ?? 0
      if (count === 0) continue
      const { language } = eld.detect(piece)
      letters += count
      if (wanted.includes(language)) right += count
      found.set(language, (found.get(language) ?? 0) + count)
    }
    if (letters === 0) return { score: 0, reason: "no letters" }
    const share = right / letters
    const [most = ""] = [...found].toSorted(([, a], [, b]) => b - a)[0] ?? []
    return { score: Number(share >= min), reason: `mostly ${most || "unknown"}`, metrics: { share } }
  }
}

/** Pieces of about {@link PIECE} characters, cut at white space where there is some. */
function* pieces(text: string): Generator<string> {
  for (let start = 0; start < text.length;) {
    const rest = text.slice(start, start + 2 * PIECE)
    const gap = rest.slice(PIECE).search(/\s/)
    const end = gap < 0 || rest.length <= PIECE ? rest.length : PIECE + gap
    yield rest.slice(0, end)
    start += end
  }
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
 * const reward = Reward.all({ format: Reward.gate(formatTags(["think", "answer"])), answer: exactAnswer })
 * ```
 */
export const formatTags = (names: ReadonlyArray<string>, options: TagOptions = {}): Verifier.VerifierFunction => {
  if (names.length === 0 || new Set(names).size < names.length) {
    throw new TypeError(`formatTags takes names of elements, each once, got ${JSON.stringify(names)}`)
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
   * What an n-gram is made of: words, as in {@link textLength}, in lower case, or tokens of the policy. Default
   * `words`.
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
  if (!(Number.isInteger(n) && n >= 1)) throw new RangeError(`ngramRepetition takes an n of 1 or more, got ${n}`)
  if (!(allowed >= 0 && allowed < 1))
    throw new RangeError(`ngramRepetition takes an allowed from 0 to below 1, got ${allowed}`)
  return ({ trajectory }) => {
    const items =
      unit === "tokens"
        ? Array.from(trajectory.tokens).filter((_, index) => trajectory.producer[index] === Producer.Policy)
        : words(textOf(options, trajectory).toLowerCase())
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
 * that is no source fails it. Sources are their numbers, or how many there are, from 1. It sees that there are
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
    throw new RangeError(`citations takes a required of 0 or more, got ${required}`)
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
