/**
 * One GRPO step of a SmolLM2-135M-shaped random model, LoRA rank 16 on all linear layers: 2 prompts of 128 tokens x 8
 * completions of 64. Prints JSON: seconds and tokens/s of prefill, decode and update, and the peak memory of the process.
 *
 *     node --conditions=quintain-source tests/bench/step.ts f32|bf16 [repetitions]
 */
import * as Effect from "effect/Effect"
import { Loss, Pack, Policy, PolicyNative, Sampler, Update } from "quintain"

const [dtype = "f32", repetitions = "3"] = process.argv.slice(2)
if (dtype !== "f32" && dtype !== "bf16") throw new Error(`dtype ${dtype}: expected f32 or bf16`)

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
const [prompts, promptLength, size, completionLength] = [2, 128, 8, 64]

const seconds = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const begun = performance.now()
    const value = yield* effect
    return [value, (performance.now() - begun) / 1000] as const
  })

const program = Effect.gen(function* () {
  const sampler = yield* Sampler.Sampler
  const policy = yield* Policy.Policy
  // Alternating advantages: every completion carries gradient, as in a batch that learns.
  const updater = Update.make({ loss: Loss.clipped(), learningRate: 1e-5 })
  const sample = (repetition: number, count: number, maxTokens: number) =>
    Effect.forEach(
      Array.from({ length: prompts }, (_, i) => i),
      (i) => {
        const prompt = Uint32Array.from(
          { length: promptLength },
          (_, t) => (t * 7919 + i * 104729 + repetition * 31) % 49152
        )
        return sampler
          .sample({
            prompt,
            count,
            maxTokens,
            key: { seed: 1, stream: `${repetition}/${i}`, index: 0 },
            forTraining: count > 1
          })
          .pipe(Effect.map((completions) => ({ prompt, completions })))
      },
      { concurrency: "unbounded" }
    )
  const results = []
  for (let repetition = 0; repetition < Number(repetitions); repetition++) {
    const [, prefill] = yield* seconds(sample(1000 + repetition, 1, 1))
    const [sampled, generate] = yield* seconds(sample(repetition, size, completionLength))
    const packs = Pack.pack(
      sampled.map(({ completions, prompt }) => ({
        prompt,
        sequences: completions.map((completion, i) => ({
          tokens: completion.tokens,
          target: completion.tokens.map(() => 1),
          advantage: i % 2 === 0 ? 1 : -1,
          samplerLogprobs: completion.logprobs
        }))
      })),
      { aggregate: "token" }
    )
    const [report, update] = yield* seconds(updater.packs(packs, repetition))
    results.push({
      prefillSeconds: prefill,
      prefillTokensPerSecond: (prompts * promptLength) / prefill,
      generateSeconds: generate,
      decodeTokensPerSecond: (prompts * size * completionLength) / (generate - prefill),
      updateSeconds: update,
      updateTokensPerSecond: report.tokens.forward / update,
      mismatch: report.metrics["sampling/sampling_logp_difference/max"],
      gradNorm: report.gradNorm,
      phases: report.seconds
    })
  }
  const best = results.reduce((a, b) =>
    a.generateSeconds + a.updateSeconds <= b.generateSeconds + b.updateSeconds ? a : b
  )
  return { dtype, info: policy.info, ...best, stepSeconds: best.generateSeconds + best.updateSeconds }
})

const result = await Effect.runPromise(
  program.pipe(Effect.provide(PolicyNative.layer({ model, seed: 1, dtype, lora: { rank: 16 } })))
)
console.log(JSON.stringify({ ...result, peakBytes: process.resourceUsage().maxRSS * 1024 }))
