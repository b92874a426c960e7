/**
 * Native models as the addon offers them, typed by hand.
 *
 * Every method that returns a promise runs off the JavaScript thread; training calls of one model run one after another
 * in the order they were made. Typed arrays are copied when a call is made. Errors are `Error`s with a `code` (see
 * {@link describe}); a promise is rejected, and what can be told at once is thrown.
 */
import * as Addon from "../../addon/addon.ts"
import type { Forest } from "../../engine/Policy.ts"

/** The JSON of {@link NativeModule}'s `create` (with `config`) and `open` (without). */
export interface NativeSettings {
  /** In the field names of a Hugging Face `config.json`. */
  readonly config?: object
  /** Of random weights and adapters. Default 0. */
  readonly seed?: number
  /** Default f32. */
  readonly dtype?: "f32" | "bf16"
  /** Keeps the base quantised and frozen: as a GGUF file has it, or quantised on load. Default: in `dtype`. */
  readonly blocks?: "file" | "q8_0" | "q4_0" | "q4_1"
  /** The adapter `default`; the base is then frozen. */
  readonly lora?: NativeLora
  /** Folders of adapters by name; the base is frozen where there are any. */
  readonly adapters?: Readonly<Record<string, string>>
  /** Freezes the base. */
  readonly frozen?: boolean
  /** What adapters made here call their base in files. */
  readonly baseName?: string
  /** Activations kept for backward; the rest is recomputed. Default 1 GiB. */
  readonly activationBytes?: number
  /** Default: all cores. */
  readonly threads?: number
  /** `reference`, `portable`, `avx2`, `avx512`, `avx512bf16` or `amx`. Default: the best this machine has. */
  readonly isa?: string
  /** Key-value cache of the sampler; taken as it is used. Default 512 MiB. */
  readonly cacheBytes?: number
  /** Samples that decode at once. Default 256. */
  readonly maxSequences?: number
  /** Prompt tokens computed between two tokens of those who decode. Default 256. */
  readonly prefillRows?: number
}

/** The settings of an adapter. */
export interface NativeLora {
  readonly rank: number
  readonly alpha?: number
  /** Paths of modules, ends of them, or `all-linear`. */
  readonly targets?: ReadonlyArray<string>
  readonly rsLora?: boolean
  readonly dropout?: number
}

/** Which weights a call is about: an adapter's name, or `base`. Absent: the adapter `default` if there is one. */
export interface AdapterChoice {
  readonly adapter?: string
}

export interface ForwardSettings extends AdapterChoice {
  readonly temperature: number
  readonly entropy: boolean
  /** Keep what `backward` needs. One forward is kept for each adapter: the one before is dropped. */
  readonly keep: boolean
  readonly weights: "policy" | "reference"
}

export interface Forward {
  readonly id: number
  readonly logprobs: Float32Array
  /** Empty when not asked for. */
  readonly entropy: Float32Array
  /** The activations that sampling kept were used; no layer was computed. */
  readonly recorded: boolean
}

export interface StepSettings extends AdapterChoice {
  readonly learningRate: number
  readonly beta1: number
  readonly beta2: number
  readonly epsilon: number
  readonly weightDecay: number
  /** 0 does not clip. */
  readonly maxGradNorm: number
}

export interface StepReport {
  /** Before clipping. */
  readonly gradNorm: number
  readonly clipped: boolean
  /** The gradient was not finite: nothing was updated, the gradient was dropped. */
  readonly skipped: boolean
  readonly version: number
}

export interface Tensor {
  readonly shape: ReadonlyArray<number>
  /** Row-major. */
  readonly values: Float32Array
}

/** A tensor that is held quantised, taken apart: a weight is `(code - zero) * scale + offset`, rounded once to f32. */
export interface BlockTensor {
  /** As ggml names it: `Q8_0`, `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q4_K`, `Q5_K` or `Q6_K`. */
  readonly kind: string
  readonly shape: ReadonlyArray<number>
  /** Neighbours in a row that share a scale: 32 or 16. */
  readonly group: number
  /** The code that stands for zero; 0 where there are offsets. */
  readonly zero: number
  /** One byte for each weight, row-major. */
  readonly codes: Uint8Array
  /** One for each group, row-major. */
  readonly scales: Float32Array
  /** The same, or null: all zero. */
  readonly offsets: Float32Array | null
}

