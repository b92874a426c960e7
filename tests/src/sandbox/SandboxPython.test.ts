import { afterAll, assert, describe, it } from "@effect/vitest"
import fc from "fast-check"
import { readdirSync, readFileSync, readlinkSync } from "node:fs"
import { tmpdir } from "node:os"
import { equals } from "../../../rewards/internal/compare.ts"
import { PythonFloat, PythonTuple } from "../../../src/sandbox/TypedData.ts"
import { SandboxRefused, type CallResult, type Evaluation, type TestResult } from "../../../src/sandbox/Sandbox.ts"
import * as SandboxPython from "../../../src/sandbox/SandboxPython.ts"
import hostile from "../../fixtures/hostile-python.json" with { type: "json" }

const sandbox = SandboxPython.make({ timeout: 2000, total: 8000, children: 2 })
const refusal = await sandbox.boundary().then(
  () => undefined,
  (fault: unknown) => fault
)
if (refusal !== undefined) {
  if (!(refusal instanceof SandboxRefused)) throw refusal
  console.warn(`skipped: ${refusal.message}`)
}
const confinable = refusal === undefined
afterAll(() => sandbox.close())

const python = (source: string) => ({ source, language: "python" }) as const
const add = python("def add(a, b):\n    return a + b")

const results = <Result>(evaluation: Evaluation<Result>): ReadonlyArray<Result> =>
  evaluation._tag === "Evaluated" ? evaluation.results : assert.fail(evaluation.detail)

const call = async (source: string, entry: string, ...calls: ReadonlyArray<ReadonlyArray<unknown>>) =>
  results(await sandbox.call(python(source), { entry, calls }))

const value = (one: CallResult | undefined): unknown =>
  one?.status === "value" ? one.value : assert.fail(`${one?.status}: ${one?.detail}`)

const tested = async (source: string, tests: string): Promise<ReadonlyArray<TestResult>> =>
  results(await sandbox.test(python(source), { tests }))

const settled = async (holds: () => boolean): Promise<void> => {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 10))
}

interface Hostile {
  readonly id: string
  readonly submission: string
  readonly why: string
  readonly run_twice?: boolean
  readonly expected: { readonly reward: number; readonly status: ReadonlyArray<string> }
  readonly tests: {
    readonly kind: string
    readonly fn?: string
    readonly cases: ReadonlyArray<{ args?: ReadonlyArray<unknown>; expect?: unknown; stdin?: string; stdout?: string }>
  }
}

/** As a verifier would: the first case that is not right decides. */
const judged = async ({
  submission,
  tests
}: Hostile): Promise<{ readonly status: string; readonly reward: number }> => {
  const outcomes: ReadonlyArray<CallResult> = results<CallResult>(
    tests.kind === "call"
      ? await sandbox.call(python(submission), {
          entry: tests.fn!,
          calls: tests.cases.map((one) => one.args!),
          stopEarly: true
        })
      : await sandbox.run(python(submission), { inputs: tests.cases.map((one) => one.stdin!), stopEarly: true })
  )
  for (const [index, one] of tests.cases.entries()) {
    const outcome = outcomes[index]
    if (outcome?.status !== "value") {
      const status = outcome === undefined || outcome.status === "load" ? "error" : outcome.status
      return { status, reward: 0 }
    }
    const right =
      tests.kind === "call"
        ? equals(outcome.value, one.expect)
        : String(outcome.value).trimEnd() === one.stdout!.trimEnd()
    if (!right) return { status: "fail", reward: 0 }
  }
  return { status: "pass", reward: 1 }
}

