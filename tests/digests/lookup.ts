/** Learning from random weights by rewards alone, and the ways to walk a batch: all on the `lookup` task. */
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import * as path from "node:path"
import { Advantage, Grpo, Loss, type Policy, type Sampler } from "quintain"
import { lookup, type Lookup } from "quintain/envs"
import { engine, type EngineOptions, killedAfter, quiet, threads } from "./api.ts"
import type { Scenario } from "./scenario.ts"

type GrpoOptions = Omit<Grpo.GrpoOptions<Lookup.LookupData>, "directory">

export const model = {
  vocab_size: 16,
  hidden_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  intermediate_size: 172,
  tie_word_embeddings: false
}

export const settings = (seed: number): GrpoOptions => ({
  ...lookup({ seed }),
  ...quiet,
  seed,
  steps: 20,
  groups: 10,
  dropConstant: false,
  loss: Loss.withEntropy(Loss.clipped(), 0.1),
  update: { learningRate: 1e-3 }
})

export const train = <E>(
  directory: string,
  seed: number,
  options: Partial<GrpoOptions>,
  on: Layer.Layer<Policy.Policy | Sampler.Sampler, E>
) => Grpo.train({ ...settings(seed), ...options, directory }).pipe(Effect.as(directory), Effect.provide(on))

const native = (seed: number, options: Partial<EngineOptions> = {}) =>
  engine({ model, seed, tokenizer: settings(seed).tokenizer, threads, ...options })

export const lookups: Scenario = {
  name: "lookup",
  quick: false,
  run: ({ root }) =>
    Effect.forEach(Array.from({ length: 10 }).keys(), (seed) =>
      train(path.join(root, `${seed}`), seed, { steps: 100 }, native(seed))
    )
}

/** Several updates of one batch: the ratio is against the policy before the first of them. */
export const minibatches: Scenario = {
  name: "minibatches",
  quick: true,
  run: ({ root }) =>
    Effect.all([
      train(
        path.join(root, "trajectory"),
        11,
        { update: { learningRate: 1e-3, epochs: 2, minibatches: 2 } },
        native(11)
      ),
      // Filtered groups leave some minibatches short, and an advantage per token weighs each of them.
      train(
        path.join(root, "token"),
        12,
        {
          advantage: Advantage.tokenLevel(),
          aggregate: "sequence",
          dropConstant: true,
          maxDraws: 2,
          update: { learningRate: 1e-3, epochs: 2, minibatches: 2, maxTokens: 128 }
        },
        native(12)
      )
    ])
}

export const bf16: Scenario = {
  name: "bf16",
  quick: true,
  run: ({ root }) =>
    Effect.all([
      train(path.join(root, "full"), 13, {}, native(13, { dtype: "bf16" })),
      train(
        path.join(root, "lora"),
        14,
        { update: { learningRate: 1e-2 } },
        native(14, { dtype: "bf16", lora: { rank: 4 } })
      )
    ])
}

const nearReference: Partial<GrpoOptions> = {
  loss: Loss.withKl(Loss.clipped(), { coefficient: 0.1 }),
  checkpointEvery: 5
}

/** An adapter, held near its base; the process is killed between two checkpoints. */
export const loraKl: Scenario = {
  name: "lora-kl-resume",
  quick: true,
  killAfter: 13,
  run: ({ killAfter, root }) => {
    const options = { ...nearReference, update: { learningRate: 1e-2 }, ...killedAfter(killAfter) }
    return Effect.all([train(path.join(root, "run"), 15, options, native(15, { lora: { rank: 4, dropout: 0.1 } }))])
  }
}

/** All weights, held near those of the start. The second process opens other weights: the run's own reference counts. */
export const fullKl: Scenario = {
  name: "kl-resume",
  quick: true,
  killAfter: 13,
  run: ({ killAfter, root }) => {
    // The checkpoint has the weights, so the model that is opened may be another.
    const options = { ...nearReference, ...killedAfter(killAfter), mayChange: ["model.hash"] }
    const engineSeed = killAfter === undefined ? 19 : 18
    return Effect.all([train(path.join(root, "run"), 18, options, native(engineSeed))])
  }
}
