/**
 * A sampler on ONNX Runtime that follows a policy of another engine.
 *
 * Weights are constants of the graph, in the layout that is fastest on the device, quantised on request. {@link
 * WeightSync} connects it to the policy:
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
   * Type of the matrices; everything else is f32. `q8_0` and `q4_0` are blocks of 32 weights that share a scale,
   * rounded when the model is opened; the head stays 8-bit. `file`: the blocks of a GGUF file as they are. Default f32.
   */
  readonly weights?: "f32" | "f16" | "q8_0" | "q4_0" | "file"
}

/**
 * Builds a sampler without a policy, and closes it with the scope.
 *
 * Its weights are Updatable. An adapter's folder is read and applied to the present base. A whole model replaces the
 * former one; both are in memory for that moment. Samples in flight finish first, with the weights that they began
 * with. Errors are those of `PolicyOnnx.layer`.
 */
export const layer = (options: SamplerOnnxOptions): Layer.Layer<Sampler, EngineError> =>
  Layer.effect(
    Sampler,
    Effect.gen(function* () {
      const { weights = "f32" } = options
      // Adapters come later, so the base is frozen even without any.
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
