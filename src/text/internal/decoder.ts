/** The decoder of a `tokenizer.json`, checked. */
import { type Fields, isObject, type Json, MAX_REPLACEMENTS } from "./tokenizerFields.ts"
import type { Decoder } from "./tokenText.ts"

export const readDecoder = (fields: Fields, value: Json | null): Decoder => {
  const field = "decoder"
  if (value === null) throw fields.fail(field, "there is none")
  const steps = value["type"] === "Sequence" ? value["decoders"] : [value]
  if (!Array.isArray(steps) || steps.length > 16)
    throw fields.fail(`${field}.decoders`, "a list of at most 16 was expected")
  if (steps.length === 1 && isObject(steps[0]) && steps[0]["type"] === "ByteLevel") return { kind: "byteLevel" }
  const replace: Array<readonly [string, string]> = []
  let byteFallback = false
  let strip = 0
  let dropInFirst: string | undefined
  let fused = false
  for (const [index, step] of steps.entries()) {
    const at = value["type"] === "Sequence" ? `${field}.decoders.${index}` : field
    if (!isObject(step)) throw fields.fail(at, "no component")
    const { type } = step
    // These apply to single tokens, in this order. Only Strip applies to the joined text.
    if (type === "Replace" && !fused && !byteFallback) {
      const found = isObject(step["pattern"]) ? step["pattern"]["String"] : undefined
      replace.push([fields.literal(found, `${at}.pattern.String`), fields.short(step["content"], `${at}.content`)])
      if (replace.length > MAX_REPLACEMENTS) throw fields.fail(at, `more than ${MAX_REPLACEMENTS} replacements`)
    } else if (type === "ByteFallback" && !fused) byteFallback = true
    else if (type === "Fuse") fused = true
    else if (type === "Strip" && fused && step["content"] === " " && step["stop"] === 0) {
      const { start } = step
      if (!Number.isSafeInteger(start) || Number(start) < 0) throw fields.fail(`${at}.start`, "a count was expected")
      strip += Number(start)
    } else if (type === "Metaspace" && steps.length === 1) {
      const replacement = fields.literal(step["replacement"] ?? "▁", `${at}.replacement`)
      const scheme = step["prepend_scheme"] ?? (step["add_prefix_space"] === false ? "never" : "always")
      if (scheme !== "never") dropInFirst = replacement
      replace.push([replacement, " "])
    } else throw fields.unknownType(at, step)
  }
  return { kind: "pieces", replace, byteFallback, strip, dropInFirst }
}
