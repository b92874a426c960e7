/**
 * Interface of an engine that samples and trains. The services are built on it (`enginePolicy.ts`, `engineSampler.ts`),
 * so they are the same for a native model and for the worker thread of ONNX Runtime.
 */
import type { Capabilities } from "../../engine/Capabilities.ts"
import type { Forest, Memory } from "../../engine/Policy.ts"
import type * as Native from "./nativeModel.ts"

export interface EngineFacts {
  /** Fields of `PolicyInfo`. */
  readonly engine: string
  readonly dtype: string
  readonly device: string
  readonly parameters: number
  readonly trainable: number
  readonly vocabularySize: number
  readonly contextLength: number
  /** Version of the weights of calls that name no adapter. */
  readonly version: number
  /** Paths of the modules that an adapter can apply to. */
  readonly modules: ReadonlyArray<string>
  readonly adapters: Native.NativeInfo["adapters"]
  readonly memory: Memory
}

/**
 * An engine that samples. Its promises and callbacks fail with `Error`s that have a `code`, as `Addon.describe` reads
 * it.
 */
export interface SamplingEngine {
  readonly name: string
  readonly setVocabulary: (bytes: Uint8Array, offsets: Uint32Array) => void
  /** See {@link Native.NativeModel}; faults that are known at once are thrown. */
  readonly sample: (
    request: Native.SampleRequest,
    onEvents: (error: Error | null, events: Native.SampleEvents) => void
  ) => number
  readonly cancel: (id: number) => void
}

export interface Engine extends SamplingEngine {
  readonly capabilities: Capabilities
  /** Returns facts without waiting for calls in progress. */
  readonly facts: () => Promise<EngineFacts>
  /** A raised signal ends the call, which then rejects with `ABORTED`. */
  readonly forward: (forest: Forest, settings: Native.ForwardSettings, signal: AbortSignal) => Promise<Native.Forward>
  readonly backward: (
    id: number,
    dLogprobs: Float32Array,
    dEntropy: Float32Array | null,
    signal: AbortSignal
  ) => Promise<void>
  readonly release: (id: number) => Promise<void>
  readonly step: (settings: Native.StepSettings) => Promise<Native.StepReport>
  readonly zeroGradients: (adapter?: string) => Promise<void>
  readonly freezeReference: () => Promise<void>
  readonly save: (directory: string, options: { readonly optimizer: boolean } & Native.AdapterChoice) => Promise<void>
  readonly load: (directory: string, adapter?: string) => Promise<void>
  readonly addAdapter: (name: string, settings: string | null, directory: string | null) => Promise<void>
  readonly removeAdapter: (name: string) => Promise<void>
  readonly exportModel: (
    directory: string,
    options: { readonly dtype: "f32" | "bf16" | "f16"; readonly shardBytes?: number } & Native.AdapterChoice
  ) => Promise<void>
  readonly close: () => Promise<void>
}
