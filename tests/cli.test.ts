/** The command `quintain score`, as processes of its own. */
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { spawn, type ChildProcess } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { setTimeout as sleep } from "node:timers/promises"

const main = path.join(path.dirname(import.meta.dirname), "cli/main.ts")
let home = ""
beforeAll(() => {
  home = fs.mkdtempSync(path.join(os.tmpdir(), "quintain-cli-"))
  // from this line on it waits for a file, so that a run can be ended while it waits
  fs.writeFileSync(
    path.join(home, "verifiers.mjs"),
    `import { existsSync } from "node:fs"
    export default ({ task, trajectory }) => ({
      score: Number(trajectory.text === task.data.answer),
      reason: trajectory.text === task.data.answer ? "right" : "wrong: " + trajectory.text,
      metrics: { length: trajectory.text.length }
    })
    export const gated = (options) => async (input) => {
      while (Number(input.task.id) >= options.from && !existsSync(options.gate)) await new Promise((go) => setTimeout(go, 5))
      return Number(input.task.id) % 7 === 0 ? { score: 0, reason: "a seventh, " + input.task.id } : 1 / Number(input.task.id)
    }
    export const faulty = ({ task }) => {
      if (task.id === "2") throw new Error("broken")
      if (task.id === "3") for (;;);
      if (task.id === "4") return { _tag: "Unscorable", reason: "away" }
      return 0.5
    }
    export const notOne = 1\n`
  )
  fs.writeFileSync(
    path.join(home, "many.jsonl"),
    Array.from({ length: 120 }, (_, row) => `${JSON.stringify({ id: row + 1, prompt: "p", completion: "c" })}\n`).join(
      ""
    )
  )
})
afterAll(() => fs.rmSync(home, { recursive: true, force: true }))

interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

const start = (args: ReadonlyArray<string>): { readonly child: ChildProcess; readonly ended: Promise<Ended> } => {
  const child = spawn(process.execPath, ["--conditions=quintain-source", main, ...args], { cwd: home })
  const said = { stdout: "", stderr: "" }
  for (const name of ["stdout", "stderr"] as const)
    child[name].setEncoding("utf8").on("data", (text: string) => void (said[name] += text))
  const ended = new Promise<Ended>((resolve, reject) => {
    child.on("error", reject)
    child.on("close", (code, signal) => resolve({ code, signal, ...said }))
  })
  return { child, ended }
}
const run = (...args: ReadonlyArray<string>): Promise<Ended> => start(args).ended
const score = (verifier: string, ...more: ReadonlyArray<string>): ReadonlyArray<string> => [
  "score",
  "--verifier",
  verifier,
  ...more
]

const file = (name: string): string => fs.readFileSync(path.join(home, name), "utf8")
const rows = (name: string): Array<Record<string, unknown>> =>
  file(name)
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Record<string, unknown>)
const write = (name: string, lines: ReadonlyArray<unknown>): void =>
  fs.writeFileSync(
    path.join(home, name),
    lines.map((line) => `${typeof line === "string" ? line : JSON.stringify(line)}\n`).join("")
  )
const files = (input: string, output: string): ReadonlyArray<string> => ["--input", input, "--output", output]

