/**
 * Patterns of ECMAScript, in RE2's subset: matched in time linear in the text. Look-around and back-references are
 * refused.
 */
import { RE2JS } from "re2js"

/** Instructions of the longest program that is run: time is characters times instructions. */
const maxProgram = 20_000
/** Longest pattern that is compiled. Characters. */
const maxPattern = 4_000

const maxKept = 512
const kept = new Map<string, RE2JS>()

/** `\s` and `\S` of ECMAScript as members of a class; RE2's are those of ASCII. */
const space = "\\t-\\r \\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}\\x{feff}"
const noSpace =
  "\\x00-\\x08\\x0e-\\x1f!-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}" +
  "\\x{2060}-\\x{2fff}\\x{3001}-\\x{fefe}\\x{ff00}-\\x{10ffff}"

/** Long names of the general categories that RE2 knows by their short ones. */
const categories: Readonly<Record<string, string>> = {
  Letter: "L",
  Uppercase_Letter: "Lu",
  Lowercase_Letter: "Ll",
  Titlecase_Letter: "Lt",
  Modifier_Letter: "Lm",
  Other_Letter: "Lo",
  Mark: "M",
  Nonspacing_Mark: "Mn",
  Spacing_Mark: "Mc",
  Enclosing_Mark: "Me",
  Number: "N",
  Decimal_Number: "Nd",
  digit: "Nd",
  Letter_Number: "Nl",
  Other_Number: "No",
  Punctuation: "P",
  punct: "P",
  Symbol: "S",
  Math_Symbol: "Sm",
  Currency_Symbol: "Sc",
  Separator: "Z",
  Space_Separator: "Zs",
  Other: "C",
  Control: "Cc",
  Format: "Cf"
}

/** Writes what ECMAScript and RE2 spell or mean differently in RE2's way. */
const translate = (pattern: string): string => {
  let out = ""
  let inClass = false
  for (let at = 0; at < pattern.length; at++) {
    const character = pattern[at]!
    if (character !== "\\") {
      if (character === "[") inClass = true
      else if (character === "]") inClass = false
      out += character
      continue
    }
    const escaped = pattern[++at] ?? ""
    if (escaped === "s" || escaped === "S") {
      const members = escaped === "s" ? space : noSpace
      out += inClass ? members : `[${members}]`
    } else if ((escaped === "p" || escaped === "P") && pattern[at + 1] === "{") {
      const end = pattern.indexOf("}", at)
      const name = pattern.slice(at + 2, end < 0 ? undefined : end).replace(/^(?:gc|General_Category|sc|Script)=/, "")
      out += `\\${escaped}{${Object.hasOwn(categories, name) ? categories[name] : name}}`
      if (end < 0) break
      at = end
    } else out += `\\${escaped}`
  }
  return out
}

/** Throws a `TypeError` that names the pattern. */
export const linearPattern = (pattern: string, flags = 0): RE2JS => {
  const key = `${flags}${pattern}`
  let found = kept.get(key)
  if (found === undefined) {
    if (pattern.length > maxPattern) throw new TypeError(`A pattern of more than ${maxPattern} characters`)
    const shown = JSON.stringify(pattern).slice(0, 200)
    try {
      found = RE2JS.compile(RE2JS.translateRegExp(translate(pattern)), flags)
    } catch (fault) {
      const cause = fault instanceof Error ? fault.message : "it cannot be compiled"
      throw new TypeError(
        `Pattern ${shown} has no linear-time form (${cause.slice(0, 200)}): look-around and back-references have none`,
        { cause: fault }
      )
    }
    if (found.programSize() > maxProgram) {
      throw new TypeError(`Pattern ${shown} compiles to more than ${maxProgram} instructions: lower its counts`)
    }
    kept.set(key, found)
    if (kept.size > maxKept) kept.delete(kept.keys().next().value!)
  }
  return found
}

/**
 * The cost of a pattern per character, in steps of a validator: the engine runs some hundred instructions in the time
 * of one.
 */
export const patternCost = (pattern: string): number => 1 + Math.ceil(linearPattern(pattern).programSize() / 250)
