/**
 * The sandboxes, measured beside a plain child process for each evaluation, which is what people do today.
 *
 *     npm run bench -- sandbox                          evaluations per second, p50 and p99; the same with hostile ones among them
 *     npm run bench -- sandbox seconds=10 children=2 runtime=python
 *     npm run bench -- soak n=100000 runtime=isolated-vm
 *
 * `sandbox` takes `seconds` of each measurement (default 5), `children` (2), `timeout` (milliseconds of a case, 500) and
 * `runtime` (all; `none` for the plain processes alone). `soak` takes `n` evaluations (100,000) of which one in twenty is
 * hostile, rotating over tests/fixtures/hostile-*.json; `runtime` (all), `children` (2), `timeout` (300 to 1000 by
 * runtime). The clocks are of the wall: run it on an idle machine.
 * Both fail when a verdict is wrong or lost; the soak also when a process or a zombie stays behind.
 */
import { spawn } from "node:child_process"
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { setTimeout as sleep } from "node:timers/promises"
import { unitTests, type ProgramCase, type UnitTestWork } from "../../rewards/code/UnitTests.ts"
import type { Isolation, Language, Sandbox, SandboxOptions } from "../../src/sandbox/Sandbox.ts"
import type { VerifierFunction } from "../../src/score/Verifier.ts"
import { outcome, type Outcome } from "../../src/score/Verifier.ts"
import { duration } from "../../src/run/Progress.ts"
import { trajectory } from "../fixtures/trajectories.ts"
import { runtimes } from "./sandboxRuntimes.ts"
import { quantile } from "../../src/internal/statistics.ts"

interface Item {
  readonly name: string
  readonly text: string
  readonly language: Language
  readonly work: UnitTestWork
  readonly score: number
  readonly status: ReadonlyArray<string>
}

interface Done {
  readonly item: Item
  readonly outcome: Outcome
  readonly milliseconds: number
}

const cases = Array.from({ length: 10 }, (_, index) => ({ args: [index, 1], expect: index + 1 }))
const add: UnitTestWork = { kind: "calls", entry: "add", cases }
const sources: Readonly<Record<"script" | "python", Readonly<Record<"right" | "wrong" | "loop" | "bomb", string>>>> = {
  script: {
    right: "const add = (a, b) => a + b",
    wrong: "const add = (a, b) => a + b + (a === 7 ? 1 : 0)",
    loop: "const add = (a, b) => { for (;;) {} }",
    bomb: "const add = (a, b) => { const held = []; for (;;) held.push({ more: Array(100).fill(held.length) }) }"
  },
  python: {
    right: "def add(a, b):\n    return a + b\n",
    wrong: "def add(a, b):\n    return a + b + (1 if a == 7 else 0)\n",
    loop: "def add(a, b):\n    while True:\n        pass\n",
    bomb: "def add(a, b):\n    held = []\n    while True:\n        held.append(bytearray(1000000))\n"
  }
}
const item = (language: Language, name: "right" | "wrong" | "loop" | "bomb"): Item => ({
  name,
  language,
  text: sources[language === "python" ? "python" : "script"][name],
  work: add,
  score: Number(name === "right"),
  status: {
    right: ["pass"],
    wrong: ["fail"],
    loop: ["timeout"],
    // which limit ends it first is the runtime's affair
    bomb: ["memory", "error", "timeout"]
  }[name]
})

const isRight = ({ item, outcome }: Done): boolean =>
  outcome._tag === "Scored" && outcome.score === item.score && item.status.includes(outcome.reason?.split(",")[0] ?? "")

type Judge = (item: Item) => Promise<Outcome>

const judgeWith = (sandbox: Sandbox): Judge => {
  const verifier = (language: Language): VerifierFunction<UnitTestWork> =>
    unitTests<UnitTestWork>({ work: (task) => task.data, extract: (text) => text, language, sandbox: () => sandbox })
  const byLanguage = new Map<Language, VerifierFunction<UnitTestWork>>()
  const { signal } = new AbortController()
  return async (item) => {
    let verify = byLanguage.get(item.language)
    if (verify === undefined) byLanguage.set(item.language, (verify = verifier(item.language)))
    const input = { task: { id: item.name, prompt: "", data: item.work }, trajectory: trajectory(item.text) }
    return outcome(await verify({ ...input, signal }), input.trajectory)
  }
}

