/** Verifiers of the language and the script of a text. */
import type { eld as Eld } from "eld/small"
import { OptionError } from "../../src/OptionError.ts"
import type * as Verifier from "../../src/score/Verifier.ts"
import { byTask, type ByTask, textOf, type TextOptions } from "./textOptions.ts"

export interface ScriptOptions extends TextOptions {
  /** The share of letters that must be of the scripts, from 0 to 1. Default 0.95. */
  readonly min?: number
}

/**
 * Scores 1 when the letters of the text are of the given scripts, by Unicode's property `Script`. It tells Russian
 * from English, and not French from English: a script is not a language. A text without letters scores 0.
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
  if (!(min >= 0 && min <= 1))
    throw new OptionError({
      module: "writtenInScript",
      option: "min",
      value: min,
      expected: "a number from 0 to 1",
      remedy: "Give the share of letters"
    })
  const compile = (names: ReadonlyArray<string>): RegExp => {
    const wrong = names.find((name) => !/^[A-Za-z_]+$/.test(name))
    if (names.length === 0 || wrong !== undefined) {
      throw notScripts(wrong ?? names)
    }
    try {
      return new RegExp(`[${names.map((name) => `\\p{Script=${name}}`).join("")}]`, "u")
    } catch {
      throw notScripts(names)
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

const notScripts = (value: string | ReadonlyArray<string>): OptionError =>
  new OptionError({
    module: "writtenInScript",
    option: "scripts",
    value,
    expected: "names of Unicode scripts",
    remedy: 'Give at least one, such as "Latin"'
  })

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
  if (!(min >= 0 && min <= 1))
    throw new OptionError({
      module: "writtenInLanguage",
      option: "min",
      value: min,
      expected: "a number from 0 to 1",
      remedy: "Give the share of letters"
    })
  return async ({ task, trajectory }) => {
    const { eld } = await (detector ??= import("eld/small"))
    const wanted = byTask(languages, task)
    const known = new Set(Object.values(eld.info().Languages))
    const wrong = wanted.find((language) => !known.has(language))
    if (wanted.length === 0 || wrong !== undefined) {
      throw new OptionError({
        module: "writtenInLanguage",
        option: "languages",
        value: wrong ?? wanted,
        expected: `codes of ISO 639-1 such as "en"`,
        remedy: `Use some of ${[...known].toSorted().join(" ")}`
      })
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
