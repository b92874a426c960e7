/** The normaliser of a `tokenizer.json`, checked. */
import type { Fields, Json } from "./tokenizerFields.ts"

export const readNormalizer = (fields: Fields, value: Json, field: string): Json => {
  const { type } = value
  if (type === "Sequence") {
    const normalizers = fields.sequence(value["normalizers"], `${field}.normalizers`, (item, at) =>
      readNormalizer(fields, item, at)
    )
    fields.bounded(normalizers, field)
    return { type, normalizers }
  }
  if (type === "NFC" || type === "NFD" || type === "NFKC" || type === "NFKD") return { type }
  if (type === "Prepend") return { type, prepend: fields.short(value["prepend"], `${field}.prepend`) }
  if (type === "Replace") {
    const content = fields.short(value["content"], `${field}.content`)
    // The library passes the content to String.replace, which interprets dollar signs.
    return {
      type,
      pattern: fields.pattern(value["pattern"], `${field}.pattern`),
      content: content.replaceAll("$", "$$$$")
    }
  }
  throw fields.unknownType(field, value)
}
