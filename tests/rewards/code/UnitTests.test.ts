import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import {
  PythonFloat,
  PythonTuple,
  unitTests,
  type Comparison,
  type UnitTestCase,
  type UnitTestWork,
  type UnitTestsOptions
} from "../../../rewards/index.ts"
import {
  SandboxRefused,
  type CallResult,
  type Candidate,
  type Evaluation,
  type Sandbox,
  type TestResult
} from "../../../src/sandbox/Sandbox.ts"
import type { Task } from "../../../src/data/Task.ts"
import { equals } from "../../../rewards/internal/compare.ts"
import * as TypedData from "../../../src/sandbox/TypedData.ts"
import { outcome, type Outcome, type Scored } from "../../../src/score/Verifier.ts"
import * as Verifier from "../../../src/score/Verifier.ts"
import * as WorkerPool from "../../../src/score/WorkerPool.ts"
import hostile from "../../fixtures/hostile-javascript.json" with { type: "json" }
import { trajectory } from "../../fixtures/trajectories.ts"

interface Data {
  readonly entry: string
  readonly cases: ReadonlyArray<UnitTestCase>
}

/** Records what it is asked, and answers as told. */
const fake = (answers: Partial<Pick<Sandbox, "call" | "run" | "test">>) => {
  const asked: Array<{ readonly candidate: Candidate; readonly work: unknown }> = []
  const notAsked = (): Promise<never> => Promise.reject(new Error("not to be asked"))
  const recorded =
    <Work, Result>(answer: (candidate: Candidate, work: Work) => Promise<Result> = notAsked) =>
    (candidate: Candidate, work: Work): Promise<Result> => {
      asked.push({ candidate, work })
      return answer(candidate, work)
    }
  const sandbox: Sandbox = {
    boundary: notAsked,
    call: recorded(answers.call),
    run: recorded(answers.run),
    test: recorded(answers.test),
    close: () => Promise.resolve()
  }
  return { asked, sandbox: () => sandbox }
}
const evaluated = <Result>(...results: ReadonlyArray<Result>): Promise<Evaluation<Result>> =>
  Promise.resolve({ _tag: "Evaluated", results })
const value = <Value>(value: Value): CallResult<Value> => ({ status: "value", value })

const task: Task<never> = { id: "t", prompt: "", data: undefined as never }
const verdictOf = (options: UnitTestsOptions<never>, text: string): Effect.Effect<Outcome> =>
  Verifier.run(unitTests(options), { task, trajectory: trajectory(text) }, 10_000)
const two: ReadonlyArray<UnitTestCase> = [
  { args: [1], expect: "secret one" },
  { args: [2], expect: "secret two" }
]
const calls = { entry: "f", cases: two } as const

