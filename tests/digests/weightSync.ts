/** A policy and the sampler of another engine that follows its weights, by files: with the correction that this needs. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as path from "node:path"
import { Grpo, Policy, Sampler, WeightSync } from "quintain"
import { lookup } from "quintain/envs"
import { drawnFrom, engine, type EngineOptions, nativeEngine, quiet, threads } from "./api.ts"
import type { Scenario } from "./scenario.ts"

const task = lookup({ seed: 41 })
const model = {
  vocab_size: task.tokenizer.vocabularySize,
  hidden_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  intermediate_size: 172
}
const seed = 41

/** A second engine that opens the folders it is handed, and computes in bf16, so that it differs from the policy. */
const replica = Layer.effect(
  Sampler.Sampler,
  Effect.gen(function* () {
    const scope = yield* Effect.scope
    const { tokenizer } = task
    const open = (from: EngineOptions["model"]) =>
      Layer.buildWithScope(
        nativeEngine({ model: from, seed, adapters: {}, dtype: "bf16", tokenizer, threads }),
        scope
      ).pipe(Effect.orDie)
    let current = yield* open(model)
    let adapter: string | undefined
    let held = 0
    return Sampler.Sampler.of({
      name: "replica",
      engine: "replica",
      sample: (request) =>
        Context.get(current, Sampler.Sampler)
          .sample({ ...request, ...(adapter === undefined ? {} : { adapter }) })
          .pipe(Effect.map((completions) => completions.map((completion) => drawnFrom(held, completion)))),
      weights: {
        _tag: "Updatable",
        update: Effect.fnUntraced(function* ({ directory, kind, version }: Sampler.WeightUpdate) {
          if (kind === "model") current = yield* open(directory)
          else {
            const { adapters } = Context.get(current, Policy.Policy)
            const name = `v${version}`
            yield* Effect.orDie(adapters.add(name, directory))
            if (adapter !== undefined) yield* Effect.orDie(adapters.remove(adapter))
            adapter = name
          }
          held = version
        })
      }
    })
  })
)

export const weightSync: Scenario = {
  name: "weight-sync",
  quick: true,
  run: ({ root }) => {
    const run = (name: string, learningRate: number, lora: Pick<EngineOptions, "lora">) => {
      const directory = path.join(root, name)
      const pair = WeightSync.layer({ policy: engine({ model, seed, threads, ...lora }), sampler: replica })
      return Grpo.train({
        ...task,
        ...quiet,
        seed,
        steps: 10,
        groups: 10,
        dropConstant: false,
        update: { learningRate },
        directory
      }).pipe(Effect.as(directory), Effect.provide(pair))
    }
    return Effect.all([run("model", 1e-3, {}), run("adapter", 1e-2, { lora: { rank: 4 } })])
  }
}
