/** What models write, taken apart: code in fences, JSON in prose. */

export interface Code {
  readonly source: string
  readonly language: "javascript" | "typescript" | undefined
}

const languages: ReadonlyMap<string, Code["language"]> = new Map([
  ["js", "javascript"],
  ["javascript", "javascript"],
  ["mjs", "javascript"],
  ["ts", "typescript"],
  ["typescript", "typescript"]
])

/** The first fenced block, unclosed or not, or the whole text. */
export const extractCode = (text: string): Code => {
  const open = /^[ \t]*(`{3,}|~{3,})[ \t]*([\w+-]*)[^\n]*\n/m.exec(text)
  if (open === null) return { source: text, language: undefined }
  const rest = text.slice(open.index + open[0].length)
  const close = new RegExp(`^[ \\t]*${open[1]![0] === "`" ? "`" : "~"}{${open[1]!.length},}[ \\t]*$`, "m").exec(rest)
  return {
    source: close === null ? rest : rest.slice(0, close.index),
    language: languages.get(open[2]!.toLowerCase())
  }
}

/** What JSON.parse reads, nested at most so deep. */
export const maxDepth = 100

export type Parsed = { readonly value: unknown } | { readonly fault: string }

/**
 * Strict JSON, bounded in size and depth before it is parsed: deep nesting overflows the stack of whoever walks it later.
 */
export const parseJson = (text: string, maxCharacters: number): Parsed => {
  if (text.length > maxCharacters) return { fault: `longer than ${maxCharacters} characters` }
  let depth = 0
  let quoted = false
  for (let index = 0; index < text.length; index++) {
    const character = text.charCodeAt(index)
    if (quoted) {
      if (character === 92) index++
      else if (character === 34) quoted = false
    } else if (character === 34) quoted = true
    else if (character === 91 || character === 123) {
      if (++depth > maxDepth) return { fault: `nested deeper than ${maxDepth}` }
    } else if (character === 93 || character === 125) depth--
  }
  try {
    return { value: JSON.parse(text) as unknown }
  } catch (fault) {
    return { fault: fault instanceof Error ? fault.message.slice(0, 200) : "no JSON" }
  }
}

/**
 * Where the JSON is: the whole text, else the first fenced block, else from the first bracket to the one that closes it.
 * Tolerant about where, strict about what.
 */
export const extractJson = (text: string): string => {
  const trimmed = text.trim()
  if (/^[[{"]/.test(trimmed) && /[\]}"]$/.test(trimmed)) return trimmed
  const fenced = /^[ \t]*(?:`{3,}|~{3,})/m.test(trimmed) ? extractCode(trimmed).source.trim() : trimmed
  const start = fenced.search(/[[{]/)
  if (start < 0) return fenced
  let depth = 0
  let quoted = false
  for (let index = start; index < fenced.length; index++) {
    const character = fenced[index]
    if (quoted) {
      if (character === "\\") index++
      else if (character === '"') quoted = false
    } else if (character === '"') quoted = true
    else if (character === "[" || character === "{") depth++
    else if ((character === "]" || character === "}") && --depth === 0) return fenced.slice(start, index + 1)
  }
  return fenced.slice(start)
}
