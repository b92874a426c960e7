/**
 * SmolLM2-135M-Instruct sampled by another engine: llama.cpp (node-llama-cpp) behind a loopback server in the form of
 * `llama-server`, through `SamplerServer`; then the log-probabilities of the same tokens by this package's policy on the same
 * file. What a run with rollouts from such a server has to correct for.
 *
 *     npm run bench -- llamaserver llama=<folder with node_modules/node-llama-cpp> [model=<file.gguf>] [count=4] [tokens=48]
 *         [prompts=10] [threads=2] [forms=f32,bf16,file]
 *
 * Sampling is the server's: by the request's seed, from llama.cpp's logits. The last column compares the
 * most likely continuations of the first three prompts.
 */
import * as Effect from "effect/Effect"
import { Checkpoint, Loss, Sampler, SamplerServer } from "quintain"
import { smollm2 } from "../../scripts/smollm2.mjs"
import { serveInference } from "../fixtures/inferenceServer.ts"
import { llamaCpp } from "./realModel/llamaCpp.ts"
import { quintain } from "./realModel/quintain.ts"
import { CHAT } from "./realModel/texts.ts"

const settings: Readonly<Record<string, string | undefined>> = Object.fromEntries(
  process.argv.slice(2).map((part) => part.split("=", 2))
)
const threads = Number(settings["threads"] ?? 2)
const count = Number(settings["count"] ?? 4)
const maxTokens = Number(settings["tokens"] ?? 48)
const forms = (settings["forms"] ?? "f32,bf16,file").split(",")
const END_OF_TURN = 2

const model = settings["model"] ?? (await smollm2())
const engine =
  model === undefined ? undefined : await llamaCpp(model, { folder: settings["llama"], threads, sequences: 1 })
if (model === undefined || engine === undefined) process.exit(0)
const { tokenizer } = await Effect.runPromise(Checkpoint.open(model))

await using server = await serveInference({
  kind: "llamacpp",
  logits: (context) => engine.logits(context),
  eos: END_OF_TURN,
  text: (token) => tokenizer.decode(Uint32Array.of(token))
})
// One after the other: the engine behind it computes one sequence at a time.
const served = SamplerServer.layer({
  kind: "llamacpp",
  url: server.url,
  vocabularySize: tokenizer.vocabularySize,
  concurrency: 1
})

const prompts = CHAT.slice(0, Number(settings["prompts"] ?? CHAT.length)).map((content) =>
  tokenizer.render([{ role: "user", content }])
)
const begun = performance.now()
const samples = await Effect.runPromise(
  Effect.forEach(prompts, (prompt, index) =>
    Sampler.Sampler.use((sampler) =>
      sampler.sample({
        prompt,
        count,
        maxTokens,
        stopTokens: [END_OF_TURN],
        key: { seed: 1, stream: `chat ${index}`, index: 0 }
      })
    ).pipe(Effect.map((completions) => completions.map((completion) => ({ prompt, completion }))))
  ).pipe(
    Effect.map((groups) => groups.flat()),
    Effect.provide(served)
  )
)
const total = samples.reduce((sum, { completion }) => sum + completion.tokens.length, 0)
const seconds = (performance.now() - begun) / 1000
console.log(
  `\n${engine.name} behind a server: ${samples.length} samples of ${prompts.length} prompts, ${total} tokens at temperature 1, ` +
    `${Math.round(total / seconds)} tokens/s (every token's whole distribution goes through JavaScript)`
)

const round = (value: number, digits = 4) => Number(value.toFixed(digits))
const mean = (values: ReadonlyArray<number>) => values.reduce((sum, value) => sum + value, 0) / values.length

const rows = []
for (const form of forms) {
  const policy = quintain(model, form, threads)
  const own: Array<number> = []
  const sampler: Array<number> = []
  const sequenceStart = [0]
  for (const { completion, prompt } of samples) {
    const whole = await policy.logprobs([...prompt, ...completion.tokens])
    own.push(...whole.slice(prompt.length - 1))
    sampler.push(...completion.logprobs)
    sequenceStart.push(own.length)
  }
  const greedy = []
  for (const prompt of prompts.slice(0, 3)) {
    const [theirs] = await Effect.runPromise(
      Sampler.Sampler.use((sampler) =>
        sampler.sample({
          prompt,
          count: 1,
          maxTokens: 16,
          temperature: 0,
          stopTokens: [END_OF_TURN],
          key: { seed: 1, stream: "greedy", index: 0 }
        })
      ).pipe(Effect.provide(served))
    )
    const ours = await policy.greedy(Array.from(prompt), theirs!.tokens.length)
    const parted = theirs!.tokens.findIndex((token, t) => token !== ours[t])
    greedy.push(parted < 0 ? theirs!.tokens.length : parted)
  }
  await policy.close()

  const differences = own.map((value, t) => Math.abs(value - sampler[t]!))
  const input = {
    oldLogprobs: Float64Array.from(own),
    samplerLogprobs: Float64Array.from(sampler),
    sequenceStart: Uint32Array.from(sequenceStart)
  }
  const token = Array.from(Loss.importanceRatios(input, "token"))
  const ratios = Loss.importanceRatios(input, "sequence")
  const sequence = sequenceStart.slice(0, -1).map((start) => ratios[start]!)
  const within = (limits: readonly [number, number], values: ReadonlyArray<number>) =>
    `${round((100 * values.filter((ratio) => ratio < limits[0] || ratio > limits[1]).length) / values.length, 1)} %`
  rows.push({
    policy: form,
    "mean |difference|": round(mean(differences)),
    largest: round(Math.max(...differences)),
    "mean(sampler - policy)": round(mean(own.map((value, t) => sampler[t]! - value)), 5),
    "token ratio": `${round(Math.min(...token), 3)} to ${round(Math.max(...token), 3)}`,
    "sequence ratio": `${round(Math.min(...sequence), 3)} to ${round(Math.max(...sequence), 3)}`,
    "sequences masked above 3": within([0, 3], sequence),
    "tokens outside 0.5 to 2": within([0.5, 2], token),
    "greedy tokens before they part, of 16": greedy.join(", ")
  })
}
console.log("the same tokens by the policy, on the same file")
console.table(rows)
await engine.close()
