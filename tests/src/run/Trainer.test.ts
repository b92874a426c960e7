import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Schema from "effect/Schema"
import * as fs from "node:fs/promises"
import * as os from "node:os"
import * as path from "node:path"
import { Policy, type Record, Trainer } from "quintain"
import { tabular } from "../../fixtures/tabularPolicy.ts"

const folder = Effect.acquireRelease(
  Effect.promise(() => fs.mkdtemp(path.join(os.tmpdir(), "quintain-trainer-"))),
  (made) => Effect.promise(() => fs.rm(made, { recursive: true, force: true }))
)

const record: Record.RunRecord = {
  format: 2,
  model: { name: "none", hash: "0", dtype: "f32", engine: "none" },
  adapter: null,
  algorithm: { name: "test" },
  data: {},
  settings: {},
  versions: { quintain: "1", node: "1", addon: "1" }
}

type Options = Trainer.TrainOptions<unknown, never>

/** Walks a number by the learning rate: the weights of a run without a model. */
const walk = (directory: string, options: Partial<Options> = {}, more: ReadonlyArray<Trainer.Participant<any>> = []) =>
  Effect.gen(function* () {
    let weight = 0
    const log: Array<string> = []
    const cell = { get: () => weight, set: (value: number) => (weight = value) }
    const participants = [Trainer.state("weight", Schema.Finite, cell), ...more]
    const trainer = yield* Trainer.open({ directory, record, participants })
    const rate = trainer.learningRate(1)
    const result = yield* trainer.train({
      steps: 6,
      checkpointEvery: 2,
      settable: ["learningRate"],
      step: ({ step }) =>
        Effect.sync(() => {
          weight += rate(step)
          log.push(`step ${step}`)
          return { metrics: { loss: weight }, tokens: 10 }
        }),
      evaluate: { every: 3, run: Effect.sync(() => (log.push("evaluate"), { eval_loss: weight })) },
      ...options
    })
    return { ...result, weight, log, resumed: trainer.step }
  }).pipe(Effect.scoped)

const lines = (directory: string) =>
  Effect.promise(async () =>
    (await fs.readFile(path.join(directory, "metrics.jsonl"), "utf8"))
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as { readonly [name: string]: number })
  )
const untimed = (directory: string) =>
  Effect.map(lines(directory), (all) =>
    all.map((metrics) => Object.fromEntries(Object.entries(metrics).filter(([name]) => !name.includes("tim"))))
  )
const checkpoints = (directory: string) =>
  Effect.promise(async () => (await fs.readdir(path.join(directory, "checkpoints"))).toSorted())

