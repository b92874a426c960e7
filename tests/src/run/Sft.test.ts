import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs/promises"
import * as os from "node:os"
import * as path from "node:path"
import { Demonstration, LearningRate, Loss, Policy, PolicyNative, Progress, Sft, type Task, Tokenizer } from "quintain"
import gold from "../../fixtures/sft.json" with { type: "json" }
import { noExtras } from "../../fixtures/lossInput.ts"

const tokenizer = Tokenizer.bytes()
const tiny = {
  vocab_size: tokenizer.vocabularySize,
  hidden_size: 32,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  intermediate_size: 64,
  max_position_embeddings: 128
}
const engine = (model: PolicyNative.NativeOptions["model"] = tiny) => PolicyNative.layer({ model, seed: 3, threads: 1 })

const folder = Effect.acquireRelease(
  Effect.promise(() => fs.mkdtemp(path.join(os.tmpdir(), "quintain-sft-"))),
  (made) => Effect.promise(() => fs.rm(made, { recursive: true, force: true }))
)

const words = ["red", "green", "blue", "white", "black"]
const chat = words.map((word, i) => ({
  messages: [
    { role: "user", content: `color ${i}?` },
    { role: "assistant", content: word },
    { role: "user", content: "again" },
    { role: "assistant", content: word }
  ] satisfies ReadonlyArray<Task.Message>
}))
const settings = (more: Partial<Sft.SftOptions> = {}): Sft.SftOptions => ({
  demonstrations: chat,
  tokenizer,
  steps: 4,
  batch: 2,
  seed: 5,
  update: { learningRate: LearningRate.warmup(3e-3, 3) },
  ...more
})

describe("Sft.train", () => {
  it.live("takes the steps that transformers and torch take", () =>
    Effect.gen(function* () {
      const model = path.join(import.meta.dirname, "../../fixtures/checkpoints/llama")
      const { losses } = yield* Sft.train({
        demonstrations: gold.examples,
        tokenizer: Tokenizer.characters(gold.alphabet),
        steps: gold.losses.length,
        update: { learningRate: gold.learningRate, beta2: 0.95, weightDecay: gold.weightDecay, maxGradNorm: 1 }
      }).pipe(Effect.provide(engine(model)))
      assert.lengthOf(losses, 3)
      for (const [step, loss] of losses.entries()) assert.approximately(loss, gold.losses[step]!, 1e-6, `step ${step}`)
    })
  )

  it.live("gives the mean over the targets alone, however the batch is packed", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.Policy
      const { examples } = yield* Demonstration.encode(Demonstration.fromArray(chat), tokenizer)
      let [sum, count] = [0, 0]
      for (const { target, tokens } of examples) {
        const positions = Array.from(target.keys()).filter((i) => target[i] === 1)
        const { logprobs } = yield* policy.forward({
          tokens,
          segmentStart: Uint32Array.of(0),
          segmentLength: Uint32Array.of(tokens.length),
          segmentParent: Int32Array.of(-1),
          targetPosition: Uint32Array.from(positions, (i) => i - 1),
          targetToken: Uint32Array.from(positions, (i) => tokens[i]!)
        })
        for (const logprob of logprobs) sum -= logprob
        count += logprobs.length
      }
      for (const maxTokens of [16384, 40]) {
        const update = { learningRate: 0, maxTokens }
        const { after, before, losses } = yield* Sft.train(settings({ batch: 5, steps: 1, heldOut: chat, update }))
        assert.approximately(losses[0]!, sum / count, 1e-6)
        assert.approximately(before!, sum / count, 1e-6)
        assert.strictEqual(after, before)
      }
    }).pipe(Effect.provide(engine()))
  )

  it.live("learns, and shows it on held-out demonstrations", () =>
    Effect.gen(function* () {
      const seen: Array<Readonly<Record<string, number>>> = []
      const result = yield* Sft.train(
        settings({
          steps: 60,
          batch: 5,
          heldOut: chat,
          evaluateEvery: 20,
          onStep: ({ metrics }) => void seen.push(metrics)
        })
      )
      assert.isAbove(result.before!, 3)
      assert.isBelow(result.after!, 1)
      assert.deepStrictEqual(
        seen.filter((metrics) => "eval_loss" in metrics).map(({ step }) => step),
        [20, 40, 60]
      )
      assert.strictEqual(seen.at(-1)!["epoch"], 60)
    }).pipe(Effect.provide(engine()))
  )

  it.live("passes over the demonstrations `epochs` times, no more", () =>
    Effect.gen(function* () {
      const seen: Array<Readonly<Record<string, number>>> = []
      const { steps: _, ...rest } = settings({ epochs: 3, onStep: ({ metrics }) => void seen.push(metrics) })
      const result = yield* Sft.train(rest)
      assert.strictEqual(result.steps, 8)
      assert.strictEqual(seen.at(-1)!["epoch"], 3)
    }).pipe(Effect.provide(engine()))
  )

  it.live("cuts to the model's context and says how many", () =>
    Effect.gen(function* () {
      const notes: Array<string> = []
      const long = [{ role: "user", content: "x".repeat(200) }, ...chat[0]!.messages.slice(1)] as const
      const demonstrations = [...chat, { messages: long }, { text: "y".repeat(300) }]
      const progress = { ...Progress.silent, note: (text: string) => void notes.push(text) }
      const result = yield* Sft.train(settings({ demonstrations, steps: 1, progress }))
      assert.deepStrictEqual([result.examples, result.truncated, result.dropped], [6, 2, 1])
      assert.match(notes.join(), /2 of 7 examples are cut to 128 tokens, 1 of them left out/)
    }).pipe(Effect.provide(engine()))
  )

  it.live("resumes bit for bit, and refuses other data", () =>
    Effect.gen(function* () {
      const root = yield* folder
      const [whole, parts] = [path.join(root, "whole"), path.join(root, "parts")]
      const run = (directory: string, steps: number, more: Partial<Sft.SftOptions> = {}) =>
        Sft.train(settings({ directory, steps, checkpointEvery: 2, heldOut: chat, ...more })).pipe(
          Effect.provide(engine())
        )
      const one = yield* run(whole, 7)
      yield* run(parts, 3)
      const two = yield* run(parts, 7)
      assert.deepStrictEqual(two.losses, one.losses.slice(3))
      assert.strictEqual(two.after, one.after)
      const weights = (at: string) =>
        Effect.promise(() => fs.readFile(path.join(at, "checkpoints/step-000007/model.safetensors")))
      assert.isTrue((yield* weights(whole)).equals(yield* weights(parts)))
      const lines = (yield* Effect.promise(() => fs.readFile(path.join(parts, "metrics.jsonl"), "utf8")))
        .trim()
        .split("\n")
      assert.lengthOf(lines, 7)
      const error = yield* Effect.flip(run(parts, 8, { demonstrations: chat.slice(1) }))
      assert.strictEqual(error._tag, "RunError")
      assert.match(error.message, /`data.tasks.count` was 5 and is now 4/)
    })
  )
})

describe("Loss.crossEntropy", () => {
  it("is what Sft uses: the weighted sum of -log p", () => {
    const output = Loss.crossEntropy({
      logprobs: Float32Array.of(-1, -3),
      oldLogprobs: Float32Array.of(0, 0),
      samplerLogprobs: Float32Array.of(0, 0),
      entropy: Float32Array.of(0, 0),
      advantages: Float64Array.of(0, 0),
      weights: Float64Array.of(0.5, 0.5),
      sequenceStart: Uint32Array.of(0, 2),
      ...noExtras
    })
    assert.strictEqual(output.loss, 2)
  })
})
