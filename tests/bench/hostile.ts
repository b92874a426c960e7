/**
 * Programs that attack a grader, through the unit-test verifier: reward and status of each, and a plain correct program
 * right after it, which still has to pass. They are hostile on purpose: run this as a user without rights, or where the
 * sandbox gives them up; it refuses Python where bubblewrap does not hold.
 *
 *     node --conditions=quintain-source tests/bench/hostile.ts <cases.json> [isolated-vm|quickjs|python ...] [process]
 *
 * With `process` the JavaScript runtimes do without bubblewrap, as where there is none; Python has no boundary then.
 */
import { readFileSync } from "node:fs"
import {
  Sandboxes,
  unitTests,
  type Sandbox,
  type ProgramCase,
  type UnitTestCase,
  type UnitTestWork
} from "../../rewards/index.ts"
import { outcome } from "../../src/score/Verifier.ts"
import { trajectory } from "../fixtures/trajectories.ts"

interface Case {
  readonly id: string
  readonly language: Sandbox.Language
  readonly tests:
    | { readonly kind: "call"; readonly fn: string; readonly cases: ReadonlyArray<UnitTestCase> }
    | { readonly kind: "stdio"; readonly cases: ReadonlyArray<ProgramCase> }
  readonly submission: string
  readonly expected: { readonly reward: number; readonly status: ReadonlyArray<string> }
}

const [path, ...rest] = process.argv.slice(2)
const bare = rest.includes("process")
const chosen = rest.filter((word) => word !== "process")
if (path === undefined) {
  console.error(
    "usage: node --conditions=quintain-source tests/bench/hostile.ts <cases.json> [isolated-vm|quickjs|python ...] [process]"
  )
  process.exit(2)
}
const { cases } = JSON.parse(readFileSync(path, "utf8")) as { readonly cases: ReadonlyArray<Case> }
const runtimes = (
  chosen.length > 0 ? chosen : ["isolated-vm", "quickjs", ...(bare ? [] : ["python"])]
) as ReadonlyArray<Sandbox.Runtime>

const workOf = ({ language, tests }: Case): UnitTestWork =>
  tests.kind === "call"
    ? { kind: "calls", language, entry: tests.fn, cases: tests.cases }
    : { kind: "programs", language, cases: tests.cases }

let wrong = 0
for (const runtime of runtimes) {
  const python = runtime === "python"
  const sandbox = Sandboxes.get({
    runtime,
    language: python ? "python" : "javascript",
    ...(python ? { isolation: "bubblewrap" as const } : {}),
    ...(bare ? { strongest: "process" as const } : {}),
    children: 1
  })
  const { holds, isolation, lacks } = await sandbox.boundary()
  console.log(
    `\n${runtime}, ${isolation}\n  holds: ${holds.join(", ")}\n  lacks: ${lacks.join(", ") || "nothing known"}`
  )
  const verify = unitTests<UnitTestWork>({ work: (task) => task.data, sandbox: () => sandbox })
  const judge = async (one: Case) => {
    const text = trajectory(one.submission)
    const task = { id: one.id, prompt: "", data: workOf(one) }
    return outcome(await verify({ task, trajectory: text, signal: new AbortController().signal }), text)
  }
  const own = cases.filter(({ language }) => (language === "python") === python)
  const control = own[0]!
  let [right, alive] = [0, 0]
  const start = performance.now()
  for (const [index, one] of own.entries()) {
    process.stderr.write(`\r${index + 1} of ${own.length}: ${one.id}            `)
    const verdict = await judge(one)
    const status = verdict._tag === "Scored" ? verdict.reason!.split(",", 1)[0]! : "unscorable"
    const score = verdict._tag === "Scored" ? verdict.score : undefined
    if (score === one.expected.reward && one.expected.status.includes(status)) right++
    else {
      const wanted = `${one.expected.reward} (${one.expected.status.join(" or ")})`
      console.log(`  ${one.id}: ${score} (${verdict.reason}), wanted ${wanted}`)
    }
    const after = await judge(control)
    if (after._tag === "Scored" && after.score === 1) alive++
    else console.log(`  after ${one.id} the control gets ${after.reason}`)
  }
  process.stderr.write("\n")
  const seconds = ((performance.now() - start) / 1000).toFixed(0)
  console.log(
    `  right reward and status ${right} of ${own.length}; control right after ${alive} of ${own.length}; ${seconds} s`
  )
  wrong += 2 * own.length - right - alive
  await sandbox.close()
}
process.exitCode = wrong === 0 ? 0 : 1
