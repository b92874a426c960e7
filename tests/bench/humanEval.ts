/**
 * HumanEval through the unit-test verifier: every canonical solution has to pass, and of ten mutants of each that behave
 * differently on the record's tests none may. What differs is decided without the verifier: the record's own test and the
 * mutant in one plain Python process, limited and without rights; an assertion, an exception or a timeout there differs.
 *
 *     node --conditions=quintain-source tests/bench/humanEval.ts <problems.jsonl> [mutants per problem]
 */
import { spawn } from "node:child_process"
import { readFileSync } from "node:fs"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { CodeRecords, unitTests, type UnitTestWork } from "../../rewards/index.ts"
import { outcome, type Outcome } from "../../src/score/Verifier.ts"
import { trajectory } from "../fixtures/trajectories.ts"

const [path, count = "10"] = process.argv.slice(2)
if (path === undefined) {
  console.error(
    "usage: node --conditions=quintain-source tests/bench/humanEval.ts <problems.jsonl> [mutants per problem]"
  )
  process.exit(2)
}
const wanted = Number(count)
const concurrency = 2
const python = "/usr/bin/python3"

interface Problem {
  readonly task_id: string
  readonly prompt: string
  readonly canonical_solution: string
  readonly entry_point: string
  readonly test: string
}

/** Mutants of each problem's function, in the order in which they are to be tried. */
const mutate = async (problems: ReadonlyArray<Problem>): Promise<ReadonlyArray<ReadonlyArray<string>>> => {
  const child = spawn(python, ["-I", fileURLToPath(new URL("mutate.py", import.meta.url))], {
    stdio: ["pipe", "pipe", "inherit"]
  })
  for (const [seed, problem] of problems.entries()) {
    const source = problem.prompt + problem.canonical_solution
    child.stdin.write(`${JSON.stringify({ source, entry: problem.entry_point, seed, most: 6 * wanted })}\n`)
  }
  child.stdin.end()
  const found: Array<ReadonlyArray<string>> = []
  for await (const line of createInterface({ input: child.stdout })) found.push(JSON.parse(line) as Array<string>)
  if (found.length !== problems.length) throw new Error(`mutate.py answered ${found.length} of ${problems.length}`)
  return found
}

/** The naive judge. These programs are people's, with one change: mistaken, not hostile. */
const passesNaively = (problem: Problem, solution: string): Promise<boolean> => {
  const program = `${problem.prompt}\n\n${solution}\n${problem.test}\ncheck(${problem.entry_point})\nprint("reached the end")\n`
  const rights = process.getuid?.() === 0 ? ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"] : []
  const limits = ["prlimit", "--as=1073741824", "--cpu=4", "--nproc=64", "--fsize=1048576", "--core=0"]
  const [file, ...args] = [...rights, ...limits, python, "-I", "-c", program]
  return new Promise((resolve, reject) => {
    const child = spawn(file!, args, { stdio: ["ignore", "pipe", "ignore"], env: {}, cwd: "/" })
    let printed = ""
    child.stdout.setEncoding("utf8").on("data", (text: string) => (printed = (printed + text).slice(-1000)))
    const timer = setTimeout(() => child.kill("SIGKILL"), 8000)
    child.on("error", reject)
    child.on("close", (code) => {
      clearTimeout(timer)
      resolve(code === 0 && printed.endsWith("reached the end\n"))
    })
  })
}

const verifier = unitTests<UnitTestWork>({
  work: (task) => task.data,
  children: concurrency,
  timeout: 8000,
  total: 8000
})
const judge = async (problem: Problem, text: string): Promise<Outcome> => {
  const task = CodeRecords.humanEval(problem)
  const own = trajectory(text)
  return outcome(await verifier({ task, trajectory: own, signal: new AbortController().signal }), own)
}
const fenced = (source: string): string => `Here it is:\n\n\`\`\`python\n${source}\n\`\`\`\n`
const showOf = (verdict: Outcome): string =>
  verdict._tag === "Scored" ? `${verdict.score} (${verdict.reason})` : `unscorable: ${verdict.reason}`

interface Row {
  readonly id: string
  readonly canonical: boolean
  /** The mutants that were run by the naive judge. */
  readonly tried: number
  readonly differing: number
  /** Number of agreeing answers that score 1. */
  readonly agreeing: number
  readonly passed: number
  readonly unscorable: number
}

