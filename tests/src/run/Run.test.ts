import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs/promises"
import * as os from "node:os"
import * as path from "node:path"
import * as Run from "../../../src/run/Run.ts"

const temporary = Effect.acquireRelease(
  Effect.promise(() => fs.mkdtemp(path.join(os.tmpdir(), "quintain-run-"))),
  (directory) => Effect.promise(() => fs.rm(directory, { recursive: true, force: true }))
)

const position = (step: number): Run.Position => ({
  step,
  cursor: step * 4,
  tokens: step * 100,
  custom: { level: step }
})

/** Opens the run, does the steps `from` to `to` with a checkpoint after the last, and closes it. */
const steps = (directory: string, from: number, to: number) =>
  Effect.scoped(
    Effect.gen(function* () {
      const run = yield* Run.open({ directory, config: { seed: 1 } })
      for (let step = from; step <= to; step++) {
        yield* run.metrics({ step, reward: step / 10 })
        yield* run.trajectories(step, [])
      }
      yield* run.checkpoint(position(to), (folder) =>
        Effect.promise(() => fs.writeFile(path.join(folder, "weights"), `weights ${to}`))
      )
      return run.resumed
    })
  )

const stepsIn = async (directory: string): Promise<ReadonlyArray<number>> =>
  (await fs.readFile(path.join(directory, "metrics.jsonl"), "utf8"))
    .trimEnd()
    .split("\n")
    .map((line) => (JSON.parse(line) as { readonly step: number }).step)

describe("Run", () => {
  it.effect("resumes from its newest checkpoint", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      assert.isUndefined(yield* steps(directory, 1, 3))
      const run = yield* Run.open({ directory, config: { seed: 1 } })
      assert.deepStrictEqual(run.resumed?.position, position(3))
      const weights = path.join(run.resumed!.weights, "weights")
      assert.strictEqual(yield* Effect.promise(() => fs.readFile(weights, "utf8")), "weights 3")
    })
  )

  it.effect("cuts the record back to the checkpoint, partial lines and drafts included", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      yield* steps(directory, 1, 3)
      yield* Effect.promise(async () => {
        await fs.appendFile(path.join(directory, "metrics.jsonl"), `{"step":4,"reward":0.4}\n{"step":5,"rew`)
        await fs.writeFile(path.join(directory, "trajectories", "step-000004.jsonl"), "")
        await fs.writeFile(path.join(directory, "trajectories", "step-000005.jsonl.tmp"), "half")
        await fs.mkdir(path.join(directory, "checkpoints", "step-000005.tmp"))
      })
      const resumed = yield* steps(directory, 4, 4)
      assert.strictEqual(resumed?.position.step, 3)
      assert.deepStrictEqual(yield* Effect.promise(() => stepsIn(directory)), [1, 2, 3, 4])
      const kept = yield* Effect.promise(() => fs.readdir(path.join(directory, "trajectories")))
      assert.deepStrictEqual(
        kept.toSorted(),
        [1, 2, 3, 4].map((step) => `step-00000${step}.jsonl`)
      )
    })
  )

  it.effect("keeps the newest checkpoints only", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      for (const step of [1, 2, 3]) yield* steps(directory, step, step)
      const kept = yield* Effect.promise(() => fs.readdir(path.join(directory, "checkpoints")))
      assert.deepStrictEqual(kept.toSorted(), ["step-000002", "step-000003"])
    })
  )

  it.effect("refuses another configuration, and names the field", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      yield* steps(directory, 1, 1)
      const error = yield* Effect.flip(Effect.scoped(Run.open({ directory, config: { seed: 2 } })))
      assert.match(error.message, /`seed` was 1 and is now 2/)
      const run = yield* Run.open({ directory, config: { seed: 2 }, mayChange: ["seed"] })
      assert.strictEqual(run.resumed?.position.step, 1)
    })
  )

  it.effect("refuses a run that a living process writes, and takes over the lock of a dead one", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      yield* steps(directory, 1, 1)
      const lock = path.join(directory, "lock")
      yield* Effect.promise(() => fs.writeFile(lock, String(process.ppid)))
      const error = yield* Effect.flip(Run.open({ directory, config: { seed: 1 } }))
      assert.match(error.message, new RegExp(`process ${process.ppid} is writing this run`))
      yield* Effect.promise(() => fs.writeFile(lock, "999999999"))
      assert.strictEqual((yield* Run.open({ directory, config: { seed: 1 } })).resumed?.position.step, 1)
    })
  )
})
