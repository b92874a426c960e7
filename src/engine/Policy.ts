/**
 * The trainable model, as four verbs: `forward`, `backward`, `step`, `save` (and `load`). The loss is TypeScript: a pure
 * function of the log-probabilities that returns their gradient, so a new algorithm needs no change of the engine.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type { AdapterConfig } from "../model/adapterConfig.ts"
import type { Capabilities } from "./Capabilities.ts"
import type { EngineError } from "./EngineError.ts"
import type { Forest } from "./Forest.ts"

export type { Forest } from "./Forest.ts"

/** Which adapter a call is about, by name; `base` is the model without any. Default: the one that the option `adapter` made, if any. */
export interface AdapterChoice {
  readonly adapter?: string
}

export interface ForwardOptions extends AdapterChoice {
  /** Logits are divided by it before log-softmax. Default 1. */
  readonly temperature?: number
  /** Whether to return the entropy at each target's position. Default false. */
  readonly entropy?: boolean
  /** Keep what `backward` needs; the result's `id` then names it. Default false. */
  readonly keep?: boolean
  /** `reference`: the frozen weights that training began with; of an adapter, the base. Default `policy`. */
  readonly weights?: "policy" | "reference"
}

export interface Forward {
  /** Names the forward for `backward`, if it was kept. */
  readonly id: number
  /** [N] */
  readonly logprobs: Float32Array
  /** [N], if it was asked for. */
  readonly entropy?: Float32Array
  /** The engine took activations that sampling had kept, and computed no layer again. */
  readonly recorded: boolean
}

/** d loss / d of each value of a {@link Forward}. */
export interface Gradients {
  /** [N] */
  readonly logprobs: Float32Array
  /** [N]. Absent: zero. */
  readonly entropy?: Float32Array
}

/** AdamW with decoupled weight decay; betas default to .9/.95, epsilon to 1e-8, decay to 0, gradient norm to 1. */
export interface StepSettings extends AdapterChoice {
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
  /** The model that was opened: its name, and a hash of the weights that it began with. */
  readonly model?: { readonly name: string; readonly hash: string }
  /** The adapter that calls which name none train. Absent: they train the base. */
  readonly adapter?: string
  readonly dtype: string
  readonly device: string
  readonly parameters: number
  /** Those that calls which name no adapter train. */
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
  /** Most tokens of a string under it: the model's, less what the adapter itself takes. */
  readonly contextLength: number
}

export interface ExportOptions extends AdapterChoice {
  /** What weights are rounded to. Default f32. */
  readonly dtype?: "f32" | "bf16" | "f16"
  /** Most bytes of weights in a file. Default 5e9. */
  readonly shardBytes?: number
}

/** Bytes held, by category. */
export interface Memory {
  /** The base, however many adapters share it. */
  readonly weights: number
  /** The weights of all adapters. */
  readonly adapters: number
  readonly reference: number
  readonly gradients: number
  readonly moments: number
  readonly activations: number
  readonly buffers: number
  /** The sampler's key-value cache, as far as it was ever used. */
  readonly cache: number
  readonly total: number
}

export class Policy extends Context.Service<
  Policy,
  {
    readonly info: PolicyInfo
    readonly capabilities: Capabilities
    /** Counts changes of the weights that calls which name no adapter train. */
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
    /** Keeps a frozen copy of the present weights (under LoRA: nothing to keep, the adapter is left out). */
    readonly freezeReference: Effect.Effect<void, EngineError>
    /**
     * Writes an adapter in PEFT's format, or all weights as a Hugging Face folder, with the optimiser's state when asked;
     * files appear whole or not at all.
     */
    readonly save: (
      directory: string,
      options?: { readonly optimizer?: boolean } & AdapterChoice
    ) => Effect.Effect<void, EngineError>
    /** Reads what {@link save} wrote into an adapter (or a base) of the same shape, and goes on from there. */
    readonly load: (directory: string, options?: AdapterChoice) => Effect.Effect<void, EngineError>
    /**
     * Writes a Hugging Face folder that every tool opens: the base with the adapter merged into it, or (`adapter: "base"`)
     * without.
     */
    readonly exportModel: (directory: string, options?: ExportOptions) => Effect.Effect<void, EngineError>
    /** The adapters that share the base. */
    readonly adapters: {
      /** Adds one: fresh from settings, which changes nothing until it is trained, or from a folder in PEFT's format. */
      readonly add: (name: string, from: AdapterConfig | string) => Effect.Effect<void, EngineError>
      /** Drops one with its gradients and its optimiser; samples under way with it fail. */
      readonly remove: (name: string) => Effect.Effect<void, EngineError>
      readonly list: Effect.Effect<ReadonlyArray<AdapterInfo>, EngineError>
    }
    readonly memory: Effect.Effect<Memory, EngineError>
  }
>()("quintain/Policy") {}
