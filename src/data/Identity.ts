/**
 * Names and settings of what a run depends on.
 *
 * Losses, advantages, learning rates, rewards, environments and tokenizers have an identity. A run's record holds it,
 * so that a resume with another one is refused by name.
 */
import * as Schema from "effect/Schema"

export const Identity = Schema.Struct({
  name: Schema.String,
  /** Plain JSON: everything that changes results. */
  settings: Schema.JsonObject,
  /** Marks a function without an identity of its own: only its name can be compared. */
  opaque: Schema.optionalKey(Schema.Literal(true))
})
export interface Identity {
  readonly name: string
  readonly settings: Schema.JsonObject
  readonly opaque?: true
}

/** A value that states its identity, as the losses and advantages of this library do. */
export interface Identified {
  readonly identity: Identity
}

/**
 * Makes an identity from a name and settings.
 *
 * Settings become plain JSON. `undefined` is left out, infinite numbers and NaN become text, and functions become their
 * own identities.
 *
 * @example
 * ```ts
 * Identity.make("clipped", { low: 0.2, high: 0.28 })
 * ```
 */
export const make = (name: string, settings: Readonly<Record<string, unknown>> = {}): Identity => ({
  name,
  settings: plain(settings)
})

/** Returns the function or object with a field `identity`. */
export const identify = <A extends object>(value: A, identity: Identity): A & Identified =>
  Object.assign(value, { identity })

/**
 * Returns the identity of any value.
 *
 * A stated `identity` comes first, then a `name` with `settings`. A number is a `constant`. A bare function is opaque.
 */
export const of = (value: unknown): Identity => {
  if (typeof value === "number") return make("constant", { value })
  if ((typeof value !== "object" && typeof value !== "function") || value === null) {
    return { name: String(value), settings: {}, opaque: true }
  }
  if ("identity" in value && isIdentity(value.identity)) return value.identity
  if (typeof value === "function") return { name: value.name || "anonymous", settings: {}, opaque: true }
  if ("name" in value && typeof value.name === "string") {
    return make(value.name, "settings" in value && isRecord(value.settings) ? value.settings : {})
  }
  return { name: "object", settings: plain(value), opaque: true }
}

const isIdentity = Schema.is(Identity)

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value)

const plain = (settings: object): Schema.JsonObject =>
  Object.fromEntries(
    Object.entries(settings).flatMap(([key, value]) => (value === undefined ? [] : [[key, json(value)]]))
  )

const json = (value: unknown): Schema.Json => {
  if (value === null || typeof value === "string" || typeof value === "boolean") return value
  if (typeof value === "number") return Number.isFinite(value) ? value : String(value)
  if (Array.isArray(value)) return value.map(json)
  if (ArrayBuffer.isView(value)) return Array.from(value as unknown as ArrayLike<number>, json)
  if (value instanceof Date || value instanceof URL) return value.toJSON()
  if (typeof value === "function" || (typeof value === "object" && "identity" in value)) return { ...of(value) }
  return typeof value === "object" ? plain(value) : String(value)
}
