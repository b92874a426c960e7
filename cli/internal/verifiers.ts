/** Verifiers by name: those of `quintain/rewards` that data can configure, and any module's by path. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { createHash } from "node:crypto"
import { readFile } from "node:fs/promises"
import { resolve } from "node:path"
import { pathToFileURL } from "node:url"
import type { SchemaLike } from "../../rewards/schema/JsonSchema.ts"
import type { Recording, ToolCall } from "../../rewards/tools/ToolReplay.ts"
import type { ProgramCase, UnitTestCase, UnitTestWork } from "../../rewards/code/UnitTests.ts"
import type { Task } from "../../src/data/Task.ts"
import * as Verifier from "../../src/score/Verifier.ts"
import { ScoreError } from "./ScoreError.ts"

export interface Builtin {
  readonly description: string
  /** Fields of the task's data that it reads. */
  readonly reads: string
  readonly make: (options: unknown) => Effect.Effect<Verifier.VerifierFunction, string>
}

/** `make` loads the verifier's module: what is not used need not start. */
const builtin = <Options>(
  description: string,
  reads: string,
  options: Schema.Decoder<Options>,
  make: (options: Options) => Promise<Verifier.VerifierFunction>
): Builtin => {
  const decode = Schema.decodeUnknownEffect(options, { onExcessProperty: "error" })
  return {
    description,
    reads,
    make: (given) =>
      decode(given).pipe(
        Effect.mapError(({ message }) => message.replaceAll(/\s+/g, " ")),
        Effect.flatMap((decoded) =>
          Effect.tryPromise({
            try: () => make(decoded),
            catch: (fault) => (fault instanceof Error ? fault.message : String(fault))
          })
        )
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

const has = (task: Task<any>, name: string): boolean =>
  typeof task.data === "object" && task.data !== null && Object.hasOwn(task.data, name)

const records = { "human-eval": "humanEval", mbpp: "mbpp", apps: "apps" } as const

/** The tests in the task's data: a test file, programs (cases with `stdin`), or calls of a function. */
const workOf =
  (entry: string | undefined) =>
  (task: Task<any>): UnitTestWork => {
    const name = entry ?? (has(task, "entry") ? field<string>(task, "entry") : undefined)
    if (has(task, "tests")) {
      return { kind: "tests", tests: field<string>(task, "tests"), ...(name === undefined ? {} : { entry: name }) }
    }
    const cases = field<ReadonlyArray<UnitTestCase | ProgramCase>>(task, "cases")
    const programs = cases.filter((one): one is ProgramCase => Object.hasOwn(one, "stdin"))
    if (programs.length > 0 && programs.length === cases.length) return { kind: "programs", cases: programs }
    return { kind: "calls", entry: name ?? field<string>(task, "entry"), cases: cases as ReadonlyArray<UnitTestCase> }
  }

const Extraction = Schema.Literals(["boxed", "hash", "phrase", "latex", "lastNumber", "choice", "whole"])
const Language = Schema.Literals(["javascript", "typescript", "python"])
const Whole = Schema.Int.check(Schema.isGreaterThanOrEqualTo(1))
const Share = Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1 }))

