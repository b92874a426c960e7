/**
 * The verifier pool and the sandbox, measured: calls per second, latencies, and what becomes of 1,000 calls of which 5 % loop
 * for ever, 5 % exhaust memory and 2 % kill their worker. Fails when a call is lost or wrongly scored.
 *
 *     node --conditions=quintain-source tests/bench/verifiers.ts
 */
import assert from "node:assert/strict"
import * as Effect from "effect/Effect"
import { unitTests } from "../../rewards/index.ts"
import { outcome } from "../../src/score/Verifier.ts"
import * as Verifier from "../../src/score/Verifier.ts"
import * as WorkerPool from "../../src/score/WorkerPool.ts"
import { trajectory } from "../fixtures/trajectories.ts"
import { quantile } from "../../src/internal/statistics.ts"

const module = new URL("../fixtures/verifiers.ts", import.meta.url)
const workers = 2
const print = (name: string, value: string): void => console.log(`${name.padEnd(46)} ${value}`)

/** Calls per second of a verifier that does nothing, 64 in flight. */
const trivial = Effect.fnUntraced(function* (isolation: "process" | "thread") {
  const pool = yield* WorkerPool.make({ workers, isolation })
  const verifier = Verifier.worker({ module, export: "trivial" })
  const input = { task: { id: "t", prompt: "", data: null }, trajectory: trajectory("x".repeat(200), 0, "t", 128) }
  const calls = (count: number) =>
    Effect.forEach(Array.from({ length: count }), () => pool.verify(verifier, input), { concurrency: 64 })
  yield* calls(1000)
  const count = 20_000
  const start = performance.now()
  const outcomes = yield* calls(count)
  const seconds = (performance.now() - start) / 1000
  assert.ok(outcomes.every((outcome) => outcome._tag === "Scored" && outcome.score === 1))
  const metrics = yield* pool.metrics
  print(`trivial verifier, ${isolation}, ${workers} workers`, `${Math.round(count / seconds)} calls/s`)
  print(
    "  latency without waiting, p50 / p95",
    `${[0.5, 0.95].map((share) => (metrics[`verifiers/pool/latency_p${share * 100}`]! * 1e6).toFixed(0)).join(" / ")} us`
  )
}, Effect.scoped)

const hostile = Effect.fnUntraced(function* () {
  const pool = yield* WorkerPool.make({ workers, memoryMb: 64, deadline: 30_000 })
  const looping = Verifier.worker<string>({ module, deadline: 200 })
  const other = Verifier.worker<string>({ module })
  // of each 100: 5 loop (2 in a way V8 does not interrupt by default), 5 exhaust memory (2 so that V8 aborts the process), 2 kill
  const behaviours = new Map([
    [3, "loop"],
    [17, "loop"],
    [31, "loop"],
    [45, "allocatingLoop"],
    [59, "allocatingLoop"],
    [8, "memory"],
    [22, "memory"],
    [36, "buffers"],
    [50, "abort"],
    [64, "abort"],
    [13, "exit"],
    [77, "kill"]
  ])
  const expected = {
    loop: "timeout",
    allocatingLoop: "timeout",
    memory: "crash",
    buffers: "crash",
    abort: "crash",
    exit: "crash",
    kill: "crash"
  }
  const rows = Array.from({ length: 1000 }, (_, row) => row)
  const behaviour = (row: number) => behaviours.get(row % 100) ?? "score"
  const start = performance.now()
  const outcomes = yield* Effect.forEach(
    rows,
    (row) =>
      pool.verify(behaviour(row).toLowerCase().endsWith("loop") ? looping : other, {
        task: { id: `task-${row}`, prompt: "", data: behaviour(row) },
        trajectory: trajectory("x", 0, `task-${row}`)
      }),
    { concurrency: 64 }
  )
  const seconds = (performance.now() - start) / 1000
  let wrong = 0
  rows.forEach((row) => {
    const got = outcomes[row]!
    const wanted = behaviour(row) === "score" ? row / 1000 : expected[behaviour(row) as keyof typeof expected]
    if ((got._tag === "Scored" ? got.score : got.kind) !== wanted) {
      wrong++
      console.log(`call ${row} (${behaviour(row)}): wanted ${wanted}, got ${JSON.stringify(got)}`)
    }
  })
  const metrics = yield* pool.metrics
  const tally = (kind: string) =>
    outcomes.filter((outcome) => outcome._tag === "Unscorable" && outcome.kind === kind).length
  print("1,000 calls, 5 % loop, 5 % memory, 2 % kill", `${seconds.toFixed(1)} s`)
  print(
    "  scored / timeout / crash",
    `${outcomes.filter((outcome) => outcome._tag === "Scored").length} / ${tally("timeout")} / ${tally("crash")}`
  )
  print("  lost / wrongly scored", `${1000 - outcomes.length} / ${wrong}`)
  print("  workers replaced", String(metrics["verifiers/pool/replaced"]))
  assert.equal(outcomes.length, 1000)
  assert.equal(wrong, 0)
}, Effect.scoped)

const sandbox = Effect.fnUntraced(function* () {
  const cases = Array.from({ length: 10 }, (_, index) => ({ args: [index, 1], expect: index + 1 }))
  const verifier = unitTests({ entry: "add", cases: () => cases, children: workers })
  const judge = (text: string) =>
    Effect.promise(async () => {
      const start = performance.now()
      const input = { task: { id: "t", prompt: "", data: null }, trajectory: trajectory(text) }
      const verdict = await verifier({ ...input, signal: new AbortController().signal })
      return { outcome: outcome(verdict, input.trajectory), milliseconds: performance.now() - start }
    })
  const text = "```js\nconst add = (a, b) => a + b\n```"
  const evaluations = (count: number) =>
    Effect.forEach(Array.from({ length: count }), () => judge(text), { concurrency: workers })
  yield* evaluations(100)
  const start = performance.now()
  const done = yield* evaluations(1500)
  const seconds = (performance.now() - start) / 1000
  assert.ok(done.every(({ outcome }) => outcome._tag === "Scored" && outcome.score === 1))
  const times = done.map(({ milliseconds }) => milliseconds)
  print(`unit tests, 10 cases, ${workers} children`, `${Math.round(done.length / seconds)} evaluations/s`)
  print("  p50 / p99", `${quantile(times, 0.5).toFixed(1)} / ${quantile(times, 0.99).toFixed(1)} ms`)
})

await Effect.runPromise(
  Effect.gen(function* () {
    yield* trivial("process")
    yield* trivial("thread")
    yield* sandbox()
    yield* hostile()
  })
)