describe("quintain score", () => {
  it("judges by a module's verifier, in the order of the input, and sums up", async () => {
    write("sums.jsonl", [
      { id: "a", task: { id: "sum", prompt: "12+7=?", data: { answer: "19" } }, completion: "19" },
      { prompt: "1+1=?", completion: "3", answer: "2" },
      "",
      {
        id: 7,
        prompt: [{ role: "user", content: "1+1=?" }],
        completion: [{ role: "assistant", content: "2" }],
        answer: "2"
      }
    ])
    const ended = await run("score", "--verifier", "verifiers.mjs", ...files("sums.jsonl", "sums.scores.jsonl"))
    assert.strictEqual(ended.code, 0, ended.stderr)
    const found = rows("sums.scores.jsonl").map(({ digest, ...row }) => {
      assert.match(String(digest), /^[0-9a-f]{8}-[0-9a-f]{16}$/)
      return row
    })
    assert.deepStrictEqual(found, [
      { line: 1, id: "a", task: "sum", outcome: "scored", score: 1, reason: "right", metrics: { length: 2 } },
      { line: 2, task: "line 2", outcome: "scored", score: 0, reason: "wrong: 3", metrics: { length: 1 } },
      { line: 4, id: "7", task: "7", outcome: "scored", score: 1, reason: "right", metrics: { length: 1 } }
    ])
    assert.match(ended.stdout, /3 completions\n +mean score +0\.6667\n +scored +3\n +zero +1 \(1 wrong\)/)
  })

  it("judges by a builtin, with options inline or from a file", async () => {
    const schema = { type: "object", required: ["a"], properties: { a: { type: "integer" } } }
    write("json.jsonl", [
      { prompt: "", completion: '{"a": 1}' },
      { prompt: "", completion: '{"a": "1"}' },
      { prompt: "", completion: 'Here: {"a": 1}' }
    ])
    fs.writeFileSync(path.join(home, "options.json"), JSON.stringify({ schema, strict: true }))
    const inline = await run(
      ...score("json-schema", "--options", JSON.stringify({ schema })),
      ...files("json.jsonl", "lenient.jsonl")
    )
    assert.strictEqual(inline.code, 0, inline.stderr)
    assert.deepStrictEqual(
      rows("lenient.jsonl").map(({ score }) => score),
      [1, 0, 1]
    )
    const strict = await run(
      ...score("json-schema", "--options", "@options.json"),
      ...files("json.jsonl", "strict.jsonl")
    )
    assert.strictEqual(strict.code, 0, strict.stderr)
    assert.deepStrictEqual(
      rows("strict.jsonl").map(({ score }) => score),
      [1, 0, 0]
    )
  })

  /** By name: options, task data, a completion that scores 1 and one that scores 0. */
  const builtins: Readonly<Record<string, readonly [options: unknown, data: object, right: string, wrong: string]>> = {
    answer: [{ compare: "number" }, { answer: "#### 1,200" }, "So it is\n#### 1200", "So it is\n#### 120"],
    citations: [{ required: 1 }, { sources: 2 }, "It is so [2].", "It is so [3]."],
    "json-schema": [{ draft: "7" }, { schema: { type: "array" } }, "[1]", "{}"],
    language: [
      { languages: ["es"] },
      {},
      "El tiempo era bueno esta mañana y caminamos junto al río.",
      "The weather was fine this morning and we walked along the river."
    ],
    length: [{ max: 2, unit: "words" }, {}, "two words", "three words now"],
    pattern: [{ whole: true }, { pattern: "[0-9]+" }, "12", "12a"],
    repetition: [{ n: 1 }, {}, "all words differ", ""],
    script: [{ scripts: ["Latin"] }, {}, "hello", "\u043f\u0440\u0438\u0432\u0435\u0442"],
    tags: [{ names: ["a"] }, {}, "<a>1</a>", "<b>1</b>"],
    "tool-replay": [
      {},
      { recordings: [{ name: "f", arguments: { x: 1 }, result: 2 }] },
      '{"name":"f","arguments":{"x":1}}',
      '{"name":"f","arguments":{"x":2}}'
    ],
    "unit-tests": [
      { timeout: 5000 },
      { entry: "f", cases: [{ args: [1], expect: 2 }] },
      "const f = (x) => x + 1",
      "const f = (x) => x + 2"
    ]
  }
  it("has a builtin for every verifier that data can configure", async () => {
    const help = (await run("score", "--help")).stdout
    for (const [name, [options, data, right, wrong]] of Object.entries(builtins)) {
      assert.include(help, `\n  ${name} `)
      // nothing repeats itself less than it can
      const texts = name === "repetition" ? [right, right] : [right, wrong]
      write(
        "builtin.jsonl",
        texts.map((completion, id) => ({ task: { id, data }, completion }))
      )
      const ended = await run(
        ...score(name, "--options", JSON.stringify(options)),
        ...files("builtin.jsonl", `${name}.jsonl`)
      )
      assert.strictEqual(ended.code, 0, ended.stderr)
      // what was found is not part of the class
      if (name === "answer") assert.match(ended.stdout, /zero +1 \(1 hash "\.\.\."\)/)
      const scores = rows(`${name}.jsonl`).map((row) => row["score"] ?? row["reason"])
      assert.deepStrictEqual(scores, name === "repetition" ? [1, 1] : [1, 0], name)
    }
    const listed = [...help.slice(help.indexOf("Verifiers:")).matchAll(/^ {2}([\w-]+) {2,}\S/gm)].map(
      ([, name]) => name!
    )
    assert.includeMembers(Object.keys(builtins), listed.slice(0, listed.indexOf("unit-tests") + 1))
  })

  it("keeps what is unscorable apart from a score of 0", async () => {
    write(
      "faulty.jsonl",
      ["1", "2", "3", "4", "5"].map((id) => ({ task: { id }, completion: "" }))
    )
    const ended = await run(
      ...score("./verifiers.mjs#faulty", "--deadline", "2000", "--retries", "0"),
      ...files("faulty.jsonl", "faulty.scores.jsonl")
    )
    assert.strictEqual(ended.code, 0, ended.stderr)
    assert.deepStrictEqual(
      rows("faulty.scores.jsonl").map(({ kind, outcome, score }) => [outcome, score ?? kind]),
      [
        ["scored", 0.5],
        ["unscorable", "error"],
        ["unscorable", "timeout"],
        ["unscorable", "declared"],
        ["scored", 0.5]
      ]
    )
    assert.match(ended.stdout, /unscorable +3 \(1 declared, 1 error, 1 timeout\)/)
  })

  const gatedArgs = (output: string, gate: string): ReadonlyArray<string> => [
    ...score("verifiers.mjs#gated", "--concurrency", "3", "--deadline", "100000"),
    "--options",
    JSON.stringify({ from: 61, gate: path.join(home, gate) }),
    ...files("many.jsonl", output)
  ]
  const until = async (output: string, count: number): Promise<void> => {
    while (!fs.existsSync(path.join(home, output)) || file(output).split("\n").length <= count) await sleep(10)
  }

  for (const signal of ["SIGKILL", "SIGINT"] as const) {
    it(`goes on after ${signal}, and the file is that of a run without it`, async () => {
      const [gate, output, whole] = [`gate-${signal}`, `${signal}.jsonl`, `${signal}.whole.jsonl`]
      const first = start(gatedArgs(output, gate))
      await until(output, 60)
      first.child.kill(signal)
      const ended = await first.ended
      if (signal === "SIGKILL") assert.strictEqual(ended.signal, "SIGKILL")
      else {
        assert.strictEqual(ended.code, 130, ended.stderr)
        assert.match(ended.stderr, /interrupted: the same command continues from what .*SIGINT\.jsonl holds/)
      }
      assert.lengthOf(rows(output), 60)
      // a line that was being written
      if (signal === "SIGKILL") fs.appendFileSync(path.join(home, output), file(output).split("\n")[0]!.slice(0, 40))
      fs.writeFileSync(path.join(home, gate), "")
      const second = await run(...gatedArgs(output, gate))
      assert.strictEqual(second.code, 0, second.stderr)
      assert.match(second.stdout, /120 completions, 60 of them by an earlier run/)
      assert.match(second.stdout, /zero +17 \(17 a seventh\)/)
      assert.strictEqual((await run(...gatedArgs(whole, gate))).code, 0)
      assert.strictEqual(file(output), file(whole))
      assert.lengthOf(rows(whole), 120)
      const third = await run(...gatedArgs(output, gate))
      assert.match(third.stdout, /nothing left to do/)
      assert.strictEqual(file(output), file(whole))
    })
  }

  it("does not go on with another input, other options, another verifier or a file of something else", async () => {
    const args = ["score", "--verifier", "json-schema", "--options", '{"schema":{"type":"integer"}}']
    write("one.jsonl", [
      { prompt: "", completion: "1" },
      { prompt: "", completion: "2" }
    ])
    assert.strictEqual((await run(...args, ...files("one.jsonl", "kept.jsonl"))).code, 0)
    const before = file("kept.jsonl")
    const refused = async (message: RegExp, ...changed: ReadonlyArray<string>) => {
      const ended = await run(...changed)
      assert.strictEqual(ended.code, 1)
      assert.match(ended.stderr, message)
      assert.strictEqual(file("kept.jsonl"), before)
    }
    write("two.jsonl", [
      { prompt: "", completion: "1" },
      { prompt: "", completion: "3" }
    ])
    await refused(
      /kept\.jsonl, line 2: it was written for another line 2 of .*two\.jsonl/,
      ...args,
      ...files("two.jsonl", "kept.jsonl")
    )
    write("three.jsonl", [{ prompt: "", completion: "1" }])
    await refused(/line 2: the input has no more lines.*--overwrite/, ...args, ...files("three.jsonl", "kept.jsonl"))
    await refused(
      /written by another verifier, or with other options/,
      ...score("json-schema", "--options", '{"schema":{"type":"string"}}'),
      ...files("one.jsonl", "kept.jsonl")
    )
    const inputBefore = file("one.jsonl")
    const onInput = await run(...args, ...files("one.jsonl", "one.jsonl"))
    assert.strictEqual(onInput.code, 1)
    assert.match(onInput.stderr, /line 1: no result of quintain score/)
    assert.strictEqual(file("one.jsonl"), inputBefore)
    const anew = await run(...args, ...files("two.jsonl", "kept.jsonl"), "--overwrite")
    assert.strictEqual(anew.code, 0, anew.stderr)
    assert.lengthOf(rows("kept.jsonl"), 2)
    assert.notStrictEqual(file("kept.jsonl"), before)
  })

  it("names and counts bad lines, and stops at the first under --strict", async () => {
    fs.writeFileSync(
      path.join(home, "bad.jsonl"),
      Buffer.concat([
        Buffer.from('{"prompt":"","completion":"1"}\nnot json\n[1]\n{"prompt":""}\n{"task":{},"completion":"1"}\n'),
        Buffer.from([0x22, 0xff, 0x22, 10]),
        Buffer.from('{"prompt":"","completion":"2"}')
      ])
    )
    const args = ["score", "--verifier", "json-schema", "--options", '{"schema":{"type":"integer"}}']
    const ended = await run(...args, ...files("bad.jsonl", "bad.scores.jsonl"))
    assert.strictEqual(ended.code, 0, ended.stderr)
    assert.deepStrictEqual(
      rows("bad.scores.jsonl").map(({ line, outcome }) => [line, outcome]),
      [
        [1, "scored"],
        [2, "invalid"],
        [3, "invalid"],
        [4, "invalid"],
        [5, "invalid"],
        [6, "invalid"],
        [7, "scored"]
      ]
    )
    assert.match(ended.stderr, /bad\.jsonl, line 2: not JSON/)
    assert.match(ended.stderr, /line 3: not an object/)
    assert.match(ended.stderr, /line 4: .*completion/)
    assert.match(ended.stderr, /line 5: .*id/)
    assert.match(ended.stderr, /line 6: not UTF-8/)
    assert.match(ended.stdout, /bad lines +5/)
    const strict = await run(...args, ...files("bad.jsonl", "strict.scores.jsonl"), "--strict")
    assert.strictEqual(strict.code, 2)
    assert.match(strict.stderr, /bad\.jsonl, line 2: not JSON/)
    assert.lengthOf(rows("strict.scores.jsonl"), 1)
  })

  it("says what is wrong with a command, and what to do", async () => {
    const refused = async (message: RegExp, ...args: ReadonlyArray<string>) => {
      const ended = await run("score", ...args, ...files("many.jsonl", "none.jsonl"))
      assert.strictEqual(ended.code, 1)
      assert.match(ended.stderr, message)
      assert.isFalse(fs.existsSync(path.join(home, "none.jsonl")) && file("none.jsonl") !== "")
    }
    await refused(/no verifier "json-scheme"\. Name one of answer, .*json-schema/, "--verifier", "json-scheme")
    await refused(/module cannot be read: ENOENT/, "--verifier", "./absent.ts")
    await refused(/exports no function named notOne/, "--verifier", "verifiers.mjs#notOne")
    await refused(/--options is not JSON/, "--verifier", "json-schema", "--options", "{")
    await refused(
      /--options names a file that cannot be read/,
      "--verifier",
      "json-schema",
      "--options",
      "@absent.json"
    )
    await refused(/do not fit json-schema: .*strct/, "--verifier", "json-schema", "--options", '{"strct":true}')
    await refused(/--concurrency/, "--verifier", "json-schema", "--concurrency", "0")
    const absent = await run("score", "--verifier", "json-schema", ...files("absent.jsonl", "none.jsonl"))
    assert.strictEqual(absent.code, 1)
    assert.match(absent.stderr, /absent\.jsonl/)
  })

  it("explains itself", async () => {
    const root = await run("--help")
    assert.strictEqual(root.code, 0)
    assert.match(root.stdout, /score +Score a file of completions with a verifier/)
    const help = await run("score", "--help")
    assert.strictEqual(help.code, 0)
    for (const expected of ["--verifier", "--overwrite", "Exit codes:", "json-schema", "EXAMPLES", '"completion"'])
      assert.include(help.stdout, expected)
  })
})
