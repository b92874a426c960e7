/** Messages between the main thread and the worker thread of an ONNX engine. Plain, cloneable data only. */
import type { Forest } from "../../../engine/Policy.ts"
import type { WeightUpdate } from "../../../engine/Sampler.ts"
import type { EngineFacts } from "../../internal/engine.ts"
import type {
  Forward,
  ForwardSettings,
  NativeModel,
  NativeSettings,
  SampleEvents,
  SampleRequest,
  StepReport,
  StepSettings
} from "../../internal/nativeModel.ts"
import type { Provider } from "./device.ts"
import type { Abort } from "./failure.ts"
import type { GateMemory } from "./gate.ts"

/** Storage of a lone sampler's weights. `file`: the blocks of a GGUF file as they are. */
export type SamplerWeights = "f32" | "f16" | "q8_0" | "q4_0" | "file"

/** Settings of a worker thread. */
export interface WorkerSettings {
  /** The store is opened from `path`, or made from the settings' `config`. */
  readonly store: { readonly path: string | undefined; readonly settings: NativeSettings }
  readonly providers: ReadonlyArray<Provider>
  readonly threads?: number
  readonly deviceBytes?: number
  /** Policy and sampler share the same tensors, unless `weights` requests a sampler alone. */
  readonly policy?: { readonly chunkTokens?: number; readonly activationBytes?: number }
  readonly weights?: SamplerWeights
  readonly cacheBytes?: number
  readonly gate: GateMemory
}

type Save = Parameters<NativeModel["save"]>[1]
type Export = Parameters<NativeModel["exportModel"]>[1]

/** Calls, which run one after another in their order. */
export interface Verbs {
  readonly forward: (abort: Abort, forest: Forest, settings: ForwardSettings) => Promise<Forward>
  readonly backward: (abort: Abort, id: number, dLogprobs: Float32Array, dEntropy: Float32Array | null) => Promise<void>
  readonly release: (abort: Abort, id: number) => Promise<void>
  readonly step: (abort: Abort, settings: StepSettings) => Promise<StepReport>
  readonly zeroGradients: (abort: Abort, adapter: string | undefined) => Promise<void>
  readonly freezeReference: (abort: Abort) => Promise<void>
  readonly save: (abort: Abort, directory: string, options: Save) => Promise<void>
  readonly load: (abort: Abort, directory: string, adapter: string | undefined) => Promise<void>
  readonly addAdapter: (abort: Abort, name: string, settings: string | null, directory: string | null) => Promise<void>
  readonly removeAdapter: (abort: Abort, name: string) => Promise<void>
  readonly exportModel: (abort: Abort, directory: string, options: Export) => Promise<void>
  /** For a sampler alone. Waits for the samples in flight; samples requested later wait for it. */
  readonly update: (abort: Abort, weights: WeightUpdate) => Promise<void>
}
export type Verb = keyof Verbs
export type Arguments<V extends Verb> = Parameters<Verbs[V]> extends [Abort, ...infer A] ? A : never
export type Result<V extends Verb> = Awaited<ReturnType<Verbs[V]>>

export type ToWorker =
  | {
      readonly _tag: "Call"
      readonly id: number
      readonly verb: Verb
      readonly arguments: ReadonlyArray<unknown>
    }
  | { readonly _tag: "Abort"; readonly id: number }
  | { readonly _tag: "Facts"; readonly id: number }
  | { readonly _tag: "Sample"; readonly id: number; readonly request: SampleRequest }
  | { readonly _tag: "Cancel"; readonly id: number }
  | { readonly _tag: "Vocabulary"; readonly bytes: Uint8Array; readonly offsets: Uint32Array }
  | { readonly _tag: "Close" }

/** An error in transit between the threads. */
export interface Failure {
  readonly code: string
  readonly detail: string
}

/** `Opened` or `Refused` comes first, `Closed` last. */
export type FromWorker =
  | {
      readonly _tag: "Opened"
      readonly facts: EngineFacts
      readonly provider: Provider
      readonly refused: ReadonlyArray<{ readonly provider: Provider; readonly reason: string }>
    }
  | { readonly _tag: "Refused"; readonly failure: Failure }
  | { readonly _tag: "Value"; readonly id: number; readonly value: unknown }
  | { readonly _tag: "Failed"; readonly id: number; readonly failure: Failure }
  | { readonly _tag: "Events"; readonly id: number; readonly events: SampleEvents }
  | { readonly _tag: "Closed" }

/**
 * Packs a message whose arrays the receiver may keep. Each array is copied once, even a part of a buffer, so that no
 * caller's array is detached.
 */
export const packed = <A>(message: A): readonly [A, ReadonlyArray<ArrayBuffer>] => {
  const buffers: Array<ArrayBuffer> = []
  const copy = (value: unknown): unknown => {
    if (ArrayBuffer.isView(value) && !(value instanceof DataView)) {
      const own = (value as Uint8Array<ArrayBuffer>).slice()
      buffers.push(own.buffer)
      return own
    }
    if (Array.isArray(value)) return value.map(copy)
    if (typeof value === "object" && value !== null) {
      return Object.fromEntries(Object.entries(value).map(([key, field]) => [key, copy(field)]))
    }
    return value
  }
  return [copy(message) as A, buffers]
}