/** Keeps `inFlight` evaluations going until `next` has no more. */
const drive = async (judge: Judge, inFlight: number, next: () => Item | undefined, each: (done: Done) => void) => {
  const worker = async () => {
    for (let item = next(); item !== undefined; item = next()) {
      const start = performance.now()
      const outcome = await judge(item)
      each({ item, outcome, milliseconds: performance.now() - start })
    }
  }
  await Promise.all(Array.from({ length: inFlight }, worker))
}

const settings = new Map(process.argv.slice(3).map((part) => part.split("=", 2) as [string, string]))
const setting = (name: string, otherwise: number): number => {
  const value = Number(settings.get(name) ?? otherwise)
  if (!(value > 0)) throw new RangeError(`${name} is a positive number, got ${settings.get(name)}`)
  return value
}
for (const name of settings.keys()) {
  if (!["seconds", "children", "runtime", "n", "timeout"].includes(name)) throw new Error(`there is no setting ${name}`)
}
const children = setting("children", 2)
const wanted = settings.get("runtime")
const isWanted = (runtime: string): boolean => wanted === undefined || wanted === runtime
if (wanted !== undefined && !Object.hasOwn(runtimes, wanted) && wanted !== "none") {
  throw new Error(`there is no runtime ${wanted}; there are ${Object.keys(runtimes).join(", ")}`)
}

let failures = 0
const fail = (text: string): void => {
  failures++
  if (failures <= 20) console.log(`  WRONG ${text}`)
}
const explain = ({ item, outcome }: Done): string =>
  `${item.name}: wanted ${item.score} ${item.status.join("|")}, got ${JSON.stringify(outcome).slice(0, 300)}`

const measure = async (name: string, judge: Judge, language: Language, note: string) => {
  const seconds = setting("seconds", 5)
  const right = item(language, "right")
  await drive(
    judge,
    children,
    counted(20, () => right),
    (done) => void (isRight(done) || fail(explain(done)))
  )

  const plain: Array<number> = []
  let wrong = 0
  const start = performance.now()
  const until = start + seconds * 1000
  await drive(
    judge,
    children,
    () => (performance.now() < until ? right : undefined),
    (done) => {
      plain.push(done.milliseconds)
      if (isRight(done)) return
      wrong++
      fail(`${name}: ${explain(done)}`)
    }
  )
  const plainSeconds = (performance.now() - start) / 1000

  // 5 of 100 loop and 5 exhaust memory
  const total = 200
  const mixed: Array<Done> = []
  const mixedStart = performance.now()
  await drive(
    judge,
    children,
    counted(total, (row) => item(language, row % 20 === 7 ? "loop" : row % 20 === 17 ? "bomb" : "right")),
    (done) => {
      mixed.push(done)
      if (!isRight(done)) fail(`${name}: ${explain(done)}`)
    }
  )
  const mixedSeconds = (performance.now() - mixedStart) / 1000
  if (mixed.length !== total) fail(`${name}: ${total - mixed.length} verdicts lost`)
  const good = mixed.filter(({ item }) => item.name === "right").map(({ milliseconds }) => milliseconds)
  return {
    runtime: name,
    isolation: note,
    "evaluations/s": Math.round(plain.length / plainSeconds),
    "p50 ms": round(quantile(plain, 0.5)),
    "p99 ms": round(quantile(plain, 0.99)),
    "hostile: /s": Math.round(total / mixedSeconds),
    "p50 of good": round(quantile(good, 0.5)),
    "p99 of good": round(quantile(good, 0.99)),
    wrong: wrong + mixed.filter((done) => !isRight(done)).length
  }
}
const round = (value: number): number => Number(value.toFixed(value < 10 ? 2 : 1))
const counted = (count: number, make: (row: number) => Item): (() => Item | undefined) => {
  let row = 0
  return () => (row < count ? make(row++) : undefined)
}

