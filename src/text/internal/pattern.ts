/**
 * Regular expressions of tokenizer files. They are untrusted, and a backtracking engine runs them on every text.
 * Patterns of known models are listed; any other pattern must not be able to take exponential time.
 */

export const GPT2 = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

const contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
const words = (digits: string) =>
  String.raw`${contractions}|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}${digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`

export const LLAMA3 = words("{1,3}")
export const QWEN2 = words("")

const cased = (suffix: string, digits: string) =>
  String.raw`[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+${suffix}` +
  String.raw`|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*${suffix}` +
  String.raw`|\p{N}${digits}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`

/** Mistral's pattern. */
export const TEKKEN = cased("", "")
export const GPT4O = cased(`${contractions}?`, "{1,3}")

/** Patterns that apply in sequence. */
export const DEEPSEEK_V3: ReadonlyArray<string> = [
  String.raw`\p{N}{1,3}`,
  "[一-龥぀-ゟ゠-ヿ]+",
  "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*" +
    "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
]

const known = new Set([GPT2, LLAMA3, QWEN2, TEKKEN, GPT4O, ...DEEPSEEK_V3])

/** Tells whether a known model has the pattern; if so, it needs no trial. */
export const isKnown = (source: string): boolean => known.has(source)

const MAX_LENGTH = 2000

/** Returns the length of the quantifier at `index`, and whether it is in effect unbounded. */
const quantifier = (source: string, index: number): { readonly length: number; readonly unbounded: boolean } => {
  const character = source[index]
  if (character === "*" || character === "+") return { length: 1, unbounded: true }
  if (character === "?") return { length: 1, unbounded: false }
  const braces = /^\{(\d*)(,?)(\d*)\}/.exec(source.slice(index, index + 24))
  if (braces === null || (braces[1] === "" && braces[3] === "")) return { length: 0, unbounded: false }
  const most = braces[2] === "" ? braces[1] : braces[3]
  return { length: braces[0].length, unbounded: most === "" || Number(most) > 16 }
}

/**
 * Says why `source` cannot be used; `undefined` if it can. Refused are nested repetitions (`(a+)+`, which take
 * exponential time), back references, and great length.
 */
export const problemOf = (source: string): string | undefined => {
  if (isKnown(source)) return undefined
  if (source.length > MAX_LENGTH) return `a pattern of ${source.length} characters, more than ${MAX_LENGTH}`
  // For each open group: whether something in it repeats without bound.
  const repeats: Array<boolean> = [false]
  let inClass = 0
  for (let i = 0; i < source.length; i++) {
    const character = source[i]
    let inner = false
    if (character === "\\") {
      const next = source[i + 1] ?? ""
      if (inClass === 0 && /[1-9kgGKXRyYN]/.test(next)) return `\\${next} in a pattern, which is not read`
      i += 1
      // The braces of \p{...} are not a quantifier.
      if (/[pPux]/.test(next) && source[i + 1] === "{") i = Math.max(i, source.indexOf("}", i))
    } else if (character === "[") inClass += 1
    else if (character === "]" && inClass > 0) inClass -= 1
    else if (inClass > 0) continue
    else if (character === "(") {
      repeats.push(false)
      if (source[i + 1] === "?" && !/^\?(?:[:=!]|<[=!]|i:)/.test(source.slice(i + 1, i + 4))) {
        return "a group of a kind that is not read"
      }
      if (source[i + 1] === "?") i = source.startsWith("?<", i + 1) ? i + 2 : i + 1
      continue
    } else if (character === ")") {
      if (repeats.length === 1) return "a group that was never opened"
      inner = repeats.pop() === true
    } else if (character === "|") continue
    if (inClass > 0) continue
    const { length, unbounded } = quantifier(source, i + 1)
    if (unbounded && inner) return "a repetition of what repeats already, which can take exponential time"
    if (unbounded || inner) repeats[repeats.length - 1] = true
    i += length
    // Lazy and possessive forms.
    if (length > 0 && /[?+]/.test(source[i + 1] ?? "")) i += 1
  }
  return repeats.length > 1 ? "a group that is never closed" : undefined
}

/** Texts that expose a pattern of polynomial time: runs of one kind, and of two in turn. */
export const probes: ReadonlyArray<string> = [" ", "\n", "a", "A", "1", "!", "é", "中", "'", "\t"].flatMap(
  (one, index, all) => [one.repeat(4000), `${one}${all[(index + 1) % all.length]}`.repeat(2000) + "\u0000"]
)
