/**
 * Records of the common code data sets, as tasks that {@link unitTests} judges. A record is data from outside: its fields
 * are decoded, bounded and checked, and what is wrong with one is a `TaskError` that names the field and the remedy.
 *
 * ```ts
 * const tasks = CodeRecords.jsonl("HumanEval.jsonl", CodeRecords.humanEval)
 * const reward = Reward.all({ tests: unitTests<UnitTestWork>({ work: (task) => task.data }) })
 * ```
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import * as Task from "../../src/data/Task.ts"
import { preambleOf } from "../internal/completion.ts"
import { PythonFloat } from "../../src/sandbox/TypedData.ts"
import type { ProgramCase, UnitTestCase, UnitTestWork } from "./UnitTests.ts"

/** Characters of a program or a text, and of the tests of an APPS record, which hold large inputs. */
const maxText = 262_144
const maxTests = 67_108_864

const Text = Schema.String.check(Schema.isMaxLength(maxText))
const Name = Text.check(Schema.isPattern(/^[A-Za-z_][A-Za-z0-9_]{0,199}$/))
const Id = Schema.Union([Schema.String.check(Schema.isMaxLength(200)), Schema.Int])

const HumanEval = Schema.Struct({ task_id: Id, prompt: Text, entry_point: Name, test: Text })

const Mbpp = Schema.Struct({
  task_id: Id,
  /** `text` in the full set, `prompt` in the sanitized one. */
  text: Schema.optionalKey(Text),
  prompt: Schema.optionalKey(Text),
  code: Text,
  test_list: Schema.NonEmptyArray(Text),
  test_setup_code: Schema.optionalKey(Text),
  test_imports: Schema.optionalKey(Schema.Array(Text))
})

const Apps = Schema.Struct({
  problem_id: Schema.optionalKey(Id),
  id: Schema.optionalKey(Id),
  question: Text,
  starter_code: Schema.optionalKey(Text),
  input_output: Schema.String.check(Schema.isMaxLength(maxTests))
})

const AppsTests = Schema.Struct({
  fn_name: Schema.optionalKey(Name),
  inputs: Schema.Array(Schema.Unknown),
  outputs: Schema.Array(Schema.Unknown)
})

const fail = (source: string, id: unknown, field: string, value: unknown, problem: string, remedy: string) =>
  new Task.TaskError({
    source,
    place: id === undefined ? "" : `record ${String(id).slice(0, 200)}`,
    field,
    value: value === undefined ? "" : String(JSON.stringify(value) ?? value).slice(0, 120),
    problem,
    remedy
  })

const issuesOf = SchemaIssue.makeFormatterStandardSchemaV1()

const decoder = <Record>(source: string, schema: Schema.Decoder<Record>) => {
  const decode = Schema.decodeUnknownResult(schema)
  return (record: unknown): Record => {
    const decoded = decode(record)
    if (decoded._tag === "Success") return decoded.success
    const [issue] = issuesOf(decoded.failure.issue).issues
    const field = (issue?.path ?? []).map((key) => String(typeof key === "object" ? key.key : key)).join(".")
    const own = (record ?? {}) as { readonly task_id?: unknown; readonly problem_id?: unknown }
    throw fail(
      source,
      own.task_id ?? own.problem_id,
      field,
      undefined,
      issue?.message ?? "it does not decode",
      `Give a record of ${source} as it was published, or correct the field`
    )
  }
}

const decodeHumanEval = decoder("HumanEval", HumanEval)

/**
 * A record of HumanEval (`task_id`, `prompt`, `entry_point`, `test`), or of a set in its form. A completion may go on with
 * the prompt or be the whole function in a chat answer. `check` runs apart from the candidate, with the helpers that the
 * prompt defines before the function. Throws a `TaskError`.
 *
 * @example
 * ```ts
 * const task = CodeRecords.humanEval({ task_id: 0, prompt: "def one():\n", entry_point: "one", test: "def check(one): ..." })
 * const verify = unitTests<UnitTestWork>({ work: (task) => task.data })
 * ```
 * @see Chen et al., Evaluating Large Language Models Trained on Code, 2021
 */