/** The moments of AdamW for a tensor, row-major. */
export interface Moments {
  readonly first: Float32Array
  readonly second: Float32Array
}

/** What a resumed run goes on counting from. */
export interface Counters {
  /** Of the optimiser. */
  readonly steps: number
  /** Of the weights. */
  readonly version: number
  /** Training forwards of an adapter with dropout; 0 for the base. */
  readonly forwards: number
}

/** `count` continuations of one prompt. Token `position` (prompt included) is drawn with Philox(seed, stream, index, position). */
export interface SampleRequest extends AdapterChoice {
  readonly prompt: Uint32Array
  readonly count: number
  readonly seed: bigint
  readonly stream: bigint
  /** Index of the first of the `count` samples. */
  readonly firstIndex: number
  readonly maxTokens: number
  /** 0 is greedy, and records log-probabilities at temperature 1. */
  readonly temperature: number
  /** 0 is off. The filters apply in the order top-k, top-p, min-p, as in Hugging Face, and restrict only the draw. */
  readonly topK: number
  /** 1 is off. */
  readonly topP: number
  /** 0 is off. */
  readonly minP: number
  readonly stopTokens: Uint32Array
  /** Matched on bytes; needs `setVocabulary`. The token that completes one is the sample's last. */
  readonly stopStrings: ReadonlyArray<string>
  /** Keep what `backward` needs of these samples, within `activationBytes`, until the weights change. */
  readonly forTraining: boolean
}

export type StopReason = "stop" | "length" | "context" | "abort"

/** What one step of the engine gave one request. */
export interface SampleEvents {
  /** Version of the weights that the tokens were drawn from. */
  readonly version: number
  /** Offset of the sample in its request, for each token. */
  readonly sample: Uint32Array
  readonly token: Uint32Array
  /** log_softmax(logits / temperature) at the token, over the whole vocabulary. */
  readonly logprob: Float32Array
  readonly finished: ReadonlyArray<{ readonly sample: number; readonly reason: StopReason }>
  /** No more events come. */
  readonly done: boolean
}

export interface NativeModel {
  /** Facts about the model, as JSON ({@link NativeInfo}). Never waits. */
  info(): string
  /** Token `i` is `bytes[offsets[i]..offsets[i + 1]]`; counts for requests made from now on. */
  setVocabulary(bytes: Uint8Array, offsets: Uint32Array): void
  /**
   * Queues a request and gives its id. `onEvents` is called at most once for each step of the engine; after an error, or
   * after `done`, no more. Requests in flight keep the process alive.
   */
  sample(request: SampleRequest, onEvents: (error: Error | null, events: SampleEvents) => void): number
  /** Ends a request: what is left of it finishes with reason `abort`. An id that has ended is ignored. */
  cancel(id: number): void
  logprobs(forest: Forest, settings: ForwardSettings, abort?: NativeAbort | null): Promise<Forward>
  backward(
    id: number,
    dLogprobs: Float32Array,
    dEntropy: Float32Array | null,
    abort?: NativeAbort | null
  ): Promise<void>
  /** Drops a kept forward. */
  release(id: number): Promise<void>
  step(settings: StepSettings): Promise<StepReport>
  zeroGradients(adapter?: string | null): Promise<void>
  freezeReference(): Promise<void>
  save(directory: string, options: { readonly optimizer: boolean } & AdapterChoice): Promise<void>
  load(directory: string, adapter?: string | null): Promise<void>
  /** Adds an adapter: `settings` is {@link NativeLora} as JSON, or `directory` the folder of one; the other is null. */
  addAdapter(name: string, settings: string | null, directory?: string | null): Promise<void>
  removeAdapter(name: string): Promise<void>
  /** Writes a Hugging Face folder, an adapter merged into the base. */
  exportModel(
    directory: string,
    options: { readonly dtype: "f32" | "bf16" | "f16"; readonly shardBytes?: number } & AdapterChoice
  ): Promise<void>
  /**
   * The tensors of the base (`base`) as checkpoints name them, or those of an adapter as PEFT does:
   * `base_model.model.<module>.lora_A.weight`. Without `adapter`, all of them as `info` has them, where the tensors of
   * adapters other than `default` have the adapter's name before `.weight`. The calls below take either: the one with
   * `adapter`, the other without.
   */
  parameterNames(adapter?: string | null): Promise<ReadonlyArray<string>>
  parameter(name: string, adapter?: string | null): Promise<Tensor>
  /** Overwrites a tensor: another version of the weights, accumulated gradients are dropped. */
  setParameter(name: string, values: Float32Array, adapter?: string | null): Promise<void>
  gradient(name: string, adapter?: string | null): Promise<Float32Array>
  /** A tensor as it is held in blocks; null where it is not. */
  blocks(name: string, adapter?: string | null): Promise<BlockTensor | null>
  /** Null where there are none: before the first step, or of what is frozen. */
  moments(name: string, adapter?: string | null): Promise<Moments | null>
  /** Those of other tensors of the same owner start as zeros. */
  setMoments(name: string, first: Float32Array, second: Float32Array, adapter?: string | null): Promise<void>
  counters(adapter?: string | null): Promise<Counters>
  /**
   * Sets the counters that are given. `save` writes them; so state computed elsewhere is saved by `setParameter` and
   * `setMoments` for each tensor, then this, then `save`. 0 steps drop the moments.
   */
  setCounters(counters: Partial<Counters>, adapter?: string | null): Promise<void>
  /** Waits for the calls made before, aborts requests, joins the sampler's thread, frees the memory. */
  close(): Promise<void>
}

