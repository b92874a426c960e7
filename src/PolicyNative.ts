/**
 * The native engine: one model in this process that both samples and trains, on the CPU. Sampler and policy share the
 * same weights and the same arithmetic, so the log-probabilities of a sample equal those of `logprobs` bit for bit.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { existsSync } from "node:fs"
import * as path from "node:path"
import * as Adapter from "./Adapter.ts"
import * as Checkpoint from "./Checkpoint.ts"
import type { HubOptions } from "./Hub.ts"
import * as Native from "./internal/Native.ts"
import { nativeSampler } from "./internal/nativeSampler.ts"
import { Policy, PolicyError, type PolicyInfo } from "./Policy.ts"
import { Sampler } from "./Sampler.ts"
import type { Tokenizer } from "./Tokenizer.ts"

const Positive = Schema.Int.check(Schema.isGreaterThan(0))

/** A decoder of the Llama family, in the field names of a Hugging Face `config.json`. */
export const ModelConfig = Schema.Struct({
  model_type: Schema.optionalKey(Schema.Literals(["llama", "qwen2", "qwen3"])),
  vocab_size: Positive,
  hidden_size: Positive,
  num_hidden_layers: Positive,
  num_attention_heads: Positive,
  /** Grouped-query attention when fewer than the attention heads. Default: as many. */
  num_key_value_heads: Schema.optionalKey(Positive),
  head_dim: Schema.optionalKey(Positive),
  intermediate_size: Positive,
  max_position_embeddings: Schema.optionalKey(Positive),
  rms_norm_eps: Schema.optionalKey(Schema.Finite),
  rope_theta: Schema.optionalKey(Schema.Finite),
  tie_word_embeddings: Schema.optionalKey(Schema.Boolean),
  /** Bias on the query, key and value projections, as in Qwen2. */
  attention_bias: Schema.optionalKey(Schema.Boolean),
  initializer_range: Schema.optionalKey(Schema.Finite)
})
export type ModelConfig = typeof ModelConfig.Type

export interface NativeOptions {
  /**
   * A configuration, for random weights drawn from `seed`; or the folder of a model or a saved policy, a GGUF file, a name
   * on the Hub (`org/name@revision`), as {@link Checkpoint.locate} reads it.
   */
  readonly model: ModelConfig | string
  /** How a name on the Hub is fetched. */
  readonly hub?: HubOptions
  readonly seed?: number
  /** Dtype of the matrix products' inputs; sums are f32. Default f32. */
  readonly dtype?: "f32" | "bf16"
  /**
   * Keeps the base in 4- or 8-bit blocks in memory (QLoRA), dequantised inside the matrix products and frozen: only an
   * adapter can be trained. `file`: the blocks of a GGUF file as they are. The others quantise on load, by ggml's reference
   * rounding; embedding and head are Q8_0 then. Where a shape does not fit blocks, and without this option, weights are
   * held in `dtype`.
   */
  readonly blocks?: "file" | "q8_0" | "q4_0" | "q4_1"
  /** Train an adapter (called `default`) and keep the base frozen. Default: all parameters. */
  readonly lora?: Adapter.LoraConfig
  /**
   * Folders of adapters that this engine or PEFT saved, by the name to give them. The base is then frozen, also where
   * there are none yet: `{}` opens a model for adapters added later.
   */
  readonly adapters?: Readonly<Record<string, string>>
  /** Lets the sampler match stop strings. */
  readonly tokenizer?: Tokenizer
  /** Default: the machine's. */
  readonly threads?: number
  /**
   * Bytes of activations kept for the backward pass, by a forward or by sampling; what does not fit is recomputed. Default
   * 1 GiB.
   */
  readonly activationBytes?: number
  /** Bytes of the sampler's key-value cache. Default 512 MiB. */
  readonly cacheBytes?: number
}

const decodeModel = Schema.decodeUnknownEffect(ModelConfig, { errors: "all" })
const decodeLora = Schema.decodeUnknownEffect(Adapter.LoraConfig, { errors: "all" })

interface Failure {
  readonly operation: string
  readonly code: string
  readonly detail: string
}

const failure = (operation: string, cause: unknown): Failure => ({ operation, ...Native.describe(cause) })

/**
 * Policy and sampler on one native model, closed with the scope.
 *
 * @example
 * ```ts
 * const engine = PolicyNative.layer({
 *   model: { vocab_size: 64, hidden_size: 128, num_hidden_layers: 4, num_attention_heads: 4, intermediate_size: 344 },
 *   seed: 1
 * })
 * program.pipe(Effect.provide(engine))
 * ```
 */