describe("unitTests over any sandbox", () => {
  it.effect("gives the candidate its source and the inputs, nothing else", () =>
    Effect.gen(function* () {
      const { asked, sandbox } = fake({ call: () => evaluated(value("secret one"), value("secret two")) })
      const verdict = yield* verdictOf({ ...calls, sandbox }, "So:\n```js\nconst f = 1\n```\n")
      assert.deepInclude(verdict, { score: 1, reason: "pass, 2 of 2" })
      assert.deepStrictEqual(asked, [
        {
          candidate: { source: "const f = 1\n", language: "javascript" },
          work: { entry: "f", calls: [[1], [2]], stopEarly: true }
        }
      ])
    })
  )

  it.effect("reports each status, and 1 under its name", () =>
    Effect.gen(function* () {
      for (const [fault, status] of [
        ["load", "error"],
        ["error", "error"],
        ["timeout", "timeout"],
        ["memory", "memory"],
        ["output", "output"]
      ] as const) {
        const { sandbox } = fake({
          call: () => evaluated<CallResult>(value("secret one"), { status: fault, detail: "why" })
        })
        const verdict = yield* verdictOf({ ...calls, sandbox }, "x")
        assert.deepStrictEqual(verdict, {
          _tag: "Scored",
          score: 0,
          reason: `${status}, 1 of 2; case 2: why`,
          metrics: { passed: 1, cases: 2, pass: 0, fail: 0, error: 0, timeout: 0, memory: 0, output: 0, [status]: 1 }
        })
        const share = yield* verdictOf({ ...calls, sandbox, score: "share" }, "x")
        assert.deepInclude(share, { score: 0.5 })
      }
    })
  )

  it.effect("a case without a result did not pass, and one too many does not count", () =>
    Effect.gen(function* () {
      for (const [results, score] of [
        [[], 0],
        [[value("secret one")], 0.5],
        [[value("no"), value("secret two"), value("secret one")], 0.5]
      ] as const) {
        const { sandbox } = fake({ call: () => evaluated<CallResult>(...results) })
        assert.deepInclude(yield* verdictOf({ ...calls, sandbox }, "x"), { score: 0 })
        assert.deepInclude(yield* verdictOf({ ...calls, sandbox, score: "share" }, "x"), { score })
      }
    })
  )

  it.effect("runs programs and compares what they print", () =>
    Effect.gen(function* () {
      const programs = [
        { stdin: "1\n", stdout: "0.3\nend\n" },
        { stdin: "2\n", stdout: "b\na" }
      ]
      const judged = (first: string, second: string, comparison: Comparison<never>) =>
        Effect.gen(function* () {
          const { asked, sandbox } = fake({ run: () => evaluated(value(first), value(second)) })
          const verdict = yield* verdictOf({ programs, language: "python", sandbox, comparison }, "x")
          assert.deepStrictEqual(asked[0]!.candidate, { source: "x", language: "python" })
          assert.deepStrictEqual(asked[0]!.work, { inputs: ["1\n", "2\n"], stopEarly: true })
          return verdict._tag === "Scored" ? verdict.score : undefined
        })
      assert.strictEqual(yield* judged("0.3 \nend", "b\na\n\n", "exact"), 1)
      assert.strictEqual(yield* judged("0.30000000000000004\nend", "b\na", "exact"), 0)
      assert.strictEqual(yield* judged("0.30000000000000004\nend", "b\na", "approximate"), 1)
      assert.strictEqual(yield* judged("end\n0.3", "a\nb", "unordered"), 1)
      assert.strictEqual(yield* judged("0.3", "b\na", "approximate"), 0)
      assert.strictEqual(yield* judged("", "", "approximate"), 0)
      const caseless = (a: unknown, b: unknown) => String(a).toLowerCase() === String(b).trim()
      assert.strictEqual(yield* judged("0.3\nEND", "B\nA", caseless), 1)
    })
  )

  it.effect("runs a test file", () =>
    Effect.gen(function* () {
      const judged = (...results: ReadonlyArray<TestResult>) => {
        const { sandbox } = fake({ test: () => evaluated(...results) })
        return verdictOf({ tests: "the file", score: "share", sandbox }, "x")
      }
      const pass = { name: "adds", status: "pass", detail: "" } as const
      assert.deepInclude(yield* judged(pass, pass), { score: 1, reason: "pass, 2 of 2" })
      const wrong = yield* judged(pass, { name: "subtracts", status: "fail", detail: "1 is not 2" })
      assert.deepInclude(wrong, { score: 0.5, reason: "fail, 1 of 2; case 2: subtracts: 1 is not 2" })
      const unloaded = yield* judged({ name: "adds", status: "load", detail: "no f" })
      assert.deepInclude(unloaded, { score: 0, reason: "error, 0 of 1; case 1: adds: no f" })
      assert.deepInclude(yield* judged(), { _tag: "Unscorable", reason: "the test file of task t has no tests" })
    })
  )

  it.effect("the sandbox's failures are no scores", () =>
    Effect.gen(function* () {
      const broken = { _tag: "Infrastructure", detail: "no child" } as const
      const { sandbox } = fake({
        call: () => Promise.resolve(broken),
        run: () => Promise.resolve(broken),
        test: () => Promise.resolve(broken)
      })
      const programs = [{ stdin: "", stdout: "" }]
      for (const options of [calls, { programs }, { tests: "the file" }]) {
        const verdict = yield* verdictOf({ ...options, sandbox }, "x")
        assert.deepInclude(verdict, { _tag: "Unscorable", reason: "sandbox: no child" })
      }
      assert.deepInclude(yield* verdictOf({ entry: "f", cases: [], sandbox }, "x"), {
        _tag: "Unscorable",
        reason: "task t has no unit tests"
      })
      const died = fake({ call: () => Promise.reject(new Error("a fault of ours")) })
      assert.deepInclude(yield* verdictOf({ ...calls, sandbox: died.sandbox }, "x"), { _tag: "Unscorable" })
    })
  )

  it.effect("a refusal is unscorable, names the remedy, and is said once", () =>
    Effect.gen(function* () {
      const refused = new SandboxRefused({
        runtime: "python",
        asked: "bubblewrap",
        found: "process",
        detail: "no bwrap",
        remedy: "apt-get install bubblewrap"
      })
      const warnings: Array<Error> = []
      const listen = (warning: Error): void => void warnings.push(warning)
      process.on("warning", listen)
      const { sandbox } = fake({ call: () => Promise.reject(refused) })
      const verdicts = yield* Effect.forEach([1, 2, 3], () => verdictOf({ ...calls, sandbox }, "x"))
      yield* Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))
      process.off("warning", listen)
      for (const verdict of verdicts) {
        assert.strictEqual(verdict._tag, "Unscorable")
        assert.include(verdict.reason, "To fix it: apt-get install bubblewrap")
      }
      const said = warnings.filter(({ name }) => name === "SandboxRefused").map(({ message }) => message)
      assert.deepStrictEqual(said, [refused.message])
    })
  )

  it.effect("code in another language scores 0 and is not run", () =>
    Effect.gen(function* () {
      const none = fake({})
      const python = "```python\ndef f(): pass\n```"
      assert.deepInclude(yield* verdictOf({ ...calls, sandbox: none.sandbox }, python), {
        score: 0,
        reason: "error, 0 of 2; case 1: it is python; wanted is javascript"
      })
      const javascript = "```js\nconst f = 1\n```"
      const verdict = yield* verdictOf({ ...calls, language: ["python"], sandbox: none.sandbox }, javascript)
      assert.deepInclude(verdict, { reason: "error, 0 of 2; case 1: it is javascript; wanted is python" })
      assert.deepStrictEqual(none.asked, [])
      const ask = fake({ call: () => evaluated<CallResult>() })
      for (const [text, language] of [
        [python, "python"],
        [javascript, "javascript"],
        ["```ts\nconst f = 1\n```", "typescript"],
        ["```\nf\n```", "python"],
        ["f", "python"]
      ] as const) {
        yield* verdictOf({ ...calls, language: ["python", "javascript"], sandbox: ask.sandbox }, text)
        assert.strictEqual(ask.asked.at(-1)!.candidate.language, language)
      }
      yield* verdictOf({ ...calls, sandbox: ask.sandbox }, "```ts\nconst f = 1\n```")
      assert.strictEqual(ask.asked.at(-1)!.candidate.language, "typescript")
    })
  )

  it.effect("a completion without code scores 0 and is not run", () =>
    Effect.gen(function* () {
      const { asked, sandbox } = fake({})
      const prompt = 'def f():\n    """doc"""\n'
      const work: UnitTestWork = { kind: "tests", tests: "x", entry: "f", prompt, language: "python" }
      for (const text of ["", " \n", "<think>hm", "```python\n\n```"]) {
        assert.deepInclude(yield* verdictOf({ ...calls, sandbox }, text), {
          score: 0,
          reason: "error, 0 of 2; case 1: no code in the completion"
        })
        assert.deepInclude(yield* verdictOf({ work: () => work, sandbox }, text), { score: 0 })
      }
      assert.deepStrictEqual(asked, [])
    })
  )

  it.effect("takes everything from the work of a task: language, prompt, comparison", () =>
    Effect.gen(function* () {
      const { asked, sandbox } = fake({
        call: () => evaluated(value(0.1 + 0.2)),
        test: () => evaluated({ name: "check", status: "pass" as const, detail: "" })
      })
      const prompt = 'import math\n\ndef f():\n    """doc"""\n'
      const tests: UnitTestWork = { kind: "tests", tests: "the file", entry: "f", prompt, language: "python" }
      assert.deepInclude(yield* verdictOf({ work: () => tests, sandbox }, "    return 1\n"), { score: 1 })
      assert.strictEqual(asked.at(-1)!.candidate.source, `${prompt}    return 1\n\n`)
      yield* verdictOf({ work: () => tests, sandbox }, "```py\ndef f(): return 1\n```")
      assert.strictEqual(asked.at(-1)!.candidate.source, "import math\n\n\ndef f(): return 1\n")
      const close: UnitTestWork = {
        kind: "calls",
        entry: "f",
        cases: [{ args: [], expect: 0.3 }],
        comparison: "approximate"
      }
      assert.deepInclude(yield* verdictOf({ work: () => close, sandbox }, "f"), { score: 1 })
      assert.deepStrictEqual(asked.at(-1)!.candidate, { source: "f", language: "javascript" })
      assert.deepInclude(yield* verdictOf({ work: () => close, sandbox, comparison: "exact" }, "f"), { score: 0 })
      const wrong = { ...close, comparison: "roughly" } as unknown as UnitTestWork
      const verdict = yield* verdictOf({ work: () => wrong, sandbox }, "f")
      assert.match(verdict.reason!, /task t: comparison: "roughly" is none/)
      assert.strictEqual(verdict._tag, "Unscorable")
    })
  )

  it.effect("values that no candidate can take or return are the task's fault", () =>
    Effect.gen(function* () {
      const { asked, sandbox } = fake({ call: () => evaluated(value(1)) })
      for (const [one, language, reason] of [
        [{ args: [() => 1], expect: 1 }, "javascript", "cases[0].args: a function is no data"],
        [{ args: [], expect: /x/ }, "python", "cases[0].expect: an instance of a class is no data"],
        [
          { args: [[new PythonTuple([])]], expect: 1 },
          "javascript",
          "cases[0].args: a PythonTuple is no data for JavaScript here"
        ],
        [
          { args: [], expect: new PythonFloat(1) },
          "typescript",
          "cases[0].expect: a PythonFloat is no data for JavaScript here"
        ]
      ] as const) {
        const verdict = yield* verdictOf({ entry: "f", cases: [one], language, sandbox }, "x")
        assert.deepInclude(verdict, { _tag: "Unscorable", reason: `task t: ${reason}` })
      }
      assert.deepStrictEqual(asked, [])
      const own = { entry: "f", cases: [{ args: [], expect: /1/ }], sandbox }
      const matches = (actual: unknown, expected: unknown) => (expected as RegExp).test(String(actual))
      assert.deepInclude(yield* verdictOf({ ...own, comparison: matches }, "x"), { score: 1 })
      const fits = { args: [new PythonTuple([new PythonFloat(1)])], expect: 1 }
      assert.deepInclude(yield* verdictOf({ entry: "f", cases: [fits], language: "python", sandbox }, "x"), {
        score: 1
      })
    })
  )

  it.effect("a comparison of your own cannot be thrown off by a value, nor pass by what is not a boolean", () =>
    Effect.gen(function* () {
      const cases = [{ args: [], expect: { x: 1 } }]
      const judged = (returned: unknown, comparison: unknown) => {
        const { sandbox } = fake({ call: () => evaluated(value(returned)) })
        return verdictOf({ entry: "f", cases, sandbox, comparison: comparison as Comparison<never> }, "x")
      }
      const near = (a: { x: number }, b: { x: number }): boolean => Math.abs(a.x - b.x) < 1
      assert.deepInclude(yield* judged({ x: 1.5 }, near), { score: 1 })
      assert.deepInclude(yield* judged(null, near), { score: 0, reason: "fail, 0 of 1; case 1: a wrong value" })
      const broken = yield* judged({ x: 1 }, () => {
        throw new Error("mine")
      })
      assert.deepInclude(broken, { _tag: "Unscorable" })
      for (const [answer, name] of [
        [Promise.resolve(false), "a promise"],
        [1, "number"],
        [undefined, "undefined"]
      ] as const) {
        const verdict = yield* judged({ x: 1 }, () => answer)
        assert.strictEqual(verdict._tag, "Unscorable")
        assert.include(verdict.reason, `the comparison returned ${name}, no boolean`)
      }
      assert.throws(
        () => unitTests({ entry: "f", cases, comparison: { tolerance: { absolute: -1 } } }),
        /comparison\.tolerance\.absolute is -1/
      )
    })
  )
})