describe.skipIf(!confinable)("calls", () => {
  it("hands arguments in and values out", async () => {
    const source = `
def kinds(x):
    return [type(x).__name__, x]
def several():
    return {"tuple": (1, 2), "bytes": b"\\x00\\xff", "set": {1}, "none": None, "nested": {1: "a", (1, 2): "b"}}`
    const given: ReadonlyArray<readonly [unknown, string]> = [
      [1, "int"],
      [new PythonFloat(1), "float"],
      [1.5, "float"],
      [2n ** 80n, "int"],
      [true, "bool"],
      [null, "NoneType"],
      ["a\ud800", "str"],
      [[1], "list"],
      [new PythonTuple([1]), "tuple"],
      [new Uint8Array([1]), "bytes"],
      [new Set([1]), "set"],
      [{ a: 1 }, "dict"],
      [new Map([[1, 2]]), "dict"],
      [Number.NaN, "float"],
      [-Infinity, "float"],
      [-0, "float"],
      [1e300, "float"]
    ]
    const answers = await call(source, "kinds", ...given.map(([one]) => [one]))
    given.forEach(([one, name], index) => {
      const [kind, back] = value(answers[index]) as [string, unknown]
      assert.strictEqual(kind, name)
      assert.isTrue(equals(back, one), `${name}: ${String(back)}`)
    })
    const several = value((await call(source, "several", []))[0])
    assert.isTrue(
      equals(several, {
        tuple: new PythonTuple([1, 2]),
        bytes: new Uint8Array([0, 255]),
        set: new Set([1]),
        none: null,
        nested: new Map<unknown, unknown>([
          [1, "a"],
          [new PythonTuple([1, 2]), "b"]
        ])
      })
    )
  })

  it("gives back what it was given, whatever data that is", async () => {
    const scalar = fc.oneof(
      fc.integer(),
      fc.maxSafeInteger(),
      fc.bigInt().map((one) => (one >= -(2n ** 53n) && one <= 2n ** 53n ? one + 2n ** 60n : one)),
      fc.double(),
      fc.boolean(),
      fc.constant(null),
      fc.string({ unit: "binary" }),
      fc.constantFrom("\ud800", "a\udfff", "__proto__", "\0", "\u2028"),
      fc.uint8Array()
    )
    const { data } = fc.letrec<{ data: unknown }>((tie) => ({
      data: fc.oneof(
        { maxDepth: 4 },
        scalar,
        fc.array(tie("data"), { maxLength: 4 }),
        fc.array(tie("data"), { maxLength: 4 }).map((items) => new PythonTuple(items)),
        fc.dictionary(fc.string(), tie("data"), { maxKeys: 4, noNullPrototype: true }),
        fc.array(fc.tuple(fc.integer(), tie("data")), { minLength: 1, maxLength: 4 }).map((items) => new Map(items)),
        fc.uniqueArray(fc.string(), { maxLength: 4 }).map((items) => new Set(items))
      )
    }))
    await fc.assert(
      fc.asyncProperty(fc.array(data, { minLength: 1, maxLength: 40 }), async (values) => {
        const answers = await call("def same(x):\n    return x", "same", ...values.map((one) => [one]))
        values.forEach((one, index) => assert.isTrue(equals(value(answers[index]), one)))
      }),
      { numRuns: 15 }
    )
  })

  it("takes what is no data for nothing", async () => {
    const source = `
class Always:
    def __eq__(self, other): return True
class Text(str): pass
class Count(int): pass
def odd(): return [Always(), Text("a"), Count(1), odd, iter([]), object, Ellipsis]`
    const answer = value((await call(source, "odd", []))[0]) as ReadonlyArray<unknown>
    for (const one of answer)
      assert.isFalse(equals(one, "a") || equals(one, 1) || equals(one, null) || equals(one, one))
  })

  it("finds methods and coroutines", async () => {
    const source = `
class Solution:
    def two(self, a): return a * 2
async def later(a): return a`
    assert.strictEqual(value((await call(source, "Solution.two", [2]))[0]), 4)
    assert.strictEqual(value((await call(source, "two", [2]))[0]), 4)
    assert.strictEqual(value((await call(source, "later", [2]))[0]), 2)
  })

  it("says why there is no value, and goes on with the next call", async () => {
    const source = `
import os, sys, time
def f(kind):
    if kind == "raise": raise ValueError("no")
    if kind == "exit": sys.exit(0)
    if kind == "die": os._exit(0)
    if kind == "loop":
        while True: pass
    if kind == "memory": return len(bytearray(10 ** 9))
    if kind == "large": return "x" * 10 ** 7
    if kind == "deep":
        x = []
        for _ in range(1000): x = [x]
        return x
    if kind == "cycle":
        x = []
        x.append(x)
        return x
    return kind`
    const answers = await call(
      source,
      "f",
      ["raise"],
      ["exit"],
      ["memory"],
      ["large"],
      ["deep"],
      ["cycle"],
      ["die"],
      ["fine"]
    )
    assert.deepStrictEqual(
      answers.map(({ status }) => status),
      ["error", "error", "memory", "output", "error", "error", "error", "value"]
    )
    assert.include((answers[0] as { detail: string }).detail, "ValueError: no")
    const late = await call(source, "f", ["loop"], ["fine"], ["loop"], ["fine"])
    assert.deepStrictEqual(
      late.map(({ status }) => status),
      ["timeout", "value", "timeout", "timeout"]
    )
  })

  it("says load of what does not load or lacks the function", async () => {
    for (const source of [
      "def f(",
      "x = 1",
      "raise ValueError()",
      "import nothing_of_this_name",
      "import os\nos._exit(0)"
    ]) {
      const [answer] = await call(source, "f", [])
      assert.include(["load", "error"], answer!.status, source)
    }
    assert.strictEqual((await call("def f(", "f", [1], [2]))[1]!.status, "load")
    assert.strictEqual((await call(" ".repeat(300_000), "f", []))[0]!.status, "load")
  })

  it("stops at the first call without a value when asked to", async () => {
    const answers = results(
      await sandbox.call(python("def f(x):\n    return 1 // x"), {
        entry: "f",
        calls: [[1], [0], [1]],
        stopEarly: true
      })
    )
    assert.strictEqual(answers.length, 2)
  })

  it("does not call what is no name", async () => {
    const evaluation = await sandbox.call(add, { entry: "add or 1", calls: [[]] })
    assert.strictEqual(evaluation._tag, "Infrastructure")
  })

  it("takes what the candidate writes into the channel for nothing", async () => {
    const source = `
import os
def f(x):
    for fd in range(3, 64):
        for line in (b'["v",7]\\n', b'v7\\n', b'0' * 32 + b'v7\\n'):
            try: os.write(fd, line)
            except OSError: pass
    return x`
    assert.deepStrictEqual((await call(source, "f", [1], [2])).map(value), [1, 2])
    const [closed] = await call("import os\ndef f():\n    os.closerange(0, 64)\n    return 7", "f", [])
    assert.include(["error", "timeout"], closed!.status)
  })

  it("keeps nothing from one evaluation for the next", async () => {
    const source = `
import os
def f():
    seen = os.path.exists("/tmp/left")
    open("/tmp/left", "w").close()
    return seen`
    for (let round = 0; round < 3; round++) assert.isFalse(value((await call(source, "f", []))[0]))
  })
})

