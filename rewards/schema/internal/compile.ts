/** Linked schemas, compiled by ajv: every application of a schema is counted, so that validation ends. */
import {
  _,
  Ajv2020,
  type CodeKeywordDefinition,
  type ErrorObject,
  type FuncKeywordDefinition,
  type ValidateFunction
} from "ajv/dist/2020.js"
import { alwaysValidSchema, Type } from "ajv/dist/compile/util.js"
import { canonical } from "../../internal/canonicalJson.ts"
import { linearPattern } from "../../internal/linearPattern.ts"
import { formats } from "./formats.ts"
import { link, type Linked, type LinkOptions } from "./link.ts"
import { costKeyword } from "./rewrite.ts"

/**
 * Steps of one validation: some 10 million are taken in a second. Of those that collect all errors, which need
 * memory, fewer.
 */
const maxSteps = { first: 1_000_000, all: 200_000 }
/** Longest schema, as JSON text. Characters. */
const maxSchema = 1_000_000
/** Compiled schemas that are kept, and schemas that a compiler compiles before it is replaced: it never forgets one. */
const maxCompiled = 512

export interface CompileOptions extends LinkOptions {
  /** Whether all errors are collected, not the first alone. */
  readonly all: boolean
}

export interface Compiled {
  readonly linked: Linked
  /** `undefined`: more steps than are taken. */
  readonly validate: (value: unknown) => ReadonlyArray<ErrorObject> | undefined
}

const exhausted = new Error("the steps of this validation are used up")

/** Steps that remain for the present validation; validation is synchronous. */
let left = 0
const spend = (steps: number): void => {
  if ((left -= steps) < 0) throw exhausted
}

const sizeOf = (value: unknown): number => {
  if (typeof value === "string" || Array.isArray(value)) return value.length
  if (typeof value !== "object" || value === null) return 1
  let size = 0
  for (const key in value) size += 1 + key.length / 16
  return size
}

const text = (value: unknown): string => {
  const found = canonical(value)
  spend(found.length / 2)
  return found
}

const keywords: ReadonlyArray<FuncKeywordDefinition | CodeKeywordDefinition> = [
  {
    keyword: costKeyword,
    schemaType: "array",
    before: "$ref",
    errors: false,
    compile:
      ([base, each]: [number, number]) =>
      (value: unknown) => {
        spend(base + each * sizeOf(value))
        // it depends on this: ajv leaves out calls of keywords that are declared always valid
        return true
      }
  },
  {
    // ajv's own takes quadratic time
    keyword: "uniqueItems",
    type: "array",
    schemaType: "boolean",
    error: { message: "must NOT have duplicate items" },
    compile: (wanted: boolean) => (items: ReadonlyArray<unknown>) =>
      !wanted || new Set(items.map(text)).size === items.length
  },
  {
    // ajv's own calls what the document says is its `valueOf`
    keyword: "const",
    error: { message: "must be equal to constant" },
    compile: (constant: unknown) => equalToOneOf([constant])
  },
  {
    keyword: "enum",
    schemaType: "array",
    error: { message: "must be equal to one of the allowed values" },
    compile: (values: ReadonlyArray<unknown>) => equalToOneOf(values)
  },
  {
    // 0.3 is a multiple of 0.1
    keyword: "multipleOf",
    type: "number",
    schemaType: "number",
    error: { message: ({ schema }) => `must be multiple of ${String(schema)}` },
    compile: (divisor: number) => (value: number) => isMultiple(value, divisor)
  },
  {
    // where the items that are evaluated are known when it runs, ajv's own takes "all" for one
    keyword: "unevaluatedItems",
    type: "array",
    schemaType: ["boolean", "object"],
    error: { message: "must NOT have unevaluated items" },
    code: (cxt) => {
      const { gen, data, it } = cxt
      const schema: unknown = cxt.schema
      const evaluated = it.items ?? 0
      it.items = true
      if (evaluated === true) return
      const length = gen.const("len", _`${data}.length`)
      const from = gen.const("from", _`${evaluated} === true ? ${length} : ${evaluated} || 0`)
      if (schema === false) return cxt.fail(_`${length} > ${from}`)
      if (alwaysValidSchema(it, schema as boolean | object)) return
      const valid = gen.var("valid", true)
      gen.forRange("i", from, length, (index) => {
        cxt.subschema({ keyword: "unevaluatedItems", dataProp: index, dataPropType: Type.Num }, valid)
        if (!it.allErrors) gen.if(_`!${valid}`, () => gen.break())
      })
      cxt.ok(valid)
    }
  }
]

const equalToOneOf = (values: ReadonlyArray<unknown>) => {
  const known = new Set(values.map(canonical))
  const scalars = values.every((value) => typeof value !== "object" || value === null)
  return (value: unknown) => (typeof value !== "object" || value === null || !scalars) && known.has(text(value))
}

