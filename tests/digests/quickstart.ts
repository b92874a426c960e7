/** The quickstart: supervised warm-up on imperfect demonstrations, then 20 steps of GRPO with pooled, sandboxed verifiers. */
import * as Effect from "effect/Effect"
import * as path from "node:path"
import { Grpo, LearningRate, Sft } from "quintain"
import { toolCaller } from "quintain/envs"
import { engine, quiet, threads, verifierPool } from "./api.ts"
import type { Scenario } from "./scenario.ts"

const task = toolCaller({ seed: 1, heldOut: 32 })
const model = {
  vocab_size: task.tokenizer.vocabularySize,
  hidden_size: 128,
  num_hidden_layers: 4,
  num_attention_heads: 4,
  intermediate_size: 344,
  initializer_range: 0.08
}

export const quickstart: Scenario = {
  name: "quickstart",
  quick: false,
  run: ({ root }) => {
    const [sft, grpo] = [path.join(root, "sft"), path.join(root, "grpo")]
    return Effect.gen(function* () {
      yield* Sft.train({
        ...quiet,
        demonstrations: task.demonstrations({ count: 3200 }),
        tokenizer: task.tokenizer,
        steps: 100,
        update: { learningRate: LearningRate.warmup(2e-3, 20) },
        directory: sft
      })
      yield* Grpo.train({
        ...task,
        ...quiet,
        reward: task.pooledReward,
        steps: 20,
        groups: 16,
        size: 8,
        seed: 1,
        update: { learningRate: 5e-4 },
        directory: grpo
      })
      return [sft, grpo]
    }).pipe(
      Effect.provide(engine({ model, seed: 1, tokenizer: task.tokenizer, threads })),
      Effect.provide(verifierPool({ workers: 2 }))
    )
  }
}
