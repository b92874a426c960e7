/** Whether a completion is JSON that satisfies a schema (draft 2020-12). Made for a gate: no valid document, no reward. */
import { Ajv2020, type AnySchemaObject, type ValidateFunction } from "ajv/dist/2020.js"
import * as Schema from "effect/Schema"
import { RE2JS } from "re2js"
import type { Task } from "../src/Task.ts"
import type * as Verifier from "../src/Verifier.ts"
import { parseJson, readJson } from "./internal/extractJson.ts"

/** A JSON Schema document, or an effect Schema, which is turned into one. */
export type SchemaLike = Readonly<Record<string, unknown>> | boolean | Schema.Top

export interface JsonSchemaOptions {
  /** Longest document that is parsed; a longer one scores 0. Characters. Default 65,536. */
  readonly maxCharacters?: number
  /** Where the document is. Default: the whole text, else the first fenced block, else the first balanced brackets. */
  readonly extract?: (text: string) => string
  /** Whether the text must be the document and nothing else but white space. Default false. */
  readonly strict?: boolean
}

/** Compiled schemas that are kept. */
const maxCompiled = 512

/**
 * Scores 1 for a completion that holds JSON which satisfies the schema, 0 with the first error otherwise. Neither a
 * hostile document nor a hostile pattern takes long: size and depth are capped, patterns run in linear time (RE2 syntax: a
 * schema with look-around or back-references is refused and unscorable). `format` is an annotation, as the draft says.
 *
 * @example
 * ```ts
 * const Call = Schema.Struct({ name: Schema.Literals(["add"]), arguments: Schema.Struct({ a: Schema.Int, b: Schema.Int }) })
 * const reward = Reward.all({ schema: Reward.gate(jsonSchema(Call)), result: toolReplay({ tools }) })
 * // or by task: jsonSchema((task) => task.data.schema)
 * ```
 */
export const jsonSchema = <Data = any>(
  schema: SchemaLike | ((task: Task<Data>) => SchemaLike),
  options: JsonSchemaOptions = {}
): Verifier.VerifierFunction<Data> => {
  const maxCharacters = options.maxCharacters ?? 65_536
  const fixed = typeof schema === "function" && !Schema.isSchema(schema) ? undefined : compiled(schema as SchemaLike)
  return ({ task, trajectory }) => {
    const validate = fixed ?? compiled((schema as (task: Task<Data>) => SchemaLike)(task))
    const { text } = trajectory
    // what is looked for is bounded before it is looked for
    if (text.length > 4 * maxCharacters) return { score: 0, reason: `longer than ${4 * maxCharacters} characters` }
    const parsed = options.extract
      ? parseJson(options.extract(text), maxCharacters)
      : readJson(text, maxCharacters, options.strict ? "strict" : "default")
    if ("fault" in parsed) return { score: 0, reason: `no JSON: ${parsed.fault}` }
    if (validate(parsed.value)) return { score: 1, reason: "valid" }
    const [error] = validate.errors ?? []
    return { score: 0, reason: `invalid: ${error?.instancePath ?? ""} ${error?.message ?? ""}`.slice(0, 400) }
  }
}

/**
 * Patterns in linear time. ajv tells patterns apart by `toString()`, so without a distinct one every pattern of a schema
 * would be the first one.
 */
const linear = Object.assign(
  (pattern: string) => {
    const compiled = RE2JS.compile(RE2JS.translateRegExp(pattern))
    const text = `/${pattern}/u`
    return { test: (value: string) => compiled.matcher(value).find(), toString: () => text }
  },
  { code: "linear" }
)

const makeAjv = (): Ajv2020 => {
  const ajv = new Ajv2020({
    strict: false,
    validateFormats: false,
    ownProperties: true,
    // 0.3 is a multiple of 0.1
    multipleOfPrecision: 9,
    // a document is data: it is never logged, and errors end at the first
    logger: false,
    code: { regExp: linear as never }
  })
  // ajv's own takes quadratic time
  ajv.removeKeyword("uniqueItems")
  ajv.addKeyword({
    keyword: "uniqueItems",
    type: "array",
    schemaType: "boolean",
    compile: (wanted: boolean) => (items: ReadonlyArray<unknown>) => !wanted || allDistinct(items)
  })
  return ajv
}

const allDistinct = (items: ReadonlyArray<unknown>): boolean => new Set(items.map(canonical)).size === items.length

/** JSON with sorted keys. */
const canonical = (value: unknown): string => {
  if (typeof value !== "object" || value === null) return JSON.stringify(value) ?? "null"
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`
  const entries = Object.entries(value).toSorted(([a], [b]) => (a < b ? -1 : 1))
  return `{${entries.map(([key, item]) => `${JSON.stringify(key)}:${canonical(item)}`).join(",")}}`
}

interface Compiled {
  readonly validate: ValidateFunction
  readonly forget: () => void
}

/** By identity first, then by canonical text, which forgets the oldest. */
const byIdentity = new WeakMap<object, ValidateFunction>()
const byText = new Map<string, Compiled>()
let shared: Ajv2020 | undefined

const compile = (document: AnySchemaObject | boolean, text: string): Compiled => {
  // An instance of its own where names are declared: an $id in one schema must not be seen from another. It is ten times
  // the work, because it compiles the meta-schema again.
  if (/"\$(id|anchor|dynamicAnchor)"/.test(text)) return { validate: makeAjv().compile(document), forget: () => {} }
  const ajv = (shared ??= makeAjv())
  return {
    validate: ajv.compile(document),
    forget: () => void (typeof document === "object" && ajv.removeSchema(document))
  }
}

const compiled = (schema: SchemaLike): ValidateFunction => {
  const identity = typeof schema === "boolean" ? undefined : schema
  const known = identity === undefined ? undefined : byIdentity.get(identity)
  if (known !== undefined) return known
  const document = asDocument(schema) as AnySchemaObject | boolean
  const text = canonical(document)
  let found = byText.get(text)
  if (found === undefined) {
    byText.set(text, (found = compile(document, text)))
    if (byText.size > maxCompiled) {
      const [oldest] = byText
      byText.delete(oldest![0])
      oldest![1].forget()
    }
  }
  if (identity !== undefined) byIdentity.set(identity, found.validate)
  return found.validate
}

const asDocument = (schema: SchemaLike): unknown => {
  if (!Schema.isSchema(schema)) return schema
  const { schema: root, definitions } = Schema.toJsonSchemaDocument(schema)
  return Object.keys(definitions).length === 0 ? root : { ...root, $defs: definitions }
}
