/**
 * One update of SmolLM2-135M's shape on ONNX Runtime and on the native kernel, in turns: 2 prompts of 128 tokens x 8
 * completions of 64, forward, backward, step.
 *
 *     npm run bench -- onnx-update [providers=cpu] [repetitions=3] [lora=16 or 0] [chunk=1024]
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { Pack, Policy, PolicyNative, PolicyOnnx } from "quintain"

const settings: Readonly<Record<string, string | undefined>> = Object.fromEntries(
  process.argv.slice(2).map((part) => part.split("=", 2))
)
const providers = (settings["providers"] ?? "cpu").split(",") as Array<PolicyOnnx.ExecutionProvider>
const repetitions = Number(settings["repetitions"] ?? 3)
const rank = Number(settings["lora"] ?? 16)

const model: PolicyNative.ModelConfig = {
  vocab_size: 49152,
  hidden_size: 576,
  num_hidden_layers: 30,
  num_attention_heads: 9,
  num_key_value_heads: 3,
  intermediate_size: 1536,
  tie_word_embeddings: true,
  max_position_embeddings: 2048
}
const token = (i: number) => (i * 7919 + 31) % model.vocab_size
const groups = [0, 1].map((group) => ({
  prompt: Uint32Array.from({ length: 128 }, (_, i) => token(group * 1000 + i)),
  sequences: Array.from({ length: 8 }, (_, sequence) => ({
    tokens: Uint32Array.from({ length: 64 }, (_, i) => token(group * 5000 + sequence * 100 + i)),
    target: new Uint8Array(64).fill(1),
    advantage: sequence % 2 === 0 ? 1 : -1
  }))
}))
const { forest, weights } = Pack.pack(groups, { aggregate: "token" })[0]!
const slope = Float32Array.from(weights)

const lora = rank === 0 ? {} : { lora: { rank } }
const engines = {
  native: PolicyNative.layer({ model, ...lora }),
  ...Object.fromEntries(
    providers.map((provider) => [
      `onnx ${provider}`,
      PolicyOnnx.layer({
        model,
        ...lora,
        executionProviders: [provider],
        chunkTokens: Number(settings["chunk"] ?? 1024)
      })
    ])
  )
}

const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const begun = performance.now()
    const value = yield* effect
    return [value, (performance.now() - begun) / 1000] as const
  })

const update = Effect.gen(function* () {
  const policy = yield* Policy.Policy
  const [{ id }, forward] = yield* timed(policy.forward(forest, { keep: true }))
  const [, backward] = yield* timed(policy.backward(id, { logprobs: slope }))
  const [, step] = yield* timed(policy.step({ learningRate: 1e-5 }))
  return { forward, backward, step, bytes: (yield* policy.memory).total }
})

const program = Effect.gen(function* () {
  const opened = yield* Effect.forEach(Object.entries(engines), ([name, layer]) =>
    Effect.map(timed(Layer.build(layer)), ([context, open]) => ({ name, context, open, best: Infinity, row: {} }))
  )
  // In turns, since the machine's speed changes; the first round also makes the sessions.
  for (let round = 0; round <= repetitions; round++) {
    for (const engine of opened) {
      const { backward, bytes, forward, step } = yield* Effect.provide(update, engine.context)
      const total = forward + backward + step
      if (round === 0) Object.assign(engine, { first: total })
      else if (total < engine.best) {
        engine.best = total
        engine.row = { "forward s": forward, "backward s": backward, "step s": step, "memory MB": bytes / 1e6 }
      }
    }
  }
  console.table(
    opened.map(({ best, name, open, row, ...more }) => ({
      engine: name,
      "tokens/s": Math.round(forest.tokens.length / best),
      ...Object.fromEntries(
        Object.entries({ ...row, "open s": open, "first update s": "first" in more ? more.first : Number.NaN }).map(
          ([column, value]) => [column, Number(Number(value).toFixed(2))]
        )
      )
    }))
  )
}).pipe(Effect.scoped)

console.log(
  `${forest.tokens.length} tokens, ${weights.length} targets, ${rank === 0 ? "all weights" : `LoRA rank ${rank}`}`
)
await Effect.runPromise(program)
