/**
 * JSON in what models write. Everything here takes time linear in the text, whatever the text: a scanner without
 * recursion decides what is a document, and only then is it parsed.
 */
import JSON5 from "json5"
import { answerPart } from "./completion.ts"

/** Deepest nesting of a document: whoever walks it later may recurse. */
export const maxDepth = 100

export type Parsed = { readonly value: unknown; readonly json5?: true } | { readonly fault: string }

/**
 * The search for a document. `strict`: the text is the document, except white space around it.
 * `default`: the whole text, else the first fenced block (of JSON, or of no language) that is a document as a whole,
 * else the first bracket from which a complete object or array can be read. `lenient`: when none of these is found,
 * the first fenced block or bracket is read as JSON5 (single quotes, bare keys, trailing commas, comments) with the
 * literals of Python. What is cut off is not a document in any mode.
 */
export type JsonMode = "strict" | "default" | "lenient"

/**
 * JSON as in RFC 8259, and unambiguous: an object that has a key twice, a number beyond the range of doubles, and
 * nesting deeper than {@link maxDepth} are faults, as is a document of more than `maxCharacters`.
 */
export const parseJson = (text: string, maxCharacters: number): Parsed => {
  if (text.length > maxCharacters) return { fault: `longer than ${maxCharacters} characters` }
  const found = scan(text, 0)
  const end = "end" in found ? skipSpace(text, found.end) : found.at
  if (!("end" in found) || end < text.length) {
    return {
      fault: end >= text.length ? "the text ends within the document" : `unexpected ${quote(text, end)} at ${end}`
    }
  }
  return found.fault === undefined ? { value: JSON.parse(text) as unknown } : { fault: found.fault }
}

/**
 * Finds a document and parses it, of what is said after thinking (`<think>`) where the text is more than a document;
 * a text of more than four times `maxCharacters` is not searched.
 */
export const readJson = (text: string, maxCharacters: number, mode: JsonMode = "default"): Parsed => {
  if (text.length > 4 * maxCharacters) return { fault: `longer than ${4 * maxCharacters} characters` }
  const whole = parseJson(text, maxCharacters)
  if (mode === "strict" || "value" in whole) return whole
  const { end, start } = answerPart(text)
  return search(text.slice(start, end), whole, maxCharacters, mode)
}

