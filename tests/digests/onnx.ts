/**
 * ONNX Runtime picks its own instructions, and rounds by the size of a batch: one request at a time, in the order of their
 * draws. One thread, since it may split sums by their number.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Semaphore from "effect/Semaphore"
import * as path from "node:path"
import { Sampler } from "quintain"
import { engine, type EngineOptions } from "./api.ts"
import { model, settings, train } from "./lookup.ts"
import type { Scenario } from "./scenario.ts"

/** The same sampler, which never sees two requests at once. */
const oneByOne = Layer.effect(
  Sampler.Sampler,
  Effect.gen(function* () {
    const sampler = yield* Sampler.Sampler
    const turn = yield* Semaphore.make(1)
    return Sampler.Sampler.of({ ...sampler, sample: (request) => turn.withPermit(sampler.sample(request)) })
  })
)

const run = (directory: string, seed: number, learningRate: number, lora: Pick<EngineOptions, "lora">) => {
  const device = engine({
    model,
    seed,
    tokenizer: settings(seed).tokenizer,
    engine: "onnx",
    executionProviders: ["cpu"],
    threads: 1,
    ...lora
  })
  return train(directory, seed, { update: { learningRate } }, Layer.provideMerge(oneByOne, device))
}

export const onnx: Scenario = {
  name: "onnx",
  quick: false,
  thisMachineOnly: true,
  run: ({ root }) =>
    Effect.all([
      run(path.join(root, "full"), 16, 1e-3, {}),
      run(path.join(root, "lora"), 17, 1e-2, { lora: { rank: 4 } })
    ])
}