const statuses = new Map<string, number>()

const examine = async (problem: Problem, mutants: ReadonlyArray<string>): Promise<Row> => {
  // as a base model goes on with the prompt, and as a chat model answers
  const texts = [problem.canonical_solution, fenced(problem.prompt + problem.canonical_solution)]
  let canonical = await passesNaively(problem, problem.prompt + problem.canonical_solution)
  if (!canonical) console.error(`\n${problem.task_id}: the canonical solution does not pass the naive judge`)
  for (const text of texts) {
    const verdict = await judge(problem, text)
    if (verdict._tag === "Scored" && verdict.score === 1) continue
    canonical = false
    console.error(`\n${problem.task_id}: the canonical solution scores ${showOf(verdict)}`)
  }
  let [tried, differing, agreeing, passed, unscorable] = [0, 0, 0, 0, 0]
  for (const mutant of mutants) {
    if (differing === wanted) break
    tried++
    const same = await passesNaively(problem, mutant)
    const verdict = await judge(problem, fenced(mutant))
    if (!same) differing++
    if (verdict._tag === "Unscorable") unscorable++
    else if (!same) {
      const status = verdict.reason!.split(",", 1)[0]!
      statuses.set(status, (statuses.get(status) ?? 0) + 1)
      if (verdict.score === 0) continue
      passed++
    } else if (verdict.score === 1) {
      agreeing++
      continue
    }
    console.error(
      `\n${problem.task_id}: a mutant that ${same ? "behaves the same" : "differs"} scores ${showOf(verdict)}\n${mutant}`
    )
  }
  return { id: problem.task_id, canonical, tried, differing, agreeing, passed, unscorable }
}

const problems = readFileSync(path, "utf8")
  .split("\n")
  .filter((line) => line.trim() !== "")
  .map((line) => JSON.parse(line) as Problem)
const mutants = await mutate(problems)
const rows: Array<Row> = []
const start = performance.now()
let next = 0
const work = async (): Promise<void> => {
  while (next < problems.length) {
    const index = next++
    rows[index] = await examine(problems[index]!, mutants[index]!)
    const done = rows.filter((row) => row !== undefined).length
    const seconds = (performance.now() - start) / 1000
    process.stderr.write(
      `\r${done} of ${problems.length} problems, ${seconds.toFixed(0)} s, about ${((seconds / done) * (problems.length - done)).toFixed(0)} s to go   `
    )
  }
}
await Promise.all(Array.from({ length: concurrency }, work))
process.stderr.write("\n")

console.log("problem          canonical  mutants tried  differing  passed  same  scored 1  unscorable")
for (const { agreeing, canonical, differing, id, passed, tried, unscorable } of rows) {
  console.log(
    `${id.padEnd(16)} ${(canonical ? "pass" : "FAIL").padEnd(10)} ${String(tried).padStart(13)}  ${String(differing).padStart(9)}  ${String(passed).padStart(6)}  ${String(tried - differing).padStart(4)}  ${String(agreeing).padStart(8)}  ${String(unscorable).padStart(10)}`
  )
}
const total = (value: (row: Row) => number): number => rows.reduce((sum, row) => sum + value(row), 0)
const solved = rows.filter(({ canonical }) => canonical).length
console.log(`\ncanonical solutions that pass   ${solved} of ${rows.length}`)
console.log(
  `differing mutants that pass     ${total(({ passed }) => passed)} of ${total(({ differing }) => differing)}`
)
console.log(
  `  they ended as                 ${[...statuses].map(([status, count]) => `${count} ${status}`).join(", ")}`
)
console.log(
  `other mutants that score 1      ${total(({ agreeing }) => agreeing)} of ${total(({ differing, tried }) => tried - differing)}`
)
console.log(`unscorable                      ${total(({ unscorable }) => unscorable)}`)
console.log(`problems with fewer than ${wanted}      ${rows.filter(({ differing }) => differing < wanted).length}`)
console.log(`time                            ${((performance.now() - start) / 1000).toFixed(0)} s`)
const sound = solved === rows.length && total(({ passed, unscorable }) => passed + unscorable) === 0
process.exitCode = sound ? 0 : 1
