/** Model-written code, judged by what its function returns, what its program prints, or by a test file. */
import { OptionError } from "../../src/OptionError.ts"
import type { Task } from "../../src/data/Task.ts"
import * as Verifier from "../../src/score/Verifier.ts"
import {
  comparisonFault,
  outputsMatch,
  valuesMatch,
  type NamedComparison,
  type Tolerance
} from "../internal/compare.ts"
import { continued, dedent, extractCode } from "../internal/completion.ts"
import { decode, encode, Opaque } from "../../src/sandbox/TypedData.ts"
import { lastText } from "../../src/rollout/Trajectory.ts"
import * as Sandbox from "../../src/sandbox/Sandbox.ts"
import * as Sandboxes from "../../src/sandbox/Sandboxes.ts"
import type { Language } from "../../src/sandbox/Sandbox.ts"

export type { NamedComparison, Tolerance }

/** One call of the candidate's function. */
export interface UnitTestCase {
  readonly args: ReadonlyArray<unknown>
  readonly expect: unknown
}

/** One run of the candidate's program. */
export interface ProgramCase {
  readonly stdin: string
  readonly stdout: string
}

/**
 * A comparison by name (see {@link NamedComparison}), or your own. Yours gets plain data, or an object of class `Opaque`
 * where the candidate returned a function or the like; where it throws on what a candidate returned, that case fails.
 */
export type Comparison<Data = unknown> =
  | NamedComparison
  | ((actual: unknown, expected: unknown, task: Task<Data>) => boolean)

interface Source {
  /** Language of code whose fence names none. Code in another language scores 0; JavaScript and TypeScript count as one. */
  readonly language?: Language
  /** The beginning of a Python program that completions may go on with, as base models do. */
  readonly prompt?: string
}

/** The tests of a completion as data, which records of data sets become. */
export type UnitTestWork = Source &
  (
    | {
        readonly kind: "calls"
        /** Name of the function that the candidate has to define. */
        readonly entry: string
        readonly cases: ReadonlyArray<UnitTestCase>
        readonly comparison?: NamedComparison
      }
    | {
        readonly kind: "programs"
        readonly cases: ReadonlyArray<ProgramCase>
        readonly comparison?: NamedComparison
      }
    | {
        readonly kind: "tests"
        /** A test file, which runs apart from the candidate and reaches its functions over a data channel. */
        readonly tests: string
        /** The function that the tests call, if it is one: tells the candidate's code from its usage examples. */
        readonly entry?: string
      }
  )

interface Common<Data> extends Sandbox.SandboxOptions {
  /**
   * `all`: 1 when every case passes, else 0. `share`: the share that passes. A share can be exploited: an answer that is
   * constant, or handles the easy inputs alone, earns what those are worth for ever. Default `all`.
   */
  readonly score?: "all" | "share"
  /** Finds the code in the completion. Default: the block that defines the entry (see the docs of {@link unitTests}). */
  readonly extract?: (text: string, task: Task<Data>) => string
  /** Languages that are accepted; the first is that of code whose fence names none. Others score 0. Default `javascript`. */
  readonly language?: Language | ReadonlyArray<Language>
  /** Runs the code, by language. Default: `Sandboxes.get`, shared by all verifiers of the same limits. */
  readonly sandbox?: (language: Language) => Sandbox.Sandbox
}

type Given<Data, Value> = Value | ((task: Task<Data>) => Value)

/** Exactly one of `cases`, `programs`, `tests` and `work` says what is tested. */
export type UnitTestsOptions<Data> = Common<Data> &
  (
    | {
        /** Calls of the function `entry`. */
        readonly cases: Given<Data, ReadonlyArray<UnitTestCase>>
        /** Name of the function that the candidate has to define. */
        readonly entry: Given<Data, string>
        /** Default `exact`. */
        readonly comparison?: Comparison<Data>
      }
    | {
        /** Runs of a whole program. */
        readonly programs: Given<Data, ReadonlyArray<ProgramCase>>
        /** Default `exact`: the same lines. */
        readonly comparison?: Comparison<Data>
      }
    | {
        /** A test file, as in {@link UnitTestWork}. */
        readonly tests: Given<Data, string>
        readonly entry?: Given<Data, string>
      }
    | {
        /** Any of the three, by task. Its `language` holds unless the option is given. */
        readonly work: (task: Task<Data>) => UnitTestWork
        /** Instead of the comparison that the work names. */
        readonly comparison?: Comparison<Data>
      }
  )

/** The status of a candidate: the first case that did not pass decides. */
export type UnitTestStatus = "pass" | "fail" | "error" | "timeout" | "memory" | "output"

const statuses: ReadonlyArray<UnitTestStatus> = ["pass", "fail", "error", "timeout", "memory", "output"]

