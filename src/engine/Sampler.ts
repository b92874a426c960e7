/**
 * Tokens in, tokens and log-probabilities out: the contract of every rollout engine. Requests made at the same time are
 * batched by the engine; a sample's tokens depend only on the weights, the prompt and its `key`, never on the batch.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type { EngineError } from "./EngineError.ts"

export interface SamplingParameters {
  /** 0 is greedy. Log-probabilities are those of the tempered distribution. Default 1. */
  readonly temperature?: number
  /** Keep the k most likely tokens; 0 keeps all. Default 0. */
  readonly topK?: number
  /** Keep the smallest set whose probability reaches this. Default 1. */
  readonly topP?: number
  /** Drop tokens less likely than this share of the most likely one. Default 0. */
  readonly minP?: number
  readonly maxTokens: number
  /** Ids that end a sample; the id stays part of it. */
  readonly stopTokens?: ReadonlyArray<number>
  /** Strings that end a sample as soon as its text contains one; the tokens that complete it stay part of it. */
  readonly stop?: ReadonlyArray<string>
}

/** Keys the random numbers: the same key and position draw the same number in every batch and after every resume. */
export interface SampleKey {
  readonly seed: number
  /** Task id and, for runs over several epochs, what else makes the draw distinct. */
  readonly stream: string
  /** Index of the first of the `count` samples. */
  readonly index: number
}

export interface SampleRequest extends SamplingParameters {
  readonly prompt: Uint32Array
  /** How many samples of this prompt; the prompt is computed once for all of them. */
  readonly count: number
  /**
   * An update of the present weights will read these samples: an engine that trains as well may keep what it computed, so
   * that the update needs no forward of its own. It costs memory and changes no result. Default false.
   */
  readonly forTraining?: boolean
  readonly key: SampleKey
  /** An adapter's name, or `base`. Default: the engine's own choice, as for a policy's calls. */
  readonly adapter?: string
}

export interface Completion {
  readonly tokens: Uint32Array
  /** log p(token) at the sampling temperature, before top-k, top-p and min-p. */
  readonly logprobs: Float32Array
  readonly stopReason: "stop" | "length" | "context"
  /** Version of the weights that each token was drawn with. */
  readonly versions: Uint32Array
}

/** Weights on a disk that the sampler reads. */
export interface WeightUpdate {
  readonly directory: string
  /** `adapter`: a folder in PEFT's format, on the base that the sampler has. `model`: a Hugging Face folder. */
  readonly kind: "adapter" | "model"
  /** The policy's, as {@link Completion.versions} reports it from then on. */
  readonly version: number
}

/** Whether a sampler's weights can be replaced by others from a disk. */
export type Weights =
  | {
      /** They stay, or change with a policy that shares them. */
      readonly _tag: "Fixed"
    }
  | {
      readonly _tag: "Updatable"
      /**
       * Takes other weights, by path. The folder is read during the call. Samples requested afterwards are drawn with them
       * and carry `version`. After a failure or an interruption the former ones still serve, or samples fail until another
       * update if a sampler cannot tell which it has. The folder of an adapter may be read again until the next update.
       */
      readonly update: (weights: WeightUpdate) => Effect.Effect<void, EngineError>
    }

export class Sampler extends Context.Service<
  Sampler,
  {
    readonly name: string
    /**
     * The engine whose arithmetic the log-probabilities come from. It equals the policy's `info.engine` only where the two
     * agree to rounding: the same weights, dtype and program. If it differs, `Grpo.train` corrects for it.
     */
    readonly engine: string
    /** Completions of one prompt, in the order of their index. Interruption aborts the native work. */
    readonly sample: (request: SampleRequest) => Effect.Effect<ReadonlyArray<Completion>, EngineError>
    readonly weights: Weights
  }
>()("quintain/Sampler") {}
