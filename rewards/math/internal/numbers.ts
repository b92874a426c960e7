/** The numbers in a text: what is one, and what only looks like one. Linear in the text. */
import * as Q from "./rational.ts"
import type { Rational } from "./rational.ts"
import { plain } from "./latexText.ts"

export interface Found {
  readonly value: Rational
  readonly percent: boolean
}

const core = String.raw`(?:\d{1,3}(?:,\d{3})+(?![\d,]*\d)|\d+)(?:\.\d+)?|\.\d+`
const scan = new RegExp(
  [
    // part of a name (x2, COVID-19, Q3_4): no number
    String.raw`(?<name>[\p{L}_][\p{L}\p{N}_]*(?:-\d[\p{L}\p{N}_]*)?)`,
    String.raw`(?<sign>-\s?)?\\[dt]?frac\s?\{\s?(?<over>-?\d+)\s?\}\s?\{\s?(?<under>\d+)\s?\}`,
    // dates, versions, times, ratios
    String.raw`(?<many>\d+(?:[.:/-]\d+){2,}|\d+:\d+)`,
    // ranges, and differences that are still to be computed
    String.raw`(?<range>\d+(?:\.\d+)?\s?(?:-|~|to\b)\s?[$€£]?\d+(?:\.\d+)?)`,
    String.raw`(?<minus>-\s?)?(?:\\?[$€£]\s?)?(?<minus2>-)?(?<digits>${core})(?:[eE](?<exponent>[+-]?\d{1,9})(?![\p{L}\p{N}.]))?` +
      String.raw`(?:\s(?<part>\d{1,6})\/(?<of>\d{1,6})(?![\d/])|\s?\/\s?(?<per>\d{1,15})(?![\d/.]))?(?<after>\s?\\?%|\s?\p{L}[\p{L}\p{N}]{0,40})?`
  ].join("|"),
  "gu"
)

/** Letters that may stand right behind a number: what it is counted in. */
const attached = /^(?:[mgshlL]|\p{L}{2,})$/u
const scales: Readonly<Record<string, bigint>> = {
  hundred: 100n,
  thousand: 1000n,
  million: 1_000_000n,
  billion: 1_000_000_000n,
  trillion: 1_000_000_000_000n,
  dozen: 12n
}

/**
 * All of them, in order. ASCII, full-width and mathematical digits; signs, thousands separators, decimals, fractions, mixed
 * numbers, exponents, "5 million". Not numbers: digits within names, ordinals, dates, times, versions, ranges, coefficients
 * such as 2x, digits of other scripts.
 */
export const numbers = (text: string): ReadonlyArray<Found> =>
  matches(text).flatMap((groups) => {
    const one = read(groups)
    return one === undefined ? [] : [one]
  })

/** The last of them. Only what stands last is read: a number such as 1e9999 takes its time. */
export const lastNumber = (text: string): Found | undefined => {
  if (text.length > window) {
    const end = text.slice(-window)
    // not from the middle of a word
    const from = end.search(/\s/)
    const last = from < 0 ? undefined : lastOf(matches(end.slice(from)))
    if (last !== undefined) return last
  }
  return lastOf(matches(text))
}
const window = 20_000

type Groups = Readonly<Record<string, string | undefined>>

const matches = (text: string): ReadonlyArray<Groups> =>
  Array.from(
    plain(text)
      .replaceAll(/(?<=\d)(?:\{,\}|\\[,!;:]|,\\!)(?=\d{3}(?!\d))/g, ",")
      .matchAll(scan),
    (match) => match.groups as Groups
  )

const lastOf = (found: ReadonlyArray<Groups>): Found | undefined => {
  for (const groups of found.toReversed()) {
    const one = read(groups)
    if (one !== undefined) return one
  }
  return undefined
}

const read = (groups: Groups): Found | undefined => {
  try {
    if (groups["over"] !== undefined) {
      const value = Q.ratio(BigInt(groups["over"]), BigInt(groups["under"]!))
      return { value: groups["sign"] === undefined ? value : Q.neg(value), percent: false }
    }
    const digits = groups["digits"]
    if (digits === undefined) return undefined
    let value = Q.decimal(digits.replaceAll(",", ""), Number(groups["exponent"] ?? 0))
    const { part, of, per } = groups
    if (part !== undefined) {
      if (value.d !== 1n || BigInt(part) >= BigInt(of!)) return undefined
      value = Q.add(value, Q.ratio(BigInt(part), BigInt(of!)))
    } else if (per !== undefined) value = Q.div(value, Q.integer(BigInt(per)))
    const after = groups["after"] ?? ""
    const word = after.trim().toLowerCase()
    if (/^\p{L}/u.test(after) && (!attached.test(after) || /^(?:st|nd|rd|th)$/.test(word))) return undefined
    const scale = Object.hasOwn(scales, word) ? scales[word] : undefined
    if (scale !== undefined) value = Q.mul(value, Q.integer(scale))
    const negative = (groups["minus"] ?? groups["minus2"]) !== undefined
    return { value: negative ? Q.neg(value) : value, percent: word.endsWith("%") || word === "percent" }
  } catch {
    // too large, or over zero
    return undefined
  }
}
