/**
 * The native engine: one model in this process that samples and trains on the CPU.
 *
 * Sampler and policy share the same weights and the same arithmetic. The log-probabilities of a sample therefore equal
 * those of `logprobs` bit for bit.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { engineFailure } from "../internal/engineFailure.ts"
import { enginePolicy, setUp } from "../internal/enginePolicy.ts"
import { engineSampler } from "../internal/engineSampler.ts"
import * as Native from "../internal/nativeModel.ts"
import { nativeEngine } from "./internal/nativeEngine.ts"
import { type ModelOptions, type Source, sourceOf } from "../internal/openModel.ts"
import { EngineError } from "../../engine/EngineError.ts"
import { Policy } from "../../engine/Policy.ts"
import { Sampler } from "../../engine/Sampler.ts"

export { ModelConfig } from "../../model/modelConfig.ts"

export interface NativeOptions extends ModelOptions {
  /** Type of the matrix products' inputs; sums are f32. Default f32. */
  readonly dtype?: "f32" | "bf16"
  /**
   * Keeps the base frozen in 4- or 8-bit blocks in memory (QLoRA), so that only an adapter can be trained. Matrix
   * products dequantise it. `file` takes the blocks of a GGUF file as they are. The other values quantise on load, by
   * ggml's reference rounding, with embedding and head in Q8_0. Without this option, or if a shape does not fit blocks,
   * weights have type `dtype`.
   */
  readonly blocks?: "file" | "q8_0" | "q4_0" | "q4_1"
  /**
   * Bytes of activations kept for the backward pass, by a forward or by sampling; the rest is recomputed. Default 1
   * GiB.
   */
  readonly activationBytes?: number
}

/**
 * Builds policy and sampler on one native model, and closes it with the scope.
 *
 * @example
 * ```ts
 * const engine = PolicyNative.layer({
 *   model: { vocab_size: 64, hidden_size: 128, num_hidden_layers: 4, num_attention_heads: 4, intermediate_size: 344 },
 *   seed: 1
 * })
 * program.pipe(Effect.provide(engine))
 * ```
 */
export const layer = (options: NativeOptions): Layer.Layer<Policy | Sampler, EngineError> =>
  Layer.effectContext(
    Effect.gen(function* () {
      const source = yield* sourceOf(options)
      const engine = yield* open(options, source)
      return Context.make(Policy, yield* enginePolicy(engine, source)).pipe(
        Context.add(Sampler, engineSampler(engine))
      )
    })
  )

const open = Effect.fnUntraced(function* (options: NativeOptions, { location, settings }: Source) {
  const json = JSON.stringify({
    ...settings,
    dtype: options.dtype ?? "f32",
    ...(options.blocks === undefined ? {} : { blocks: options.blocks }),
    ...(options.activationBytes === undefined ? {} : { activationBytes: options.activationBytes })
  } satisfies Native.NativeSettings)
  const { NativeModel } = yield* Effect.try({
    try: () => Native.load(),
    catch: (cause) => new EngineError({ operation: "open", reason: { _tag: "Unavailable", detail: String(cause) } })
  })
  const model = yield* Effect.acquireRelease(
    Effect.tryPromise({
      try: () => (location === undefined ? NativeModel.create(json) : NativeModel.open(location.path, json)),
      catch: (cause) => engineFailure("open", cause)
    }),
    (model) => Effect.promise(() => model.close())
  )
  const engine = nativeEngine(model)
  yield* setUp(engine, options)
  return engine
})
