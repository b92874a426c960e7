import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as fs from "node:fs/promises"
import * as os from "node:os"
import * as path from "node:path"
import { lookup } from "quintain/envs"
import {
  Grpo,
  Policy,
  PolicyNative,
  type PolicyOnnx,
  Progress,
  Sampler,
  SamplerOnnx,
  WorkerPool,
  WeightSync
} from "quintain"
import { missingGpu } from "../../../fixtures/softwareGpu.ts"
import { versionOf } from "../../../fixtures/versions.ts"
import { updateOf } from "../../../fixtures/updateOf.ts"

const task = lookup({ seed: 2 })
const model = {
  vocab_size: task.tokenizer.vocabularySize,
  hidden_size: 32,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  intermediate_size: 64
}
const onnx = (weights: SamplerOnnx.SamplerOnnxOptions["weights"], provider: PolicyOnnx.ExecutionProvider = "cpu") =>
  SamplerOnnx.layer({
    model,
    seed: 3,
    tokenizer: task.tokenizer,
    executionProviders: [provider],
    threads: 1,
    ...(weights === undefined ? {} : { weights })
  })
const native = (lora: boolean) =>
  PolicyNative.layer({ model, seed: 3, tokenizer: task.tokenizer, threads: 1, ...(lora ? { lora: { rank: 4 } } : {}) })

const request: Sampler.SampleRequest = {
  prompt: task.tokenizer.encode("#1="),
  count: 4,
  maxTokens: 8,
  key: { seed: 1, stream: "a", index: 0 }
}
const sample = (more: Partial<Sampler.SampleRequest> = {}) =>
  Sampler.Sampler.use((sampler) => sampler.sample({ ...request, ...more }))

/** How far log-probabilities are from the policy's own of the same tokens; the tokens must be the same up to a tie. */
const distance = (
  samples: ReadonlyArray<Sampler.Completion>,
  expected: ReadonlyArray<Sampler.Completion>
): { readonly farthest: number; readonly equal: boolean } => {
  let [farthest, equal] = [0, true]
  for (const [i, { logprobs, tokens }] of samples.entries()) {
    const other = expected[i]!
    let at = 0
    for (; at < tokens.length && tokens[at] === other.tokens[at]; at++) {
      farthest = Math.max(farthest, Math.abs(logprobs[at]! - other.logprobs[at]!))
    }
    equal &&= at === tokens.length && at === other.tokens.length
  }
  return { farthest, equal }
}

const scratch = Effect.acquireRelease(
  Effect.promise(() => fs.mkdtemp(path.join(os.tmpdir(), "quintain-onnx-"))),
  (directory) => Effect.promise(() => fs.rm(directory, { recursive: true, force: true }))
)

/** Trains a little, and leaves an adapter (or a model) with what the native engine samples from it. */
const trained = (directory: string, lora: boolean) =>
  Effect.gen(function* () {
    const policy = yield* Policy.Policy
    const tokens = Uint32Array.from(task.tokenizer.encode("#1=123"))
    const forward = yield* policy.forward(
      {
        tokens,
        segmentStart: Uint32Array.of(0),
        segmentLength: Uint32Array.of(tokens.length),
        segmentParent: Int32Array.of(-1),
        targetPosition: Uint32Array.from(tokens.subarray(1), (_, i) => i),
        targetToken: tokens.subarray(1)
      },
      { keep: true }
    )
    yield* policy.backward(forward.id, { logprobs: new Float32Array(tokens.length - 1).fill(-1) })
    yield* policy.step({ learningRate: 0.1 })
    yield* lora ? policy.save(directory) : policy.exportModel(directory)
    return yield* sample()
  }).pipe(Effect.provide(native(lora)))

