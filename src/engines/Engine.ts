/** Opens the engine that `engine` names, or picks one. Each engine is loaded only when it is asked for. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { EngineError } from "../engine/EngineError.ts"
import { adapterOf } from "../model/adapterConfig.ts"
import { Policy } from "../engine/Policy.ts"
import type { NativeOptions } from "./native/PolicyNative.ts"
import type { ExecutionProvider, OnnxOptions } from "./onnx/PolicyOnnx.ts"
import type { Sampler } from "../engine/Sampler.ts"
import { probe } from "./onnx/worker/probe.ts"

/** The options of the engine that is named; with `auto` those of both. */
export interface EngineOptions extends NativeOptions, OnnxOptions {
  /**
   * `native`: the kernel of this package, on the processor. `onnx`: ONNX Runtime, on a GPU or the processor. `auto`: onnx
   * where a GPU opens that multiplies matrices faster than the processor does (measured when the layer is built) and no
   * option asks for what only the native engine has; else native. Default native.
   */
  readonly engine?: "native" | "onnx" | "auto"
  /** Where it is to run, in order of preference: `executionProviders` by another name. The native engine has `cpu` alone. */
  readonly device?: ExecutionProvider | ReadonlyArray<ExecutionProvider>
}

/** Milliseconds for a provider to show what it can do: its driver may have shaders to compile. */
const patience = 60_000

/** A GPU must be so much faster than the processor, or what it costs to keep it fed is not worth it. */
const worthwhile = 1.5

const onlyOnnx = ["executionProviders", "deviceBytes", "chunkTokens"] as const

const refuse = (option: string, problem: string) => {
  const detail = `${option}: ${problem}`
  return new EngineError({ operation: "open", reason: { _tag: "Config", option, detail } })
}

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

/** An option that the engine `onnx` cannot honour. */
const notOnnx = (options: EngineOptions): EngineError | undefined => {
  const { blocks, device, dtype, executionProviders } = options
  const remedy = 'set engine to "native", or leave it out'
  if (dtype !== undefined && dtype !== "f32") return refuse("dtype", `the engine "onnx" trains in f32: ${remedy}`)
  if (blocks !== undefined) return refuse("blocks", `the engine "onnx" trains on weights in f32: ${remedy}`)
  const given = options.adapter === undefined ? "lora" : "adapter"
  if ((adapterOf(options)?.dropout ?? 0) > 0)
    return refuse(`${given}.dropout`, `the engine "onnx" has no dropout: ${remedy}`)
  if (device === undefined || executionProviders === undefined) return undefined
  return refuse("device", "executionProviders says it already: give one of the two")
}

const devices = ({ device }: EngineOptions): ReadonlyArray<ExecutionProvider> | undefined =>
  typeof device === "string" ? [device] : device

/**
 * Policy and sampler on one engine, chosen by a word. `auto` logs one line with its reason, which `info.device` has too. An
 * option that the engine does not have fails with `Config` and says what to do; otherwise as the engine's own layer does.
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
          return yield* refuse("engine", `${String(engine)} is none: use "native", "onnx" or "auto"`)
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

/** What `auto` takes: native, or onnx on a provider; the reason begins with the engine's name. */
export const choose = Effect.fnUntraced(function* (options: EngineOptions, measure: typeof probe = probe) {
  const native = (why: string) => ({ provider: undefined, reason: `native: ${why}` })
  const unsuitable = notOnnx(options)
  if (unsuitable !== undefined) return native(unsuitable.reason.detail)
  const gpus = (devices(options) ?? options.executionProviders ?? ["webgpu"]).filter((provider) => provider !== "cpu")
  const threads = options.threads === undefined ? {} : { threads: options.threads }
  const reasons: Array<string> = []
  for (const provider of gpus) {
    const gpu = yield* measure({ provider, ...threads }, patience)
    if (gpu._tag === "Refused") {
      reasons.push(`${provider} does not open (${gpu.reason})`)
      continue
    }
    const processor = yield* measure({ provider: "cpu", ...threads }, patience)
    const [fast, slow] = [gpu.measured.gflops, processor._tag === "Refused" ? 0 : processor.measured.gflops]
    const figures = `${provider} multiplies matrices at ${rounded(fast)} GFLOP/s, the processor at ${rounded(slow)}`
    if (fast >= worthwhile * slow) return { provider, reason: `onnx: ${figures}` }
    reasons.push(figures)
  }
  return native(reasons.join("; ") || "no GPU was asked for")
})

const rounded = (value: number): number => Number(value.toPrecision(2))

/** The reason goes with the device. */
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
