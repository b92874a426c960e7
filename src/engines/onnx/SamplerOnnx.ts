/**
 * Rollouts on ONNX Runtime, beside a policy of another engine: weights are constants of the graph, in the layout that the
 * device computes fastest with, quantised if asked. {@link WeightSync} has it follow the policy:
 *
 * @example
 * ```ts
 * const model = "HuggingFaceTB/SmolLM2-135M-Instruct"
 * const engine = WeightSync.layer({
 *   policy: PolicyNative.layer({ model, lora: { rank: 16 } }),
 *   sampler: SamplerOnnx.layer({ model, weights: "q8_0", tokenizer })
 * })
 * Grpo.train(options).pipe(Effect.provide(engine))
 * ```
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { abortable } from "../../internal/abortable.ts"
import { engineFailure } from "../internal/engineFailure.ts"
import { setUp } from "../internal/enginePolicy.ts"
import { engineSampler } from "../internal/engineSampler.ts"
import { openClient } from "./worker/open.ts"
import { type ModelOptions, sourceOf } from "../internal/openModel.ts"
import type { DeviceOptions } from "./PolicyOnnx.ts"
import type { EngineError } from "../../engine/EngineError.ts"
import { Sampler } from "../../engine/Sampler.ts"

export interface SamplerOnnxOptions extends Omit<ModelOptions, "adapter" | "lora">, DeviceOptions {
  /**
   * What the matrices are held and multiplied in; everything else is f32. `q8_0` and `q4_0` are blocks of 32 weights that
   * share a scale (the head stays 8-bit), rounded when the model is opened; `file`: the blocks of a GGUF file as they are.
   * Default f32.
   */
  readonly weights?: "f32" | "f16" | "q8_0" | "q4_0" | "file"
}

/**
 * A sampler alone, closed with the scope. Its weights are Updatable: an adapter's folder is read and put on the base that is there; a
 * whole model is opened and takes the place of the former one, both in memory for that moment. Samples under way are
 * finished first, with the weights that they began with. Errors are those of `PolicyOnnx.layer`.
 */
export const layer = (options: SamplerOnnxOptions): Layer.Layer<Sampler, EngineError> =>
  Layer.effect(
    Sampler,
    Effect.gen(function* () {
      const { weights = "f32" } = options
      // Adapters come later, so the base is frozen also where there are none.
      const source = yield* sourceOf({ ...options, adapters: options.adapters ?? {} })
      const settings = weights === "file" ? { ...source.settings, blocks: "file" as const } : source.settings
      const engine = yield* openClient(options, { ...source, settings }, { weights })
      yield* setUp(engine, { tokenizer: options.tokenizer })
      return Sampler.of({
        ...engineSampler(engine),
        engine: weights === "f32" ? "onnx" : `onnx ${weights}`,
        weights: {
          _tag: "Updatable",
          update: (weights) =>
            abortable(
              (signal) => engine.update(weights, signal),
              (cause) => engineFailure("update", cause)
            )
        }
      })
    })
  )
