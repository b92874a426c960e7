/**
 * Whether a completion is JSON that satisfies a schema: draft 2020-12 or draft 7. Made for a gate: no valid document,
 * no reward. Documents and schemas may both be hostile: sizes, depth and steps are bounded, patterns run in linear
 * time, nothing is fetched.
 */
import * as Schema from "effect/Schema"
import type { StandardJSONSchemaV1 } from "effect/StandardSchema"
import { OptionError } from "../../src/OptionError.ts"
import type { Task } from "../../src/data/Task.ts"
import type * as Verifier from "../../src/score/Verifier.ts"
import { parseJson, readJson, type Parsed } from "../internal/extractJson.ts"
import { compile, type ErrorObject } from "./internal/compile.ts"
import { creditOf } from "./internal/credit.ts"
import type { Draft, LinkOptions } from "./internal/link.ts"
import { lastText } from "../../src/rollout/Trajectory.ts"

/**
 * A JSON Schema document, or what can be turned into one: an effect Schema, or a schema of any library that
 * implements Standard JSON Schema (standardschema.dev/json-schema), of which the input side counts.
 */
export type SchemaLike = Readonly<Record<string, unknown>> | boolean | Schema.Top | StandardJSONSchemaV1

export interface JsonSchemaOptions {
  /** Longest document that is parsed; a longer one scores 0. Characters. Default 65,536. */
  readonly maxCharacters?: number
  /** Where the document is, instead of the search that `strict` and `lenient` modify. */
  readonly extract?: (text: string) => string
  /**
   * Whether the text must be the document and nothing else but white space. Default false: the whole text, else the
   * first fenced block that is JSON, else the first object or array in it that is complete.
   */
  readonly strict?: boolean
  /**
   * Whether JSON5 will do where there is no JSON: single quotes, bare keys, trailing commas, comments, and Python's
   * literals. What is cut off does not pass. Default false.
   */
  readonly lenient?: boolean
  /** The draft of schemas that do not say so by `$schema`. Default `2020-12`. */
  readonly draft?: Draft
  /** Whether `format` is asserted. Default false: an annotation, as the drafts have it. */
  readonly format?: boolean
  /** Schemas that `$ref` may name, by URI. Nothing is ever fetched. */
  readonly schemas?: Readonly<Record<string, Readonly<Record<string, unknown>> | boolean>>
  /**
   * The most that an invalid document can come near, from 0 to 1. Default 0: it scores 0. Otherwise it scores this
   * times the share of the schema's keywords that it keeps, beyond what `{}` or `[]` keep: only what the schema
   * requires counts, so nothing is earned by padding, and nothing by a document of another type than the root's.
   * Leave it out of gates.
   */
  readonly partialCredit?: number
}

/**
 * Scores 1 for a completion that holds JSON which satisfies the schema; otherwise 0, or partial credit, with the
 * first error. An object that has a key twice is not a document. A schema that is none, refers to what is not there, or
 * has a pattern without a linear-time form (look-around, back-references) is refused with an `OptionError`: at once when
 * it is given, as unscorable when it is a task's.
 *
 * @example
 * ```ts
 * const Call = Schema.Struct({ name: Schema.Literals(["add"]), arguments: Schema.Struct({ a: Schema.Int, b: Schema.Int }) })
 * const reward = Reward.all({ schema: Reward.gate(jsonSchema(Call)), result: toolReplay({ tools }) })
 * // or by task: jsonSchema((task) => task.data.schema, { draft: "7", partialCredit: 0.5 })
 * ```
 */
