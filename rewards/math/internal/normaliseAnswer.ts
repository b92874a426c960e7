/**
 * Texts compared as SQuAD's evaluation does (P. Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of
 * Text", EMNLP 2016, script evaluate-v1.1): lower case, without punctuation, articles and superfluous spaces; token F1 over
 * what is left. Apart from it in what would make different numbers equal: points, commas, signs and slashes of numbers
 * stay, as do superscripts and percent signs, and punctuation between two words leaves a space unless letters stand on both sides.
 */

/** Idempotent, total, linear. */
export const normalise = (text: string): string => {
  const folded = text
    .toWellFormed()
    // no text of the candidate's stands for a mark of ours
    .replace(/[\uE000-\uE006]/g, " ")
    .replace(/[\p{No}\p{Nl}\p{So}]/gu, spaced)
    .normalize("NFKC")
    .replaceAll("−", "-")
    .replaceAll("⁄", "/")
    .toLowerCase()
    .normalize("NFKC")
  return (
    folded
      // what belongs to a number is put aside
      .replace(/(?<=\d)[.,/:](?=\d)|(?<!\p{L}|\p{M})[.-](?=\.?\d)|(?<=\d)%|\^(?=-?\d)/gu, (mark) => keep(mark))
      .replace(/(?<=\p{L}\p{M}{0,4})[\p{P}$+<=>^`|~](?=\p{L})/gu, "")
      .replace(/[\p{P}$+<=>^`|~]/gu, " ")
      .replace(/[\uE000-\uE006]/g, (mark) => marks[mark.charCodeAt(0) - 0xe000]!)
      // letters that punctuation stood between may compose
      .normalize("NFC")
      .split(/\s+/)
      .filter((word) => word !== "" && word !== "a" && word !== "an" && word !== "the")
      .join(" ")
  )
}

const marks = ".,/:-%^"
const keep = (mark: string): string => String.fromCharCode(0xe000 + marks.indexOf(mark))

const superscripts = "⁰¹²³⁴⁵⁶⁷⁸⁹"
/** Characters that contain digits: a fraction, a number in a circle, an exponent. Not to run into the digits before them. */
const spaced = (character: string): string => {
  const power = superscripts.indexOf(character)
  if (power >= 0) return `^${power}`
  const plain = character.normalize("NFKC")
  return /\d/.test(plain) ? ` ${plain} ` : character
}

export const exactMatch = (a: string, b: string): boolean => normalise(a) === normalise(b)

/** Harmonic mean of precision and recall over the tokens, each counted as often as it occurs. 0 where either has none. */
export const tokenF1 = (actual: string, expected: string): number => {
  const [a, b] = [actual, expected].map((text) =>
    normalise(text)
      .split(" ")
      .filter((word) => word !== "")
  )
  const left = new Map<string, number>()
  for (const word of b!) left.set(word, (left.get(word) ?? 0) + 1)
  let common = 0
  for (const word of a!) {
    const count = left.get(word) ?? 0
    if (count === 0) continue
    left.set(word, count - 1)
    common++
  }
  return common === 0 ? 0 : (2 * common) / (a!.length + b!.length)
}