/** The JSON of `info`. */
export interface NativeInfo {
  readonly engine: "native"
  readonly device: "cpu"
  readonly isa: string
  readonly threads: number
  readonly dtype: "f32" | "bf16"
  /** Of the adapter that `lora` made. */
  readonly lora: Required<NativeLora> | null
  readonly frozen: boolean
  readonly adapters: ReadonlyArray<{
    readonly name: string
    readonly lora: Required<NativeLora>
    readonly parameters: number
    readonly version: number
    readonly steps: number
    /** Of its factors in memory. */
    readonly bytes: number
  }>
  /** Paths of the modules that an adapter can sit on. */
  readonly modules: ReadonlyArray<string>
  readonly config: { readonly [field: string]: unknown }
  /** What `config` comes to, defaults included. */
  readonly shape: {
    readonly hidden: number
    readonly layers: number
    readonly heads: number
    readonly kvHeads: number
    readonly headDim: number
    readonly inner: number
    readonly vocabulary: number
    readonly context: number
    /** Of the norms. */
    readonly epsilon: number
    /** The head is the embedding. */
    readonly tied: boolean
    readonly qkvBias: boolean
    readonly qkNorm: boolean
  }
  /**
   * The angle that each of the `headDim / 2` pairs of a head (`i` and `i + headDim / 2`) turns by from one position to the
   * next, scaling included; numbers of f32. The kernel rounds `position * frequency` to f32, and takes its cosine and sine.
   */
  readonly ropeFrequencies: ReadonlyArray<number>
  readonly vocabularySize: number
  readonly contextLength: number
  readonly parameters: number
  readonly trainable: number
  readonly parameterNames: ReadonlyArray<string>
  readonly version: number
  readonly steps: number
  /** Bytes. */
  readonly memory: {
    readonly [
      category in
        | "weights"
        | "adapters"
        | "reference"
        | "gradients"
        | "moments"
        | "activations"
        | "buffers"
        | "cache"
        | "total"
    ]: number
  }
}

/** Ends the call it was given to, which is then rejected with `ABORTED`. */
export interface NativeAbort {
  abort(): void
}

export interface NativeModule extends Addon.Addon {
  readonly NativeModel: {
    create(settings: string): Promise<NativeModel>
    /** A Hugging Face folder, or a GGUF file. */
    open(path: string, settings: string): Promise<NativeModel>
  }
  readonly NativeAbort: new () => NativeAbort
}

/** The addon; loaded at the first call. */
export const load = (): NativeModule => Addon.load() as NativeModule