describe("Trainer", () => {
  it.live("goes in one order: update, evaluate, onStep, metrics, checkpoint, onCheckpoint", () =>
    Effect.gen(function* () {
      const directory = yield* folder
      const seen: Array<unknown> = []
      const written = () =>
        fs.readFile(path.join(directory, "metrics.jsonl"), "utf8").then(
          (text) => text.split("\n").length - 1,
          () => 0
        )
      const { before, after, steps } = yield* walk(directory, {
        steps: 3,
        onEvaluate: async ({ metrics, step }) =>
          void seen.push(["evaluated", step, metrics["eval_loss"], await written()]),
        onStep: async ({ metrics, step, steps }) =>
          void seen.push(["step", step, steps, metrics["eval_loss"], metrics["num_tokens"], await written()]),
        onCheckpoint: ({ directory, step }) =>
          Effect.promise(
            async () => void seen.push(["checkpoint", step, (await fs.readdir(directory)).toSorted(), await written()])
          )
      })
      assert.deepStrictEqual(seen, [
        ["step", 1, 3, undefined, 10, 0],
        ["step", 2, 3, undefined, 20, 1],
        ["checkpoint", 2, ["state.json", "weight"], 2],
        ["evaluated", 3, 3, 2],
        ["step", 3, 3, 3, 30, 2],
        ["checkpoint", 3, ["state.json", "weight"], 3]
      ])
      assert.deepStrictEqual([before, after, steps], [{ eval_loss: 0 }, { eval_loss: 3 }, 3])
    })
  )

  it.live("a callback stops the run: evaluated, recorded, checkpointed, and done for good", () =>
    Effect.gen(function* () {
      const directory = yield* folder
      const onStep = ({ step }: Trainer.StepEvent) => (step === 4 ? { stop: "good enough" } : undefined)
      const first = yield* walk(directory, { onStep })
      assert.deepStrictEqual([first.steps, first.stopped, first.after], [4, "good enough", { eval_loss: 4 }])
      assert.strictEqual((yield* lines(directory)).at(-1)!["eval_loss"], 4)
      assert.include(yield* checkpoints(directory), "step-000004")
      const again = yield* walk(directory)
      assert.deepStrictEqual([again.steps, again.stopped, again.log], [4, "good enough", ["evaluate"]])
      const on = yield* walk(directory, { continueStopped: true })
      assert.deepStrictEqual([on.steps, on.stopped, on.weight], [6, undefined, 6])
    })
  )

  it.live("stops from onEvaluate and onCheckpoint as well", () =>
    Effect.gen(function* () {
      const [one, two] = [yield* folder, yield* folder]
      const evaluated = yield* walk(one, { onEvaluate: () => Effect.succeed({ stop: "flat" }) })
      assert.deepStrictEqual([evaluated.steps, evaluated.stopped], [3, "flat"])
      const saved = yield* walk(two, { onCheckpoint: () => Promise.resolve({ stop: "enough" }) })
      assert.deepStrictEqual([saved.steps, saved.stopped, saved.after], [2, "enough", { eval_loss: 2 }])
      assert.strictEqual((yield* walk(two)).stopped, "enough")
    })
  )

  it.live("keeps what callbacks set: a resumed run takes the same steps", () =>
    Effect.gen(function* () {
      const [whole, parts] = [yield* folder, yield* folder]
      const options = (steps: number): Partial<Options> => ({
        steps,
        evaluate: { every: 100, run: Effect.succeed({}) },
        onStep: ({ step }) => (step === 1 ? { set: { learningRate: 0.5 } } : undefined),
        onCheckpoint: ({ step }) => (step === 4 ? { set: { learningRate: 0.25 } } : undefined)
      })
      const one = yield* walk(whole, options(6))
      assert.strictEqual(one.weight, 1 + 3 * 0.5 + 2 * 0.25)
      yield* walk(parts, options(2))
      yield* walk(parts, options(4))
      const two = yield* walk(parts, options(6))
      assert.deepStrictEqual([two.weight, two.resumed], [one.weight, 4])
      assert.deepStrictEqual(yield* untimed(parts), yield* untimed(whole))
    })
  )

  it.live("calls onCheckpoint again if the process died before it returned", () =>
    Effect.gen(function* () {
      const directory = yield* folder
      const failure = yield* Effect.exit(
        walk(directory, { onCheckpoint: () => Effect.fail("the disk of the archive is full") })
      )
      assert.isTrue(Exit.isFailure(failure))
      const seen: Array<number> = []
      const { weight } = yield* walk(directory, { onCheckpoint: ({ step }) => void seen.push(step) })
      assert.deepStrictEqual([seen, weight], [[2, 4, 6], 6])
    })
  )

  it.live("a callback that fails, throws or sets what is unknown fails the run after a checkpoint", () =>
    Effect.gen(function* () {
      for (const onStep of [
        () => Effect.fail("no more"),
        () => Promise.reject(new Error("no more")),
        () => {
          throw new Error("no more")
        },
        () => ({ set: { temperature: 2 } }),
        () => ({ set: { learningRate: Number.NaN } })
      ] satisfies ReadonlyArray<NonNullable<Options["onStep"]>>) {
        const directory = yield* folder
        const third: Options["onStep"] = (event) => (event.step === 3 ? onStep() : undefined)
        const error = yield* Effect.flip(walk(directory, { onStep: third }))
        assert.instanceOf(error, Trainer.CallbackError)
        assert.match(
          (error as Error).message,
          /onStep of step 3 failed: (no more|set\.\w+ is .*; expected a finite number for learningRate)/
        )
        assert.deepStrictEqual(yield* checkpoints(directory), ["step-000002", "step-000003"])
        assert.lengthOf(yield* lines(directory), 3)
        assert.strictEqual((yield* walk(directory)).weight, 6)
      }
    })
  )

  it.live("an abort leaves a checkpoint of the last whole step, and drops the one in flight", () =>
    Effect.gen(function* () {
      const [whole, directory] = [yield* folder, yield* folder]
      const options = { checkpointEvery: 100, evaluate: { every: 100, run: Effect.succeed({}) } }
      yield* walk(whole, options)
      const begun = yield* Deferred.make<void>()
      const hang = Effect.andThen(Deferred.succeed(begun, undefined), Effect.never)
      const step = (context: Trainer.StepContext) =>
        context.step === 3 ? hang : Effect.succeed({ metrics: {}, tokens: 1 })
      const fiber = yield* Effect.forkChild(walk(directory, { ...options, step }))
      yield* Deferred.await(begun)
      const exit = yield* Fiber.interrupt(fiber).pipe(Effect.andThen(Fiber.await(fiber)))
      assert.isTrue(Exit.isFailure(exit) && Cause.hasInterrupts(exit.cause))
      assert.deepStrictEqual(yield* checkpoints(directory), ["step-000003"])
      assert.strictEqual((yield* walk(directory, options)).resumed, 3)
    })
  )

  it.live("an abort amid an update leaves none: the weights are of no whole step", () =>
    Effect.gen(function* () {
      const directory = yield* folder
      let version = 0
      const moving: Trainer.Participant = {
        name: "moving",
        save: () => Effect.void,
        load: () => Effect.void,
        version: Effect.sync(() => version)
      }
      const step = ({ step }: Trainer.StepContext) =>
        Effect.suspend(() => {
          version++
          return step === 3 ? Effect.fail("the device is lost") : Effect.succeed({ metrics: {}, tokens: 1 })
        })
      yield* Effect.exit(walk(directory, { step, checkpointEvery: 2 }, [moving]))
      assert.deepStrictEqual(yield* checkpoints(directory), ["step-000002"])
    })
  )

  it.live("ends with the data, evaluated and checkpointed", () =>
    Effect.gen(function* () {
      const directory = yield* folder
      const step = ({ step }: Trainer.StepContext) =>
        Effect.succeed(step === 5 ? undefined : { metrics: {}, tokens: 1 })
      const { after, steps } = yield* walk(directory, { step, steps: 100, checkpointEvery: 50 })
      assert.deepStrictEqual([steps, after], [5, { eval_loss: 0 }])
      assert.deepStrictEqual(yield* checkpoints(directory), ["step-000005"])
    })
  )

  it.live("phases are exclusive and add up to the step", () =>
    Effect.gen(function* () {
      const directory = yield* folder
      const step = ({ phase }: Trainer.StepContext) =>
        phase("outer", Effect.sleep(30).pipe(Effect.andThen(phase("inner", Effect.sleep(60))))).pipe(
          Effect.andThen(Effect.sleep(40)),
          Effect.as({ metrics: {}, tokens: 1, seconds: { forward: 0.015 } })
        )
      const evaluate = { every: 1, run: Effect.as(Effect.sleep(20), { eval_loss: 0 }) }
      yield* walk(directory, { step, steps: 3, evaluate, checkpointEvery: 1 })
      for (const [index, metrics] of (yield* lines(directory)).entries()) {
        const timing = (name: string) => metrics[`timing_s/${name}`]!
        const all = Object.entries(metrics).filter(([name]) => name.startsWith("timing_s/"))
        assert.closeTo(
          all.reduce((sum, [, seconds]) => sum + seconds, 0),
          metrics["step_time"]!,
          1e-9
        )
        for (const [name, least] of [
          ["outer", 0.029],
          ["inner", 0.059],
          ["other", 0.02],
          ["evaluate", 0.019]
        ] as const) {
          assert.isAbove(timing(name), least, name)
        }
        assert.strictEqual(timing("forward"), 0.015)
        if (index > 0) assert.isAbove(timing("checkpoint"), 0)
      }
    })
  )

  it.live("a `once` participant is written when the run is made, and read by every resume", () =>
    Effect.gen(function* () {
      const directory = yield* folder
      const calls: Array<string> = []
      const call = (name: string) => Effect.sync(() => void calls.push(name))
      const once: Trainer.Participant = {
        name: "origin",
        when: "once",
        save: () => call("save"),
        load: () => call("load"),
        ready: call("ready")
      }
      yield* walk(directory, { steps: 2 }, [once])
      yield* walk(directory, { steps: 4 }, [once])
      assert.deepStrictEqual(calls, ["save", "ready", "load", "ready"])
    })
  )

  it.live("runs without a directory, and writes nothing", () =>
    Effect.gen(function* () {
      const trainer = yield* Trainer.open({ record, participants: [] })
      const step = () => Effect.succeed({ metrics: {}, tokens: 1 })
      assert.deepStrictEqual(yield* trainer.train({ steps: 2, step }), { steps: 2 })
    }).pipe(Effect.scoped)
  )
})

describe("needs of a loss", () => {
  const open = (directory: string, needs: ReadonlyArray<"reference" | "entropy">) =>
    Effect.scoped(Trainer.open({ directory, record, participants: [], needs }))

  it.effect("are checked against the policy before a run exists", () =>
    Effect.gen(function* () {
      const directory = path.join(yield* folder, "run")
      const { policy } = tabular(4)
      const without = { ...policy, capabilities: { ...policy.capabilities, gradients: [], reference: false } }
      const error = yield* open(directory, ["reference", "entropy"]).pipe(
        Effect.provideService(Policy.Policy, without),
        Effect.flip
      )
      assert.strictEqual(error._tag, "EngineError")
      assert.include(error.message, 'the loss needs reference and entropy, which the engine "tabular" does not have')
      assert.deepStrictEqual(yield* Effect.promise(() => fs.readdir(path.dirname(directory))), [])
      yield* open(directory, ["reference", "entropy"]).pipe(Effect.provideService(Policy.Policy, policy))
      assert.strictEqual((yield* Effect.flip(open(directory, ["entropy"])))._tag, "EngineError")
    })
  )
})
