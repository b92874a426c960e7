/**
 * Policy and sampler on ONNX Runtime: on a GPU through WebGPU (in the npm package itself), CUDA, DirectML or Core ML, or on
 * the processor. The graphs are made here from the same checkpoints that the native engine opens, and sampler and policy
 * share the weights on the device. Needs the optional dependency `onnxruntime-node`.
 *
 * Log-probabilities agree with the native engine's to rounding (f32), not bit for bit.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { enginePolicy, setUp } from "./internal/enginePolicy.ts"
import { engineSampler } from "./internal/engineSampler.ts"
import { openClient } from "./internal/onnx/openClient.ts"
import { type ModelOptions, sourceOf } from "./internal/openModel.ts"
import { Policy, type PolicyError } from "./Policy.ts"
import { Sampler } from "./Sampler.ts"

/** Where ONNX Runtime computes, by its own names. */
export type ExecutionProvider = "webgpu" | "cuda" | "dml" | "coreml" | "cpu"

/** Where an engine of ONNX Runtime runs. */
export interface DeviceOptions {
  /**
   * In order of preference: the first that opens runs every graph; operators it does not have run on the processor. Only
   * with `webgpu` do weights stay on the device between runs; for the others the runtime copies them for each.
   * Default: webgpu, then cpu.
   */
  readonly executionProviders?: ReadonlyArray<ExecutionProvider>
  /**
   * Bytes that tensors kept on the device may take together: weights, gradients, moments, layer inputs, the sampler's cache.
   * What a graph needs while it runs comes on top. Default: until the device refuses.
   */
  readonly deviceBytes?: number
}

export interface OnnxOptions extends ModelOptions, DeviceOptions {
  /** Most tokens computed at once in an update; a longer sequence is computed whole. Default 1024. */
  readonly chunkTokens?: number
  /** Bytes of layer inputs kept for the backward pass; what does not fit is recomputed. Default 1 GiB. */
  readonly activationBytes?: number
}

/**
 * Policy and sampler on one device, closed with the scope. `info.device` says which provider runs, and why those that were
 * preferred do not. Fails with `PROVIDER` where none opens or the runtime is not installed, `CONFIG` for an option that
 * cannot be, and as the native engine does for checkpoints.
 *
 * Later calls fail with `DEVICE_LOST` when the device is gone, with `ENGINE_LOST` when the engine's thread is; open the
 * layer again then, and resume the run from its checkpoint. `OUT_OF_MEMORY` leaves the engine as it was.
 *
 * @example
 * ```ts
 * const engine = PolicyOnnx.layer({
 *   model: "HuggingFaceTB/SmolLM2-135M-Instruct",
 *   lora: { rank: 16 },
 *   executionProviders: ["webgpu", "cpu"]
 * })
 * program.pipe(Effect.provide(engine))
 * ```
 */
export const layer = (options: OnnxOptions): Layer.Layer<Policy | Sampler, PolicyError> =>
  Layer.effectContext(
    Effect.gen(function* () {
      const source = yield* sourceOf(options)
      const { activationBytes, chunkTokens } = options
      const engine = yield* openClient(options, source, {
        policy: {
          ...(chunkTokens === undefined ? {} : { chunkTokens }),
          ...(activationBytes === undefined ? {} : { activationBytes })
        }
      })
      yield* setUp(engine, options)
      return Context.make(Policy, yield* enginePolicy(engine, source.location)).pipe(
        Context.add(Sampler, engineSampler(engine))
      )
    })
  )
