/**
 * Checked fields of a `tokenizer.json`. Each reader returns a value in the form that the library reads exactly, or
 * throws a {@link TokenizerError} that names the field.
 */
import { isKnown, problemOf } from "./pattern.ts"
import { TokenizerError } from "./TokenizerError.ts"

export type Json = Readonly<Record<string, unknown>>

/** Most characters that a replacement may write; several in a row multiply. */
const MAX_CONTENT = 8
export const MAX_REPLACEMENTS = 4

const OTHER = "Use a checkpoint of another kind, or write a Tokenizer of your own"

export type Fail = (field: string, problem: string, remedy?: string) => TokenizerError

export const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value)

export class Fields {
  readonly fail: Fail
  /** Whether a pattern was read that no known model has. */
  foreignPatterns = false

  constructor(file: string) {
    this.fail = (field, problem, remedy = OTHER) => new TokenizerError({ file, field, problem, remedy })
  }

  unknownType(field: string, value: Json): TokenizerError {
    return this.fail(`${field}.type`, `${JSON.stringify(value["type"])} is not read`)
  }

  text(value: unknown, field: string): string {
    if (typeof value !== "string") throw this.fail(field, "text was expected")
    return value
  }

  short(value: unknown, field: string): string {
    const found = this.text(value, field)
    if (found.length > MAX_CONTENT) throw this.fail(field, `${found.length} characters, more than ${MAX_CONTENT}`)
    return found
  }

  literal(value: unknown, field: string): string {
    const found = this.short(value, field)
    if (found === "") throw this.fail(field, "an empty text matches everywhere")
    return found
  }

  /** Bounds the steps of each kind: each may make the text longer. */
  bounded(steps: ReadonlyArray<Json>, field: string): void {
    for (const [type, most] of [
      ["Replace", MAX_REPLACEMENTS],
      ["ByteLevel", 1],
      ["Metaspace", 1],
      ["Prepend", 1]
    ] as const) {
      if (steps.filter((step) => step["type"] === type).length > most) {
        throw this.fail(field, `more than ${most} of ${type}`)
      }
    }
  }

  sequence(value: unknown, field: string, each: (item: Json, field: string) => Json): ReadonlyArray<Json> {
    if (!Array.isArray(value) || value.length > 16) throw this.fail(field, "a list of at most 16 was expected")
    return value.map((item, index) => {
      const at = `${field}.${index}`
      if (!isObject(item) || item["type"] === "Sequence") {
        throw this.fail(at, "not a component, or a nested sequence")
      }
      return each(item, at)
    })
  }

  pattern(value: unknown, field: string): Json {
    if (!isObject(value)) throw this.fail(field, "{ String } or { Regex } was expected")
    return typeof value["Regex"] === "string"
      ? this.#regex(value["Regex"], `${field}.Regex`)
      : { String: this.literal(value["String"], `${field}.String`) }
  }

  #regex(source: string, field: string): Json {
    const problem = problemOf(source)
    if (problem !== undefined) throw this.fail(field, problem)
    this.foreignPatterns ||= !isKnown(source)
    return { Regex: source }
  }
}
