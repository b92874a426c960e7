/** The contract of a sampler, held by the native engine: a sample depends on weights, prompt and key alone. */
import { assert, layer } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { Engine, Policy, Sampler } from "quintain"

const model = {
  vocab_size: 64,
  hidden_size: 32,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  intermediate_size: 64,
  initializer_range: 0.3
}
const prompt = Uint32Array.of(1, 2, 3)
const request: Sampler.SampleRequest = { prompt, count: 4, maxTokens: 12, key: { seed: 7, stream: "task", index: 0 } }

const sample = (more: Partial<Sampler.SampleRequest> = {}) =>
  Sampler.Sampler.use((sampler) => sampler.sample({ ...request, ...more }))

const at = (index: number) => ({ ...request.key, index })

layer(Engine.layer({ model, seed: 3, threads: 1 }))("Sampler", (it) => {
  it.effect("gives the samples of one request whether they are asked for together or alone", () =>
    Effect.gen(function* () {
      const together = yield* sample()
      assert.strictEqual(together.length, 4)
      const alone = yield* Effect.forEach([3, 1, 0, 2], (index) => sample({ count: 1, key: at(index) }))
      for (const [i, index] of [3, 1, 0, 2].entries()) {
        assert.deepStrictEqual(alone[i]![0]!.tokens, together[index]!.tokens)
        assert.deepStrictEqual(alone[i]![0]!.logprobs, together[index]!.logprobs)
      }
    })
  )

  it.effect("draws by seed, stream and index: another of either gives other tokens", () =>
    Effect.gen(function* () {
      const tokensOf = (key: Sampler.SampleKey) =>
        Effect.map(sample({ count: 1, key }), ([only]) => Array.from(only!.tokens).join())
      const drawn = yield* Effect.forEach(
        [
          { seed: 7, stream: "task", index: 0 },
          { seed: 8, stream: "task", index: 0 },
          { seed: 7, stream: "other", index: 0 },
          { seed: 7, stream: "task", index: 1 }
        ],
        tokensOf
      )
      assert.strictEqual(new Set(drawn).size, 4)
      assert.strictEqual(yield* tokensOf({ seed: 7, stream: "task", index: 0 }), drawn[0])
    })
  )

  it.effect("records each token's log-probability at the sampling temperature, equal to the policy's", () =>
    Effect.gen(function* () {
      const [only] = yield* sample({ count: 1, temperature: 0.7 })
      const { tokens } = only!
      const all = Uint32Array.from([...prompt, ...tokens])
      const policy = yield* Policy.Policy
      const { logprobs } = yield* policy.forward(
        {
          tokens: all.subarray(0, -1),
          segmentStart: Uint32Array.of(0),
          segmentLength: Uint32Array.of(all.length - 1),
          segmentParent: Int32Array.of(-1),
          targetPosition: Uint32Array.from(tokens, (_, i) => prompt.length - 1 + i),
          targetToken: tokens
        },
        { temperature: 0.7 }
      )
      assert.deepStrictEqual(only!.logprobs, logprobs)
    })
  )

  it.effect("keeps the stop token, and says why a sample ended", () =>
    Effect.gen(function* () {
      const free = yield* sample({ count: 1 })
      assert.strictEqual(free[0]!.stopReason, "length")
      assert.strictEqual(free[0]!.tokens.length, 12)
      const stop = free[0]!.tokens[4]!
      const stopped = yield* sample({ count: 1, stopTokens: [stop] })
      const first = free[0]!.tokens.indexOf(stop)
      assert.strictEqual(stopped[0]!.stopReason, "stop")
      assert.deepStrictEqual(stopped[0]!.tokens, free[0]!.tokens.slice(0, first + 1))
    })
  )

  it.effect("says for each token which weights drew it", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.Policy
      const before = yield* sample({ count: 1 })
      const { logprobs, id } = yield* policy.forward(
        {
          tokens: prompt,
          segmentStart: Uint32Array.of(0),
          segmentLength: Uint32Array.of(3),
          segmentParent: Int32Array.of(-1),
          targetPosition: Uint32Array.of(2),
          targetToken: Uint32Array.of(5)
        },
        { keep: true }
      )
      yield* policy.backward(id, { logprobs: new Float32Array(logprobs.length).fill(-1) })
      const { version } = yield* policy.step({ learningRate: 1e-3 })
      const after = yield* sample({ count: 1 })
      assert.strictEqual(before[0]!.versions.length, before[0]!.tokens.length)
      assert.isTrue(before[0]!.versions.every((own) => own === version - 1))
      assert.isTrue(after[0]!.versions.every((own) => own === version))
    })
  )
})