/** One plain process for each evaluation: candidate and assertions together, right when it exits with 0. */
const childProcess =
  (file: string, args: (item: Item) => ReadonlyArray<string>): Judge =>
  (item) =>
    new Promise((resolve, reject) => {
      const child = spawn(file, [...args(item)], { stdio: "ignore" })
      let late = false
      const timer = setTimeout(() => {
        late = true
        child.kill("SIGKILL")
      }, limits.timeout)
      child.on("error", reject)
      child.on("exit", (code) => {
        clearTimeout(timer)
        const status = late ? "timeout" : code === 0 ? "pass" : "error"
        resolve({ _tag: "Scored", score: Number(status === "pass"), reason: status })
      })
    })

const limits = { children, timeout: setting("timeout", 500), total: 2000, memoryMb: 64 } satisfies SandboxOptions
const python = process.platform === "linux" ? "/usr/bin/python3" : "python3"

const baselines = () => {
  const node = childProcess(process.execPath, ({ text }) => [
    "--max-old-space-size=64",
    "-e",
    `${text}\nfor (const { args, expect } of ${JSON.stringify(cases)}) if (add(...args) !== expect) process.exit(1)`
  ])
  const py = childProcess(python, ({ text }) => [
    "-c",
    "import resource\nresource.setrlimit(resource.RLIMIT_AS, (256000000, 256000000))\n" +
      `${text}\nfor one in ${JSON.stringify(cases)}:\n    assert add(*one["args"]) == one["expect"]\n`
  ])
  return [
    ["node -e, a process each", node, "javascript"],
    ["python3 -c, a process each", py, "python"]
  ] as const
}

const throughput = async () => {
  const rows: Array<Record<string, unknown>> = []
  const note = (row: Record<string, unknown>) => {
    rows.push(row)
    console.log(
      `  ${Object.entries(row)
        .map(([key, value]) => `${key} ${String(value)}`)
        .join("  ")}`
    )
  }
  for (const [runtime, { language, make }] of Object.entries(runtimes)) {
    if (!isWanted(runtime)) continue
    const seen = new Set<string>()
    for (const isolation of ["bubblewrap", "process"] as const satisfies ReadonlyArray<Isolation>) {
      const memoryMb = language === "python" ? 256 : limits.memoryMb
      const sandbox = make({ ...limits, memoryMb }, isolation)
      try {
        const { isolation: found } = await sandbox.boundary()
        // where the boundary is as strong whatever was asked for
        if (seen.has(found)) continue
        seen.add(found)
        note(await measure(runtime, judgeWith(sandbox), language, found))
      } catch (fault) {
        console.log(`  ${runtime} with ${isolation}: ${fault instanceof Error ? fault.message : String(fault)}`)
      } finally {
        await sandbox.close()
      }
    }
  }
  if (wanted === undefined || wanted === "none")
    for (const [name, judge, language] of baselines()) note(await measure(name, judge, language, "none"))
  console.log(`${children} at once; ${limits.timeout} ms a case; hostile: 5 % endless loops, 5 % memory bombs`)
  console.table(rows)
}

interface HostileCase {
  readonly id: string
  readonly language?: Language
  readonly submission: string
  readonly tests:
    | {
        readonly kind: "call"
        readonly fn: string
        readonly cases: ReadonlyArray<{ readonly args: ReadonlyArray<unknown>; readonly expect: unknown }>
      }
    | { readonly kind: "stdio"; readonly cases: ReadonlyArray<ProgramCase> }
  readonly expected: { readonly reward: number; readonly status: ReadonlyArray<string> }
}