/** By the decimal digits that the numbers are written with. */
const isMultiple = (value: number, divisor: number): boolean => {
  const [digits, exponent] = decimal(value)
  const [others, other] = decimal(divisor)
  const least = Math.min(exponent, other)
  return (digits * 10n ** BigInt(exponent - least)) % (others * 10n ** BigInt(other - least)) === 0n
}

const decimal = (value: number): readonly [bigint, number] => {
  const [mantissa, exponent] = value.toExponential().split("e") as [string, string]
  const [whole, fraction = ""] = mantissa.split(".") as [string, string?]
  return [BigInt(whole + fraction), Number(exponent) - fraction.length]
}

/**
 * ajv tells patterns apart by `toString()`: without a distinct one every pattern of a schema would be the first one.
 */
const regExp = Object.assign(
  (pattern: string) => {
    const compiled = linearPattern(pattern)
    const name = `/${pattern}/u`
    return { test: (value: string) => compiled.matcher(value).find(), toString: () => name }
  },
  { code: "linear" }
)

const makeAjv = (all: boolean): Ajv2020 => {
  const ajv = new Ajv2020({
    strict: false,
    ownProperties: true,
    allErrors: all,
    // who is at fault is told by the identity of the schema
    verbose: all,
    inlineRefs: false,
    logger: false,
    // schemas come one by one with their tasks: to optimise their code takes longer than it saves
    code: { regExp: regExp as never, optimize: false }
  })
  for (const [name, format] of Object.entries(formats())) ajv.addFormat(name, format)
  for (const definition of keywords) {
    ajv.removeKeyword(definition.keyword as string)
    ajv.addKeyword(definition)
  }
  return ajv
}

const compilers = new Map<boolean, { readonly ajv: Ajv2020; compiled: number }>()

const compilerOf = (all: boolean): Ajv2020 => {
  let found = compilers.get(all)
  if (found === undefined || found.compiled++ >= maxCompiled)
    compilers.set(all, (found = { ajv: makeAjv(all), compiled: 1 }))
  return found.ajv
}

const kept = new Map<string, Compiled>()
/** The text of what references may name, by identity. */
const registries = new WeakMap<object, string>()

/**
 * Throws a `TypeError` for a document that is not a schema, has patterns without a linear-time form, or takes too many
 * steps.
 */
export const compile = (document: unknown, options: CompileOptions): Compiled => {
  const source = schemaText(document)
  let registry = registries.get(options.schemas)
  if (registry === undefined) registries.set(options.schemas, (registry = schemaText(options.schemas)))
  const key = JSON.stringify([source, options.draft, options.format, options.all, registry])
  let found = kept.get(key)
  if (found === undefined) {
    kept.set(key, (found = compileNew(source, options)))
    if (kept.size > maxCompiled) kept.delete(kept.keys().next().value!)
  } else {
    kept.delete(key)
    kept.set(key, found)
  }
  return found
}

const schemaText = (document: unknown): string => {
  let source: string
  try {
    source = canonical(document)
  } catch {
    throw new TypeError("the schema is nested too deeply, or refers to itself; use $ref")
  }
  if (source.length > maxSchema) throw new TypeError(`the schema has more than ${maxSchema} characters`)
  return source
}

const compileNew = (source: string, options: CompileOptions): Compiled => {
  // the meta-schema is one of ours too
  left = Number.POSITIVE_INFINITY
  const linked = guarded(() => link(JSON.parse(source), options))
  const check: ValidateFunction = guarded(() => compilerOf(options.all).compile(linked.schema))
  const steps = options.all ? maxSteps.all : maxSteps.first
  const validate = (value: unknown): ReadonlyArray<ErrorObject> | undefined => {
    left = steps
    try {
      return check(value) ? [] : (check.errors ?? [])
    } catch (fault) {
      // a schema that leads back to itself on the same value has no end
      if (fault === exhausted || fault instanceof RangeError) return undefined
      throw fault
    } finally {
      check.errors = null
    }
  }
  if (!options.all && trivial.some((value) => validate(value) === undefined)) {
    throw new TypeError(`the schema takes more than ${steps} steps on an empty document: its $refs branch without end`)
  }
  return { linked, validate }
}

/** The documents that anybody can write. */
export const trivial: ReadonlyArray<unknown> = [null, true, 0, "", [], {}]

const guarded = <A>(make: () => A): A => {
  try {
    return make()
  } catch (fault) {
    if (fault instanceof RangeError) throw new TypeError("the schema is nested too deeply", { cause: fault })
    if (fault instanceof TypeError) throw fault
    throw new TypeError(fault instanceof Error ? fault.message.slice(0, 400) : "no schema", { cause: fault })
  }
}

export type { ErrorObject }
