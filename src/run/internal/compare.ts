/** Compares the record of a run with the record that it was made with, when it is resumed. */
import type * as Schema from "effect/Schema"
import type { RunRecord } from "./record.ts"

/** A field of two records that is not the same. */
export interface Difference {
  /** Names joined by dots: `algorithm.loss.settings.high`. */
  readonly field: string
  readonly was: Schema.Json | undefined
  readonly is: Schema.Json | undefined
}

const isObject = (value: Schema.Json | undefined): value is Schema.JsonObject =>
  typeof value === "object" && value !== null && !Array.isArray(value)

/** Whether `field`, or an object that holds it, is among those that may change. */
const allowed = (field: string, mayChange: ReadonlyArray<string>): boolean =>
  mayChange.some((name) => field === name || field.startsWith(`${name}.`))

/**
 * The first field that differs. Two identities of other names differ as wholes, because their settings have nothing in
 * common.
 */
export const difference = (
  was: Schema.Json | undefined,
  is: Schema.Json | undefined,
  mayChange: ReadonlyArray<string>,
  field = ""
): Difference | undefined => {
  if (field !== "" && allowed(field, mayChange)) return undefined
  if (isObject(was) && isObject(is) && !("settings" in was && was["name"] !== is["name"])) {
    for (const key of new Set([...Object.keys(was), ...Object.keys(is)])) {
      const found = difference(was[key], is[key], mayChange, field === "" ? key : `${field}.${key}`)
      if (found !== undefined) return found
    }
    return undefined
  }
  return JSON.stringify(was) === JSON.stringify(is) ? undefined : { field, was, is }
}

/** Fields whose identity is opaque, with the function's name: `algorithm.loss (mine)`. */
export const opaque = (value: Schema.Json | RunRecord, field = ""): ReadonlyArray<string> => {
  if (Array.isArray(value)) return value.flatMap((item: Schema.Json, i) => opaque(item, `${field}.${i}`))
  if (typeof value !== "object" || value === null) return []
  const own =
    "opaque" in value && value.opaque === true ? [`${field} (${String((value as Schema.JsonObject)["name"])})`] : []
  return [
    ...own,
    ...Object.entries(value).flatMap(([key, inner]) =>
      opaque(inner as Schema.Json, field === "" ? key : `${field}.${key}`)
    )
  ]
}