export const jsonSchema = <Data = any>(
  schema: SchemaLike | ((task: Task<Data>) => SchemaLike),
  options: JsonSchemaOptions = {}
): Verifier.VerifierFunction<Data> => {
  const { maxCharacters = 65_536, partialCredit = 0, strict = false, lenient = false } = options
  if (!(partialCredit >= 0 && partialCredit <= 1)) {
    throw new OptionError({
      module: "jsonSchema",
      option: "partialCredit",
      value: partialCredit,
      expected: "a number from 0 to 1",
      remedy: "Give the share of the score for an invalid document"
    })
  }
  if (strict && lenient) {
    throw new OptionError({
      module: "jsonSchema",
      option: "lenient",
      value: lenient,
      expected: "false beside `strict`",
      remedy: "Leave one of the two out"
    })
  }
  const judge = judgeWith({
    draft: options.draft ?? "2020-12",
    format: options.format ?? false,
    schemas: options.schemas ?? {}
  })
  const fixed = isByTask(schema) ? undefined : judge(schema)
  const read = (text: string): Parsed =>
    options.extract === undefined || strict
      ? readJson(text, maxCharacters, strict ? "strict" : lenient ? "lenient" : "default")
      : text.length > 4 * maxCharacters
        ? { fault: `longer than ${4 * maxCharacters} characters` }
        : parseJson(options.extract(text), maxCharacters)
  return ({ task, trajectory }) => {
    const judged = fixed ?? judge((schema as (task: Task<Data>) => SchemaLike)(task))
    const parsed = read(lastText(trajectory))
    if ("fault" in parsed) return { score: 0, reason: `no JSON: ${parsed.fault}` }
    const { errors, credit } = judged(parsed.value)
    if (errors === undefined) return { score: 0, reason: "invalid: it takes more steps to validate than are taken" }
    const read5 = parsed.json5 ? ", as JSON5" : ""
    const [error] = errors
    if (error === undefined) return { score: 1, reason: `valid${read5}` }
    const reason = `invalid${read5}: ${error.instancePath} ${error.message ?? ""}`.slice(0, 400)
    return { score: partialCredit === 0 ? 0 : partialCredit * credit(), reason }
  }
}

interface Judged {
  readonly errors: ReadonlyArray<ErrorObject> | undefined
  readonly credit: () => number
}

/** Remembers schemas by identity: to write one as text takes longer than to validate a document. */
const judgeWith = (options: LinkOptions): ((schema: SchemaLike) => (value: unknown) => Judged) => {
  const known = new WeakMap<object, (value: unknown) => Judged>()
  return (schema) => {
    const identity = typeof schema === "boolean" ? undefined : schema
    const found = identity === undefined ? undefined : known.get(identity)
    if (found !== undefined) return found
    const document = checked(schema, () => asDocument(schema, options.draft))
    const { validate } = checked(schema, () => compile(document, { ...options, all: false }))
    let credit: ReturnType<typeof creditOf> | undefined
    const judged = (value: unknown): Judged => ({
      errors: validate(value),
      credit: () => (credit ??= creditOf(compile(document, { ...options, all: true })))(value)
    })
    if (identity !== undefined) known.set(identity, judged)
    return judged
  }
}

/** The compiler says with a TypeError what is wrong with a schema. */
const checked = <A>(schema: SchemaLike, make: () => A): A => {
  try {
    return make()
  } catch (fault) {
    if (!(fault instanceof TypeError)) throw fault
    const expected = "a JSON Schema of draft 2020-12 or 7"
    const remedy = fault.message.replace(/^[a-z]/, (first) => first.toUpperCase())
    throw new OptionError({ module: "jsonSchema", option: "schema", value: schema, expected, remedy })
  }
}

const isStandard = (schema: unknown): schema is StandardJSONSchemaV1 =>
  (typeof schema === "object" || typeof schema === "function") && schema !== null && "~standard" in schema

const isByTask = <Data>(
  schema: SchemaLike | ((task: Task<Data>) => SchemaLike)
): schema is (task: Task<Data>) => SchemaLike =>
  // schemas of some libraries are functions
  typeof schema === "function" && !Schema.isSchema(schema) && !isStandard(schema)

const asDocument = (schema: SchemaLike, draft: Draft): unknown => {
  if (Schema.isSchema(schema)) {
    const { schema: root, definitions } = Schema.toJsonSchemaDocument(schema)
    const $schema = "https://json-schema.org/draft/2020-12/schema"
    return Object.keys(definitions).length === 0 ? { $schema, ...root } : { $schema, ...root, $defs: definitions }
  }
  if (!isStandard(schema)) return schema
  const { jsonSchema: converter, vendor } = schema["~standard"]
  if (typeof converter?.input !== "function") {
    throw new TypeError(
      `a schema of ${vendor} has no \`~standard.jsonSchema\`: update the library, or give the JSON Schema`
    )
  }
  const target = draft === "7" ? "draft-07" : "draft-2020-12"
  const $schema =
    draft === "7" ? "http://json-schema.org/draft-07/schema" : "https://json-schema.org/draft/2020-12/schema"
  return { $schema, ...converter.input({ target }) }
}
