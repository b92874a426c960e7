import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fs from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { CodeRecords, unitTests, type UnitTestWork } from "../../../rewards/index.ts"
import { PythonFloat } from "../../../src/sandbox/TypedData.ts"
import type { Task } from "../../../src/data/Task.ts"
import { TaskError } from "../../../src/data/Task.ts"
import * as Verifier from "../../../src/score/Verifier.ts"
import records from "../../fixtures/code-records.json" with { type: "json" }
import { trajectory } from "../../fixtures/trajectories.ts"

/** Slow machines are no fault of the candidate's; whatever isolation this one holds is used. */
const verifier = unitTests<UnitTestWork>({
  work: (task) => task.data,
  isolation: "process",
  children: 2,
  timeout: 10_000,
  total: 20_000
})
const judge = (task: Task<UnitTestWork>, text: string): Effect.Effect<Verifier.Outcome> =>
  Verifier.run(verifier, { task, trajectory: trajectory(text) }, 100_000)
const fenced = (source: string): string => `I would do this:\n\n\`\`\`python\n${source}\n\`\`\`\nIt works.`
const scores = Effect.fnUntraced(function* (task: Task<UnitTestWork>, text: string, score: number) {
  const verdict = yield* judge(task, text)
  assert.deepInclude(verdict, { _tag: "Scored", score }, `${task.id}: ${verdict.reason}\n${text}`)
  return verdict.reason!
})

describe("HumanEval", () => {
  for (const record of records.humanEval) {
    const task = CodeRecords.humanEval(record)
    it.live(`${record.task_id}: the solution passes, however it is written`, () =>
      Effect.gen(function* () {
        assert.strictEqual(task.prompt, record.prompt)
        const whole = record.prompt + record.canonical_solution
        const alone = record.prompt.slice(record.prompt.lastIndexOf("def ")) + record.canonical_solution
        for (const text of [
          record.canonical_solution,
          `${record.canonical_solution}\n\ndef other():\n    return`,
          fenced(whole),
          fenced(alone),
          fenced(record.canonical_solution),
          `<think>\n${fenced(`${record.prompt}    return 17`)}</think>\n${fenced(alone)}`
        ]) {
          yield* scores(task, text, 1)
        }
      })
    )
    it.live(`${record.task_id}: wrong ones do not`, () =>
      Effect.gen(function* () {
        for (const body of record.wrong) {
          yield* scores(task, body, 0)
          yield* scores(task, fenced(record.prompt + body), 0)
        }
      })
    )
  }

  it.live("what a candidate does to its own realm changes no test", () =>
    Effect.gen(function* () {
      const [root, bounds] = records.humanEval.map(CodeRecords.humanEval)
      const zero = "def value(xs, x):\n    return 0\n"
      yield* scores(root!, fenced(`${zero}def root(xs):\n    return -2\n`), 0)
      const equal = `class Same:\n    def __eq__(self, other): return True\n    def __abs__(self): return 0\n    def __lt__(self, other): return True\n`
      yield* scores(bounds!, fenced(`${equal}def bounds(xs): return Same() if xs else None\n`), 0)
      yield* scores(root!, fenced(`${equal}def root(xs): return Same()\n`), 0)
      for (const attack of [
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        "import builtins\nbuiltins.AssertionError = Exception\nbuiltins.abs = lambda x: 0",
        "import sys\nsys.modules['__main__'].check = lambda f: None\ncheck = lambda f: None",
        "import sys\nfor frame in sys._current_frames().values():\n  while frame:\n    frame.f_globals['check'] = lambda f: None\n    frame = frame.f_back",
        "print('test_check passed')\nraise SystemExit"
      ]) {
        yield* scores(bounds!, fenced(`${attack}\ndef bounds(xs):\n    return (0, 0)\n`), 0)
        const within = attack.replaceAll("\n", "\n    ")
        yield* scores(bounds!, fenced(`def bounds(xs):\n    ${within}\n    return (0, 0)\n`), 0)
      }
      // the sandbox is as good as new
      yield* scores(bounds!, records.humanEval[1]!.canonical_solution, 1)
    })
  )

  it.live("says what became of a candidate", () =>
    Effect.gen(function* () {
      const task = CodeRecords.humanEval(records.humanEval[1])
      assert.match(yield* scores(task, "    return (1, 2)\n", 0), /^fail, 0 of 1; case 1: test_check: .*\(1, 2\)/)
      assert.match(yield* scores(task, "    return 1 / 0\n", 0), /^error, .*ZeroDivisionError/)
      assert.match(yield* scores(task, "    return (\n", 0), /^error, .*SyntaxError/)
      assert.match(yield* scores(task, fenced("def other(): pass"), 0), /^(error|fail), 0 of 1/)
      const quick = unitTests<UnitTestWork>({
        work: (task) => task.data,
        isolation: "process",
        timeout: 500,
        total: 1000
      })
      const endless = yield* Verifier.run(quick, { task, trajectory: trajectory("    while True: pass\n") }, 100_000)
      assert.match(endless.reason!, /^timeout, 0 of 1/)
    })
  )
})

describe("MBPP", () => {
  for (const record of records.mbpp) {
    it.live(`${record.task_id}: the solution passes, wrong ones do not`, () =>
      Effect.gen(function* () {
        const task = CodeRecords.mbpp(record)
        assert.strictEqual(task.id, `MBPP/${record.task_id}`)
        assert.include(task.prompt as string, record.test_list[0]!)
        assert.notInclude(task.prompt as string, record.test_list[1]!)
        const reason = yield* scores(task, fenced(record.code), 1)
        assert.strictEqual(reason, `pass, ${record.test_list.length} of ${record.test_list.length}`)
        for (const wrong of record.wrong) yield* scores(task, fenced(wrong), 0)
      })
    )
  }
})