const limits = { children: 2, timeout: 1000, total: 3000, memoryMb: 64 } as const
const holed: Array<number> = [1]
holed[2] = 3

const options: UnitTestsOptions<Data> = {
  ...limits,
  entry: (task) => task.data.entry,
  cases: (task) => task.data.cases
}

const judge = (text: string, data: Data, extra: Partial<UnitTestsOptions<Data>> = {}): Effect.Effect<Scored> =>
  Effect.promise(async () => {
    const verdict = await unitTests<Data>({ ...options, ...extra })({
      task: { id: "t", prompt: "", data },
      trajectory: trajectory(text),
      signal: new AbortController().signal
    })
    const judged = outcome(verdict, trajectory(text))
    if (judged._tag === "Unscorable") throw new Error(judged.reason)
    return judged
  })
const status = (scored: Scored): string => scored.reason!.split(",")[0]!

const add: Data = {
  entry: "add",
  cases: [
    { args: [1, 2], expect: 3 },
    { args: [5, 7], expect: 12 }
  ]
}

describe("unitTests in the JavaScript sandbox", () => {
  const control = hostile.cases[0]!
  for (const one of hostile.cases) {
    it.live(`${one.id}: ${one.why}`, () =>
      Effect.gen(function* () {
        const data = { entry: one.tests.fn, cases: one.tests.cases as ReadonlyArray<UnitTestCase> }
        const fence = one.language === "typescript" ? "ts" : "js"
        const scored = yield* judge(`\`\`\`${fence}\n${one.submission}\n\`\`\``, data)
        assert.strictEqual(scored.score, one.expected.reward)
        assert.include(one.expected.status, status(scored))
        // the sandbox is as good as new
        const after = yield* judge(control.submission, { entry: control.tests.fn, cases: control.tests.cases })
        assert.deepInclude(after, { score: 1, reason: "pass, 4 of 4" })
      })
    )
  }

  it.live("gives a share when asked, whatever the order of the cases", () =>
    Effect.gen(function* () {
      const cases = [
        { args: [0], expect: 0 },
        { args: [1], expect: 1 },
        { args: [2], expect: 2 },
        { args: [3], expect: 3 }
      ]
      const source = "const f = (x) => { if (x === 0) for (;;) {} ; if (x === 1) throw new Error('no'); return x }"
      for (const order of [cases, cases.toReversed()]) {
        const scored = yield* judge(source, { entry: "f", cases: order }, { score: "share" })
        assert.strictEqual(scored.score, 0.5)
        assert.deepInclude(scored.metrics, { passed: 2, cases: 4 })
      }
    })
  )

  it.live("completions share no state", () =>
    Effect.gen(function* () {
      for (let again = 0; again < 2; again++) {
        const scored = yield* judge("globalThis.n ??= 0; var f = () => ++n", {
          entry: "f",
          cases: [{ args: [], expect: 1 }]
        })
        assert.strictEqual(scored.score, 1)
      }
    })
  )

  it.live("finds functions however they are defined", () =>
    Effect.gen(function* () {
      for (const source of [
        "function add(a, b) { return a + b }",
        "let add = (a, b) => a + b // no line end",
        "var add = async (a, b) => a + b",
        "globalThis.add = (a, b) => a + b",
        "module.exports = { add: (a, b) => a + b }",
        "module.exports = (a, b) => a + b",
        "exports.add = (a, b) => a + b",
        "export const add = (a, b) => a + b",
        "const plus = (a, b) => a + b; export default plus",
        "'use strict'; class M { static add(a, b) { return a + b } }; const add = M.add",
        "const one = await Promise.resolve(0); export function add(a, b) { return a + b + one }",
        "Sure!\n```javascript\nconst add = (a, b) => a + b\n```\nThat is it.",
        "```ts\nexport const add = (a: number, b: number): number => a + b\n```",
        "```\nconst add = (a, b) => a + b"
      ]) {
        assert.deepInclude(yield* judge(source, add), { score: 1 }, source)
      }
    })
  )

  it.live("says why there is no reward", () =>
    Effect.gen(function* () {
      const reason = (source: string) => Effect.map(judge(source, add), ({ reason }) => reason)
      assert.strictEqual(yield* reason("const sub = 1"), "error, 0 of 2; case 1: no function named add")
      assert.match((yield* reason("add ("))!, /^error, 0 of 2; case 1: SyntaxError: /)
      assert.strictEqual(
        yield* reason("const add = () => { throw new TypeError('oh') }"),
        "error, 0 of 2; case 1: TypeError: oh"
      )
      assert.strictEqual(yield* reason("const add = (a, b) => 3"), "fail, 1 of 2; case 2: a wrong value")
      assert.match((yield* reason("import fs from 'node:fs'; export const add = () => 3"))!, /^error/)
      assert.match((yield* reason("const add = () => 'x'.repeat(3e5)"))!, /^output/)
      assert.match((yield* reason("const add = () => Array(1e5).fill(0)"))!, /^output/)
      assert.match((yield* reason(`const add = ${" ".repeat(3e5)} 1`))!, /longer than 262144/)
    })
  )

  it.live("compares by exact type", () =>
    Effect.gen(function* () {
      const right: ReadonlyArray<readonly [string, unknown]> = [
        ["undefined", undefined],
        ["null", null],
        ["NaN", Number.NaN],
        ["-0", 0],
        ["10n", 10n],
        ["[1, , 3]", holed],
        ["({ a: 1, b: [2] })", { b: [2], a: 1 }],
        ["Object.assign(Object.create(null), { a: 1 })", { a: 1 }],
        ["new Date(5)", new Date(5)],
        ["new Map([['k', { v: 1 }]])", new Map([["k", { v: 1 }]])],
        ["new Set([2, 1])", new Set([1, 2])],
        ["({ ['__proto__']: 1 })", JSON.parse('{"__proto__":1}')]
      ]
      const wrong: ReadonlyArray<readonly [string, unknown]> = [
        ["'3'", 3],
        ["new Number(3)", 3],
        ["3n", 3],
        ["true", 1],
        ["null", undefined],
        ["[undefined]", Array(1)],
        ["({})", []],
        ["[]", {}],
        ["({ a: 1, b: undefined })", { a: 1 }],
        ["({ get a() { return 1 } })", { a: 1 }],
        ["new (class { a = 1 })()", { a: 1 }],
        ["new Proxy({ a: 1 }, { ownKeys: () => [] })", { a: 1 }],
        ["() => 1", undefined],
        ["Symbol()", undefined],
        ["new Set([1, 1])", new Set([1, 2])],
        ["({ then: (done) => done(4) })", 3]
      ]
      for (const [expression, expect] of right) {
        const data = { entry: "f", cases: [{ args: [], expect }] }
        assert.deepInclude(yield* judge(`const f = () => (${expression})`, data), { score: 1 }, expression)
      }
      for (const [expression, expect] of wrong) {
        const data = { entry: "f", cases: [{ args: [], expect }] }
        assert.deepInclude(yield* judge(`const f = () => (${expression})`, data), { score: 0 }, expression)
      }
    })
  )

  it.live("arguments arrive with their types, and a comparison of your own decides", () =>
    Effect.gen(function* () {
      const args = [undefined, Number.NaN, -0, 3n, new Date(7), new Map([[1, new Set([2])]]), holed, { a: { b: null } }]
      const same = yield* judge("const f = (...args) => args", { entry: "f", cases: [{ args, expect: args }] })
      assert.strictEqual(same.score, 1)
      const close = yield* judge(
        "const f = () => 0.1 + 0.2",
        { entry: "f", cases: [{ args: [], expect: 0.3 }] },
        { comparison: (actual: unknown, expected: unknown) => Math.abs(Number(actual) - Number(expected)) < 1e-9 }
      )
      assert.strictEqual(close.score, 1)
    })
  )

  it.live("finds nothing of this machine inside", () =>
    Effect.gen(function* () {
      const source = `const f = () => Object.getOwnPropertyNames(globalThis)
        .filter((name) => /^[a-z]/.test(name) && !['globalThis', 'console', 'module', 'exports', 'undefined'].includes(name))
        .filter((name) => typeof globalThis[name] !== 'function')`
      const scored = yield* judge(source, { entry: "f", cases: [{ args: [], expect: [] }] })
      assert.strictEqual(scored.score, 1, scored.reason)
      const gone =
        "const f = () => [typeof WebAssembly, typeof SharedArrayBuffer, typeof process, typeof require, typeof ArrayBuffer.prototype.resize]"
      const none = yield* judge(gone, { entry: "f", cases: [{ args: [], expect: Array(5).fill("undefined") }] })
      assert.strictEqual(none.score, 1, none.reason)
    })
  )

  it.live("runs whole programs and test files", () =>
    Effect.gen(function* () {
      const echo =
        "const text = require('fs').readFileSync(0, 'utf8'); console.log(text.trim().split(' ').map(Number).reduce((a, b) => a + b, 0))"
      const programs = [
        { stdin: "1 2\n", stdout: "3\n" },
        { stdin: "5 7", stdout: "12" }
      ]
      const run = (text: string) => verdictOf({ ...limits, programs }, text)
      assert.deepInclude(yield* run(echo), { score: 1 })
      assert.deepInclude(yield* run("console.log(3)"), { score: 0, reason: "fail, 1 of 2; case 2: a wrong value" })
      assert.match((yield* run("for (;;) {}")).reason!, /^timeout/)
      const tests = `
        import { expect, test } from "vitest"
        import { add } from "./solution"
        test("adds", () => expect(add(1, 2)).toBe(3))
        test("adds more", () => expect(add(5, 7)).toBe(12))`
      const check = (text: string) => verdictOf({ ...limits, tests, entry: "add", score: "share" }, text)
      assert.deepInclude(yield* check("```ts\nexport const add = (a: number, b: number) => a + b\n```"), { score: 1 })
      assert.deepInclude(yield* check("export const add = () => 3"), { score: 0.5 })
      assert.deepInclude(yield* check("export const sub = () => 3"), { score: 0 })
      // an object that is equal to everything is still no number
      const same = "export const add = () => ({ valueOf: () => 3, toString: () => '3', [Symbol.toPrimitive]: () => 3 })"
      assert.deepInclude(yield* check(same), { score: 0 })
    })
  )

  it.live("many at once are each judged by themselves", () =>
    Effect.gen(function* () {
      const rows = Array.from({ length: 40 }, (_, row) => row)
      const scored = yield* Effect.forEach(
        rows,
        (row) => {
          const body =
            row % 10 === 3
              ? "for (;;) {}"
              : row % 10 === 7
                ? "const a = []; for (;;) a.push(a.length)"
                : `return x + ${row % 4}`
          return judge(`const f = (x) => { ${body} }`, {
            entry: "f",
            cases: [{ args: [1], expect: 1 + (row % 4 === 0 ? 9 : row % 4) }]
          })
        },
        { concurrency: "unbounded" }
      )
      rows.forEach((row) => {
        const wanted =
          row % 10 === 3 ? ["timeout"] : row % 10 === 7 ? ["memory", "timeout"] : row % 4 === 0 ? ["fail"] : ["pass"]
        assert.include(wanted, status(scored[row]!), String(row))
      })
    })
  )

  it.live("works in the verifier pool", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ workers: 1 })
      const verifier = Verifier.worker({ module: new URL("../../fixtures/pooledUnitTests.ts", import.meta.url) })
      const ask = (text: string) =>
        pool.verify(verifier, { task: { id: "t", prompt: "", data: add }, trajectory: trajectory(text) })
      assert.deepInclude(yield* ask("const add = (a, b) => a + b"), { score: 1 })
      assert.deepInclude(yield* ask("const add = (a, b) => a - b"), { score: 0 })
      assert.deepInclude(yield* ask("const add = () => { for (;;) {} }"), { score: 0 })
    }).pipe(Effect.scoped)
  )

  it("Python's values survive being sent and being written as JSON, and candidates cannot forge them", () => {
    const value = [new PythonTuple([1, new PythonFloat(2)]), { a: new PythonFloat(-0) }]
    const text = '["a",["t",1,["f",2]],["o","a",["n","-0"]]]'
    assert.strictEqual(TypedData.encode(value), text)
    assert.strictEqual(TypedData.encode(structuredClone(value)), text)
    const json = JSON.parse(JSON.stringify([new PythonTuple([1, new PythonFloat(2)])]))
    assert.strictEqual(TypedData.encode(json), '["a",["t",1,["f",2]]]')
    const forged = TypedData.decode('["o","~python","tuple","items",["a",1]]')
    assert.isFalse(equals(forged, new PythonTuple([1])))
    assert.isFalse(equals(forged, [1]))
    assert.isTrue(equals(TypedData.decode('["t",1]'), new PythonTuple([1])))
  })

  it("typed data refuses what is no data, on either side", () => {
    assert.throws(() => TypedData.encode([() => 1]), /function is no data/)
    assert.throws(() => TypedData.encode(new (class A {})()), /instance/)
    for (const forged of ['{"a":1}', '["z"]', "[", '["i","x"]', `${'["a",'.repeat(300)}1${"]".repeat(300)}`]) {
      assert.throws(() => TypedData.decode(forged))
    }
  })
})