const fixtures = fileURLToPath(new URL("../fixtures/", import.meta.url))
const hostile = (language: Language): ReadonlyArray<Item> =>
  readdirSync(fixtures)
    .filter((name) => /^hostile-.*\.json$/.test(name))
    .flatMap((name) => {
      const { cases } = JSON.parse(readFileSync(`${fixtures}${name}`, "utf8")) as { cases: ReadonlyArray<HostileCase> }
      // a file of one language names it alone
      return cases.map((one) => ({ ...one, language: one.language ?? (/^hostile-(\w+)/.exec(name)![1]! as Language) }))
    })
    .filter((one) => (one.language === "python") === (language === "python"))
    .map((one) => ({
      name: one.id,
      language: one.language,
      text: one.submission,
      work:
        one.tests.kind === "call"
          ? { kind: "calls", entry: one.tests.fn, cases: one.tests.cases }
          : { kind: "programs", cases: one.tests.cases },
      score: one.expected.reward,
      status: one.expected.status
    }))

interface Host {
  readonly rssMb: number
  readonly threads: number
  readonly descriptors: number
  readonly processes: number
  readonly zombies: number
}

/** This process and what descends from it. */
const host = (): Host => {
  ;(globalThis as { gc?: () => void }).gc?.()
  const rssMb = process.memoryUsage().rss / 1e6
  if (!existsSync("/proc/self/stat"))
    return { rssMb, threads: Number.NaN, descriptors: Number.NaN, processes: Number.NaN, zombies: Number.NaN }
  const parents = new Map<number, { readonly parent: number; readonly state: string }>()
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue
    try {
      const stat = readFileSync(`/proc/${name}/stat`, "utf8")
      const [state = "", parent = "0"] = stat.slice(stat.lastIndexOf(")") + 2).split(" ")
      parents.set(Number(name), { state, parent: Number(parent) })
    } catch {
      // it has ended meanwhile
    }
  }
  const isOurs = (pid: number): boolean => {
    for (let at = parents.get(pid)?.parent; at !== undefined && at > 1; at = parents.get(at)?.parent)
      if (at === process.pid) return true
    return false
  }
  const ours = [...parents].filter(([pid]) => isOurs(pid))
  return {
    rssMb,
    threads: Number(/Threads:\s+(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))?.[1]),
    descriptors: readdirSync("/proc/self/fd").length,
    processes: ours.length,
    zombies: ours.filter(([, { state }]) => state === "Z").length
  }
}

/** Least squares. */
const slope = (points: ReadonlyArray<readonly [number, number]>): number => {
  const mean = (at: 0 | 1) => points.reduce((sum, point) => sum + point[at], 0) / points.length
  const [x, y] = [mean(0), mean(1)]
  const above = points.reduce((sum, [a, b]) => sum + (a - x) * (b - y), 0)
  return above / points.reduce((sum, [a]) => sum + (a - x) ** 2, 0)
}

