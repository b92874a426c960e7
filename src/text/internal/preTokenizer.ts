/** The pre-tokenizer of a `tokenizer.json`, checked and rewritten into steps that the library reads exactly. */
import { GPT2 } from "./pattern.ts"
import type { Fields, Json } from "./tokenizerFields.ts"

const isolated = (Regex: string): Json => ({
  type: "Split",
  pattern: { Regex },
  behavior: "Isolated",
  invert: false
})

const split = (fields: Fields, value: Json, field: string): Json => {
  const behavior = fields.text(value["behavior"], `${field}.behavior`)
  const found = fields.pattern(value["pattern"], `${field}.pattern`)
  const invert = value["invert"] === true
  if (behavior === "Isolated") return { type: "Split", pattern: found, behavior, invert: false }
  if (behavior === "Removed") return { type: "Split", pattern: found, behavior, invert }
  const between = found["String"]
  if (typeof between === "string" && Array.from(between).length === 1 && !invert) {
    const one = /[\w\s]/.test(between) ? between : `\\u{${between.codePointAt(0)!.toString(16)}}`
    if (behavior === "MergedWithPrevious") return isolated(`[^${one}]*${one}|[^${one}]+`)
    if (behavior === "MergedWithNext") return isolated(`${one}[^${one}]*|[^${one}]+`)
  }
  throw fields.fail(`${field}.behavior`, `${behavior} of such a pattern is not read`)
}

const preTokenizers = (fields: Fields, value: Json, field: string): ReadonlyArray<Json> => {
  const { type } = value
  if (type === "ByteLevel") {
    const bytes = {
      type,
      add_prefix_space: value["add_prefix_space"] === true,
      use_regex: value["use_regex"] !== false
    }
    // Two steps, so that the second, which changes no boundary, runs after the look-up in the encoder's cache.
    return bytes.add_prefix_space || !bytes.use_regex ? [bytes] : [isolated(GPT2), { ...bytes, use_regex: false }]
  }
  // char::is_numeric; the library would match decimal digits alone.
  if (type === "Digits") return [isolated(value["individual_digits"] === true ? "\\p{N}" : "\\p{N}+")]
  if (type === "Split") return [split(fields, value, field)]
  if (type === "Metaspace") {
    const replacement = fields.literal(value["replacement"] ?? "▁", `${field}.replacement`)
    const scheme = value["prepend_scheme"] ?? (value["add_prefix_space"] === false ? "never" : "always")
    const metaspace = { type, replacement, prepend_scheme: scheme }
    if (value["split"] === false) return [metaspace]
    const next = { type: "Split", pattern: { String: replacement }, behavior: "MergedWithNext" }
    return [metaspace, split(fields, next, field)]
  }
  throw fields.unknownType(field, value)
}

export const readPreTokenizer = (fields: Fields, value: Json): Json => {
  const field = "pre_tokenizer"
  const parts: Array<Json> = []
  if (value["type"] === "Sequence") {
    fields.sequence(value["pretokenizers"], `${field}.pretokenizers`, (item, at) => {
      parts.push(...preTokenizers(fields, item, at))
      return item
    })
  } else parts.push(...preTokenizers(fields, value, field))
  fields.bounded(parts, field)
  return { type: "Sequence", pretokenizers: parts }
}
