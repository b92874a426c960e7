/** Rewrites schemas keyword by keyword into forms that ajv applies as the standard says, and bounds their cost. */
import { patternCost } from "../../internal/linearPattern.ts"

export type Json = Readonly<Record<string, unknown>>

export const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value)

/** Keyword that every linked schema has: what it costs to apply it once, `[base, per character, item or key]`. */
export const costKeyword = "$cost"

/** Rewrites draft 7 as draft 2020-12. */
export const asRecent = (out: Map<string, unknown>): void => {
  const rest = out.get("additionalItems")
  out.delete("additionalItems")
  if (Array.isArray(out.get("items"))) {
    // the meta-schema wants at least one
    if ((out.get("items") as Array<unknown>).length > 0) out.set("prefixItems", out.get("items"))
    out.delete("items")
    if (rest !== undefined) out.set("items", rest)
  }
}

/** As a choice between branches, of which ajv knows what they have evaluated; of `if` it does not. */
export const conditions = (out: Map<string, unknown>, all: Array<unknown>): void => {
  if (!out.has("if")) return
  const branch = (condition: unknown, then: unknown) => ({ allOf: [condition, then ?? true], [costKeyword]: [3, 0] })
  const no = { not: out.get("if"), [costKeyword]: [1, 0] }
  all.push({ anyOf: [branch(out.get("if"), out.get("then")), branch(no, out.get("else"))], [costKeyword]: [3, 0] })
  for (const keyword of ["if", "then", "else"]) out.delete(keyword)
}

/** ajv passes over properties named `__proto__`, but not over patterns that match it. */
export const byPattern = (out: Map<string, unknown>): void => {
  const properties = (out.get("properties") ?? {}) as Json
  const patterns = (out.get("patternProperties") ?? {}) as Json
  if (!Object.hasOwn(properties, "__proto__") && !Object.hasOwn(patterns, "__proto__")) return
  const others = (of: Json) => Object.entries(of).filter(([key]) => key !== "__proto__")
  const moved = [...others(patterns)]
  if (Object.hasOwn(properties, "__proto__")) moved.push(["^(?:__proto__)$", properties["__proto__"]])
  if (Object.hasOwn(patterns, "__proto__")) moved.push(["(?:__proto__)", patterns["__proto__"]])
  if (out.has("properties")) out.set("properties", Object.fromEntries(others(properties)))
  out.set("patternProperties", Object.fromEntries(moved))
}

/** `dependencies` of either kind, and what depends on `__proto__`, which ajv passes over here too. */
export const dependents = (out: Map<string, unknown>, all: Array<unknown>): void => {
  const old = Object.entries((out.get("dependencies") ?? {}) as Json)
  out.delete("dependencies")
  for (const [keyword, before] of [
    ["dependentRequired", old.filter(([, value]) => Array.isArray(value))],
    ["dependentSchemas", old.filter(([, value]) => !Array.isArray(value))]
  ] as const) {
    const own = out.get(keyword)
    if (own !== undefined && !isObject(own)) throw new TypeError(`${keyword} of the schema is no object`)
    const entries = [...Object.entries(own ?? {}), ...before]
    out.delete(keyword)
    const plain = entries.filter(([key]) => key !== "__proto__")
    if (plain.length > 0) out.set(keyword, Object.fromEntries(plain))
    for (const [key, value] of entries) {
      if (key !== "__proto__") continue
      const then = keyword === "dependentSchemas" ? value : { required: value, [costKeyword]: [2, 0] }
      const free = { [costKeyword]: [1, 0] }
      all.push({
        if: { type: "object", required: [key], [costKeyword]: [1, 0] },
        then,
        else: free,
        [costKeyword]: [2, 0]
      })
    }
  }
}

/**
 * Whatever time a schema takes on a value, without the schemas within it, is bounded by this times a small constant.
 */
export const cost = (out: ReadonlyMap<string, unknown>): readonly [number, number] => {
  let base = 1 + out.size
  let each = 1
  for (const [keyword, value] of out) {
    if (Array.isArray(value)) base += keyword === "enum" ? 0 : value.length
    else if (isObject(value)) base += Object.keys(value).length
    if (keyword === "pattern") each += patternCost(String(value))
    if (keyword === "patternProperties") for (const pattern of Object.keys(value as Json)) each += patternCost(pattern)
    if (keyword === "dependentRequired")
      for (const names of Object.values(value as Json)) base += Number((names as Array<unknown>).length) || 0
  }
  return [base, each]
}
