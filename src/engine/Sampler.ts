/**
 * The contract of every rollout engine: tokens in, tokens and log-probabilities out.
 *
 * The engine batches requests made at the same time. A sample's tokens depend only on the weights, the prompt and its
 * `key`, never on the batch.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type { EngineError } from "./EngineError.ts"

export interface SamplingParameters {
  /** Divides the logits; 0 is greedy. Log-probabilities are those of the tempered distribution. Default 1. */
  readonly temperature?: number
  /** Keeps the k most likely tokens; 0 keeps all. Default 0. */
  readonly topK?: number
  /** Keeps the smallest set of tokens whose probability reaches this. Default 1. */
  readonly topP?: number
  /** Drops tokens less likely than this share of the most likely one. Default 0. */
  readonly minP?: number
  readonly maxTokens: number
  /** Token ids that end a sample; the id stays part of it. */
  readonly stopTokens?: ReadonlyArray<number>
  /**
   * Strings that end a sample as soon as its text contains one. The tokens that complete the string stay part of the
   * sample.
   */
  readonly stop?: ReadonlyArray<string>
}

/** Keys the random numbers. The same key and position draw the same number in every batch and after every resume. */
export interface SampleKey {
  readonly seed: number
  /** Task id, and for runs over several epochs whatever else makes the draw distinct. */
  readonly stream: string
  /** Index of the first of the `count` samples. */
  readonly index: number
}

export interface SampleRequest extends SamplingParameters {
  readonly prompt: Uint32Array
  /** Number of samples of this prompt. The prompt is computed once for all of them. */
  readonly count: number
  /**
   * Whether an update of the present weights will read these samples. An engine that also trains may then keep its
   * activations, so that the update needs no forward. This costs memory and changes no result. Default false.
   */
  readonly forTraining?: boolean
  readonly key: SampleKey
  /** Name of an adapter, or `base`. Default: the engine's own choice, as for a policy's calls. */
  readonly adapter?: string
}

export interface Completion {
  readonly tokens: Uint32Array
  /** log p(token) at the sampling temperature, before top-k, top-p and min-p. */
  readonly logprobs: Float32Array
  readonly stopReason: "stop" | "length" | "context"
  /** Version of the weights that sampled each token. */
  readonly versions: Uint32Array
}

/** Weights on disk that a sampler loads. */
export interface WeightUpdate {
  readonly directory: string
  /** `adapter`: a folder in PEFT's format, for the sampler's base. `model`: a Hugging Face folder. */
  readonly kind: "adapter" | "model"
  /** The policy's version, which {@link Completion.versions} reports from then on. */
  readonly version: number
}

/** Whether a sampler can load other weights from disk. */
export type Weights =
  | {
      /** The weights stay, or change with a policy that shares them. */
      readonly _tag: "Fixed"
    }
  | {
      readonly _tag: "Updatable"
      /**
       * Loads other weights, by path. The folder is read during the call. Samples requested afterwards come from these
       * weights and carry `version`. After a failure or an interruption the former weights still serve. If a sampler
       * cannot tell which weights it has, samples fail until another update. An adapter's folder may be read again
       * until the next update.
       */
      readonly update: (weights: WeightUpdate) => Effect.Effect<void, EngineError>
    }

export class Sampler extends Context.Service<
  Sampler,
  {
    readonly name: string
    /**
     * The engine that computes the log-probabilities. It equals the policy's `info.engine` only if the two agree to
     * rounding: the same weights, dtype and program. If it differs, `Grpo.train` corrects for it.
     */
    readonly engine: string
    /** Samples completions of one prompt, in the order of their index. Interruption aborts the native work. */
    readonly sample: (request: SampleRequest) => Effect.Effect<ReadonlyArray<Completion>, EngineError>
    readonly weights: Weights
  }
>()("quintain/Sampler") {}