describe.skipIf(!confinable)("programs", () => {
  const run = async (source: string, ...inputs: ReadonlyArray<string>) =>
    results(await sandbox.run(python(source), { inputs }))

  it("reads standard input and gives back standard output", async () => {
    const source = `
import sys
name = input()
if __name__ == "__main__":
    print("hello", name, *sys.stdin.read().split())
    print("ü", file=sys.stderr)
exit()`
    const answers = await run(source, "ä\n1 2", "b\n")
    assert.deepStrictEqual(answers.map(value), ["hello ä 1 2\n", "hello b\n"])
  })

  it("tells a program that fails from one that says so", async () => {
    const answers = await run(
      `
kind = input()
if kind == "raise": raise ValueError("no")
if kind == "three": exit(3)
if kind == "loop":
    while True: pass
if kind == "flood":
    while True: print("x" * 1000)
if kind == "memory": x = bytearray(10 ** 9)
if kind == "signal":
    import os
    os.kill(os.getpid(), 11)
print("fine")`,
      "raise",
      "three",
      "flood",
      "memory",
      "signal",
      "loop",
      "fine"
    )
    assert.deepStrictEqual(
      answers.map(({ status }) => status),
      ["error", "error", "output", "memory", "error", "timeout", "value"]
    )
    assert.include((answers[0] as { detail: string }).detail, "ValueError: no")
  })

  it("finds classes of the program's own by their module, and has no channel to write to", async () => {
    const source = `
import os, pickle
from dataclasses import dataclass
@dataclass
class Point:
    x: int
print(pickle.loads(pickle.dumps(Point(1))).x, [fd for fd in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + fd) and int(fd) > 2 and not os.readlink("/proc/self/fd/" + fd).startswith(("/dev/null", "/proc"))])`
    assert.strictEqual(value((await run(source, ""))[0]), "1 []\n")
  })
})