export const layer = (options: NativeOptions): Layer.Layer<Policy | Sampler, PolicyError> =>
  Layer.effectContext(
    Effect.gen(function* () {
      const location = yield* locate(options)
      const model = yield* open(options, location)
      return Context.make(Policy, policy(model, location)).pipe(Context.add(Sampler, nativeSampler(model)))
    })
  )

const locate = ({ hub, model }: NativeOptions): Effect.Effect<Checkpoint.Location | undefined, PolicyError> =>
  typeof model === "string"
    ? Checkpoint.locate(model, hub === undefined ? {} : { hub }).pipe(
        Effect.mapError((error) => {
          const code = error._tag === "HubError" ? error.code : "CHECKPOINT"
          return new PolicyError({ operation: "open", code, detail: error.message })
        })
      )
    : Effect.succeed(undefined)

const open = Effect.fnUntraced(function* (options: NativeOptions, location: Checkpoint.Location | undefined) {
  const invalid = (field: string) => (error: { readonly message: string }) =>
    new PolicyError({ operation: "open", code: "CONFIG", detail: `${field}: ${error.message}` })
  const settings: Native.NativeSettings = {
    seed: options.seed ?? 0,
    dtype: options.dtype ?? "f32",
    ...(options.blocks === undefined ? {} : { blocks: options.blocks }),
    frozen: options.lora !== undefined || options.adapters !== undefined,
    ...(options.adapters === undefined ? {} : { adapters: options.adapters }),
    // A revision is where the base was fetched from; PEFT records the name alone.
    ...(location === undefined ? {} : { baseName: location.name.replace(/@[^@/]*$/, "") }),
    ...(options.threads === undefined ? {} : { threads: options.threads }),
    ...(options.activationBytes === undefined ? {} : { activationBytes: options.activationBytes }),
    ...(options.cacheBytes === undefined ? {} : { cacheBytes: options.cacheBytes })
  }
  const native = yield* Effect.try({
    try: () => Native.load(),
    catch: (cause) => new PolicyError({ operation: "open", code: "ADDON", detail: String(cause) })
  })
  const config =
    typeof options.model === "string"
      ? undefined
      : yield* decodeModel(options.model).pipe(Effect.mapError(invalid("model")))
  const start = () =>
    location !== undefined
      ? native.NativeModel.open(location.path, JSON.stringify(settings))
      : native.NativeModel.create(JSON.stringify({ ...settings, config }))
  const model = yield* Effect.acquireRelease(
    Effect.tryPromise({ try: start, catch: (cause) => new PolicyError(failure("open", cause)) }),
    (model) => Effect.promise(() => model.close())
  )
  if (options.lora !== undefined) yield* addAdapter(model, "open", Adapter.defaultName, options.lora)
  if (options.tokenizer !== undefined) {
    const { bytes, offsets } = vocabulary(options.tokenizer)
    model.setVocabulary(bytes, offsets)
  }
  return model
})

/** Adds an adapter with these settings, or the one in a folder. */
const addAdapter = Effect.fnUntraced(function* (
  model: Native.NativeModel,
  operation: string,
  name: string,
  from: Adapter.LoraConfig | string
) {
  const refused = (detail: string) => new PolicyError({ operation, code: "CONFIG", detail })
  const add = (settings: string | null, directory: string | null) =>
    Effect.tryPromise({
      try: () => model.addAdapter(name, settings, directory),
      catch: (cause) => new PolicyError(failure(operation, cause))
    })
  if (typeof from === "string") return yield* add(null, from)
  const lora = yield* decodeLora(from).pipe(Effect.mapError((error) => refused(`lora: ${error.message}`)))
  const targets = Adapter.resolveTargets(lora.targets, facts(model).modules)
  if (Result.isFailure(targets)) return yield* refused(`lora.targets: ${targets.failure}`)
  yield* add(JSON.stringify({ ...lora, targets: targets.success }), null)
})

const facts = (model: Native.NativeModel): Native.NativeInfo => JSON.parse(model.info()) as Native.NativeInfo

/** All tokens' bytes end to end; token i is bytes[offsets[i]..offsets[i + 1]]. */
const vocabulary = (tokenizer: Tokenizer): { readonly bytes: Uint8Array; readonly offsets: Uint32Array } => {
  const parts = Array.from({ length: tokenizer.vocabularySize }, (_, token) => tokenizer.bytes(token))
  const offsets = new Uint32Array(parts.length + 1)
  parts.forEach((part, i) => {
    offsets[i + 1] = offsets[i]! + part.length
  })
  const bytes = new Uint8Array(offsets.at(-1)!)
  parts.forEach((part, i) => bytes.set(part, offsets[i]!))
  return { bytes, offsets }
}

