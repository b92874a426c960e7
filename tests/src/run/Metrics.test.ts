import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs/promises"
import * as os from "node:os"
import * as path from "node:path"
import { Grpo, Loss, Metrics, PolicyNative, Progress, Reward, Sft, WorkerPool } from "quintain"
import { lookup } from "quintain/envs"

const task = lookup({ seed: 2 })
const engine = PolicyNative.layer({
  model: {
    vocab_size: task.tokenizer.vocabularySize,
    hidden_size: 32,
    num_hidden_layers: 1,
    num_attention_heads: 2,
    intermediate_size: 64
  },
  seed: 3,
  threads: 1
})
const folder = Effect.acquireRelease(
  Effect.promise(() => fs.mkdtemp(path.join(os.tmpdir(), "quintain-metrics-"))),
  (made) => Effect.promise(() => fs.rm(made, { recursive: true, force: true }))
)
const linesOf = (directory: string) =>
  Effect.promise(async () =>
    (await fs.readFile(path.join(directory, "metrics.jsonl"), "utf8"))
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as { readonly [name: string]: number })
  )
const shared = { tokenizer: task.tokenizer, steps: 3, evaluateEvery: 2, progress: Progress.silent }

const names = (metrics: ReadonlyArray<{ readonly [name: string]: number }>) =>
  new Set(metrics.flatMap((line) => Object.keys(line)))

describe("Metrics", () => {
  it("lists a name once", () => {
    const all = Metrics.all.map(({ name }) => name)
    assert.lengthOf(new Set(all), all.length)
  })

  it("finds names and patterns, the exact name first", () => {
    assert.strictEqual(Metrics.find("rewards/a/b/mean")?.name, "rewards/{verifier}/mean")
    assert.strictEqual(Metrics.find("timing_s/forward")?.unit, "s")
    assert.strictEqual(Metrics.find("reward")?.unit, "reward")
    assert.isUndefined(Metrics.find("rewardx"))
  })

  it.live("knows every metric that Grpo and Sft write, whose phases add up to the step", () =>
    Effect.gen(function* () {
      const directory = yield* folder
      const seen = new Set<string>()
      const losses = [
        Loss.withEntropy(Loss.withKl(Loss.clipped(), { coefficient: 0.1 }), 0.1),
        Loss.withImportanceCorrection(Loss.cispo()),
        Loss.dppo(),
        Loss.gspo()
      ]
      const reward = Reward.all({
        matched: task.reward,
        length: Reward.metric(({ trajectory }) => ({ score: 0, metrics: { characters: trajectory.text.length } }))
      })
      for (const [i, loss] of losses.entries()) {
        const at = path.join(directory, `grpo-${i}`)
        const update = { learningRate: 1e-3, epochs: 2 }
        yield* Grpo.train({ ...task, ...shared, reward, groups: 2, size: 4, loss, update, directory: at }).pipe(
          Effect.provide([engine, WorkerPool.layer()])
        )
        const metrics = yield* linesOf(at)
        assert.lengthOf(metrics, 3)
        for (const name of names(metrics)) seen.add(name)
        for (const line of metrics) {
          const phases = Object.entries(line).filter(([name]) => name.startsWith("timing_s/"))
          assert.closeTo(
            phases.reduce((sum, [, seconds]) => sum + seconds, 0),
            line["step_time"]!,
            1e-6
          )
          for (const [name, seconds] of phases) assert.isAtLeast(seconds, 0, name)
        }
      }
      const at = path.join(directory, "sft")
      const demonstrations = [{ prompt: "#1=", completion: "123" }]
      yield* Sft.train({
        ...shared,
        demonstrations,
        heldOut: demonstrations,
        update: { learningRate: 1e-3 },
        directory: at
      }).pipe(Effect.provide(engine))
      for (const name of names(yield* linesOf(at))) seen.add(name)
      assert.deepStrictEqual(
        [...seen].filter((name) => Metrics.find(name) === undefined),
        []
      )
      // The patterns do not hide what is missing: every part of the list is met.
      for (const name of [
        "eval_loss",
        "eval_accuracy",
        "kl",
        "is_masked",
        "busy_s/sample",
        "sampling/correction_share"
      ]) {
        assert.include([...seen], name)
      }
    })
  )
})