const soak = async () => {
  const n = setting("n", 100_000)
  const rows: Array<Record<string, unknown>> = []
  for (const [runtime, { language, make }] of Object.entries(runtimes)) {
    if (!isWanted(runtime)) continue
    const hostiles = hostile(language)
    if (hostiles.length === 0) {
      console.log(`  ${runtime}: no tests/fixtures/hostile-*.json for ${language}, left out`)
      continue
    }
    // what is slow and honest among the programs has to pass; QuickJS takes 0.2 s a case for it
    const timeout = setting("timeout", { "isolated-vm": 300, quickjs: 1000, python: 500 }[runtime] ?? 1000)
    const sandbox = make(
      { children, timeout, total: 3 * timeout, memoryMb: language === "python" ? 256 : 64 },
      undefined
    )
    const { holds, isolation, lacks } = await sandbox.boundary()
    console.log(`${runtime} in ${isolation}: holds ${holds.join(", ") || "-"}; lacks ${lacks.join(", ") || "-"}`)
    console.log(`  ${n} evaluations, every twentieth one of ${hostiles.length} hostile and control programs`)
    const judge = judgeWith(sandbox)
    await drive(
      judge,
      children,
      counted(50, () => item(language, "right")),
      () => {}
    )
    const before = host()
    const samples: Array<readonly [number, number]> = []
    const peak = { threads: before.threads, descriptors: before.descriptors, processes: before.processes }
    const outcomes = new Uint8Array(n)
    const byStatus = new Map<string, number>()
    let finished = 0
    let wrong = 0
    let unscorable = 0
    const start = performance.now()
    let last = start
    let next = 0
    const every = Math.max(1, Math.floor(n / 200))
    const rowItem = (row: number): Item =>
      row % 20 === 19
        ? hostiles[Math.floor(row / 20) % hostiles.length]!
        : item(language, row % 7 === 3 ? "wrong" : "right")
    const worker = async () => {
      while (next < n) {
        const row = next++
        const own = rowItem(row)
        const verdict = await judge(own)
        outcomes[row]!++
        finished++
        const done = { item: own, outcome: verdict, milliseconds: 0 }
        const status = verdict._tag === "Scored" ? (verdict.reason?.split(",")[0] ?? "?") : "unscorable"
        byStatus.set(status, (byStatus.get(status) ?? 0) + 1)
        if (verdict._tag === "Unscorable") unscorable++
        else if (!isRight(done)) wrong++
        if (!isRight(done)) fail(`evaluation ${row}, ${explain(done)}`)
        if (finished % every === 0) {
          const now = host()
          samples.push([finished, now.rssMb])
          peak.threads = Math.max(peak.threads, now.threads)
          peak.descriptors = Math.max(peak.descriptors, now.descriptors)
          peak.processes = Math.max(peak.processes, now.processes)
          if (performance.now() - last > 10_000) {
            last = performance.now()
            const seconds = (last - start) / 1000
            console.log(
              `  ${finished}/${n}  ${(finished / seconds).toFixed(1)}/s  ${now.rssMb.toFixed(0)} MB  ${now.processes} processes  ` +
                `${now.zombies} zombies  ${now.threads} threads  ${wrong} wrong  ${unscorable} unscorable  ` +
                `${duration(((n - finished) * seconds) / finished)} left`
            )
          }
        }
      }
    }
    await Promise.all(Array.from({ length: children }, worker))
    const seconds = (performance.now() - start) / 1000
    await sandbox.close()
    // the kernel takes a moment to end what was killed
    let after = host()
    for (let tries = 0; tries < 50 && after.processes > 0; tries++) {
      await sleep(100)
      after = host()
    }
    const lost = outcomes.filter((count) => count !== 1).length
    if (lost > 0) fail(`${runtime}: ${lost} scores lost or given twice`)
    if (after.processes > 0)
      fail(`${runtime}: ${after.processes} processes left behind, ${after.zombies} of them zombies`)
    const settled = samples.slice(Math.floor(samples.length / 4))
    rows.push({
      runtime,
      isolation,
      evaluations: n,
      "per s": Math.round(n / seconds),
      wrong,
      unscorable,
      lost,
      "RSS MB before": Math.round(before.rssMb),
      "at the end": Math.round(samples.at(-1)?.[1] ?? after.rssMb),
      "MB per 10,000": settled.length < 2 ? Number.NaN : round(slope(settled) * 10_000),
      "threads before/peak/after": `${before.threads}/${peak.threads}/${after.threads}`,
      "descriptors before/peak/after": `${before.descriptors}/${peak.descriptors}/${after.descriptors}`,
      "processes before/peak/after": `${before.processes}/${peak.processes}/${after.processes}`,
      zombies: after.zombies
    })
    console.log(`  ${[...byStatus].map(([status, count]) => `${status} ${count}`).join(", ")}`)
    console.log(
      `  RSS over time, MB: ${samples
        .filter((_, at) => at % 10 === 9)
        .map(([, mb]) => mb.toFixed(0))
        .join(" ")}`
    )
  }
  for (const row of rows) {
    console.log()
    for (const [key, value] of Object.entries(row)) console.log(`  ${key.padEnd(30)} ${String(value)}`)
  }
}

const modes: Readonly<Record<string, () => Promise<void>>> = { throughput, soak }
const mode = modes[process.argv[2] ?? "throughput"]
if (mode === undefined) throw new Error(`modes are ${Object.keys(modes).join(" and ")}`)
await mode()
if (failures > 0) {
  console.log(`${failures} wrong, lost or left behind`)
  process.exitCode = 1
}