/**
 * Runs the completion's code in a sandbox and compares here: the candidate never sees what is expected. A candidate that
 * loops, throws, or exhausts memory scores 0 with that reason; a sandbox that fails is unscorable, and so is everything
 * on a machine that does not hold the isolation asked for (a process warning says so at the first use, with the remedy).
 * Metrics: `passed`, `cases`, and each {@link UnitTestStatus} as 0 or 1.
 *
 * The code is the completion's last fenced block that defines the entry, else the last in a wanted language, else the
 * last; without a block it is all of it. Thoughts in `<think>` tags are passed over.
 *
 * @example
 * ```ts
 * const calls = unitTests<{ cases: Array<UnitTestCase> }>({ entry: "add", cases: (task) => task.data.cases })
 * // "```js\nconst add = (a, b) => a + b\n```" with [{ args: [1, 2], expect: 3 }] scores 1: pass, 1 of 1
 * const programs = unitTests({ language: "python", programs: [{ stdin: "2\n", stdout: "4\n" }], comparison: "approximate" })
 * const file = unitTests({ language: "python", tests: "from candidate import add\ndef test_add():\n    assert add(1, 2) == 3" })
 * const records = unitTests<UnitTestWork>({ work: (task) => task.data })   // tasks of CodeRecords
 * ```
 */
export const unitTests = <Data = unknown>(options: UnitTestsOptions<Data>): Verifier.VerifierFunction<Data> => {
  const named = "comparison" in options ? options.comparison : undefined
  const fault = typeof named === "function" || named === undefined ? undefined : comparisonFault(named)
  if (fault !== undefined) {
    throw new OptionError({
      module: "unitTests",
      option: "comparison",
      value: named,
      expected: "a known comparison",
      remedy: fault
    })
  }
  const sandboxOf = options.sandbox ?? ((language) => Sandboxes.get({ ...options, language }))
  const all = (options.score ?? "all") === "all"

  return Verifier.withDeadline(QUEUE, async ({ task, trajectory, signal }): Promise<Verifier.Verdict> => {
    const work = workOf(options, task)
    const comparison = named ?? ("comparison" in work ? work.comparison : undefined) ?? "exact"
    const wrong = typeof comparison === "function" ? undefined : comparisonFault(comparison)
    if (wrong !== undefined) return Verifier.unscorable(`task ${task.id}: ${wrong}`)
    const count = work.kind === "tests" ? 1 : work.cases.length
    if (count === 0) return Verifier.unscorable(`task ${task.id} has no unit tests`)

    const accepted = [options.language ?? work.language ?? "javascript"].flat()
    const code = codeOf(options, work, task, lastText(trajectory), accepted)
    if (code.source.trim() === "")
      return verdict([{ status: "error", detail: "no code in the completion" }], count, all)
    const language = accepted.find((one) => family(one) === family(code.language)) && code.language
    if (language === undefined) {
      return verdict(
        [{ status: "error", detail: `it is ${code.language}; wanted is ${accepted.join(" or ")}` }],
        count,
        all
      )
    }
    const expected = expectedOf(work, family(language), typeof comparison !== "function")
    if (typeof expected === "string") return Verifier.unscorable(`task ${task.id}: ${expected}`)
    const candidate = { source: code.source, language }
    try {
      const sandbox = sandboxOf(language)
      if (work.kind === "tests") {
        const tested = await sandbox.test(candidate, { tests: work.tests }, signal)
        if (tested._tag === "Infrastructure") return Verifier.unscorable(`sandbox: ${tested.detail}`)
        if (tested.results.length === 0) return Verifier.unscorable(`the test file of task ${task.id} has no tests`)
        return verdict(tested.results.map(judgedTest), tested.results.length, all)
      }
      const evaluation: Sandbox.Evaluation<Sandbox.CallResult> =
        work.kind === "calls"
          ? await sandbox.call(
              candidate,
              { entry: work.entry, calls: work.cases.map((one) => one.args), stopEarly: all },
              signal
            )
          : await sandbox.run(candidate, { inputs: work.cases.map((one) => one.stdin), stopEarly: all }, signal)
      if (evaluation._tag === "Infrastructure") return Verifier.unscorable(`sandbox: ${evaluation.detail}`)
      const matches = matcher(comparison, work.kind, task)
      return verdict(
        evaluation.results.slice(0, count).map((result, index) => judgedCall(result, expected[index], matches)),
        count,
        all
      )
    } catch (failure) {
      if (failure instanceof Sandbox.SandboxRefused) {
        warnOnce(failure)
        return Verifier.unscorable(failure.message)
      }
      throw failure
    }
  })
}

/** Milliseconds to wait for a worker of the sandbox, behind candidates that use up their own time. */
const QUEUE = 600_000

const workOf = <Data>(options: UnitTestsOptions<Data>, task: Task<Data>): UnitTestWork => {
  const given = <Value>(value: Given<Data, Value>): Value =>
    typeof value === "function" ? (value as (task: Task<Data>) => Value)(task) : value
  if ("work" in options) return options.work(task)
  if ("programs" in options) return { kind: "programs", cases: given(options.programs) }
  if ("tests" in options) {
    const tests = given(options.tests)
    return options.entry === undefined
      ? { kind: "tests", tests }
      : { kind: "tests", tests, entry: given(options.entry) }
  }
  return { kind: "calls", entry: given(options.entry), cases: given(options.cases) }
}

