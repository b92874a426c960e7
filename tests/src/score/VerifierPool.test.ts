import { assert, describe, it, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { spawn } from "node:child_process"
import { once } from "node:events"
import * as Reward from "../../../src/score/Reward.ts"
import type { Unscorable } from "../../../src/score/Verifier.ts"
import * as Verifier from "../../../src/score/Verifier.ts"
import * as VerifierPool from "../../../src/score/VerifierPool.ts"
import * as WorkerPool from "../../../src/score/WorkerPool.ts"
import { group, trajectory } from "../../fixtures/trajectories.ts"

const module = new URL("../../fixtures/verifiers.ts", import.meta.url)
const misbehaving = Verifier.worker<string>({ module, deadline: 500 })
/** For what ends its worker by itself, however busy the machine is. */
const patient = Verifier.worker<string>({ module, deadline: 60_000 })

const ask = Effect.fnUntraced(function* (behaviour: string, verifier = misbehaving, id = "task-7") {
  const pool = yield* VerifierPool.VerifierPool
  return yield* pool.verify(verifier, { task: { id, prompt: "", data: behaviour }, trajectory: trajectory("x", 0, id) })
})
const kindOf = (outcome: Verifier.Outcome) => (outcome._tag === "Unscorable" ? outcome.kind : outcome.score)

// One pool for each way of working: starting workers is what takes time. Live clock: the waits are in other threads.
const options = { workers: 2, memoryMb: 64, deadline: 60_000 } as const
const pooled = WorkerPool.layer(options)

describe("VerifierPool", () => {
  layer(pooled, { excludeTestServices: true })("in processes", (it) => {
    it.effect("returns what the verifier says", () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* ask("score"), { _tag: "Scored", score: 0.007 })
        assert.deepStrictEqual(yield* ask("rich"), {
          _tag: "Scored",
          score: 0.5,
          reason: "half",
          metrics: { lines: 3 }
        })
        assert.deepStrictEqual(yield* ask("unscorable"), {
          _tag: "Unscorable",
          reason: "the judge is away",
          kind: "declared"
        })
      })
    )

    it.effect("ends endless loops at their deadline, interruptible or not, and goes on", () =>
      Effect.gen(function* () {
        for (const loop of ["loop", "allocatingLoop", "never"]) {
          const outcome = yield* ask(loop)
          assert.strictEqual(kindOf(outcome), "timeout", loop)
          assert.match(
            (outcome as Unscorable).reason,
            /^waited 500 ms for a verdict of file:.*verifiers\.ts#default \(task task-7, trajectory 0\)/
          )
          assert.strictEqual(kindOf(yield* ask("score")), 0.007)
        }
      })
    )

    it.effect("survives every way of running out of memory", () =>
      Effect.gen(function* () {
        for (const bomb of ["memory", "abort", "buffers"]) {
          const outcome = yield* ask(bomb, patient)
          assert.strictEqual(kindOf(outcome), "crash", bomb)
          assert.match((outcome as Unscorable).reason, /killed 2 workers.*out of memory/)
          assert.strictEqual(kindOf(yield* ask("score")), 0.007)
        }
      })
    )

    it.effect("convicts a call that ends its worker", () =>
      Effect.gen(function* () {
        for (const end of ["exit", "kill", "late"]) {
          const outcome = yield* ask(end, patient)
          assert.strictEqual(kindOf(outcome), "crash", end)
          assert.include((outcome as Unscorable).reason, "killed 2 workers")
        }
        assert.strictEqual(kindOf(yield* ask("score")), 0.007)
      })
    )

    it.effect("reports throws as errors and nonsense as no verdict", () =>
      Effect.gen(function* () {
        const thrown = yield* ask("throws")
        assert.deepInclude(thrown, { _tag: "Unscorable", kind: "error" })
        assert.include((thrown as Unscorable).reason, "broken verifier")
        assert.strictEqual(kindOf(yield* ask("throwsNothing")), "error")
        for (const nonsense of ["nan", "infinite", "text", "function"]) {
          assert.strictEqual(kindOf(yield* ask(nonsense)), "verdict", nonsense)
        }
      })
    )

    it.effect("loads other exports, and makes verifiers of factories once per worker", () =>
      Effect.gen(function* () {
        const constant = Verifier.worker({ module, export: "constant", options: { score: 0.25 } })
        const other = Verifier.worker({ module, export: "constant", options: { score: 0.75 } })
        const made = new Set<number>()
        for (let call = 0; call < 6; call++) {
          const outcome = yield* ask("", constant)
          assert.strictEqual(kindOf(outcome), 0.25)
          made.add((outcome as Verifier.Scored).metrics!["made"]!)
          assert.strictEqual(kindOf(yield* ask("", other)), 0.75)
        }
        assert.isAtMost(made.size, 2)
      })
    )

    it.effect("fails for a verifier that cannot be loaded", () =>
      Effect.gen(function* () {
        const absent = new URL("../../fixtures/absent.ts", import.meta.url)
        for (const spec of [{ module: absent }, { module, export: "absent" }, { module, export: "notAFunction" }]) {
          const error = yield* Effect.flip(ask("", Verifier.worker(spec)))
          assert.strictEqual(error._tag, "VerifierLoadError")
          assert.match(error.message, /cannot load verifier file:/)
        }
        const error = yield* Effect.flip(Reward.scoreGroup(Verifier.worker({ module: absent }), group("", ["x"])))
        assert.strictEqual(error._tag, "VerifierLoadError")
      })
    )

    it.effect("refuses tasks that cannot be sent to a worker, and lives", () =>
      Effect.gen(function* () {
        const pool = yield* VerifierPool.VerifierPool
        const outcome = yield* pool.verify(misbehaving, {
          task: { id: "t", prompt: "", data: () => 1 },
          trajectory: trajectory("x")
        })
        assert.strictEqual(kindOf(outcome), "error")
        assert.strictEqual(kindOf(yield* ask("score")), 0.007)
      })
    )

    it.effect("interruption ends the call and gives the worker back", () =>
      Effect.gen(function* () {
        const fibers = yield* Effect.forEach([1, 2, 3, 4], () => Effect.forkChild(ask("loop", patient)))
        yield* Effect.sleep("300 millis")
        yield* Fiber.interruptAll(fibers)
        assert.strictEqual(kindOf(yield* ask("score")), 0.007)
        const { metrics } = yield* VerifierPool.VerifierPool
        assert.deepInclude(yield* metrics, { "verifiers/pool/running": 0, "verifiers/pool/waiting": 0 })
      })
    )

    it.effect("loses no call and scores none wrongly when others loop, exhaust memory and kill workers", () =>
      Effect.gen(function* () {
        const behaviour = (row: number) =>
          row % 25 === 3
            ? "loop"
            : row % 25 === 9
              ? "memory"
              : row % 25 === 14
                ? "kill"
                : row % 50 === 20
                  ? "abort"
                  : "score"
        const rows = Array.from({ length: 60 }, (_, row) => row)
        const outcomes = yield* Effect.forEach(
          rows,
          (row) => ask(behaviour(row), behaviour(row) === "loop" ? misbehaving : patient, `task-${row}`),
          { concurrency: 16 }
        )
        rows.forEach((row) => {
          const wanted = { loop: "timeout", memory: "crash", kill: "crash", abort: "crash", score: row / 1000 }[
            behaviour(row)
          ]
          assert.strictEqual(kindOf(outcomes[row]!), wanted, `${row} ${behaviour(row)}`)
        })
      })
    )

    it.effect("measures itself", () =>
      Effect.gen(function* () {
        const { metrics } = yield* VerifierPool.VerifierPool
        const seen = yield* metrics
        assert.isAbove(seen["verifiers/pool/timeouts"]!, 0)
        assert.isAbove(seen["verifiers/pool/crashes"]!, 0)
        assert.isAbove(seen["verifiers/pool/replaced"]!, seen["verifiers/pool/crashes"]!)
        assert.isAbove(seen["verifiers/pool/latency_p95"]!, 0)
      })
    )

    it.effect("scores a group through a reward", () =>
      Effect.gen(function* () {
        const reward = Reward.all({ pooled: misbehaving, own: Reward.weight(2, () => 1) })
        const scored = yield* Reward.scoreGroup(reward, group("score", ["a", "b", "c"], "task-500"))
        assert.deepStrictEqual(
          scored.trajectories.map(({ reward }) => reward),
          [2.5, 2.5, 2.5]
        )
      })
    )
  })

  layer(WorkerPool.layer({ ...options, isolation: "thread" }), { excludeTestServices: true })("in threads", (it) => {
    it.effect("ends loops and replaces threads", () =>
      Effect.gen(function* () {
        assert.strictEqual(kindOf(yield* ask("loop")), "timeout")
        assert.strictEqual(kindOf(yield* ask("exit", patient)), "crash")
        assert.strictEqual(kindOf(yield* ask("late", patient)), "crash")
        assert.deepStrictEqual(yield* ask("score"), { _tag: "Scored", score: 0.007 })
      })
    )
  })

  it.live("holds back who comes when workers and queue are full, first come first served", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ workers: 1, queue: 2 })
      const order: Array<number> = []
      yield* Effect.forEach(
        Array.from({ length: 12 }, (_, row) => row),
        (row) =>
          Effect.tap(
            pool.verify(misbehaving, {
              task: { id: `task-${row}`, prompt: "", data: "score" },
              trajectory: trajectory("x")
            }),
            () => Effect.sync(() => order.push(row))
          ),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(
        order,
        Array.from({ length: 12 }, (_, row) => row)
      )
    }).pipe(Effect.scoped)
  )

  it.live("leaves no process behind, also when it is killed", () =>
    Effect.gen(function* () {
      const script = `
        import * as Effect from "effect/Effect"
        import * as Scope from "effect/Scope"
        import * as WorkerPool from ${JSON.stringify(new URL("../../../src/score/WorkerPool.ts", import.meta.url).href)}
        const verifier = { _tag: "WorkerVerifier", module: ${JSON.stringify(module.href)}, export: "default", deadline: 60_000 }
        const ask = (pool, data) => pool.verify(verifier, { task: { id: "t-1", prompt: "", data }, trajectory: { turns: [] } })
        const pool = await Effect.runPromise(Effect.provideService(WorkerPool.make({ workers: 1 }), Scope.Scope, Scope.makeUnsafe()))
        console.log((await Effect.runPromise(ask(pool, "pid"))).reason)
        if (process.argv.at(-1) === "loop") Effect.runFork(ask(pool, "loop"))
      `
      const start = (mode: string) =>
        spawn(process.execPath, ["--conditions=quintain-source", "--input-type=module", "-e", script, mode], {
          stdio: ["ignore", "pipe", "inherit"],
          cwd: new URL("../../..", import.meta.url)
        })
      const pidOf = async (child: ReturnType<typeof start>) => Number(String((await once(child.stdout!, "data"))[0]))
      yield* Effect.promise(async () => {
        // ends by itself while a worker is idle and the scope is never closed
        const idle = start("idle")
        const first = await pidOf(idle)
        const [code] = (await once(idle, "exit")) as [number]
        assert.strictEqual(code, 0)
        await vanished(first)
        const busy = start("loop")
        const second = await pidOf(busy)
        busy.kill("SIGKILL")
        await vanished(second)
      })
    })
  )
})

/** Waits for a process to end; the test's own time limit is what fails. */
const vanished = async (pid: number): Promise<void> => {
  for (;;) {
    try {
      process.kill(pid, 0)
    } catch {
      return
    }
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}
