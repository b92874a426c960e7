/**
 * The native engine: one model in this process that both samples and trains, on the CPU. Sampler and policy share the
 * same weights and the same arithmetic, so the log-probabilities of a sample equal those of `logprobs` bit for bit.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { existsSync } from "node:fs"
import * as path from "node:path"
import * as Checkpoint from "./Checkpoint.ts"
import type { HubOptions } from "./Hub.ts"
import { hash64 } from "./internal/hash64.ts"
import * as Native from "./internal/Native.ts"
import { Policy, PolicyError, type PolicyInfo } from "./Policy.ts"
import { type Completion, Sampler, SamplerError, type SampleRequest } from "./Sampler.ts"
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

export const LoraConfig = Schema.Struct({
  rank: Positive,
  /** The adapter is scaled by alpha / rank. Default: twice the rank. */
  alpha: Schema.optionalKey(Schema.Finite),
  /** Names of linear layers. Default: all of them. */
  targets: Schema.optionalKey(Schema.Array(Schema.String))
})
export type LoraConfig = typeof LoraConfig.Type

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
  /** Train an adapter and keep the base frozen. Default: all parameters. */
  readonly lora?: LoraConfig
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
const decodeLora = Schema.decodeUnknownEffect(LoraConfig, { errors: "all" })

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
      const model = yield* Effect.acquireRelease(open(options, location?.path), (model) =>
        Effect.promise(() => model.close())
      )
      return Context.make(Policy, policy(model, location)).pipe(Context.add(Sampler, sampler(model)))
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

const open = Effect.fnUntraced(function* (options: NativeOptions, path: string | undefined) {
  const invalid = (field: string) => (error: { readonly message: string }) =>
    new PolicyError({ operation: "open", code: "CONFIG", detail: `${field}: ${error.message}` })
  const settings: Native.NativeSettings = {
    seed: options.seed ?? 0,
    dtype: options.dtype ?? "f32",
    ...(options.blocks === undefined ? {} : { blocks: options.blocks }),
    ...(options.lora === undefined
      ? {}
      : { lora: yield* decodeLora(options.lora).pipe(Effect.mapError(invalid("lora"))) }),
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
  const model = yield* Effect.tryPromise({
    try: () =>
      path !== undefined
        ? native.NativeModel.open(path, JSON.stringify(settings))
        : native.NativeModel.create(JSON.stringify({ ...settings, config })),
    catch: (cause) => new PolicyError(failure("open", cause))
  })
  if (options.tokenizer !== undefined) {
    const { bytes, offsets } = vocabulary(options.tokenizer)
    model.setVocabulary(bytes, offsets)
  }
  return model
})

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
  const info = JSON.parse(model.info()) as Native.NativeInfo
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
    logprobs: (forest, options = {}) =>
      abortable("logprobs", (abort) =>
        model.logprobs(
          forest,
          {
            temperature: options.temperature ?? 1,
            entropy: options.entropy ?? false,
            keep: options.keep ?? false,
            weights: options.weights ?? "policy"
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
          maxGradNorm: settings.maxGradNorm ?? 1
        })
      ),
    zeroGradients: call("zeroGradients", () => model.zeroGradients()),
    freezeReference: call("freezeReference", () => model.freezeReference()),
    save: (directory, options) =>
      call("save", () => model.save(directory, { optimizer: options?.optimizer ?? false })).pipe(
        Effect.andThen(Effect.suspend(() => withTokenizer(location, directory)))
      ),
    load: (directory) => call("load", () => model.load(directory))
  }
}

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

const sampler = (model: Native.NativeModel): Sampler["Service"] => ({
  name: "native",
  sample: (request) =>
    Effect.callback((resume) => {
      const gathered = new Gathered(request)
      try {
        const id = model.sample(nativeRequest(request), (error, events) => {
          if (error !== null) return resume(Effect.fail(new SamplerError(failure("sample", error))))
          gathered.add(events)
          if (events.done) resume(gathered.completions())
        })
        return Effect.sync(() => model.cancel(id))
      } catch (cause) {
        resume(Effect.fail(new SamplerError(failure("sample", cause))))
      }
    })
})

const nativeRequest = (request: SampleRequest): Native.SampleRequest => ({
  prompt: request.prompt,
  count: request.count,
  seed: BigInt.asUintN(64, BigInt(request.key.seed)),
  stream: hash64(request.key.stream),
  firstIndex: request.key.index,
  maxTokens: request.maxTokens,
  temperature: request.temperature ?? 1,
  topK: request.topK ?? 0,
  topP: request.topP ?? 1,
  minP: request.minP ?? 0,
  stopTokens: Uint32Array.from(request.stopTokens ?? []),
  stopStrings: [...(request.stop ?? [])],
  forTraining: request.forTraining ?? false
})

/** Collects the events of one request, one call per decode step, into completions. */
class Gathered {
  readonly #samples: ReadonlyArray<{
    readonly tokens: Array<number>
    readonly logprobs: Array<number>
    reason: Native.StopReason
  }>
  #version: number | undefined

  constructor(request: SampleRequest) {
    this.#samples = Array.from({ length: request.count }, () => ({ tokens: [], logprobs: [], reason: "abort" }))
  }

  add(events: Native.SampleEvents): void {
    this.#version ??= events.version
    for (let i = 0; i < events.sample.length; i++) {
      const sample = this.#samples[events.sample[i]!]!
      sample.tokens.push(events.token[i]!)
      sample.logprobs.push(events.logprob[i]!)
    }
    for (const { reason, sample } of events.finished) this.#samples[sample]!.reason = reason
  }

  completions(): Effect.Effect<ReadonlyArray<Completion>, SamplerError> {
    const completions: Array<Completion> = []
    for (const { logprobs, reason, tokens } of this.#samples) {
      if (reason === "abort") {
        return Effect.fail(new SamplerError({ operation: "sample", code: "ABORTED", detail: "the model was closed" }))
      }
      completions.push({
        tokens: Uint32Array.from(tokens),
        logprobs: Float32Array.from(logprobs),
        stopReason: reason,
        policyVersion: this.#version ?? 0
      })
    }
    return Effect.succeed(completions)
  }
}
