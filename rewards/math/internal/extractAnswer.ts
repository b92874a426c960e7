/** Where the answer stands in what a model wrote. Each finds one candidate or none, in time linear in the text. */
import { plain } from "./latexText.ts"

/** `text`: the candidate. `fault`: there is an answer here, and it is none. `undefined`: nothing of this kind here. */
export type Candidate = { readonly text: string } | { readonly fault: string } | undefined

/** Characters; what is longer has no answer. */
export const maxText = 2_000_000

/**
 * The text after the reasoning, which the last `</think>` ends. Reasoning that does not end has no answer after it.
 */
export const afterReasoning = (text: string): string => {
  const end = text.lastIndexOf("</think>")
  const open = text.lastIndexOf("<think>")
  if (open > end) return ""
  return end < 0 ? text : text.slice(end + 8)
}

/** Content of the last `\boxed{...}`, braces within braces included. */
export const boxed = (text: string): Candidate => {
  const start = Math.max(text.lastIndexOf("\\boxed"), text.lastIndexOf("\\fbox"))
  return start < 0 ? undefined : boxAt(text, start)
}

export const boxes = (text: string): ReadonlyArray<Candidate> =>
  // no further than what anyone would write
  [...text.matchAll(/\\(?:boxed|fbox)/g)].slice(-20).map((match) => boxAt(text, match.index))

const boxAt = (text: string, start: number): Candidate => {
  const open = /\\(?:boxed|fbox)\s{0,9}/y
  open.lastIndex = start
  const from = start + open.exec(text)![0].length
  if (text[from] !== "{") {
    const token = /\\?[\w.,-]{1,40}/y
    token.lastIndex = from
    const found = token.exec(text)
    return found === null ? { fault: "an empty box" } : { text: found[0] }
  }
  let depth = 0
  for (let index = from; index < text.length; index++) {
    const character = text[index]
    if (character === "\\") index++
    else if (character === "{") depth++
    else if (character === "}" && --depth === 0) {
      const content = text.slice(from + 1, index).trim()
      return content === "" ? { fault: "an empty box" } : { text: content }
    }
  }
  return { fault: "a box that is not closed" }
}

/** The rest of the line after the last `####`, as GSM8K writes it. */
export const hash = (text: string): Candidate => {
  const start = text.lastIndexOf("####")
  if (start < 0) return undefined
  const end = text.indexOf("\n", start)
  const rest = text.slice(start + 4, end < 0 ? undefined : end).trim()
  return rest === "" ? { fault: "nothing after ####" } : { text: rest }
}

/**
 * Content of the last `$...$`, `$$...$$`, `\(...\)` or `\[...\]`. A dollar before a space opens nothing, one after a space or before
 * a digit closes nothing (pandoc's rule): money is not a formula.
 */
export const latex = (text: string): Candidate => {
  let last: string | undefined
  let opened: { readonly mark: string; readonly from: number } | undefined
  for (const match of text.matchAll(/\\[$\\]|\$\$?|\\[()[\]]/g)) {
    const mark = match[0]
    const end = match.index + mark.length
    if (mark === "\\$" || mark === "\\\\") continue
    const closing = mark === "\\)" ? "\\(" : mark === "\\]" ? "\\[" : mark
    if (opened !== undefined && opened.mark === closing) {
      if (mark === "$" && (/\s/.test(text[match.index - 1]!) || /\d/.test(text[end] ?? ""))) {
        opened = /\s/.test(text[end] ?? " ") ? undefined : { mark, from: end }
        continue
      }
      last = text.slice(opened.from, match.index)
      opened = undefined
    } else if (mark === "\\(" || mark === "\\[" || mark === "$$" || (mark === "$" && opened === undefined)) {
      if (mark !== "$" || !/\s/.test(text[end] ?? " ")) opened = { mark, from: end }
    }
  }
  return last === undefined ? undefined : last.trim() === "" ? { fault: "an empty formula" } : { text: last.trim() }
}

const phrases = /\banswer\b[*_]{0,3}\s?(?:\bis\b|:|=)[*_]{0,3}(?:\s?(?:\bis\b|:|=))?/gi

/** The text after the last "the answer is", to the end of its sentence. */
export const phrase = (text: string): Candidate => {
  const last = sentences(text).at(-1)
  return last === undefined ? undefined : last === "" ? { fault: 'no answer after "answer"' } : { text: last }
}

export const sentences = (text: string): ReadonlyArray<string> =>
  [...text.matchAll(phrases)]
    .slice(-20)
    .map((match) => sentence(text.slice(match.index + match[0].length).slice(0, 2100)))

const sentence = (rest: string): string => {
  const line = /^\s*([^\n]*)/.exec(rest)![1]!
  const end = /[.;!?](?=\s|$)|,?\s(?:because|since|as|which|where)\b/.exec(line)
  const own = (end === null ? line : line.slice(0, end.index)).replaceAll("**", "").trim()
  const math = /^[^$\\]{0,3}\$([^$]+)\$/.exec(own) ?? /^\\\((.{1,2000}?)\\\)/.exec(own)
  return (math?.[1] ?? own).trim()
}

/** Choices named where an answer is named; all of them, as two are none. */
export const choices = (text: string, letters: string): Candidate => {
  const own = plain(text)
  const named = new Set<string>()
  const collect = (part: string, lone: boolean): void => {
    for (const letter of lettersIn(part, letters, lone)) named.add(letter)
  }
  const inBoxes = boxes(own)
  const said = sentences(own)
  if (inBoxes.length > 0) for (const box of inBoxes) collect(box !== undefined && "text" in box ? box.text : "", true)
  else if (said.length > 0) for (const part of said) collect(part, true)
  else collect(own, own.length < 40 && own.replace(/[\s*_$.()]/g, "").length === 1)
  if (named.size > 1) return { fault: `several choices: ${[...named].toSorted().join(", ")}` }
  const [one] = named
  return one === undefined ? (inBoxes.length + said.length > 0 ? { fault: "no choice" } : undefined) : { text: one }
}

/** `lone`: a letter without brackets counts as well; an article does not. */
const lettersIn = (part: string, letters: string, lone: boolean): ReadonlyArray<string> => {
  const found: Array<string> = []
  const letter = /(?<![\p{L}\p{N}'])(\(?)([A-Z])(?![\p{L}\p{N}'])([).:\]]?)(?:\*{0,2}\s(\p{Ll}{1,20}))?/gu
  for (const match of part.matchAll(letter)) {
    const [, open, name, close, word] = match
    if (!letters.includes(name!)) continue
    const marked = open === "(" || close === ")" || (close !== "" && !lone && startsLine(part, match.index))
    const article =
      (name === "A" || name === "I") && word !== undefined && !after.has(word) && open === "" && close === ""
    if (marked || (lone && !article)) found.push(name!)
  }
  return found
}

/** The text after a choice, without an article. */
const after = new Set("or and nor is was because since as but if not while with".split(" "))

const startsLine = (text: string, index: number): boolean => {
  for (let at = index - 1; at >= 0; at--) {
    if (text[at] === "\n") return true
    if (!" \t*_".includes(text[at]!)) return false
  }
  return true
}
