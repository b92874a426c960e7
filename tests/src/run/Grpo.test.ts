import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs/promises"
import * as os from "node:os"
import * as path from "node:path"
import { Grpo, Loss, Progress } from "quintain"
import { lookup, type Lookup } from "quintain/envs"
import { engine, readMetrics, readTrajectories } from "../../digests/api.ts"

const task = lookup({ seed: 2 })
const model = {
  vocab_size: task.tokenizer.vocabularySize,
  hidden_size: 32,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  intermediate_size: 64
}

const folder = Effect.acquireRelease(
  Effect.promise(() => fs.mkdtemp(path.join(os.tmpdir(), "quintain-grpo-"))),
  (made) => Effect.promise(() => fs.rm(made, { recursive: true, force: true }))
)

type Options = Grpo.GrpoOptions<Lookup.LookupData>

/** `engineSeed` draws the weights of the model that is opened. */
const train = (directory: string, steps: number, more: Partial<Options> = {}, engineSeed = 3) =>
  Grpo.train({
    ...task,
    directory,
    steps,
    groups: 4,
    size: 4,
    dropConstant: false,
    update: { learningRate: 1e-2 },
    progress: Progress.silent,
    ...more
  }).pipe(Effect.provide(engine({ model, seed: engineSeed, threads: 1, tokenizer: task.tokenizer })))

const column = (directory: string, name: string) =>
  Effect.map(
    Effect.promise(() => readMetrics(directory)),
    (steps) => steps.map((metrics) => metrics.find(([own]) => own === name)?.[1])
  )

describe("a resumed run", () => {
  it.live("measures the distance from the reference that it began with, whatever model is opened", () =>
    Effect.gen(function* () {
      const root = yield* folder
      const [whole, parts] = [path.join(root, "whole"), path.join(root, "parts")]
      const options = { loss: Loss.withKl(Loss.clipped(), { coefficient: 0.1 }) }
      yield* train(whole, 4, options)
      yield* train(parts, 2, options)
      // The checkpoint has the weights. The reference must come from the run too: here no other place has it.
      yield* train(parts, 4, { ...options, mayChange: ["model.hash"] }, 4)
      const kl = yield* column(whole, "kl")
      assert.isAbove(Number(kl.at(-1)), 0)
      assert.deepStrictEqual(yield* column(parts, "kl"), kl)
      assert.deepStrictEqual(yield* column(parts, "loss"), yield* column(whole, "loss"))
    })
  )

  for (const [field, other] of [
    ["seed", { seed: 1 }],
    ["size", { size: 5 }],
    ["groups", { groups: 5 }]
  ] as const) {
    it.live(`refuses another ${field}`, () =>
      Effect.gen(function* () {
        const directory = yield* folder
        yield* train(directory, 1)
        const error = yield* Effect.flip(train(directory, 2, other))
        assert.strictEqual(error._tag, "RunError")
        assert.include(error.message, `\`settings.${field}\` was`)
        // The run is intact and continues with its first settings.
        assert.strictEqual((yield* train(directory, 2)).steps, 2)
      })
    )
  }

  it.live("may go on for more steps", () =>
    Effect.gen(function* () {
      const directory = yield* folder
      yield* train(directory, 1)
      const more = { evaluateEvery: 2, checkpointEvery: 1 }
      assert.strictEqual((yield* train(directory, 3, more)).steps, 3)
      assert.deepStrictEqual(yield* column(directory, "step"), [1, 2, 3])
    })
  )
})

describe("the record of trajectories", () => {
  it.live("has the version of the weights that sampled them", () =>
    Effect.gen(function* () {
      const directory = yield* folder
      yield* train(directory, 3)
      const steps = yield* Effect.promise(() => readTrajectories(directory))
      const versions = steps.map((trajectories) => [...new Set(trajectories.map(({ version }) => version))])
      assert.deepStrictEqual(versions, [[0], [1], [2]])
    })
  )

  it.live("has all that a step trained on, with reward and advantage", () =>
    Effect.gen(function* () {
      const directory = yield* folder
      yield* train(directory, 2)
      for (const trajectories of yield* Effect.promise(() => readTrajectories(directory))) {
        assert.lengthOf(trajectories, 16)
        for (const { advantage, logprobs, reward, sampled, tokens } of trajectories) {
          assert.isNumber(reward)
          assert.isNumber(advantage)
          assert.strictEqual(tokens.length, sampled.length)
          assert.lengthOf(
            logprobs,
            sampled.reduce((sum, own) => sum + own, 0)
          )
          assert.isTrue(logprobs.every((logprob) => logprob < 0))
        }
      }
    })
  )
})