export const builtins: Readonly<Record<string, Builtin>> = {
  answer: builtin(
    "the final answer, compared by options.compare: math, exact, normalised, f1, number, choice",
    "answer, or options.field",
    Schema.Struct({
      compare: Schema.optionalKey(Schema.Literals(["exact", "normalised", "f1", "number", "math", "choice"])),
      extract: Schema.optionalKey(Schema.Union([Extraction, Schema.Array(Extraction)])),
      field: Schema.optionalKey(Schema.String),
      tolerance: Schema.optionalKey(
        Schema.Struct({ absolute: Schema.optionalKey(Schema.Finite), relative: Schema.optionalKey(Schema.Finite) })
      ),
      percent: Schema.optionalKey(Schema.Literals(["value", "unit"])),
      choices: Schema.optionalKey(Schema.String),
      deadline: Schema.optionalKey(Positive)
    }),
    async ({ field: name = "answer", ...options }) =>
      (await import("../../rewards/math/Answer.ts")).answer<any>({
        ...options,
        expected: (task) => field<string | number>(task, name)
      })
  ),
  citations: builtin(
    "citations such as [2] that name given sources",
    "sources (their count or numbers), unless options.sources is given",
    Schema.Struct({
      sources: Schema.optionalKey(Schema.Union([Schema.Int, Schema.Array(Schema.Int)])),
      required: Schema.optionalKey(Schema.Int)
    }),
    async ({ sources, ...options }) =>
      (await import("../../rewards/text/TextVerifiers.ts")).citations<any>(
        sources ?? ((task) => field<number>(task, "sources")),
        options
      )
  ),
  "json-schema": builtin(
    "JSON that satisfies a schema",
    "schema, unless options.schema is given",
    Schema.Struct({
      schema: Schema.optionalKey(JsonObject),
      maxCharacters: Schema.optionalKey(Whole),
      strict: Schema.optionalKey(Schema.Boolean),
      lenient: Schema.optionalKey(Schema.Boolean),
      draft: Schema.optionalKey(Schema.Literals(["7", "2020-12"])),
      format: Schema.optionalKey(Schema.Boolean),
      partialCredit: Schema.optionalKey(Share)
    }),
    async ({ schema, ...options }) =>
      (await import("../../rewards/schema/JsonSchema.ts")).jsonSchema<any>(
        schema ?? ((task) => field<SchemaLike>(task, "schema")),
        options
      )
  ),
  length: builtin(
    "a length between options.min and options.max",
    "nothing",
    Schema.Struct({
      min: Schema.optionalKey(Schema.Finite),
      max: Schema.optionalKey(Schema.Finite),
      unit: Schema.optionalKey(Schema.Literals(["characters", "words"])),
      margin: Schema.optionalKey(Positive)
    }),
    async ({ max, min, ...options }) =>
      (await import("../../rewards/text/TextVerifiers.ts")).textLength(
        { ...(min === undefined ? {} : { min }), ...(max === undefined ? {} : { max }) },
        options
      )
  ),
  pattern: builtin(
    "text that matches a regular expression",
    "pattern, unless options.pattern is given",
    Schema.Struct({
      pattern: Schema.optionalKey(Schema.String),
      whole: Schema.optionalKey(Schema.Boolean),
      absent: Schema.optionalKey(Schema.Boolean),
      flags: Schema.optionalKey(Schema.String)
    }),
    async ({ pattern, ...options }) =>
      (await import("../../rewards/text/TextVerifiers.ts")).matchesPattern<any>(
        pattern ?? ((task) => field<string>(task, "pattern")),
        options
      )
  ),
  repetition: builtin(
    "text without repetition",
    "nothing",
    Schema.Struct({ n: Schema.optionalKey(Whole), allowed: Schema.optionalKey(Share) }),
    async (options) => (await import("../../rewards/text/TextVerifiers.ts")).ngramRepetition(options)
  ),
  language: builtin(
    'text in the languages of options.languages, such as ["en"]',
    "nothing",
    Schema.Struct({ languages: Schema.Array(Schema.String), min: Schema.optionalKey(Share) }),
    async ({ languages, ...options }) =>
      (await import("../../rewards/text/Language.ts")).writtenInLanguage(languages, options)
  ),
  script: builtin(
    'text in the scripts of options.scripts, such as ["Cyrillic"]',
    "nothing",
    Schema.Struct({ scripts: Schema.Array(Schema.String), min: Schema.optionalKey(Share) }),
    async ({ scripts, ...options }) =>
      (await import("../../rewards/text/Language.ts")).writtenInScript(scripts, options)
  ),
  tags: builtin(
    "each tag of options.names once, in this order",
    "nothing",
    Schema.Struct({
      names: Schema.Array(Schema.String),
      outside: Schema.optionalKey(Schema.Boolean),
      empty: Schema.optionalKey(Schema.Boolean),
      opened: Schema.optionalKey(Schema.Boolean)
    }),
    async ({ names, ...options }) => (await import("../../rewards/text/TextVerifiers.ts")).formatTags(names, options)
  ),
  "tool-replay": builtin(
    "tool calls with the same results as recorded calls",
    "recordings: [{ name, arguments, result }], and calls if others than these are expected",
    Schema.Struct({
      score: Schema.optionalKey(Schema.Literals(["all", "share"])),
      exact: Schema.optionalKey(Schema.Boolean),
      maxCalls: Schema.optionalKey(Whole)
    }),
    async (options) => {
      const { recordedTools, toolReplay } = await import("../../rewards/tools/ToolReplay.ts")
      return toolReplay<any>({
        ...options,
        tools: (task) => recordedTools(field<ReadonlyArray<Recording>>(task, "recordings")),
        expected: (task) => field<ReadonlyArray<ToolCall>>(task, has(task, "calls") ? "calls" : "recordings")
      })
    }
  ),
  "unit-tests": builtin(
    "code, run in a sandbox; options.language, or options.records: human-eval, mbpp, apps",
    "entry with cases [{ args, expect }], or cases [{ stdin, stdout }], or tests (a file); or the record",
    Schema.Struct({
      records: Schema.optionalKey(Schema.Literals(["human-eval", "mbpp", "apps"])),
      entry: Schema.optionalKey(Schema.String),
      score: Schema.optionalKey(Schema.Literals(["all", "share"])),
      language: Schema.optionalKey(Schema.Union([Language, Schema.Array(Language)])),
      isolation: Schema.optionalKey(Schema.Literals(["bubblewrap", "process"])),
      timeout: Schema.optionalKey(Positive),
      total: Schema.optionalKey(Positive),
      memoryMb: Schema.optionalKey(Positive),
      children: Schema.optionalKey(Whole)
    }),
    async ({ entry, records: form, ...options }) => {
      const { unitTests } = await import("../../rewards/code/UnitTests.ts")
      if (form === undefined) return unitTests<any>({ ...options, work: workOf(entry) })
      const read = (await import("../../rewards/code/CodeRecords.ts"))[records[form]]
      return unitTests<any>({ ...options, work: (task) => read(task.data).data })
    }
  )
}

export interface Chosen {
  readonly verifier: Verifier.VerifierFunction | Verifier.WorkerVerifier
  /** Text that tells verifiers apart: changed options or a changed module give other scores. */
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
    const verifier = yield* Effect.mapError(
      found.make(options ?? {}),
      (fault) =>
        new ScoreError({
          problem: `--options do not fit ${name}: ${fault}`,
          remedy: "See quintain score --help"
        })
    )
    return { verifier, config: { name, options: options ?? {} } }
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
