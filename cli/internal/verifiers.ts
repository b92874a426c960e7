/** Verifiers by name: those of `quintain/rewards` that data can configure, and any module's by path. */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { createHash } from "node:crypto"
import { readFile } from "node:fs/promises"
import { resolve } from "node:path"
import { pathToFileURL } from "node:url"
import { jsonSchema, recordedTools, toolReplay, unitTests } from "../../rewards/index.ts"
import type { Recording, SchemaLike, ToolCall, UnitTestCase } from "../../rewards/index.ts"
import type { Task } from "../../src/Task.ts"
import * as Verifier from "../../src/Verifier.ts"
import { ScoreError } from "./ScoreError.ts"

export interface Builtin {
  readonly description: string
  /** Fields of the task's data that it reads. */
  readonly reads: string
  readonly make: (options: unknown) => Result.Result<Verifier.VerifierFunction, string>
}

const builtin = <Options>(
  description: string,
  reads: string,
  options: Schema.Decoder<Options>,
  make: (options: Options) => Verifier.VerifierFunction
): Builtin => {
  const decode = Schema.decodeUnknownResult(options, { onExcessProperty: "error" })
  return {
    description,
    reads,
    make: (given) =>
      Result.flatMap(
        Result.mapError(decode(given), ({ message }) => message.replaceAll(/\s+/g, " ")),
        (decoded) =>
          Result.try({
            try: () => make(decoded),
            catch: (fault) => (fault instanceof Error ? fault.message : String(fault))
          })
      )
  }
}

const Positive = Schema.Finite.check(Schema.isGreaterThan(0))
const JsonObject = Schema.Record(Schema.String, Schema.Unknown)

/** A field of the task's data, or a throw that says what is missing: a fault of the data, hence unscorable. */
const field = <A>(task: Task<any>, name: string): A => {
  const data: unknown = task.data
  if (typeof data !== "object" || data === null || !Object.hasOwn(data, name))
    throw new TypeError(`task ${task.id} has no data.${name}`)
  return (data as Readonly<Record<string, A>>)[name]!
}

/** Options that are absent are left out, so that the verifier's own defaults hold. */
const given = <A extends object>(options: A): A =>
  Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as A

export const builtins: Readonly<Record<string, Builtin>> = {
  "json-schema": builtin(
    "JSON that satisfies a schema",
    "schema, unless options.schema is given",
    Schema.Struct({
      schema: Schema.optionalKey(JsonObject),
      maxCharacters: Schema.optionalKey(Positive),
      strict: Schema.optionalKey(Schema.Boolean)
    }),
    ({ schema, ...options }) => jsonSchema(schema ?? ((task) => field<SchemaLike>(task, "schema")), options)
  ),
  "tool-replay": builtin(
    "tool calls that have the results of the recorded ones",
    "recordings: [{ name, arguments, result }], and calls where others than these are expected",
    Schema.Struct({
      score: Schema.optionalKey(Schema.Literals(["all", "share"])),
      exact: Schema.optionalKey(Schema.Boolean),
      maxCalls: Schema.optionalKey(Positive)
    }),
    (options) =>
      toolReplay<any>({
        ...options,
        tools: (task) => recordedTools(field<ReadonlyArray<Recording>>(task, "recordings")),
        expected: (task) =>
          field<ReadonlyArray<ToolCall>>(task, Object.hasOwn(task.data as object, "calls") ? "calls" : "recordings")
      })
  ),
  "unit-tests": builtin(
    "code whose function returns what is expected",
    "cases: [{ args, expect }], and entry unless options.entry is given",
    Schema.Struct({
      entry: Schema.optionalKey(Schema.String),
      score: Schema.optionalKey(Schema.Literals(["all", "share"])),
      language: Schema.optionalKey(Schema.Literals(["javascript", "typescript"])),
      timeout: Schema.optionalKey(Positive),
      total: Schema.optionalKey(Positive),
      memoryMb: Schema.optionalKey(Positive),
      children: Schema.optionalKey(Positive)
    }),
    ({ entry, ...options }) =>
      unitTests<any>(
        given({
          ...options,
          entry: entry ?? ((task: Task<any>) => field<string>(task, "entry")),
          cases: (task: Task<any>) => field<ReadonlyArray<UnitTestCase>>(task, "cases")
        })
      )
  )
}

export interface Chosen {
  readonly verifier: Verifier.VerifierFunction | Verifier.WorkerVerifier
  /** What distinguishes it from another verifier: changed options or a changed module give other scores. */
  readonly config: unknown
}

/** A path has a separator, an extension or an export; a builtin's name has none of them. */
const isPath = (name: string): boolean => /[#/\\]|\.[cm]?[jt]s$/.test(name)

export const choose = Effect.fnUntraced(function* (
  name: string,
  options: unknown
): Effect.fn.Return<Chosen, ScoreError> {
  if (!isPath(name)) {
    const found = Object.hasOwn(builtins, name) ? builtins[name] : undefined
    if (found === undefined) {
      return yield* new ScoreError({
        problem: `there is no verifier ${JSON.stringify(name)}`,
        remedy: `Name one of ${Object.keys(builtins).join(", ")}, or a module: path/to/module.ts#export`
      })
    }
    const made = found.make(options ?? {})
    if (Result.isFailure(made)) {
      return yield* new ScoreError({
        problem: `--options do not fit ${name}: ${made.failure}`,
        remedy: `See quintain score --help`
      })
    }
    return { verifier: made.success, config: { name, options: options ?? {} } }
  }
  const at = name.lastIndexOf("#")
  const path = resolve(at < 0 ? name : name.slice(0, at))
  const exported = at < 0 ? "default" : name.slice(at + 1)
  const source = yield* Effect.tryPromise({
    try: () => readFile(path),
    catch: (fault) =>
      new ScoreError({
        problem: `the verifier's module cannot be read: ${fault instanceof Error ? fault.message : String(fault)}`,
        remedy: "Check the path; it is relative to the working directory"
      })
  })
  const verifier = Verifier.worker({
    module: pathToFileURL(path),
    export: exported,
    ...(options === undefined ? {} : { options })
  })
  const content = createHash("sha256").update(source).digest("hex")
  return { verifier, config: { module: content, export: exported, options: options ?? null } }
})