describe("APPS", () => {
  for (const record of records.apps) {
    const id = "problem_id" in record ? record.problem_id : record.id
    it.live(`${id}: the solution passes, wrong ones do not`, () =>
      Effect.gen(function* () {
        const task = CodeRecords.apps(record)
        assert.strictEqual(task.id, `APPS/${id}`)
        yield* scores(task, fenced(record.right), 1)
        yield* scores(task, record.right, 1)
        for (const wrong of record.wrong) yield* scores(task, fenced(wrong), 0)
      })
    )
  }

  it("keeps what JSON's text says of a number, and integer keys", () => {
    const { data } = CodeRecords.apps(records.apps[1])
    assert.strictEqual(data.kind, "calls")
    if (data.kind !== "calls") return
    assert.deepStrictEqual(
      data.cases.map(({ args }) => args[0]),
      [1, 90071992547409930n, new PythonFloat(2)]
    )
    const pairs = CodeRecords.apps(records.apps[2]).data
    assert.deepStrictEqual(pairs.kind === "calls" ? pairs.cases[1]!.args[0] : undefined, new Map([[1, 2]]))
    // outputs of one record stand in lists of their own or none does
    assert.deepStrictEqual(data.cases[0]!.expect, 2)
    assert.deepStrictEqual(pairs.kind === "calls" ? pairs.cases[1]!.expect : undefined, [[1, 2], false])
  })
})

describe("records that are none", () => {
  const wrong = (read: (record: unknown) => unknown, record: unknown): TaskError => {
    try {
      read(record)
    } catch (fault) {
      assert.instanceOf(fault, TaskError)
      return fault as TaskError
    }
    return assert.fail("it was read")
  }
  const apps = (input_output: unknown) => wrong(CodeRecords.apps, { problem_id: 7, question: "?", input_output })

  it("name the record, the field and the remedy", () => {
    const [good] = records.humanEval
    for (const record of [undefined, null, 1, "x", [], {}]) {
      for (const read of [CodeRecords.humanEval, CodeRecords.mbpp, CodeRecords.apps]) wrong(read, record)
    }
    assert.deepInclude(wrong(CodeRecords.humanEval, { ...good, test: 1 }), {
      source: "HumanEval",
      place: "record Own/0",
      field: "test"
    })
    for (const entry_point of ["", "a b", "f\nimport os", "1f", "f()", "x".repeat(500)]) {
      assert.strictEqual(wrong(CodeRecords.humanEval, { ...good, entry_point }).field, "entry_point")
    }
    assert.match(wrong(CodeRecords.humanEval, { ...good, test: "assert True" }).message, /no check\(candidate\)/)
    assert.strictEqual(wrong(CodeRecords.humanEval, { ...good, prompt: "x".repeat(300_000) }).field, "prompt")
    const mbpp = records.mbpp[0]
    assert.strictEqual(wrong(CodeRecords.mbpp, { ...mbpp, test_list: [] }).field, "test_list.0")
    assert.match(wrong(CodeRecords.mbpp, { ...mbpp, code: "x = 1" }).message, /none of what it defines is in test_list/)
    assert.strictEqual(wrong(CodeRecords.mbpp, { ...mbpp, text: undefined }).source, "MBPP")
  })

  it("hold tests that are none", () => {
    for (const [text, message] of [
      ["", /not JSON/],
      ["{", /not JSON/],
      ["[".repeat(100_000), /not JSON/],
      ["[".repeat(100_000) + "]".repeat(100_000), /nested/],
      ["[".repeat(200) + "]".repeat(200), /nested deeper than 100/],
      ["[]", /input_output/],
      ['{"inputs": [], "outputs": []}', /holds no tests/],
      ['{"inputs": ["1"], "outputs": []}', /1 inputs for 0 outputs/],
      ['{"inputs": [1], "outputs": ["1"]}', /neither text nor lines/],
      ['{"inputs": [1], "outputs": [1], "fn_name": "f"}', /input 1 is not a list/],
      ['{"inputs": [[1]], "outputs": [1], "fn_name": "f; x"}', /fn_name/]
    ] as const) {
      const fault = apps(text)
      assert.match(fault.message, message, text.slice(0, 60))
      assert.deepInclude(fault, { place: "record 7", field: "input_output" })
    }
    assert.strictEqual(apps({}).field, "input_output")
    assert.strictEqual(wrong(CodeRecords.apps, { question: "?", input_output: "{}" }).field, "problem_id")
  })

  it.effect("are found in files, by line", () =>
    Effect.gen(function* () {
      const folder = yield* Effect.promise(() => Fs.mkdtemp(join(tmpdir(), "quintain-records-")))
      const path = join(folder, "records.jsonl")
      const load = (...rows: ReadonlyArray<unknown>) =>
        Effect.promise(() => Fs.writeFile(path, rows.map((row) => JSON.stringify(row)).join("\n\n"))).pipe(
          Effect.andThen(CodeRecords.jsonl(path, CodeRecords.humanEval).load)
        )
      const [first, second] = records.humanEval
      const tasks = yield* load(first, second)
      assert.strictEqual(tasks.length, 2)
      assert.deepStrictEqual(tasks.at(1), CodeRecords.humanEval(second))
      const fault = yield* Effect.flip(load(first, { ...second, test: 1 }))
      assert.deepInclude(fault, { source: path, place: "line 3, record Own/1", field: "test" })
      assert.match((yield* Effect.flip(load(first, first))).message, /the id was used before/)
      yield* Effect.promise(() => Fs.rm(folder, { recursive: true }))
    })
  )
})