describe.skipIf(!confinable)("test files", () => {
  const stack = `
class Empty(Exception): pass
class Stack:
    def __init__(self): self.items = []
    def push(self, item): self.items.append(item)
    def pop(self):
        if not self.items: raise Empty("nothing left")
        return self.items.pop()
def add(a, b): return a + b
def bad(x): raise KeyError(x)
limit = 7`

  it("reaches functions, classes, constants and exceptions over the channel", async () => {
    const outcomes = await tested(
      stack,
      `
import pytest
import unittest
from fractions import Fraction
from decimal import Decimal
from collections import Counter, deque
from solution import Stack, Empty, add, bad, limit
import candidate
def test_add(): assert add(1, b=2) == 3 and candidate.add("a", "b") == "ab"
def test_limit(): assert limit == 7
def test_kinds():
    for one in (Fraction(1, 3), Decimal("1.10"), 1 + 2j, Counter("aab"), frozenset([1]), deque([1]), range(3), 1.0, (1, [2])):
        pair = candidate.add((one,), ())
        assert type(pair[0]) is type(one) and pair == (one,)
def test_stack():
    stack = Stack()
    stack.push((1, "a"))
    assert stack.items == [(1, "a")]
    assert stack.pop() == (1, "a")
    with pytest.raises(Empty, match="left"): stack.pop()
def test_bad():
    with pytest.raises(KeyError): bad(1)
@pytest.mark.parametrize("a,b", [(1, 2), (2, 1)])
def test_each(a, b): assert add(a, b) == pytest.approx(3.0000000001)
class TestClass:
    def setup_method(self): self.one = 1
    def test_it(self): assert add(self.one, 1) == 2
class Unit(unittest.TestCase):
    def test_it(self): self.assertEqual(add(1, 1), 2)
`
    )
    assert.deepStrictEqual(
      outcomes.map(({ name, status, detail }) => [name, status, detail]),
      [
        "test_add",
        "test_limit",
        "test_kinds",
        "test_stack",
        "test_bad",
        "test_each[0]",
        "test_each[1]",
        "TestClass.test_it",
        "Unit.test_it"
      ].map((name) => [name, "pass", ""])
    )
  })

  it("says what does not hold", async () => {
    const outcomes = await tested(
      stack,
      `
from solution import add, bad
def test_wrong():
    assert add(1, 2) == 4, "a hint"
def test_raises(): bad(3)
def test_other(): assert not add(1, 2)
`
    )
    assert.deepStrictEqual(
      outcomes.map(({ status }) => status),
      ["fail", "error", "fail"]
    )
    assert.include(outcomes[0]!.detail, "a hint (3 == 4 does not hold: add(1, 2) == 4)")
    assert.include(outcomes[1]!.detail, "KeyError: 3, raised by the candidate")
  })

  it("lets no object of the candidate's say that it is right", async () => {
    const source = `
class Right:
    def __eq__(self, other): return True
    def __bool__(self): return True
    def __len__(self): return 3
    def __contains__(self, item): return True
    def __iter__(self): return iter([1, 2, 3])
    def __lt__(self, other): return True
    def __sub__(self, other): return 0
    def __getitem__(self, index): return self
class Text(str):
    def __eq__(self, other): return True
    __hash__ = str.__hash__
def answer(): return Right()
def text(): return Text("x")`
    const outcomes = await tested(
      source,
      `
from solution import answer, text
import pytest
def test_equal(): assert answer() == 3
def test_reversed(): assert 3 == answer()
def test_true(): assert answer()
def test_len(): assert len(answer()) == 3
def test_in(): assert 3 in answer()
def test_list(): assert list(answer()) == [1, 2, 3]
def test_less(): assert answer() < 3
def test_near(): assert abs(answer() - 3) < 1
def test_approx(): assert answer() == pytest.approx(3)
def test_text(): assert text() == "y"
`
    )
    assert.strictEqual(outcomes.length, 10)
    for (const { name, status } of outcomes) assert.include(["fail", "error"], status, name)
  })

  it("lets no exception of the candidate's end a loop of the test's", async () => {
    const outcomes = await tested(
      "def stop(x): raise StopIteration",
      `
from solution import stop
import pytest
def test_map(): assert all(map(stop, [1, 2]))
def test_list(): assert list(map(stop, [])) == list(map(stop, [1]))
def test_expected():
    with pytest.raises(StopIteration): stop(1)
`
    )
    assert.deepStrictEqual(
      outcomes.map(({ status }) => status),
      ["error", "error", "pass"]
    )
  })

  it("judges HumanEval's form and bare asserts", async () => {
    const check = `
METADATA = {}
def check(candidate):
    assert candidate(1, 2) == 3
from solution import add
def test_check(): check(add)`
    assert.deepStrictEqual(await tested(stack, check), [{ name: "test_check", status: "pass", detail: "" }])
    const bare = "from solution import *\nassert add(1, 2) == 3\nassert add(1, 2) == 4"
    assert.deepStrictEqual(
      (await tested(stack, bare)).map(({ status }) => status),
      ["fail"]
    )
  })

  it("keeps what the tests compare with out of the candidate's reach", async () => {
    const source = "import math\nabs = len = sorted = lambda *x: 0\ndef near(): return 7"
    const outcomes = await tested(
      source,
      `
import math
from solution import *
def test_builtin(): assert abs(near() - 3) < 1
def test_module(): assert math.floor(near()) == 0
`
    )
    assert.deepStrictEqual(
      outcomes.map(({ status }) => status),
      ["fail", "fail"]
    )
  })

  it("gives each test its own end", async () => {
    const source = `
import os, sys
def f(kind):
    if kind == "loop":
        while True: pass
    if kind == "die": os._exit(0)
    if kind == "exit": sys.exit(0)
    return kind`
    const outcomes = await tested(
      source,
      `
from solution import f
def test_fine(): assert f(1) == 1
def test_die(): f("die")
def test_after(): assert f(1) == 1
def test_exit():
    try: f("exit")
    except ValueError: pass
def test_loop():
    try: f("loop")
    except Exception: pass
def test_last(): assert True
`
    )
    assert.deepStrictEqual(
      outcomes.map(({ status }) => status),
      ["pass", "error", "pass", "error", "timeout", "pass"]
    )
  })

  it("blames the candidate for what does not load, and the test file for its own faults", async () => {
    const test = "from solution import add\ndef test_it(): assert add(1, 2) == 3"
    assert.deepStrictEqual(
      (await tested("def add(", test)).map(({ status }) => status),
      ["load"]
    )
    assert.deepStrictEqual(
      (await tested("def other(): pass", test)).map(({ status }) => status),
      ["error"]
    )
    for (const broken of ["def test_it(", "import nothing_of_this_name", "x = 1"]) {
      const evaluation = await sandbox.test(add, { tests: broken })
      assert.strictEqual(evaluation._tag, "Infrastructure", broken)
    }
  })
})

