/**
 * Native models of the addon, typed by hand.
 *
 * Every method that returns a promise runs off the JavaScript thread. Training calls of one model run one after
 * another, in their order. Typed arrays are copied at the call. Errors are `Error`s with a `code` (see {@link
 * describe}). Promises reject with them; faults that are known at once are thrown.
 */
import * as Addon from "../../addon/addon.ts"
import type { Forest } from "../../engine/Policy.ts"

/** The JSON of {@link NativeModule}'s `create` (with `config`) and `open` (without). */
export interface NativeSettings {
  /** Configuration in the field names of a Hugging Face `config.json`. */
  readonly config?: object
  /** Seed of random weights and adapters. Default 0. */
  readonly seed?: number
  /** Default f32. */
  readonly dtype?: "f32" | "bf16"
  /** Keeps the base quantised and frozen: in a GGUF file's blocks, or quantised on load. Default: in `dtype`. */
  readonly blocks?: "file" | "q8_0" | "q4_0" | "q4_1"
  /** The adapter `default`; the base is then frozen. */
  readonly adapter?: NativeAdapter
  /** Short for `adapter` with `kind: "lora"`. */
  readonly lora?: NativeLora
  /** Folders of adapters by name; if there are any, the base is frozen. */
  readonly adapters?: Readonly<Record<string, string>>
  /** Freezes the base. */
  readonly frozen?: boolean
  /** Name of the base in the files of adapters made here. */
  readonly baseName?: string
  /** Bytes of activations kept for backward; the rest is recomputed. Default 1 GiB. */
  readonly activationBytes?: number
  /** Threads. Default: all cores. */
  readonly threads?: number
  /** `reference`, `portable`, `avx2`, `avx512`, `avx512bf16` or `amx`. Default: the best this machine has. */
  readonly isa?: string
  /** Bytes of the sampler's key-value cache, taken as it is used. Default 512 MiB. */
  readonly cacheBytes?: number
  /** Most samples that decode at once. Default 256. */
  readonly maxSequences?: number
  /** Prompt tokens computed between two decoded tokens. Default 256. */
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

/** The settings of an adapter, by its kind. */
export type NativeAdapter = { readonly kind: "lora" } & NativeLora

/** Names the weights that a call uses: an adapter, or `base`. Absent: the adapter `default` if there is one. */
export interface AdapterChoice {
  readonly adapter?: string
}

export interface ForwardSettings extends AdapterChoice {
  readonly temperature: number
  readonly entropy: boolean
  /** Whether to keep what `backward` needs. One forward is kept for each adapter: the former one is dropped. */
  readonly keep: boolean
  readonly weights: "policy" | "reference"
}

export interface Forward {
  readonly id: number
  readonly logprobs: Float32Array
  /** Empty unless requested. */
  readonly entropy: Float32Array
  /** Whether the activations that sampling kept were used, so that no layer was computed. */
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
  /** Whether the gradient was not finite. The step then updated nothing and dropped the gradient. */
  readonly skipped: boolean
  readonly version: number
}

export interface Tensor {
  readonly shape: ReadonlyArray<number>
  /** Row-major. */
  readonly values: Float32Array
}

/** The parts of a quantised tensor: a weight is `(code - zero) * scale + offset`, rounded once to f32. */
export interface BlockTensor {
  /** Name in ggml: `Q8_0`, `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q4_K`, `Q5_K` or `Q6_K`. */
  readonly kind: string
  readonly shape: ReadonlyArray<number>
  /** Number of neighbours in a row that share a scale: 32 or 16. */
  readonly group: number
  /** The code that stands for zero; 0 if there are offsets. */
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

/** Counters from which a resumed run continues. */
export interface Counters {
  /** Steps of the optimiser. */
  readonly steps: number
  /** Version of the weights. */
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
  /** Keep what `backward` needs for these samples, within `activationBytes`, until the weights change. */
  readonly forTraining: boolean
}

export type StopReason = "stop" | "length" | "context" | "abort"

/** Events of one request in one step of the engine. */
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
   * Queues a request and returns its id. `onEvents` is called at most once for each step of the engine, and never after
   * an error or `done`. Requests in flight keep the process alive.
   */
  sample(request: SampleRequest, onEvents: (error: Error | null, events: SampleEvents) => void): number
  /** Ends a request: the rest of it finishes with reason `abort`. The id of an ended request is ignored. */
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
   * Names the tensors of the base (`base`) as checkpoints do, or those of an adapter as PEFT does:
   * `base_model.model.<module>.lora_A.weight`. Without `adapter`, names all tensors as `info` does; tensors of adapters
   * other than `default` then have the adapter's name before `.weight`. The calls below take either form: the first
   * with `adapter`, the second without.
   */
  parameterNames(adapter?: string | null): Promise<ReadonlyArray<string>>
  parameter(name: string, adapter?: string | null): Promise<Tensor>
  /** Overwrites a tensor. This makes another version of the weights and drops accumulated gradients. */
  setParameter(name: string, values: Float32Array, adapter?: string | null): Promise<void>
  gradient(name: string, adapter?: string | null): Promise<Float32Array>
  /** Returns a tensor in its blocks; null if it has none. */
  blocks(name: string, adapter?: string | null): Promise<BlockTensor | null>
  /** Returns null if there are no moments: before the first step, or for a frozen tensor. */
  moments(name: string, adapter?: string | null): Promise<Moments | null>
  /** Sets the moments of a tensor. Those of other tensors of the same owner start as zeros. */
  setMoments(name: string, first: Float32Array, second: Float32Array, adapter?: string | null): Promise<void>
  counters(adapter?: string | null): Promise<Counters>
  /**
   * Sets the given counters, which `save` writes. To save state that was computed elsewhere, call `setParameter` and
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
  /** The adapter that the model was opened with. */
  readonly adapter: Required<NativeAdapter> | null
  /** The same without its kind. */
  readonly lora: Required<NativeLora> | null
  readonly frozen: boolean
  readonly adapters: ReadonlyArray<{
    readonly name: string
    readonly config: Required<NativeAdapter>
    /** The same without its kind. */
    readonly lora: Required<NativeLora>
    readonly parameters: number
    readonly version: number
    readonly steps: number
    /** Bytes of the factors in memory. */
    readonly bytes: number
  }>
  /** Paths of the modules that an adapter can apply to. */
  readonly modules: ReadonlyArray<string>
  readonly config: { readonly [field: string]: unknown }
  /** Resolved configuration, defaults included. */
  readonly shape: {
    readonly hidden: number
    readonly layers: number
    readonly heads: number
    readonly kvHeads: number
    readonly headDim: number
    readonly inner: number
    readonly vocabulary: number
    readonly context: number
    /** Epsilon of the norms. */
    readonly epsilon: number
    /** Whether the head is the embedding. */
    readonly tied: boolean
    readonly qkvBias: boolean
    readonly qkNorm: boolean
  }
  /**
   * Angles by which the `headDim / 2` pairs of a head (`i` and `i + headDim / 2`) turn from one position to the next.
   * They are f32 numbers and include scaling. The kernel rounds `position * frequency` to f32, and takes its cosine and
   * sine.
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

/** Ends the call that it was given to, which then rejects with `ABORTED`. */
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
