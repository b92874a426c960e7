import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs/promises"
import * as os from "node:os"
import * as path from "node:path"
import { type Record, Run } from "quintain"

const temporary = Effect.acquireRelease(
  Effect.promise(() => fs.mkdtemp(path.join(os.tmpdir(), "quintain-run-"))),
  (directory) => Effect.promise(() => fs.rm(directory, { recursive: true, force: true }))
)

const record = (seed: number, more: Partial<Record.RunRecord> = {}): Record.RunRecord => ({
  format: 2,
  model: { name: "tiny", hash: "a", dtype: "f32", engine: "native" },
  adapter: null,
  algorithm: { name: "test", loss: { name: "clipped", settings: { low: 0.2 } } },
  data: {},
  settings: { seed },
  versions: { quintain: "1", node: "24", addon: "1" },
  ...more
})

const state = (step: number): Record.State => ({ format: 2, step, tokens: step * 100, set: { learningRate: step } })

/** Opens the run, does the steps `from` to `to` with a checkpoint after the last, and closes it. */
const steps = (directory: string, from: number, to: number) =>
  Effect.scoped(
    Effect.gen(function* () {
      const run = yield* Run.open({ directory, record: record(1) })
      for (let step = from; step <= to; step++) {
        yield* run.metrics({ step, reward: step / 10 })
        yield* run.trajectories(step, [])
      }
      yield* run.checkpoint(state(to), (folder) =>
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
      const run = yield* Run.open({ directory, record: record(1) })
      assert.deepStrictEqual(run.resumed?.state, state(3))
      const weights = path.join(run.resumed!.checkpoint, "weights")
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
      assert.strictEqual(resumed?.state.step, 3)
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
      const error = yield* Effect.flip(Effect.scoped(Run.open({ directory, record: record(2) })))
      assert.match(error.message, /`settings.seed` was 1 and is now 2; restore it, name it in mayChange/)
      const run = yield* Run.open({ directory, record: record(2), mayChange: ["settings.seed"] })
      assert.strictEqual(run.resumed?.state.step, 1)
    })
  )

  it.effect("compares every part of the record, apart from versions and the model's name", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      yield* steps(directory, 1, 1)
      const refusal = (more: Partial<Record.RunRecord>) =>
        Run.open({ directory, record: record(1, more) }).pipe(
          Effect.flip,
          Effect.map(({ message }) => message),
          Effect.scoped
        )
      const model = record(1).model
      const loss = (name: string, low: number) => ({ algorithm: { name: "test", loss: { name, settings: { low } } } })
      assert.include(yield* refusal({ model: { ...model, hash: "b" } }), '`model.hash` was "a" and is now "b"')
      assert.include(yield* refusal(loss("clipped", 0.3)), "`algorithm.loss.settings.low` was 0.2 and is now 0.3")
      assert.include(yield* refusal(loss("mine", 0.2)), '`algorithm.loss` was {"name":"clipped"')
      assert.include(yield* refusal({ data: { tasks: { name: "t" } } }), "`data.tasks` was undefined")
      const versions = { quintain: "2", node: "25", addon: "2" }
      const again = record(1, { versions, model: { ...model, name: "moved" } })
      assert.strictEqual((yield* Run.open({ directory, record: again })).resumed?.state.step, 1)
    })
  )

  it.effect("refuses a directory of an earlier format by name, and leaves it as it was", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      const config = path.join(directory, "config.json")
      yield* Effect.promise(() => fs.writeFile(config, '{"algorithm":"grpo"}'))
      const error = yield* Effect.flip(Effect.scoped(Run.open({ directory, record: record(1) })))
      assert.match(error.message, /format is 1; expected 2. Finish the run with the version of quintain that made it/)
      assert.deepStrictEqual(yield* Effect.promise(() => fs.readdir(directory)), ["config.json"])
      assert.strictEqual(yield* Effect.promise(() => fs.readFile(config, "utf8")), '{"algorithm":"grpo"}')
    })
  )

  it.effect("names the parts that a resume cannot compare", () =>
    Effect.gen(function* () {
      const algorithm = { name: "test", loss: { name: "mine", settings: {}, opaque: true as const } }
      const run = yield* Run.open({ directory: yield* temporary, record: record(1, { algorithm }) })
      assert.deepStrictEqual(run.opaque, ["algorithm.loss (mine)"])
    })
  )

  it.effect("refuses a run that a living process writes, and takes over the lock of a dead one", () =>
    Effect.gen(function* () {
      const directory = yield* temporary
      yield* steps(directory, 1, 1)
      const lock = path.join(directory, "lock")
      yield* Effect.promise(() => fs.writeFile(lock, String(process.ppid)))
      const error = yield* Effect.flip(Run.open({ directory, record: record(1) }))
      assert.match(error.message, new RegExp(`process ${process.ppid} is writing this run`))
      yield* Effect.promise(() => fs.writeFile(lock, "999999999"))
      assert.strictEqual((yield* Run.open({ directory, record: record(1) })).resumed?.state.step, 1)
    })
  )
})