describe.skipIf(!confinable)("the hostile set", () => {
  const [control] = hostile.cases as unknown as ReadonlyArray<Hostile>
  for (const one of hostile.cases as unknown as ReadonlyArray<Hostile>) {
    it(`${one.id}: ${one.why}`, async () => {
      for (let round = one.run_twice === true ? 2 : 1; round > 0; round--) {
        const { reward, status } = await judged(one)
        assert.strictEqual(reward, one.expected.reward, status)
        assert.include(one.expected.status, status)
      }
      assert.strictEqual((await judged(control!)).status, "pass")
    })
  }
})

describe.skipIf(!confinable)("the host", () => {
  it("is interrupted at once, and goes on", async () => {
    const controller = new AbortController()
    const loop = sandbox.call(python("def f():\n    while True: pass"), { entry: "f", calls: [[]] }, controller.signal)
    setTimeout(() => controller.abort(), 100)
    assert.deepStrictEqual(await loop, { _tag: "Infrastructure", detail: "interrupted" })
    const gone = await sandbox.call(add, { entry: "add", calls: [[1, 2]] }, AbortSignal.abort())
    assert.deepStrictEqual(gone, { _tag: "Infrastructure", detail: "interrupted" })
    assert.strictEqual(value(results(await sandbox.call(add, { entry: "add", calls: [[1, 2]] }))[0]), 3)
  })

  it("evaluates more at once than it has processes", async () => {
    const many = await Promise.all(
      Array.from({ length: 20 }, (_, index) => sandbox.call(add, { entry: "add", calls: [[index, 1]] }))
    )
    many.forEach((one, index) => assert.strictEqual(value(results(one)[0]), index + 1))
  })

  it("keeps no process, descriptor, group or file", async () => {
    await sandbox.close()
    const own = SandboxPython.make({ timeout: 300, total: 600, children: 2 })
    const evaluate = (source: string) => own.call(python(source), { entry: "f", calls: [[]] })
    await evaluate("def f(): pass")
    await own.close()
    await settled(() => children().length === 0)
    const before = { open: descriptors(), files: readdirSync(tmpdir()).length }
    for (let round = 0; round < 5; round++) {
      await Promise.all(
        [
          "def f(): return 1",
          "def f():\n    while True: pass",
          "import os\nif os.fork() == 0:\n    os.setsid()\n    import time\n    time.sleep(1000)\ndef f(): return 1",
          "import os\nos._exit(1)"
        ].map(evaluate)
      )
    }
    await own.close()
    await settled(() => children().length === 0 && descriptors() <= before.open)
    assert.isAtMost(readdirSync(tmpdir()).filter((name) => name.startsWith("quintain")).length, before.files)
  })

  /** Children of this process that are a sandbox's, dead ones among them. */
  const children = (): ReadonlyArray<string> =>
    readFileSync(`/proc/self/task/${process.pid}/children`, "utf8")
      .split(" ")
      .filter((pid) => pid !== "" && /bwrap|python|setpriv/.test(readable(`/proc/${pid}/stat`)))
  const descriptors = (): number =>
    readdirSync("/proc/self/fd").filter((name) => /^(socket|pipe)/.test(target(`/proc/self/fd/${name}`))).length
})

