/**
 * Policy and sampler on ONNX Runtime.
 *
 * It runs on a GPU through WebGPU (included in the npm package), CUDA, DirectML or Core ML, or on the processor. The
 * graphs are made from the same checkpoints that the native engine opens. Sampler and policy share the weights on the
 * device. It needs the optional dependency `onnxruntime-node`.
 *
 * Log-probabilities agree with the native engine's to rounding (f32), not bit for bit.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { enginePolicy, setUp } from "../internal/enginePolicy.ts"
import { engineSampler } from "../internal/engineSampler.ts"
import type { DeviceOptions, ExecutionProvider } from "./worker/executionProvider.ts"
import type { GraphPlacement } from "./worker/measure.ts"
import { deviceSettings, openClient } from "./worker/open.ts"
import { probe } from "./worker/probe.ts"
import { type ModelOptions, sourceOf } from "../internal/openModel.ts"
import type { EngineError } from "../../engine/EngineError.ts"
import { adapterOf } from "../../model/adapterConfig.ts"
import { Policy } from "../../engine/Policy.ts"
import { Sampler } from "../../engine/Sampler.ts"

export type { DeviceOptions, ExecutionProvider } from "./worker/executionProvider.ts"
export type { GraphPlacement } from "./worker/measure.ts"

export interface OnnxOptions extends ModelOptions, DeviceOptions {
  /** Most tokens computed at once in an update; a single longer sequence is computed whole. Default 1024. */
  readonly chunkTokens?: number
  /** Bytes of layer inputs kept for the backward pass; the rest is recomputed. Default 1 GiB. */
  readonly activationBytes?: number
}

/**
 * Builds policy and sampler on one device, and closes them with the scope.
 *
 * `info.device` says which provider runs, and why preferred ones do not. Fails with `Unavailable` if none opens or the
 * runtime is not installed, with `Config` for an invalid option, and like the native engine for checkpoints.
 *
 * Later calls fail with `Unavailable` if the device or the engine's thread is lost. Open the layer again then, and
 * resume the run from its checkpoint. `OutOfMemory` leaves the engine as it was. If it occurs during a step or a load,
 * calls fail with `State` until a checkpoint is loaded.
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
export const layer = (options: OnnxOptions): Layer.Layer<Policy | Sampler, EngineError> =>
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
      return Context.make(Policy, yield* enginePolicy(engine, source)).pipe(Context.add(Sampler, engineSampler(engine)))
    })
  )

/** Capabilities and speed of an execution provider on this machine. */
export interface ProviderReport {
  readonly provider: ExecutionProvider
  /** Reason why the provider cannot be used, in one line. If it is absent, the other fields are present. */
  readonly refused?: string
  /** Billions of operations a second in products of square matrices that stay on the device. */
  readonly gflops?: number
  readonly graphs?: ReadonlyArray<GraphPlacement>
  /** 8 samples of one prompt. */
  readonly decodeTokensPerSecond?: number
  /** Log-probabilities, gradient and step of 8 completions of one prompt. */
  readonly updateTokensPerSecond?: number
}

/** Milliseconds for one provider, after which a driver that hangs is ended. */
const reportDeadline = 600_000

/**
 * Tries every provider with a model, each in its own process, one after the other.
 *
 * A report says whether the provider opened, and if not, why. It lists the nodes of each graph that fell back to the
 * processor, and measures speed. Use it to select a device; it takes a minute or more and keeps nothing.
 *
 * @example
 * ```ts
 * const reports = yield* PolicyOnnx.report({ model: "HuggingFaceTB/SmolLM2-135M-Instruct", lora: { rank: 16 } })
 * ```
 */
export const report = (options: OnnxOptions): Effect.Effect<ReadonlyArray<ProviderReport>, EngineError> =>
  measured(options)

const measured = Effect.fnUntraced(function* (options: OnnxOptions) {
  const { deviceBytes, threads } = yield* deviceSettings(options)
  const { location, settings } = yield* sourceOf(options)
  // The graphs are those for an adapter on all modules.
  const adapter =
    settings.frozen === true ? { lora: { rank: adapterOf(options)?.rank ?? 16, targets: ["all-linear"] } } : {}
  const providers = options.executionProviders ?? (["webgpu", "cuda", "dml", "coreml", "cpu"] as const)
  return yield* Effect.forEach(
    providers,
    Effect.fnUntraced(function* (provider) {
      const answer = yield* probe(
        {
          provider,
          store: { path: location?.path, settings: { ...settings, ...adapter, adapters: {} } },
          ...(threads === undefined ? {} : { threads }),
          ...(deviceBytes === undefined ? {} : { deviceBytes })
        },
        reportDeadline
      )
      const report: ProviderReport =
        answer._tag === "Refused"
          ? { provider, refused: answer.reason }
          : { provider, gflops: answer.measured.gflops, ...answer.measured.engines }
      return report
    })
  )
})