describe("SamplerOnnx", () => {
  for (const provider of ["cpu", "webgpu"] as const) {
    it.live.skipIf(provider === "webgpu" && missingGpu !== undefined)(
      `samples as the native engine on ${provider}`,
      () =>
        Effect.gen(function* () {
          // Matched on the bytes of tokens, which the worker was given.
          const more = { stop: ["1", "2", "3"], maxTokens: 20 }
          const expected = yield* sample(more).pipe(Effect.provide(native(false)))
          const reasons = (samples: typeof expected) => samples.map(({ stopReason }) => stopReason)
          assert.include(reasons(expected), "stop")
          const samples = yield* sample(more).pipe(Effect.provide(onnx("f32", provider)))
          const { equal, farthest } = distance(samples, expected)
          assert.isTrue(equal)
          assert.isBelow(farthest, 1e-4)
          assert.deepStrictEqual(reasons(samples), reasons(expected))
        })
    )
  }

  for (const [weights, most] of [
    ["f16", 2e-3],
    ["q8_0", 2e-2],
    ["q4_0", 0.3]
  ] as const) {
    it.live(`rounds its weights to ${weights}, and says so`, () =>
      Effect.gen(function* () {
        const expected = yield* sample().pipe(Effect.provide(native(false)))
        yield* Effect.gen(function* () {
          assert.strictEqual((yield* Sampler.Sampler).engine, `onnx ${weights}`)
          const { farthest } = distance(yield* sample(), expected)
          assert.isAbove(farthest, 0)
          assert.isBelow(farthest, most)
        }).pipe(Effect.provide(onnx(weights)))
      })
    )
  }

  it.live(
    "takes an adapter or a model; what cannot be read changes nothing; samples under way keep their weights",
    () =>
      Effect.gen(function* () {
        const directory = yield* scratch
        const at = (name: string) => path.join(directory, name)
        const [adapter, whole] = [yield* trained(at("adapter"), true), yield* trained(at("model"), false)]
        const before = yield* sample().pipe(Effect.provide(native(false)))
        yield* Effect.gen(function* () {
          const update = updateOf(yield* Sampler.Sampler)
          const expect = (samples: ReadonlyArray<Sampler.Completion>, other: typeof before, version: number) => {
            const { equal, farthest } = distance(samples, other)
            assert.isTrue(equal)
            assert.isBelow(farthest, 1e-4)
            assert.deepStrictEqual(
              samples.map(versionOf),
              samples.map(() => version)
            )
          }
          expect(yield* sample(), before, 0)
          const underWay = yield* Effect.forkChild(sample(), { startImmediately: true })
          yield* update({ directory: at("adapter"), kind: "adapter", version: 7 })
          expect(yield* Fiber.join(underWay), before, 0)
          expect(yield* sample(), adapter, 7)
          expect(yield* sample({ adapter: "base" }), before, 7)
          for (const kind of ["adapter", "model"] as const) {
            const error = yield* Effect.flip(update({ directory: at("nowhere"), kind, version: 8 }))
            assert.strictEqual(error.operation, "update")
            assert.include(error.reason.detail, at("nowhere"))
          }
          expect(yield* sample(), adapter, 7)
          yield* update({ directory: at("adapter"), kind: "adapter", version: 8 })
          expect(yield* sample(), adapter, 8)
          yield* update({ directory: at("model"), kind: "model", version: 9 })
          expect(yield* sample(), whole, 9)
        }).pipe(Effect.provide(onnx("f32")))
      })
  )

  it.live.skipIf(missingGpu !== undefined)("takes an adapter on WebGPU, and outlives what it replaces", () =>
    Effect.gen(function* () {
      const directory = yield* scratch
      const adapter = yield* trained(directory, true)
      yield* Effect.gen(function* () {
        const update = updateOf(yield* Sampler.Sampler)
        yield* sample()
        yield* update({ directory, kind: "adapter", version: 1 })
        const { equal, farthest } = distance(yield* sample(), adapter)
        assert.isTrue(equal)
        assert.isBelow(farthest, 1e-4)
      }).pipe(Effect.provide(onnx("f32", "webgpu")))
      // The driver in software has no f16.
      const error = yield* Effect.flip(sample().pipe(Effect.provide(onnx("f16", "webgpu"))))
      assert.strictEqual(error.reason._tag, "Config")
      assert.include(error.reason.detail, 'weights "f16"')
    })
  )

  it.live("refuses a whole model where its weights are a file's blocks", () =>
    Effect.gen(function* () {
      const error = yield* Sampler.Sampler.use((sampler) =>
        Effect.flip(updateOf(sampler)({ directory: "somewhere", kind: "model", version: 1 }))
      ).pipe(
        Effect.provide(
          SamplerOnnx.layer({
            model: path.join(import.meta.dirname, "../../../fixtures/checkpoints/gguf/llama-q4_0.gguf"),
            weights: "file",
            executionProviders: ["cpu"]
          })
        )
      )
      assert.strictEqual(error.reason._tag, "Config")
      assert.include(error.reason.detail, "q8_0")
    })
  )

  it.live("follows a native policy through a run, which measures and corrects the distance", () =>
    Effect.gen(function* () {
      const directory = yield* scratch
      yield* Grpo.train({
        ...task,
        directory,
        steps: 3,
        groups: 4,
        size: 4,
        dropConstant: false,
        update: { learningRate: 1e-2 },
        progress: Progress.silent
      }).pipe(
        Effect.provide(WeightSync.layer({ policy: native(true), sampler: onnx("q8_0") })),
        Effect.provide(WorkerPool.layer())
      )
      const lines = (yield* Effect.promise(() => fs.readFile(path.join(directory, "metrics.jsonl"), "utf8"))).trimEnd()
      const steps = lines.split("\n").map((line) => JSON.parse(line) as Record<string, number>)
      for (const step of steps) {
        const mean = step["sampling/sampling_logp_difference/mean"]!
        assert.isAbove(mean, 0)
        assert.isBelow(mean, 0.02)
        assert.property(step, "sampling/correction_share")
      }
    })
  )

  it.live("names every option that cannot be", () =>
    Effect.gen(function* () {
      for (const [name, value] of [
        ["weights", "q5_0"],
        ["executionProviders", []],
        ["cacheBytes", 0]
      ] as const) {
        const options = { model, executionProviders: ["cpu"], [name]: value } as SamplerOnnx.SamplerOnnxOptions
        const error = yield* Effect.flip(sample().pipe(Effect.provide(SamplerOnnx.layer(options))))
        assert.strictEqual(error.reason._tag, "Config")
        assert.include(error.reason.detail, name)
      }
    })
  )
})