const readable = (file: string): string => {
  try {
    return readFileSync(file, "utf8")
  } catch {
    return ""
  }
}
const target = (file: string): string => {
  try {
    return readlinkSync(file)
  } catch {
    return ""
  }
}

describe("refusal", () => {
  it("refuses to run anything weaker than asked for, with the remedy", async () => {
    const bare = SandboxPython.make({}, {})
    const failures = await Promise.allSettled([
      bare.boundary(),
      bare.call(add, { entry: "add", calls: [[1, 2]] }),
      bare.run(add, { inputs: [""] }),
      bare.test(add, { tests: "def test_it(): pass" })
    ])
    for (const failure of failures) {
      if (failure.status === "fulfilled") return assert.fail("it ran")
      assert.instanceOf(failure.reason, SandboxRefused)
      const { asked, found, message, remedy } = failure.reason as SandboxRefused
      assert.deepStrictEqual([asked, found], ["bubblewrap", "process"])
      assert.isNotEmpty(remedy)
      assert.include(message, remedy)
    }
  })

  it("refuses when it may not use what it has to hold", async () => {
    const failure = await SandboxPython.make({ strongest: "process" })
      .boundary()
      .catch((fault: unknown) => fault)
    assert.instanceOf(failure, SandboxRefused)
    assert.include((failure as SandboxRefused).remedy, "strongest")
  })

  it.runIf(confinable)("uses the strongest that holds, whatever less is accepted", async () => {
    const { isolation } = await SandboxPython.make({ isolation: "process" }).boundary()
    assert.strictEqual(isolation, "bubblewrap")
  })

  it("names the interpreter that does not do", async () => {
    const failure = await SandboxPython.make({
      interpreter: "/nothing/python3",
      isolation: "process",
      strongest: "process"
    })
      .boundary()
      .catch((fault: unknown) => fault)
    assert.instanceOf(failure, SandboxRefused)
    assert.include((failure as SandboxRefused).detail, "/nothing/python3")
  })

  it("runs honest code in a plain process when that is asked for", async () => {
    const plain = SandboxPython.make({ isolation: "process", strongest: "process", children: 1 })
    const boundary = await plain.boundary().catch((fault: unknown) => fault)
    // no python at all
    if (boundary instanceof SandboxRefused) return
    assert.include((boundary as { lacks: ReadonlyArray<string> }).lacks, "no network")
    assert.strictEqual(value(results(await plain.call(add, { entry: "add", calls: [[1, 2]] }))[0]), 3)
    assert.strictEqual(value(results(await plain.run(python("print(input())"), { inputs: ["a"] }))[0]), "a\n")
    await plain.close()
  })
})
