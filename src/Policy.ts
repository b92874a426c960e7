/**
 * The trainable model, as four verbs: `logprobs`, `backward`, `step`, `save` (and `load`). The loss is TypeScript: a pure
 * function of the log-probabilities that returns their gradient, so a new algorithm needs no change of the engine.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

/**
 * A batch as a forest of token segments: `parent` is the index of an earlier segment or -1. A group's prompt is one
 * segment however many completions hang from it. No padding anywhere. Shapes: T tokens, S segments, N targets.
 */
export interface Forest {
  /** [T] */
  readonly tokens: Uint32Array
  /** [S] index of a segment's first token. */
  readonly segmentStart: Uint32Array
  /** [S] */
  readonly segmentLength: Uint32Array
  /** [S] index of the parent segment, or -1. */
  readonly segmentParent: Int32Array
  /** [N] index of the token whose hidden state predicts the target; a position may carry several targets. */
  readonly targetPosition: Uint32Array
  /** [N] token id whose log-probability is wanted. */
  readonly targetToken: Uint32Array
}

export interface LogprobOptions {
  /** Logits are divided by it before log-softmax. Default 1. */
  readonly temperature?: number
  /** Whether to return the entropy at each target's position. Default false. */
  readonly entropy?: boolean
  /** Keep what `backward` needs; the result's `id` then names it. Default false. */
  readonly keep?: boolean
  /** `reference`: the frozen weights that training began with. Default `policy`. */
  readonly weights?: "policy" | "reference"
}

export interface Forward {
  readonly id: number
  /** [N] */
  readonly logprobs: Float32Array
  /** [N], or empty when not asked for. */
  readonly entropy: Float32Array
}

/** AdamW with decoupled weight decay; betas default to .9/.95, epsilon to 1e-8, decay to 0, gradient norm to 1. */
export interface StepSettings {
  readonly learningRate: number
  readonly beta1?: number
  readonly beta2?: number
  readonly epsilon?: number
  readonly weightDecay?: number
  /** Global norm to which the gradient is clipped; 0 leaves it as it is. */
  readonly maxGradNorm?: number
}

export interface StepResult {
  /** Before clipping. */
  readonly gradNorm: number
  /** The gradient was not finite: nothing was updated, the gradient was dropped. */
  readonly skipped: boolean
  /** Version of the weights from now on. */
  readonly version: number
}

export interface PolicyInfo {
  readonly engine: string
  readonly dtype: string
  readonly device: string
  readonly parameters: number
  readonly trainable: number
  readonly vocabularySize: number
  readonly contextLength: number
}

export class PolicyError extends Schema.TaggedError<PolicyError>()("PolicyError", {
  operation: Schema.String,
  /** What went wrong: `SHAPE`, `CONFIG`, `IO`, `FORMAT`, `STATE`, `NON_FINITE`, `OUT_OF_MEMORY`, `INTERNAL`, ... */
  code: Schema.String,
  detail: Schema.String
}) {
  override get message(): string {
    return `${this.operation} failed (${this.code}): ${this.detail}`
  }
}

export class Policy extends Context.Service<
  Policy,
  {
    readonly info: PolicyInfo
    readonly logprobs: (forest: Forest, options?: LogprobOptions) => Effect.Effect<Forward, PolicyError>
    /** Adds to the gradient: `dLogprobs` and `dEntropy` are [N], d loss / d of each value of the forward named `id`, which is consumed. */
    readonly backward: (
      id: number,
      dLogprobs: Float32Array,
      dEntropy?: Float32Array
    ) => Effect.Effect<void, PolicyError>
    /** Frees a kept forward without a backward. */
    readonly release: (id: number) => Effect.Effect<void, PolicyError>
    /** Updates the weights with the accumulated gradient, then clears it. */
    readonly step: (settings: StepSettings) => Effect.Effect<StepResult, PolicyError>
    readonly zeroGradients: Effect.Effect<void, PolicyError>
    /** Keeps a frozen copy of the present weights (under LoRA: nothing to keep, the adapter is left out). */
    readonly freezeReference: Effect.Effect<void, PolicyError>
    /** Writes weights as safetensors, with the optimiser's state when asked; files appear whole or not at all. */
    readonly save: (directory: string, options?: { readonly optimizer?: boolean }) => Effect.Effect<void, PolicyError>
    readonly load: (directory: string) => Effect.Effect<void, PolicyError>
  }
>()("quintain/Policy") {}
