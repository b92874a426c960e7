import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import * as fs from "node:fs/promises"
import * as os from "node:os"
import * as path from "node:path"
import { lookup } from "quintain/envs"
import {
  Grpo,
  Loss,
  type Policy,
  PolicyNative,
  Progress,
  type Sampler,
  SamplerServer,
  WorkerPool,
  WeightSync
} from "quintain"
import { serveInference } from "../../fixtures/inferenceServer.ts"
import { noExtras } from "../../fixtures/lossInput.ts"
import { nativeReplica } from "../../fixtures/nativeReplica.ts"
import golden from "../../fixtures/policy-losses.json" with { type: "json" }

/** Two sequences of 4 and 2 targets; the sampler far from the policy in some. */
const input: Loss.LossInput = {
  logprobs: Float64Array.of(-0.9, -1.2, -0.3, -2, -0.5, -1),
  oldLogprobs: Float64Array.of(-1, -1, -0.8, -1.5, -0.7, -0.9),
  samplerLogprobs: Float64Array.of(-1.05, -0.6, -0.85, -1.5, -0.7, -3),
  referenceLogprobs: Float64Array.of(-1.1, -1.3, -0.4, -1.7, -0.6, -1.1),
  entropy: Float64Array.of(1, 0.5, 2, 1.5, 1, 0.2),
  advantages: Float64Array.of(1, 1, 1, 1, -0.8, -0.8),
  weights: new Float64Array(6).fill(1 / 6),
  sequenceStart: Uint32Array.of(0, 4, 6),
  ...noExtras
}
const close = (actual: ArrayLike<number>, expected: ArrayLike<number>) => {
  assert.strictEqual(actual.length, expected.length)
  for (let t = 0; t < actual.length; t++) assert.closeTo(actual[t]!, expected[t]!, 1e-12, `element ${t}`)
}

const corrections: ReadonlyArray<Loss.ImportanceCorrection> = [
  {},
  { level: "token", mode: "truncate", max: 2 },
  { level: "token", min: 0.5, max: 5 },
  { level: "sequence", mode: "truncate" },
  { level: "geometric", min: 0.99, max: 1.01 }
]

describe("terms that are added to a loss", () => {
  const kl = { coefficient: 0.04 } as const
  const only = (loss: Loss.Loss) => {
    const [whole, inner] = [loss(input), Loss.clipped()(input)]
    return {
      value: whole.loss - inner.loss,
      slopes: whole.dLogprobs.map((slope, t) => slope - inner.dLogprobs[t]!),
      entropy: whole.dEntropy
    }
  }

  for (const options of corrections) {
    it(`are not weighed by ${JSON.stringify(options)}, whichever is wrapped around the other`, () => {
      const corrected = Loss.withImportanceCorrection(Loss.clipped(), options)(input)
      const alone = only(Loss.withEntropy(Loss.withKl(Loss.clipped(), kl), 0.01))
      for (const loss of [
        Loss.withImportanceCorrection(Loss.withEntropy(Loss.withKl(Loss.clipped(), kl), 0.01), options),
        Loss.withEntropy(Loss.withImportanceCorrection(Loss.withKl(Loss.clipped(), kl), options), 0.01),
        Loss.withEntropy(Loss.withKl(Loss.withImportanceCorrection(Loss.clipped(), options), kl), 0.01)
      ]) {
        const output = loss(input)
        assert.closeTo(output.loss - corrected.loss, alone.value, 1e-12)
        close(
          output.dLogprobs.map((slope, t) => slope - corrected.dLogprobs[t]!),
          alone.slopes
        )
        close(output.dEntropy!, alone.entropy!)
        assert.deepInclude(output.metrics, {
          "sampling/correction_share": corrected.metrics["sampling/correction_share"]!
        })
        assert.closeTo(
          output.metrics["kl"] as number,
          Loss.withKl(Loss.clipped(), kl)(input).metrics["kl"] as number,
          0
        )
        assert.isTrue(Loss.needs(loss, "reference"))
      }
    })
  }

  it("of a user's own may say the same", () => {
    const add = (inner: Loss.Loss): Loss.Loss =>
      Object.assign(
        (input: Loss.LossInput): Loss.LossOutput => {
          const output = inner(input)
          return { ...output, loss: output.loss + Array.from(input.weights).reduce((a, b) => a + b, 0) }
        },
        { within: (wrap: (loss: Loss.Loss) => Loss.Loss) => add(Loss.within(inner, wrap)) }
      )
    const both = Loss.withImportanceCorrection(add(Loss.reinforce))(input).loss
    assert.closeTo(both - Loss.withImportanceCorrection(Loss.reinforce)(input).loss, 1, 1e-12)
  })
})

