/**
 * Selects the engine for a set of options: by the options that each engine lacks, and by the speed that `auto`
 * measures.
 */
import * as Effect from "effect/Effect"
import { EngineError } from "../../engine/EngineError.ts"
import { adapterOf } from "../../model/adapterConfig.ts"
import type { NativeOptions } from "../native/PolicyNative.ts"
import type { ExecutionProvider, OnnxOptions } from "../onnx/PolicyOnnx.ts"
import { probe } from "../onnx/worker/probe.ts"

/** Options of the named engine; with `auto` those of both. */
export interface EngineOptions extends NativeOptions, OnnxOptions {
  /**
   * `native`: the kernel of this package, on the processor. `onnx`: ONNX Runtime, on a GPU or the processor. `auto`:
   * `onnx` if a GPU opens that multiplies matrices faster than the processor, and no option needs the native engine;
   * else `native`. The speed is measured when the layer is built. Default `native`.
   */
  readonly engine?: "native" | "onnx" | "auto"
  /** Devices in order of preference; another name of `executionProviders`. The native engine has `cpu` alone. */
  readonly device?: ExecutionProvider | ReadonlyArray<ExecutionProvider>
}

/** Milliseconds to measure a provider: its driver may have shaders to compile. */
const patience = 60_000

/** A GPU must be this many times as fast as the processor, or keeping it busy costs more than it gains. */
const worthwhile = 1.5

export const refuse = (option: string, problem: string) => {
  const detail = `${option}: ${problem}`
  return new EngineError({ operation: "open", reason: { _tag: "Config", option, detail } })
}

/** An option that the engine `onnx` cannot honour. */
export const notOnnx = (options: EngineOptions): EngineError | undefined => {
  const { blocks, device, dtype, executionProviders } = options
  const remedy = 'set engine to "native", or leave it out'
  if (dtype !== undefined && dtype !== "f32") return refuse("dtype", `the engine "onnx" trains in f32: ${remedy}`)
  if (blocks !== undefined) return refuse("blocks", `the engine "onnx" trains on weights in f32: ${remedy}`)
  const given = options.adapter === undefined ? "lora" : "adapter"
  if ((adapterOf(options)?.dropout ?? 0) > 0)
    return refuse(`${given}.dropout`, `the engine "onnx" has no dropout: ${remedy}`)
  if (device === undefined || executionProviders === undefined) return undefined
  return refuse("device", "executionProviders is given too; leave one of the two out")
}

export const devices = ({ device }: EngineOptions): ReadonlyArray<ExecutionProvider> | undefined =>
  typeof device === "string" ? [device] : device

/** Selects what `auto` uses: native, or onnx on a provider. The reason begins with the engine's name. */
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
  return native(reasons.join("; ") || "no GPU was requested")
})

const rounded = (value: number): number => Number(value.toPrecision(2))