const policyInfo = (model: Native.NativeModel): PolicyInfo => {
  const info = facts(model)
  return {
    engine: info.engine,
    dtype: info.dtype,
    device: `${info.device} ${info.isa}, ${info.threads} threads`,
    parameters: info.parameters,
    trainable: info.trainable,
    vocabularySize: info.vocabularySize,
    contextLength: info.contextLength
  }
}

const policy = (model: Native.NativeModel, location: Checkpoint.Location | undefined): Policy["Service"] => {
  const call = <A>(operation: string, run: () => Promise<A>): Effect.Effect<A, PolicyError> =>
    Effect.tryPromise({ try: run, catch: (cause) => new PolicyError(failure(operation, cause)) })
  /** Interruption raises the abort flag, and waits until the native call has really stopped. */
  const abortable = <A>(
    operation: string,
    run: (abort: Native.NativeAbort) => Promise<A>
  ): Effect.Effect<A, PolicyError> =>
    Effect.callback((resume) => {
      const abort = new (Native.load().NativeAbort)()
      const done = run(abort).then(
        (value) => resume(Effect.succeed(value)),
        (cause: unknown) => resume(Effect.fail(new PolicyError(failure(operation, cause))))
      )
      return Effect.promise(() => {
        abort.abort()
        return done
      })
    })
  return {
    info: policyInfo(model),
    version: Effect.sync(() => facts(model).version),
    logprobs: (forest, options = {}) =>
      abortable("logprobs", (abort) =>
        model.logprobs(
          forest,
          {
            temperature: options.temperature ?? 1,
            entropy: options.entropy ?? false,
            keep: options.keep ?? false,
            weights: options.weights ?? "policy",
            ...named(options)
          },
          abort
        )
      ),
    backward: (id, dLogprobs, dEntropy) =>
      abortable("backward", (abort) => model.backward(id, dLogprobs, dEntropy ?? null, abort)),
    release: (id) => call("release", () => model.release(id)),
    step: (settings) =>
      call("step", () =>
        model.step({
          learningRate: settings.learningRate,
          beta1: settings.beta1 ?? 0.9,
          beta2: settings.beta2 ?? 0.95,
          epsilon: settings.epsilon ?? 1e-8,
          weightDecay: settings.weightDecay ?? 0,
          maxGradNorm: settings.maxGradNorm ?? 1,
          ...named(settings)
        })
      ),
    zeroGradients: (options) => call("zeroGradients", () => model.zeroGradients(options?.adapter)),
    freezeReference: call("freezeReference", () => model.freezeReference()),
    save: (directory, options) =>
      call("save", () => model.save(directory, { optimizer: options?.optimizer ?? false, ...named(options) })).pipe(
        Effect.andThen(Effect.suspend(() => withTokenizer(location, directory)))
      ),
    load: (directory, options) => call("load", () => model.load(directory, options?.adapter)),
    exportModel: (directory, options) =>
      call("exportModel", () =>
        model.exportModel(directory, {
          dtype: options?.dtype ?? "f32",
          ...(options?.shardBytes === undefined ? {} : { shardBytes: options.shardBytes }),
          ...named(options)
        })
      ).pipe(Effect.andThen(Effect.suspend(() => withTokenizer(location, directory)))),
    adapters: {
      add: (name, from) => addAdapter(model, "addAdapter", name, from),
      remove: (name) => call("removeAdapter", () => model.removeAdapter(name)),
      list: Effect.sync(() => facts(model).adapters.map(({ lora, ...adapter }) => ({ ...adapter, ...lora })))
    },
    memory: Effect.sync(() => facts(model).memory)
  }
}

const named = (options: { readonly adapter?: string } | undefined): { readonly adapter?: string } =>
  options?.adapter === undefined ? {} : { adapter: options.adapter }

/** A folder that holds a whole model opens in other tools only with its tokenizer beside it. */
const withTokenizer = (
  location: Checkpoint.Location | undefined,
  directory: string
): Effect.Effect<void, PolicyError> =>
  location !== undefined && existsSync(path.join(directory, "config.json"))
    ? Checkpoint.saveTokenizer(location, directory).pipe(
        // A GGUF file whose tokenizer cannot be rewritten: weights that were trained are not lost for it.
        Effect.catchTag("TokenizerError", (error) => Effect.logWarning(error.message)),
        Effect.mapError((error) => new PolicyError({ operation: "save", code: "CHECKPOINT", detail: error.message }))
      )
    : Effect.void