describe("ratios", () => {
  it("are the reference implementations'", () => {
    const vectors = golden.policy_losses
    const first = (level: "sequence" | "geometric") => {
      const ratios = Loss.importanceRatios(input, level)
      return [ratios[0]!, ratios[4]!]
    }
    const near = (actual: ReadonlyArray<number>, expected: ReadonlyArray<number>) =>
      expected.forEach((value, i) => assert.closeTo(actual[i]!, value, 1e-9))
    near(first("sequence"), vectors["sequence_mask MIS cap3 (TRL default)"].seq_ratio)
    near(first("geometric"), vectors["geo_ratio per seq"])
  })

  it("are bounded where the two are so far apart that they would overflow", () => {
    const apart = { ...input, samplerLogprobs: Float64Array.of(-900, -900, -900, -900, -0.7, -0.9) }
    for (const level of ["token", "sequence", "geometric"] as const) {
      const ratios = Loss.importanceRatios(apart, level)
      assert.isTrue(ratios.every(Number.isFinite))
      assert.closeTo(ratios[0]!, Math.exp(20), 1e-3)
      assert.closeTo(ratios[4]!, 1, 1e-12)
      const output = Loss.withImportanceCorrection(Loss.clipped(), { level, mode: "truncate", max: Infinity })(apart)
      assert.isTrue(Number.isFinite(output.loss) && output.dLogprobs.every(Number.isFinite))
    }
    const beyond = { ...input, oldLogprobs: new Float64Array(6).fill(-900) }
    assert.isAbove(Loss.importanceRatios(beyond, "sequence")[0]!, 0)
  })

  it("that are no numbers drop their targets, truncated or masked", () => {
    const without = { ...input, samplerLogprobs: Float64Array.of(Number.NaN, -1, -0.8, -1.5, -0.7, -0.9) }
    for (const mode of ["mask", "truncate"] as const) {
      const token = Loss.withImportanceCorrection(Loss.reinforce, { level: "token", mode })(without)
      assert.isTrue(token.dLogprobs[0] === 0)
      assert.notStrictEqual(token.dLogprobs[1], 0)
      const sequence = Loss.withImportanceCorrection(Loss.reinforce, { mode })(without)
      assert.isTrue(sequence.dLogprobs.subarray(0, 4).every((slope) => slope === 0))
      assert.notStrictEqual(sequence.dLogprobs[4], 0)
      assert.isTrue(Number.isFinite(sequence.loss))
    }
  })
})