describe("unitTests in the Python sandbox", () => {
  const python = {
    ...limits,
    language: "python",
    isolation: "process",
    timeout: 10_000,
    total: 20_000,
    entry: "f"
  } as const
  const returned = (expression: string, expect: unknown, comparison: Comparison<never> = "exact") =>
    verdictOf({ ...python, cases: [{ args: [], expect }], comparison }, `def f():\n    return ${expression}\n`)

  it.live("compares by Python's types", () =>
    Effect.gen(function* () {
      const right: ReadonlyArray<readonly [string, unknown, Comparison<never>?]> = [
        ["1", 1],
        ["1.0", 1],
        ["10 ** 20", 10n ** 20n],
        ["True", true],
        ["None", null],
        ["'é\\U0001F600'", "é😀"],
        ["(1, [2])", new PythonTuple([1, [2]])],
        ["[1, (2,)]", [1, [2]], "json"],
        ["{'a': (1, None)}", { a: new PythonTuple([1, null]) }],
        ["{(1, 2): {3}}", new Map([[new PythonTuple([1, 2]), new Set([3])]])],
        ["b'ab'", Uint8Array.from([97, 98])],
        ["float('nan')", Number.NaN],
        ["[3, 1, 2]", [1, 2, 3], "unordered"],
        ["[0.1 + 0.2, (1,)]", [0.3, new PythonTuple([1])], { tolerance: { absolute: 1e-9 } }]
      ]
      const wrong: typeof right = [
        ["True", 1],
        ["1", true],
        ["'1'", 1],
        ["(1, 2)", [1, 2]],
        ["[1, 2]", new PythonTuple([1, 2])],
        ["0", null],
        ["b'a'", "a"],
        ["{1: 2}", { 1: 2 }],
        ["[1, 1, 2]", [1, 2, 2], "unordered"],
        ["float('inf')", 1e308, { tolerance: { relative: 0.99, absolute: 1e308 } }],
        ["float('inf')", Infinity, { tolerance: { relative: 0.99 } }],
        ["type('Same', (), {'__eq__': lambda *_: True})()", 1],
        ["type('Two', (int,), {'__eq__': lambda *_: True})(2)", 1],
        ["lambda: 1", 1]
      ]
      for (const [expression, expect, comparison] of right) {
        assert.deepInclude(yield* returned(expression, expect, comparison), { score: 1 }, expression)
      }
      for (const [expression, expect, comparison] of wrong) {
        assert.deepInclude(yield* returned(expression, expect, comparison), { _tag: "Scored", score: 0 }, expression)
      }
    })
  )

  it.live("arguments arrive with their types", () =>
    Effect.gen(function* () {
      const args = [
        new PythonTuple([2]),
        new PythonFloat(1),
        1,
        10n ** 20n,
        new Set([1]),
        new Map([[new PythonTuple([1, 2]), 3]]),
        Uint8Array.from([5]),
        undefined,
        { a: [null, true, Number.NaN] }
      ]
      const expect = "((2,), 1.0, 1, 100000000000000000000, {1}, {(1, 2): 3}, b'\\x05', None, {'a': [None, True, nan]})"
      const text = "def f(*x):\n    return repr(x)\n"
      assert.deepInclude(yield* verdictOf({ ...python, cases: [{ args, expect }] }, text), { score: 1 })
      // as a task's data reaches a worker
      const sent = structuredClone([{ args, expect }])
      assert.deepInclude(yield* verdictOf({ ...python, cases: sent }, text), { score: 1 })
    })
  )
})
