/** Opens the engine that the option `engine` names, or selects one. Each engine is loaded only on request. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { EngineError } from "../engine/EngineError.ts"
import { Policy } from "../engine/Policy.ts"
import type { OnnxOptions } from "./onnx/PolicyOnnx.ts"
import type { Sampler } from "../engine/Sampler.ts"
import { choose, devices, type EngineOptions, notOnnx, refuse } from "./internal/choose.ts"

export type { EngineOptions } from "./internal/choose.ts"

const onlyOnnx = ["executionProviders", "deviceBytes", "chunkTokens"] as const

/** An option that the engine `native` cannot honour. */
const notNative = (options: EngineOptions): EngineError | undefined => {
  for (const option of onlyOnnx) {
    if (options[option] === undefined) continue
    return refuse(option, 'the engine "native" has no such option: leave it out, or set engine to "onnx"')
  }
  const foreign = devices(options)?.find((device) => device !== "cpu")
  if (foreign === undefined) return undefined
  return refuse("device", `the engine "native" runs on the processor, not on ${foreign}: set engine to "onnx"`)
}

/**
 * Builds policy and sampler on the engine that the option `engine` names.
 *
 * `auto` logs one line with its reason, which `info.device` also has. An option that the engine lacks fails with
 * `Config`, and the error says what to do. Other failures are those of the engine's own layer.
 *
 * @example
 * ```ts
 * const engine = Engine.layer({ model: "HuggingFaceTB/SmolLM2-135M-Instruct", lora: { rank: 16 }, engine: "auto" })
 * Grpo.train(options).pipe(Effect.provide(engine))
 * ```
 */
export const layer = (options: EngineOptions): Layer.Layer<Policy | Sampler, EngineError> =>
  Layer.unwrap(
    Effect.gen(function* () {
      const { engine = "native" } = options
      switch (engine) {
        case "native": {
          const problem = notNative(options)
          if (problem !== undefined) return yield* problem
          return yield* native(options)
        }
        case "onnx": {
          const problem = notOnnx(options)
          if (problem !== undefined) return yield* problem
          return yield* onnx(options)
        }
        case "auto": {
          const { provider, reason } = yield* choose(options)
          yield* Effect.logInfo(`engine "auto" takes ${reason}`)
          return saying(
            yield* provider === undefined ? native(options) : onnx({ ...options, device: provider }),
            reason
          )
        }
        default:
          return yield* refuse("engine", `${String(engine)} is not an engine: use "native", "onnx" or "auto"`)
      }
    })
  )

/** `auto` has the options of both engines. */
const without = <K extends keyof EngineOptions>(
  options: EngineOptions,
  names: ReadonlyArray<K>
): Omit<EngineOptions, K> =>
  Object.fromEntries(
    Object.entries(options).filter(([name]) => !(names as ReadonlyArray<string>).includes(name))
  ) as unknown as Omit<EngineOptions, K>

const native = (options: EngineOptions) =>
  Effect.map(
    Effect.promise(() => import("./native/PolicyNative.ts")),
    (engine) => engine.layer(without(options, ["engine", "device", ...onlyOnnx]))
  )

const onnx = (options: EngineOptions) => {
  const executionProviders = devices(options) ?? options.executionProviders
  const own: OnnxOptions = without(options, ["engine", "device", "dtype", "blocks", "executionProviders"])
  return Effect.map(
    Effect.promise(() => import("./onnx/PolicyOnnx.ts")),
    (engine) => engine.layer(executionProviders === undefined ? own : { ...own, executionProviders })
  )
}

/** Adds the reason to the device's name. */
const saying = (
  layer: Layer.Layer<Policy | Sampler, EngineError>,
  reason: string
): Layer.Layer<Policy | Sampler, EngineError> =>
  Layer.effectContext(
    Effect.map(Layer.build(layer), (services) => {
      const policy = Context.get(services, Policy)
      const device = `${policy.info.device} (auto took ${reason})`
      return Context.add(services, Policy, { ...policy, info: { ...policy.info, device } })
    })
  )