describe("a run", () => {
  const task = lookup({ seed: 2 })
  const model = {
    vocab_size: task.tokenizer.vocabularySize,
    hidden_size: 32,
    num_hidden_layers: 1,
    num_attention_heads: 2,
    intermediate_size: 64
  }
  const policy = PolicyNative.layer({ model, seed: 3, tokenizer: task.tokenizer, threads: 1, lora: { rank: 4 } })
  const scratch = Effect.acquireRelease(
    Effect.promise(() => fs.mkdtemp(path.join(os.tmpdir(), "quintain-correction-"))),
    (directory) => Effect.promise(() => fs.rm(directory, { recursive: true, force: true }))
  )
  /** Two steps; the configuration and the metrics that it leaves. */
  const train = Effect.fnUntraced(function* (
    engine: Layer.Layer<Policy.Policy | Sampler.Sampler, unknown>,
    options: Partial<Grpo.GrpoOptions<{ readonly answer: string }>> = {}
  ) {
    const directory = yield* scratch
    yield* Grpo.train({
      ...task,
      directory,
      steps: 2,
      groups: 6,
      size: 16,
      dropConstant: false,
      evaluateCount: 2,
      update: { learningRate: 1e-2 },
      progress: Progress.silent,
      ...options
    }).pipe(Effect.provide([engine, WorkerPool.layer()]))
    const read = (file: string) => Effect.promise(() => fs.readFile(path.join(directory, file), "utf8"))
    return {
      config: (JSON.parse(yield* read("config.json")) as { readonly algorithm: Record<string, unknown> }).algorithm,
      metrics: (yield* read("metrics.jsonl"))
        .trimEnd()
        .split("\n")
        .map((line) => JSON.parse(line) as Record<string, number>)
    }
  })

  /** A server that holds the same model, and is handed the adapter after each step. */
  const served = Effect.gen(function* () {
    const replica = yield* nativeReplica(model, 3)
    const server = yield* Effect.acquireRelease(
      Effect.promise(() => serveInference({ kind: "vllm", ...replica, eos: task.tokenizer.endOfText })),
      (server) => Effect.promise(() => server.close())
    )
    const sampler = SamplerServer.layer({ kind: "vllm", url: server.url, vocabularySize: model.vocab_size })
    return { server, engine: WeightSync.layer({ policy, sampler }) }
  })

  it.live("on one engine has nothing to correct", () =>
    Effect.gen(function* () {
      const { config, metrics } = yield* train(policy)
      assert.notProperty(config, "correction")
      for (const step of metrics) {
        assert.strictEqual(step["sampling/sampling_logp_difference/max"], 0)
        assert.notProperty(step, "sampling/correction_share")
      }
      const asked = yield* train(policy, { correction: { level: "token", mode: "truncate" } })
      assert.deepInclude(asked.config["correction"], {
        rule: { level: "token", mode: "truncate", max: 3, min: 0 }
      })
      assert.strictEqual(asked.metrics[0]!["sampling/correction_share"], 0)
    })
  )

  it.live("on a server follows the policy, tells how far the two are apart, and corrects for it", () =>
    Effect.gen(function* () {
      const { engine, server } = yield* served
      const { config, metrics } = yield* train(engine)
      assert.deepInclude(config, {
        correction: { sampler: "vllm server", rule: { level: "sequence", mode: "mask", min: 0, max: 3 } }
      })
      assert.lengthOf(metrics, 2)
      for (const step of metrics) {
        // The same numbers, added up in another order.
        assert.isBelow(step["sampling/sampling_logp_difference/max"]!, 1e-4)
        assert.isAbove(step["sampling/importance_sampling_ratio/min"]!, 0.999)
        assert.strictEqual(step["sampling/correction_share"], 0)
        assert.isAbove(step["grad_norm"]!, 0)
      }
      const pushes = server.log.filter(({ path }) => path === "/v1/load_lora_adapter")
      assert.lengthOf(pushes, 3, "before the first sample, and after each step that another sample follows")
    })
  )

  it.live("does without where it is told to, or its loss needs none", () =>
    Effect.gen(function* () {
      for (const options of [
        { correction: "none" },
        { loss: Loss.importanceSampling() },
        { loss: Loss.dppo() }
      ] as const) {
        const { engine } = yield* served
        const { config, metrics } = yield* train(engine, { steps: 1, ...options })
        assert.deepInclude(config["correction"], { rule: "none" })
        assert.notProperty(metrics[0], "sampling/correction_share")
      }
    })
  )
})
