/** Common steps of engines that open a model: its location, the native kernel's settings, its vocabulary. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { AdapterConfig, LoraShorthand } from "../../model/adapterConfig.ts"
import * as Checkpoint from "../../model/Checkpoint.ts"
import type { HubOptions } from "../../model/Hub.ts"
import { EngineError } from "../../engine/EngineError.ts"
import type { Tokenizer } from "../../text/Tokenizer.ts"
import { ModelConfig } from "../../model/modelConfig.ts"
import { hubReason } from "./engineFailure.ts"
import type * as Native from "./nativeModel.ts"

/** Options of every engine. */
export interface ModelOptions {
  /**
   * A model, or a configuration for random weights drawn from `seed`. A model is a folder, a saved policy, a GGUF file,
   * or a name on the Hub (`org/name@revision`), as {@link Checkpoint.locate} reads it.
   */
  readonly model: ModelConfig | string
  /** Options for names on the Hub. */
  readonly hub?: HubOptions
  readonly seed?: number
  /** Train an adapter (called `default`) and keep the base frozen. Default: all parameters. */
  readonly adapter?: AdapterConfig
  /** Short for `adapter` with `kind: "lora"`. Give only one of the two. */
  readonly lora?: LoraShorthand
  /**
   * Folders of adapters that this package or PEFT saved, by the name to give them. The base is then frozen, even if
   * there are none: `{}` opens a model for adapters added later.
   */
  readonly adapters?: Readonly<Record<string, string>>
  /** Lets the sampler match stop strings. */
  readonly tokenizer?: Tokenizer
  /** Threads of the processor. Default: the machine's. */
  readonly threads?: number
  /** Bytes of the sampler's key-value cache. Default 512 MiB. */
  readonly cacheBytes?: number
}

/** A model for {@link Native.NativeModule} to open or make. */
export interface Source {
  readonly location: Checkpoint.Location | undefined
  /** Without a location, `config` makes a model with random weights. */
  readonly settings: Native.NativeSettings
}

const decodeModel = Schema.decodeUnknownEffect(ModelConfig, { errors: "all" })

export const sourceOf = Effect.fnUntraced(function* (options: Omit<ModelOptions, "tokenizer">) {
  const { hub, model } = options
  if (options.adapter !== undefined && options.lora !== undefined) {
    const detail = "lora: `adapter` is given too, and `lora` is short for it; leave one of the two out"
    return yield* new EngineError({ operation: "open", reason: { _tag: "Config", option: "lora", detail } })
  }
  const location =
    typeof model === "string"
      ? yield* Checkpoint.locate(model, hub === undefined ? {} : { hub }).pipe(
          Effect.mapError((error) => {
            const reason =
              error._tag === "HubError" ? hubReason(error) : ({ _tag: "Format", detail: error.message } as const)
            return new EngineError({ operation: "open", reason })
          })
        )
      : undefined
  const config =
    typeof model === "string"
      ? undefined
      : yield* decodeModel(model).pipe(
          Effect.mapError(
            ({ message }) =>
              new EngineError({
                operation: "open",
                reason: { _tag: "Config", option: "model", detail: `model: ${message}` }
              })
          )
        )
  const settings: Native.NativeSettings = {
    ...(config === undefined ? {} : { config }),
    seed: options.seed ?? 0,
    frozen: options.adapter !== undefined || options.lora !== undefined || options.adapters !== undefined,
    ...(options.adapters === undefined ? {} : { adapters: options.adapters }),
    // A revision says where the base came from; PEFT records the name alone.
    ...(location === undefined ? {} : { baseName: location.name.replace(/@[^@/]*$/, "") }),
    ...(options.threads === undefined ? {} : { threads: options.threads }),
    ...(options.cacheBytes === undefined ? {} : { cacheBytes: options.cacheBytes })
  }
  return { location, settings } satisfies Source
})

/** All tokens' bytes end to end; token i is bytes[offsets[i]..offsets[i + 1]]. */
export const vocabulary = (tokenizer: Tokenizer): { readonly bytes: Uint8Array; readonly offsets: Uint32Array } => {
  const parts = Array.from({ length: tokenizer.vocabularySize }, (_, token) => tokenizer.bytes(token))
  const offsets = new Uint32Array(parts.length + 1)
  parts.forEach((part, i) => {
    offsets[i + 1] = offsets[i]! + part.length
  })
  const bytes = new Uint8Array(offsets.at(-1)!)
  parts.forEach((part, i) => bytes.set(part, offsets[i]!))
  return { bytes, offsets }
}
