import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { execFile } from "node:child_process"
import { promisify } from "node:util"
import { unitTests, type UnitTestCase, type UnitTestsOptions } from "../../rewards/index.ts"
import { extractCode } from "../../rewards/internal/completion.ts"
import * as TypedData from "../../rewards/internal/TypedData.ts"
import * as JavaScriptSandbox from "../../rewards/JavaScriptSandbox.ts"
import { outcome, type Scored } from "../../src/Verifier.ts"
import * as Verifier from "../../src/Verifier.ts"
import * as VerifierPool from "../../src/VerifierPool.ts"
import hostile from "../fixtures/hostile-javascript.json" with { type: "json" }
import { trajectory } from "../fixtures/trajectories.ts"

interface Data {
  readonly entry: string
  readonly cases: ReadonlyArray<UnitTestCase>
}

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

describe("unitTests", () => {
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

  it.live("cases share no state", () =>
    Effect.gen(function* () {
      const scored = yield* judge("globalThis.n ??= 0; var f = () => ++n", {
        entry: "f",
        cases: [
          { args: [], expect: 1 },
          { args: [], expect: 1 }
        ]
      })
      assert.strictEqual(scored.score, 1)
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
        { equals: (actual, expected) => Math.abs(Number(actual) - Number(expected)) < 1e-9 }
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

  it.live("a sandbox that fails is unscorable, not 0", () =>
    Effect.promise(async () => {
      const sandbox = JavaScriptSandbox.make({ children: 1 })
      const evaluation = await sandbox.evaluate({ source: "", entry: "no name", calls: [[]] })
      assert.strictEqual(evaluation._tag, "Infrastructure")
      const stopped = new AbortController()
      const endless = sandbox.evaluate({ source: "for(;;){}", entry: "f", calls: [[]] }, stopped.signal)
      stopped.abort()
      assert.deepStrictEqual(await endless, { _tag: "Infrastructure", detail: "interrupted" })
      const next = await sandbox.evaluate({ source: "const f = () => 1", entry: "f", calls: [[]] })
      assert.deepStrictEqual(next, { _tag: "Evaluated", calls: [{ status: "value", value: 1 }] })
      await sandbox.close()
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
      const pool = yield* VerifierPool.make({ workers: 1 })
      const verifier = Verifier.worker({ module: new URL("../fixtures/pooledUnitTests.ts", import.meta.url) })
      const ask = (text: string) =>
        pool.verify(verifier, { task: { id: "t", prompt: "", data: add }, trajectory: trajectory(text) })
      assert.deepInclude(yield* ask("const add = (a, b) => a + b"), { score: 1 })
      assert.deepInclude(yield* ask("const add = (a, b) => a - b"), { score: 0 })
      assert.deepInclude(yield* ask("const add = () => { for (;;) {} }"), { score: 0 })
    }).pipe(Effect.scoped)
  )

  it.live("lets the process end by itself", () =>
    Effect.promise(async () => {
      const script = `
        import { make } from ${JSON.stringify(new URL("../../rewards/JavaScriptSandbox.ts", import.meta.url).href)}
        const { calls } = await make().evaluate({ source: "const f = () => 42", entry: "f", calls: [[]] })
        console.log(calls[0].value)`
      const flags = ["--conditions=quintain-source", "--input-type=module", "-e", script]
      const { stdout } = await promisify(execFile)(process.execPath, flags)
      assert.strictEqual(stdout.trim(), "42")
    })
  )

  it("finds code in completions", () => {
    assert.deepStrictEqual(extractCode("x"), { source: "x", language: undefined })
    assert.deepStrictEqual(extractCode("a\n~~~~js\n```\nb\n~~~~\nc"), { source: "```\nb\n", language: "javascript" })
    assert.deepStrictEqual(extractCode("```python\nb\n```"), { source: "b\n", language: undefined })
  })

  it("typed data refuses what is no data, on either side", () => {
    assert.throws(() => TypedData.encode([() => 1]), /function is no data/)
    assert.throws(() => TypedData.encode(new (class A {})()), /instance/)
    for (const forged of ['{"a":1}', '["z"]', "[", '["i","x"]', `${'["a",'.repeat(300)}1${"]".repeat(300)}`]) {
      assert.throws(() => TypedData.decode(forged))
    }
  })
})