const search = (text: string, whole: Parsed, maxCharacters: number, mode: JsonMode): Parsed => {
  const blocks = fenced(text)
  for (const block of blocks) {
    const found = parseJson(block, maxCharacters)
    if ("value" in found) return found
  }
  const found = firstDocument(text)
  if (found !== undefined) return parseJson(found, maxCharacters)
  const none: Parsed =
    text.length > maxCharacters
      ? whole
      : { fault: nextBracket(text, 0) < 0 ? "no object or array" : "no complete object or array" }
  if (mode === "default") return none
  const damaged = blocks.find((block) => /^\s*[[{]/.test(block)) ?? fromBracket(text)
  return damaged === undefined ? none : parseJson5(damaged, maxCharacters)
}

/** The last of two equal keys counts, as in JSON.parse. */
const parseJson5 = (text: string, maxCharacters: number): Parsed => {
  if (text.length > maxCharacters) return { fault: `longer than ${maxCharacters} characters` }
  try {
    const written = JSON.stringify(JSON5.parse(escaped(withoutPython(text))), (_, value: unknown) => {
      if (typeof value === "number" && !Number.isFinite(value)) throw new SyntaxError("a number that is not finite")
      return value
    })
    // JSON that was written has no key twice; its depth is still to be seen
    const found = parseJson(written, 8 * maxCharacters)
    return "value" in found ? { value: found.value, json5: true } : found
  } catch (fault) {
    return { fault: `no JSON5 either: ${fault instanceof Error ? fault.message.slice(0, 100) : "it threw"}` }
  }
}

/** The line separators that JSON5 warns of on the console. */
const escaped = (text: string): string => text.replaceAll("\u2028", "\\u2028").replaceAll("\u2029", "\\u2029")

const literals: Readonly<Record<string, string>> = { True: "true", False: "false", None: "null" }

/** Python's literals outside of strings as those of JSON. */
const withoutPython = (text: string): string => {
  let out = ""
  let from = 0
  for (let at = 0; at < text.length; at++) {
    const character = text[at]!
    if (character === '"' || character === "'") {
      const open = character
      for (at++; at < text.length && text[at] !== open; at++) if (text[at] === "\\") at++
    } else if (/[A-Za-z_$]/.test(character)) {
      const start = at
      while (at + 1 < text.length && /[\w$]/.test(text[at + 1]!)) at++
      const literal = literals[text.slice(start, at + 1)]
      if (literal === undefined) continue
      out += text.slice(from, start) + literal
      from = at + 1
    }
  }
  return out + text.slice(from)
}

/** Contents of the fenced blocks that may hold a document; one that is left open goes to the end. */
const fenced = (text: string): ReadonlyArray<string> => {
  const blocks: Array<string> = []
  let open:
    | { readonly mark: string; readonly length: number; readonly from: number; readonly json: boolean }
    | undefined
  for (let at = 0; at < text.length;) {
    const newline = text.indexOf("\n", at)
    const end = newline < 0 ? text.length : newline
    const line = text.slice(at, end).trim()
    const mark = line[0]
    if (mark !== undefined && line.startsWith(mark.repeat(3)) && (mark === "`" || mark === "~")) {
      let length = 3
      while (line[length] === mark) length++
      const info = line.slice(length).trim().toLowerCase()
      if (open === undefined) {
        // text within one line is not a block
        if (!info.includes("`"))
          open = { mark, length, from: Math.min(end + 1, text.length), json: info === "" || info.startsWith("json") }
      } else if (open.mark === mark && length >= open.length && info === "") {
        if (open.json) blocks.push(text.slice(open.from, at))
        open = undefined
      }
    }
    at = end + 1
  }
  if (open?.json) blocks.push(text.slice(open.from))
  return blocks
}

/**
 * The text of the first object or array that is complete. What a scan has learnt of a bracket holds for every later
 * scan: it was closed, or, as the grammar after it does not depend on what is around it, can never be. So no
 * character is read more than twice: as part of a string, and not.
 */
const firstDocument = (text: string): string | undefined => {
  const known = new Int32Array(text.length)
  for (let at = nextBracket(text, 0); at >= 0; at = nextBracket(text, at + 1)) {
    let end = known[at]!
    if (end === 0) {
      const found = scan(text, at, known)
      end = "end" in found ? found.end : -1
    }
    if (end > 0) return text.slice(at, end)
  }
  return undefined
}

/** From the first bracket to the one that closes it, going by brackets and quotes alone, or to the end. */
const fromBracket = (text: string): string | undefined => {
  const start = nextBracket(text, 0)
  if (start < 0) return undefined
  let depth = 0
  let quoted = false
  for (let at = start; at < text.length; at++) {
    const character = text[at]
    if (quoted) {
      if (character === "\\") at++
      else if (character === '"') quoted = false
    } else if (character === '"') quoted = true
    else if (character === "[" || character === "{") depth++
    else if ((character === "]" || character === "}") && --depth === 0) return text.slice(start, at + 1)
  }
  return text.slice(start)
}

const nextBracket = (text: string, from: number): number => {
  for (let at = from; at < text.length; at++) {
    const code = text.charCodeAt(at)
    if (code === 0x5b || code === 0x7b) return at
  }
  return -1
}

const twice = "an object has a key twice"

type Scan = { readonly end: number; readonly fault: string | undefined } | { readonly at: number }

/**
 * Reads one value from `start`, without recursion. `end` is where it ends; `at` is where it turned out to be none.
 * `known` is told where each bracket on the way is closed, or -1 when it never is; 0 is nothing yet.
 */
const scan = (text: string, start: number, known?: Int32Array): Scan => {
  const open: Array<number> = []
  const keys: Array<Set<string> | undefined> = []
  let fault: string | undefined
  let at = start
  const fail = (where: number): Scan => {
    if (known !== undefined) for (const bracket of open) known[bracket] = -1
    return { at: Math.min(where, text.length) }
  }
  /** Reads a key and its colon: true when they are there. */
  const key = (): boolean => {
    const from = (at = skipSpace(text, at))
    const end = text.charCodeAt(from) === 0x22 ? stringEnd(text, from) : ~from
    if (end < 0) {
      at = ~end
      return false
    }
    const raw = text.slice(from, end)
    const name = raw.includes("\\") ? (JSON.parse(raw) as string) : raw.slice(1, -1)
    const names = keys.at(-1)!
    if (names.has(name)) fault ??= twice
    names.add(name)
    at = skipSpace(text, end)
    if (text.charCodeAt(at) !== 0x3a) return false
    at++
    return true
  }
  /** Ends the innermost bracket at `at`. */
  const close = () => {
    keys.pop()
    const bracket = open.pop()!
    at++
    if (known !== undefined) known[bracket] = at
  }
  for (;;) {
    at = skipSpace(text, at)
    const code = text.charCodeAt(at)
    const object = code === 0x7b
    let ended = true
    if (object || code === 0x5b) {
      if (known?.[at] === -1) return fail(at)
      open.push(at)
      keys.push(object ? new Set() : undefined)
      if (open.length > maxDepth) fault = `nested deeper than ${maxDepth}`
      at = skipSpace(text, at + 1)
      ended = isClose(text, at, open.at(-1)!)
      if (ended) close()
      else if (object && !key()) return fail(at)
    } else {
      const end = code === 0x22 ? stringEnd(text, at) : scalarEnd(text, at)
      if (end < 0) return fail(~end)
      if (code < 0x61 && code !== 0x22 && !Number.isFinite(Number(text.slice(at, end)))) {
        fault ??= "a number beyond the range of doubles"
      }
      at = end
    }
    while (ended) {
      if (open.length === 0) return { end: at, fault }
      at = skipSpace(text, at)
      if (isClose(text, at, open.at(-1)!)) close()
      else {
        if (text.charCodeAt(at++) !== 0x2c) return fail(at - 1)
        if (keys.at(-1) !== undefined && !key()) return fail(at)
        ended = false
      }
    }
  }
}

const isClose = (text: string, at: number, opened: number): boolean =>
  text.charCodeAt(at) === text.charCodeAt(opened) + 2

const skipSpace = (text: string, from: number): number => {
  let at = from
  for (;;) {
    const code = text.charCodeAt(at)
    if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return at
    at++
  }
}

/** Where the string that starts here ends, or the complement of where it fails. */
const stringEnd = (text: string, from: number): number => {
  for (let at = from + 1; ; at++) {
    const code = text.charCodeAt(at)
    if (code === 0x22) return at + 1
    if (code < 0x20 || at >= text.length) return ~at
    if (code !== 0x5c) continue
    at++
    if (text[at] === "u") {
      if (!/^[0-9a-fA-F]{4}$/.test(text.slice(at + 1, at + 5))) return ~at
      at += 4
    } else if (at >= text.length || !'"\\/bfnrt'.includes(text[at]!)) return ~at
  }
}

const scalar = /(?:true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?)/y

/** The same for a number, `true`, `false` or `null`. */
const scalarEnd = (text: string, from: number): number => {
  scalar.lastIndex = from
  const found = scalar.exec(text)
  return found === null ? ~from : from + found[0].length
}

const quote = (text: string, at: number): string => JSON.stringify(text.slice(at, at + 12))
