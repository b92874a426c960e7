/**
 * The trainable model: `forward`, `backward`, `step`, `save` and `load`.
 *
 * The loss is TypeScript: a pure function of the log-probabilities that returns their gradient. A new algorithm needs
 * no change of the engine.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type { AdapterConfig } from "../model/adapterConfig.ts"
import type { Capabilities } from "./Capabilities.ts"
import type { EngineError } from "./EngineError.ts"
import type { Forest } from "./Forest.ts"

export type { Forest } from "./Forest.ts"

/**
 * Names the adapter that a call uses; `base` is the model without adapters. Default: the adapter that the option
 * `adapter` made, if any.
 */
export interface AdapterChoice {
  readonly adapter?: string
}

export interface ForwardOptions extends AdapterChoice {
  /** Divides the logits before log-softmax. Default 1. */
  readonly temperature?: number
  /** Whether to return the entropy at each target's position. Default false. */
  readonly entropy?: boolean
  /** Whether to keep what `backward` needs; the result's `id` then names it. Default false. */
  readonly keep?: boolean
  /** `reference` means the frozen weights that training began with; for an adapter, the base. Default `policy`. */
  readonly weights?: "policy" | "reference"
}

export interface Forward {
  /** Names the forward for `backward`, if it was kept. */
  readonly id: number
  /** [N] */
  readonly logprobs: Float32Array
  /** [N], if requested. */
  readonly entropy?: Float32Array
  /** Whether the engine reused activations that sampling had kept, and computed no layer again. */
  readonly recorded: boolean
}

/** Derivatives of the loss by each value of a {@link Forward}. */
export interface Gradients {
  /** [N] */
  readonly logprobs: Float32Array
  /** [N]. Absent: zero. */
  readonly entropy?: Float32Array
}

/**
 * Settings of AdamW with decoupled weight decay.
 *
 * Defaults: betas 0.9 and 0.95, epsilon 1e-8, weight decay 0, gradient norm 1.
 */
export interface StepSettings extends AdapterChoice {
  readonly learningRate: number
  readonly beta1?: number
  readonly beta2?: number
  readonly epsilon?: number
  readonly weightDecay?: number
  /** Global norm to which the gradient is clipped; 0 disables clipping. */
  readonly maxGradNorm?: number
}

export interface StepResult {
  /** Before clipping. */
  readonly gradNorm: number
  /** Whether the gradient was not finite. The step then updated nothing and dropped the gradient. */
  readonly skipped: boolean
  /** Version of the weights from now on. */
  readonly version: number
}

export interface PolicyInfo {
  readonly engine: string
  /** The model that was opened: its name, and a hash of the weights that it began with. */
  readonly model?: { readonly name: string; readonly hash: string }
  /** The adapter that calls which name none train. Absent: they train the base. */
  readonly adapter?: string
  readonly dtype: string
  readonly device: string
  readonly parameters: number
  /** Parameters that calls without an adapter's name train. */
  readonly trainable: number
  readonly vocabularySize: number
  readonly contextLength: number
}

/** An adapter on the policy's base. */
export interface AdapterInfo {
  readonly name: string
  /** All settings, defaults included. */
  readonly config: AdapterConfig
  readonly parameters: number
  /** Counts changes of its weights. */
  readonly version: number
  /** Optimiser steps taken. */
  readonly steps: number
  /** Bytes of its weights in memory. */
  readonly bytes: number
  /** Most tokens of a sequence under the adapter: the model's, less what the adapter itself takes. */
  readonly contextLength: number
}

export interface ExportOptions extends AdapterChoice {
  /** Type to which weights are rounded. Default f32. */
  readonly dtype?: "f32" | "bf16" | "f16"
  /** Most bytes of weights in one file. Default 5e9. */
  readonly shardBytes?: number
}

/** Bytes held in memory, by category. */
export interface Memory {
  /** Bytes of the base, which all adapters share. */
  readonly weights: number
  /** Bytes of the weights of all adapters. */
  readonly adapters: number
  readonly reference: number
  readonly gradients: number
  readonly moments: number
  readonly activations: number
  readonly buffers: number
  /** Largest size that the sampler's key-value cache has reached. */
  readonly cache: number
  readonly total: number
}

export class Policy extends Context.Service<
  Policy,
  {
    readonly info: PolicyInfo
    readonly capabilities: Capabilities
    /** Counts changes of the weights that calls without an adapter's name train. */
    readonly version: Effect.Effect<number, EngineError>
    /** The log-probability of each target, and more if `options` ask for it. */
    readonly forward: (forest: Forest, options?: ForwardOptions) => Effect.Effect<Forward, EngineError>
    /** Adds to the gradient of the weights. Consumes the forward that `id` names. */
    readonly backward: (id: number, gradients: Gradients) => Effect.Effect<void, EngineError>
    /** Frees a kept forward without a backward. */
    readonly release: (id: number) => Effect.Effect<void, EngineError>
    /** Updates the weights of an adapter (or of the base) with their accumulated gradient, then clears it. */
    readonly step: (settings: StepSettings) => Effect.Effect<StepResult, EngineError>
    readonly zeroGradients: (options?: AdapterChoice) => Effect.Effect<void, EngineError>
    /** Keeps a frozen copy of the present weights. An adapter needs none: its reference is the base. */
    readonly freezeReference: Effect.Effect<void, EngineError>
    /**
     * Writes an adapter in PEFT's format, or all weights as a Hugging Face folder. Adds the optimiser's state if
     * requested. Each file appears whole or not at all.
     */
    readonly save: (
      directory: string,
      options?: { readonly optimizer?: boolean } & AdapterChoice
    ) => Effect.Effect<void, EngineError>
    /** Loads what {@link save} wrote into an adapter (or a base) of the same shape, and continues from there. */
    readonly load: (directory: string, options?: AdapterChoice) => Effect.Effect<void, EngineError>
    /**
     * Writes a Hugging Face folder that every tool opens. It holds the base with the adapter merged into it, or the
     * base alone if `adapter` is `base`.
     */
    readonly exportModel: (directory: string, options?: ExportOptions) => Effect.Effect<void, EngineError>
    /** The adapters that share the base. */
    readonly adapters: {
      /**
       * Adds an adapter from settings, or from a folder in PEFT's format. A fresh adapter changes nothing until it is
       * trained.
       */
      readonly add: (name: string, from: AdapterConfig | string) => Effect.Effect<void, EngineError>
      /** Removes an adapter with its gradients and its optimiser. Samples in flight with it fail. */
      readonly remove: (name: string) => Effect.Effect<void, EngineError>
      readonly list: Effect.Effect<ReadonlyArray<AdapterInfo>, EngineError>
    }
    readonly memory: Effect.Effect<Memory, EngineError>
  }
>()("quintain/Policy") {}