export const humanEval = (record: unknown): Task.Task<UnitTestWork> => {
  const { entry_point: entry, prompt, task_id, test } = decodeHumanEval(record)
  if (!/^def check\(/m.test(test)) {
    throw fail("HumanEval", task_id, "test", undefined, "it defines no check(candidate)", "Give the published test")
  }
  // the tests may know the function by its own name as well
  const tests = [
    preambleOf(prompt, entry),
    `from candidate import ${entry}`,
    test,
    `def test_check():\n    check(${entry})\n`
  ].join("\n\n")
  return { id: String(task_id), prompt, data: { kind: "tests", language: "python", entry, prompt, tests } }
}

const decodeMbpp = decoder("MBPP", Mbpp)

/**
 * A record of MBPP (`text` or `prompt`, `code`, `test_list`), full or sanitized. Every assertion is a test of its own. The
 * prompt shows the first one, which tells the function's name; the others stay out of the policy's sight. Throws a
 * `TaskError`.
 *
 * @see Austin et al., Program Synthesis with Large Language Models, 2021
 */
export const mbpp = (record: unknown): Task.Task<UnitTestWork> => {
  const { code, prompt, task_id, test_imports, test_list, test_setup_code, text } = decodeMbpp(record)
  const question = text ?? prompt
  if (question === undefined) {
    throw fail("MBPP", task_id, "text", undefined, "neither text nor prompt is there", "Give the published record")
  }
  const asserted = new Set(test_list.flatMap((test) => test.match(/\w+/g) ?? []))
  const names = Array.from(code.matchAll(/^(?:async[ \t]+def|def|class)[ \t]+(\w+)/gm), (match) => match[1]!)
  const entries = [...new Set(names)].filter((name) => asserted.has(name))
  const entry = entries.at(-1)
  if (entry === undefined) {
    throw fail("MBPP", task_id, "code", names, "none of what it defines is in test_list", "Give the published record")
  }
  const tests = [
    test_setup_code ?? "",
    ...(test_imports ?? []),
    `from candidate import ${entries.join(", ")}`,
    // the indentation would be part of a text of several lines; JSON's strings are Python's
    ...test_list.map((test, index) => {
      const body = /[\r\n]/.test(test.trim()) ? `exec(${JSON.stringify(test.trim())}, globals())` : test.trim()
      return `def test_${index + 1}():\n    ${body}`
    })
  ].join("\n")
  return {
    id: `MBPP/${task_id}`,
    prompt: `${question}\nYour code should pass this test, and others:\n${test_list[0]}\n`,
    data: { kind: "tests", language: "python", entry, tests }
  }
}

const decodeApps = decoder("APPS", Apps)
const decodeAppsTests = Schema.decodeUnknownResult(AppsTests)

/**
 * A record of APPS (`problem_id`, `question`, `starter_code`, `input_output`: JSON in a string), or of a set in its form:
 * calls of `fn_name`, which may be a method of `Solution`, or whole programs. Values are compared as `json`, printed text
 * as `approximate`. Integers keep all their digits, 1.0 stays a float, and objects whose keys are all integers are
 * dictionaries of integers, as in the data set's own judge. Throws a `TaskError`, also for a record without tests.
 *
 * @see Hendrycks et al., Measuring Coding Challenge Competence With APPS, 2021
 */
export const apps = (record: unknown): Task.Task<UnitTestWork> => {
  const { id, input_output, problem_id, question, starter_code } = decodeApps(record)
  const name = problem_id ?? id
  if (name === undefined) throw fail("APPS", undefined, "problem_id", undefined, "it is missing", "Number the record")
  const wrong = (problem: string, remedy = "Give the published record") =>
    fail("APPS", name, "input_output", input_output.slice(0, 100), problem, remedy)
  const decoded = decodeAppsTests(parsed(input_output, wrong))
  if (decoded._tag === "Failure") throw wrong(decoded.failure.message.slice(0, 300))
  const { fn_name: entry, inputs, outputs } = decoded.success
  if (inputs.length !== outputs.length) throw wrong(`${inputs.length} inputs for ${outputs.length} outputs`)
  if (inputs.length === 0) throw wrong("it holds no tests", "Leave the record out")
  const task = (data: UnitTestWork) => ({
    id: `APPS/${name}`,
    prompt: starter_code === undefined || starter_code === "" ? `${question}\n` : `${question}\n\n${starter_code}\n`,
    data
  })
  if (entry === undefined) {
    const text = (value: unknown): string => {
      if (typeof value === "string") return value
      if (Array.isArray(value) && value.every((line) => typeof line === "string")) return value.join("\n")
      throw wrong("an input or output of a program is neither text nor lines")
    }
    const cases = inputs.map((input, index): ProgramCase => ({ stdin: text(input), stdout: text(outputs[index]) }))
    return task({ kind: "programs", language: "python", cases, comparison: "approximate" })
  }
  // most records put every output into a list of its own
  const wrapped = outputs.every((output) => Array.isArray(output) && output.length === 1)
  const cases = inputs.map((input, index): UnitTestCase => {
    if (!Array.isArray(input)) throw wrong(`input ${index + 1} is not a list of arguments`)
    return { args: input, expect: wrapped ? (outputs[index] as ReadonlyArray<unknown>)[0] : outputs[index] }
  })
  return task({ kind: "calls", language: "python", entry, cases, comparison: "json" })
}

/** Deepest nesting of an argument: whoever walks it later may recurse. */
const maxDepth = 100

const parsed = (text: string, wrong: (problem: string) => Task.TaskError): unknown => {
  let value: unknown
  try {
    value = JSON.parse(text, withDigits as (key: string, value: unknown) => unknown)
  } catch (fault) {
    // a reviver recurses
    throw wrong(
      fault instanceof RangeError ? "it is nested too deeply" : `it is not JSON: ${String(fault).slice(0, 200)}`
    )
  }
  if (isDeeper(value, maxDepth)) throw wrong(`it is nested deeper than ${maxDepth}`)
  return value
}

const isDeeper = (value: unknown, levels: number): boolean => {
  if (typeof value !== "object" || value === null) return false
  const items: ReadonlyArray<unknown> = value instanceof Map ? [...value.values()] : Object.values(value)
  return levels === 0 || items.some((item) => isDeeper(item, levels - 1))
}

/** Python's numbers, and its integer keys, as JSON's text has them. */
const withDigits = (_key: string, value: unknown, context: { readonly source?: string }): unknown => {
  if (typeof value === "number") {
    if (!Number.isInteger(value)) return value
    if (/[.eE]/.test(context.source!)) return new PythonFloat(value)
    return Number.isSafeInteger(value) ? value : BigInt(context.source!)
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value
  const entries = Object.entries(value)
  return entries.length > 0 && entries.every(([key]) => /^-?\d{1,15}$/.test(key))
    ? new Map(entries.map(([key, item]) => [Number(key), item]))
    : value
}

/**
 * Tasks of a JSONL file, one record a line. Everything is read and checked when the source is loaded; an error names the
 * line, the field and what to do.
 *
 * @example
 * ```ts
 * const { heldOut, train } = Task.split(CodeRecords.jsonl("mbpp.jsonl", CodeRecords.mbpp), { heldOut: 0.1, seed: 1 })
 * ```
 */
export const jsonl = (path: string, read: (record: unknown) => Task.Task<UnitTestWork>): Task.Source<UnitTestWork> => {
  const rows = Task.jsonl(path, Schema.Record(Schema.String, Schema.Unknown), { id: "\0", prompt: () => "" })
  const load = Effect.gen(function* () {
    const { at: row, length } = yield* rows.load
    const tasks: Array<Task.Task<UnitTestWork>> = []
    for (let index = 0; index < length; index++) {
      const { data, id: place } = row(index)!
      tasks.push(
        yield* Effect.try({
          try: () => read(data),
          catch: (fault) => {
            if (!(fault instanceof Task.TaskError)) throw fault
            const { field, problem, remedy, value } = fault
            const at = [place, fault.place].filter((part) => part !== "").join(", ")
            return new Task.TaskError({ source: path, place: at, field, value, problem, remedy })
          }
        })
      )
    }
    return yield* Task.fromArray(tasks, path).load
  })
  return { name: path, load }
}
