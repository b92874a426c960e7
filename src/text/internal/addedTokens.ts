/** Tokens that are found in the text before any other step, as Hugging Face's `AddedVocabulary` finds them. */

export interface AddedToken {
  readonly id: number
  readonly content: string
  /** Matches only if no word character touches it. */
  readonly single_word: boolean
  /** Includes the white space before it. */
  readonly lstrip: boolean
  readonly rstrip: boolean
  /** Matches in the normalised text. */
  readonly normalized: boolean
  /** Marks a control token: never part of a text, and matched only on request. */
  readonly special: boolean
}

/** A part of a text, or the token in its place. */
export type Stretch = { readonly text: string; readonly start: number } | { readonly token: AddedToken }

const space = /^\p{White_Space}$/u
const word = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]$/u

const before = (text: string, index: number): string => {
  const low = text.charCodeAt(index - 1)
  return low >= 0xdc00 && low < 0xe000 ? text.slice(Math.max(index - 2, 0), index) : text.charAt(index - 1)
}

const after = (text: string, index: number): string => {
  const code = text.codePointAt(index)
  return code === undefined ? "" : String.fromCodePoint(code)
}

/**
 * Splits a text at `tokens`, leftmost first, longest first. If `special` is false, control tokens stay in the text, and
 * no other token is matched inside them.
 */
export const splitter = (
  tokens: ReadonlyArray<AddedToken>,
  spelling: (token: AddedToken) => string
): ((text: string, special: boolean) => ReadonlyArray<Stretch>) => {
  const byText = new Map<string, AddedToken>()
  const lengths = new Map<string, Array<number>>()
  for (const token of tokens) {
    const text = spelling(token)
    if (text === "") continue
    byText.set(text, token)
    const first = text.charAt(0)
    const known = lengths.get(first) ?? []
    if (!known.includes(text.length)) known.push(text.length)
    lengths.set(first, known)
  }
  for (const known of lengths.values()) known.sort((a, b) => b - a)

  return (text, special) => {
    const stretches: Array<Stretch> = []
    let from = 0
    let index = 0
    while (index < text.length && lengths.size > 0) {
      const length = lengths.get(text.charAt(index))?.find((length) => byText.has(text.slice(index, index + length)))
      if (length === undefined) {
        index += 1
        continue
      }
      const token = byText.get(text.slice(index, index + length))!
      let start = index
      let end = index + length
      index = end
      if (token.special && !special) continue
      if (token.single_word && (word.test(before(text, start)) || word.test(after(text, end)))) continue
      if (token.lstrip) while (start > from && space.test(before(text, start))) start -= 1
      if (token.rstrip) while (end < text.length && space.test(after(text, end))) end += 1
      if (from < start) stretches.push({ text: text.slice(from, start), start: from })
      stretches.push({ token })
      from = end
      index = Math.max(index, end)
    }
    if (from < text.length) stretches.push({ text: text.slice(from), start: from })
    return stretches
  }
}