const family = (language: Language): "script" | "python" => (language === "python" ? "python" : "script")

const codeOf = <Data>(
  options: Common<Data>,
  work: UnitTestWork,
  task: Task<Data>,
  text: string,
  accepted: ReadonlyArray<Language>
): { readonly source: string; readonly language: Language } => {
  if (options.extract) return { source: options.extract(text, task), language: accepted[0]! }
  const entry = work.kind === "programs" ? undefined : work.entry
  const languages = accepted.some((one) => family(one) === "script")
    ? [...accepted, "javascript" as const, "typescript" as const]
    : accepted
  const code = extractCode(text, { entry, languages })
  const language = code.language ?? accepted[0]!
  if (work.prompt === undefined || entry === undefined || language !== "python" || code.source.trim() === "") {
    return { source: dedent(code), language }
  }
  return { source: continued(work.prompt, text, entry), language }
}

/**
 * The expected values as a candidate in that language could return them, or what is wrong with the cases: a value that no
 * candidate could take or return is the task's fault. Only a comparison of the user's own can do with other ones.
 */
const expectedOf = (
  work: UnitTestWork,
  reader: "script" | "python",
  named: boolean
): ReadonlyArray<unknown> | string => {
  if (work.kind === "tests") return []
  if (work.kind === "programs") return work.cases.map((one) => one.stdout)
  const expected: Array<unknown> = []
  for (const [index, { args, expect }] of work.cases.entries()) {
    let field = "args"
    try {
      encode(args, reader)
      field = "expect"
      expected.push(decode(encode(expect, reader)))
    } catch (fault) {
      if (field === "args" || named)
        return `cases[${index}].${field}: ${fault instanceof Error ? fault.message : String(fault)}`
      expected.push(expect)
    }
  }
  return expected
}

type Matches = (actual: unknown, expected: unknown) => boolean

class ComparisonBroken extends Error {}

const matcher = <Data>(comparison: Comparison<Data>, kind: "calls" | "programs", task: Task<Data>): Matches => {
  if (typeof comparison !== "function") {
    return kind === "calls"
      ? (actual, expected) => valuesMatch(actual, expected, comparison)
      : (actual, expected) => outputsMatch(actual as string, expected as string, comparison)
  }
  const ask: Matches = (actual, expected) => {
    const answer: unknown = comparison(actual, expected, task)
    if (typeof answer === "boolean") return answer
    throw new ComparisonBroken(
      `the comparison returned ${answer instanceof Promise ? "a promise" : typeof answer}, no boolean`
    )
  }
  return (actual, expected) => {
    try {
      return ask(actual, expected)
    } catch (fault) {
      // what a candidate returns may make it throw, which must not keep the candidate from being judged
      if (fault instanceof ComparisonBroken) throw fault
      ask(expected, expected)
      return false
    }
  }
}

interface Judged {
  readonly status: UnitTestStatus
  readonly detail: string
}

const statusOf = (fault: Sandbox.Fault): UnitTestStatus => (fault === "load" ? "error" : fault)

const judgedCall = (result: Sandbox.CallResult, expected: unknown, matches: Matches): Judged => {
  if (result.status !== "value") return { status: statusOf(result.status), detail: result.detail }
  if (matches(result.value, expected)) return { status: "pass", detail: "" }
  return {
    status: "fail",
    detail: result.value instanceof Opaque ? `it returned ${result.value.kind}` : "a wrong value"
  }
}

const judgedTest = ({ detail, name, status }: Sandbox.TestResult): Judged => ({
  status: status === "pass" || status === "fail" ? status : statusOf(status),
  detail: `${name}: ${detail}`
})

/** Cases without a result were not reached; they do not pass. */
const verdict = (judged: ReadonlyArray<Judged>, cases: number, all: boolean): Verifier.Verdict => {
  const passed = judged.filter(({ status }) => status === "pass").length
  const first = judged.findIndex(({ status }) => status !== "pass")
  const status = first >= 0 ? judged[first]!.status : passed < cases ? "error" : "pass"
  const why =
    first >= 0
      ? `; case ${first + 1}: ${judged[first]!.detail}`
      : passed < cases
        ? "; the other cases have no result"
        : ""
  return {
    score: all ? Number(passed === cases) : passed / cases,
    reason: `${status}, ${passed} of ${cases}${why}`.slice(0, 400),
    metrics: { passed, cases, ...Object.fromEntries(statuses.map((one) => [one, Number(one === status)])) }
  }
}

const warned = new Set<string>()

/** A run whose every verdict is unscorable would only stall; someone has to be told why. */
const warnOnce = (refused: Sandbox.SandboxRefused): void => {
  if (warned.has(refused.message)) return
  warned.add(refused.message)
  process.emitWarning(refused.message, { type: "SandboxRefused", code: "QUINTAIN_SANDBOX_REFUSED" })
}
