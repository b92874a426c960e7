/** The policy service of an engine. */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { existsSync } from "node:fs"
import * as path from "node:path"
import { AdapterConfig, adapterOf, defaultName, type LoraShorthand, resolveTargets } from "../../model/adapterConfig.ts"
import * as Checkpoint from "../../model/Checkpoint.ts"
import { EngineError } from "../../engine/EngineError.ts"
import type { Policy } from "../../engine/Policy.ts"
import type { Tokenizer } from "../../text/Tokenizer.ts"
import { abortable } from "../../internal/abortable.ts"
import type { Engine } from "./engine.ts"
import { engineFailure } from "./engineFailure.ts"
import * as ModelHash from "../../model/modelHash.ts"
import { type Source, vocabulary } from "./openModel.ts"

const decodeAdapter = Schema.decodeUnknownEffect(AdapterConfig, { errors: "all" })

const call = <A>(operation: string, run: () => Promise<A>): Effect.Effect<A, EngineError> =>
  Effect.tryPromise({ try: run, catch: (cause) => engineFailure(operation, cause) })

const aborting = <A>(operation: string, run: (signal: AbortSignal) => Promise<A>): Effect.Effect<A, EngineError> =>
  abortable(run, (cause) => engineFailure(operation, cause))

/** `source` is the opened model; its tokenizer is saved with every whole model. */
export const enginePolicy = Effect.fnUntraced(function* (engine: Engine, source: Source) {
  const { location } = source
  const facts = call("info", () => engine.facts())
  const { adapters, contextLength, device, dtype, engine: name, parameters, trainable, vocabularySize } = yield* facts
  const model = yield* call("info", () => modelOf(source))
  const adapter = adapters.some((one) => one.name === defaultName) ? { adapter: defaultName } : {}
  const service: Policy["Service"] = {
    info: { engine: name, model, ...adapter, dtype, device, parameters, trainable, vocabularySize, contextLength },
    capabilities: engine.capabilities,
    version: Effect.map(facts, ({ version }) => version),
    forward: (forest, options = {}) =>
      aborting("forward", (signal) =>
        engine.forward(
          forest,
          {
            temperature: options.temperature ?? 1,
            entropy: options.entropy ?? false,
            keep: options.keep ?? false,
            weights: options.weights ?? "policy",
            ...named(options)
          },
          signal
        )
      ).pipe(
        Effect.map(({ entropy, id, logprobs, recorded }) => ({
          id,
          logprobs,
          recorded,
          ...(options.entropy === true ? { entropy } : {})
        }))
      ),
    backward: (id, { entropy, logprobs }) =>
      aborting("backward", (signal) => engine.backward(id, logprobs, entropy ?? null, signal)),
    release: (id) => call("release", () => engine.release(id)),
    step: (settings) =>
      call("step", () =>
        engine.step({
          learningRate: settings.learningRate,
          beta1: settings.beta1 ?? 0.9,
          beta2: settings.beta2 ?? 0.95,
          epsilon: settings.epsilon ?? 1e-8,
          weightDecay: settings.weightDecay ?? 0,
          maxGradNorm: settings.maxGradNorm ?? 1,
          ...named(settings)
        })
      ),
    zeroGradients: (options) => call("zeroGradients", () => engine.zeroGradients(options?.adapter)),
    freezeReference: call("freezeReference", () => engine.freezeReference()),
    save: (directory, options) =>
      call("save", () => engine.save(directory, { optimizer: options?.optimizer ?? false, ...named(options) })).pipe(
        Effect.andThen(Effect.suspend(() => withTokenizer(location, directory)))
      ),
    load: (directory, options) => call("load", () => engine.load(directory, options?.adapter)),
    exportModel: (directory, options) =>
      call("exportModel", () =>
        engine.exportModel(directory, {
          dtype: options?.dtype ?? "f32",
          ...(options?.shardBytes === undefined ? {} : { shardBytes: options.shardBytes }),
          ...named(options)
        })
      ).pipe(Effect.andThen(Effect.suspend(() => withTokenizer(location, directory)))),
    adapters: {
      add: (name, from) => addAdapter(engine, "addAdapter", "adapter", name, from),
      remove: (name) => call("removeAdapter", () => engine.removeAdapter(name)),
      list: Effect.map(facts, ({ adapters }) =>
        adapters.map(({ lora, ...adapter }) => ({ ...adapter, config: { kind: "lora", ...lora }, contextLength }))
      )
    },
    memory: Effect.map(facts, ({ memory }) => memory)
  }
  return service
})

/** Random weights are known by what they are drawn from. */
const modelOf = async ({ location, settings }: Source): Promise<NonNullable<Policy["Service"]["info"]["model"]>> =>
  location === undefined
    ? { name: "random", hash: ModelHash.ofConfig(settings.config ?? {}, settings.seed ?? 0) }
    : { name: location.name, hash: await ModelHash.ofFiles(location.path) }

const named = (options: { readonly adapter?: string } | undefined): { readonly adapter?: string } =>
  options?.adapter === undefined ? {} : { adapter: options.adapter }

/** Adds an adapter from settings or from a folder. */
const addAdapter = Effect.fnUntraced(function* (
  engine: Pick<Engine, "addAdapter" | "capabilities" | "facts" | "name">,
  operation: string,
  option: string,
  name: string,
  from: AdapterConfig | string
) {
  const refused = (option: string, problem: string) =>
    new EngineError({ operation, reason: { _tag: "Config", option, detail: `${option}: ${problem}` } })
  if (typeof from === "string") return yield* call(operation, () => engine.addAdapter(name, null, from))
  const { kind, ...config } = yield* decodeAdapter(from).pipe(
    Effect.mapError((error) => refused(option, error.message))
  )
  if (!engine.capabilities.adapters.includes(kind)) {
    const detail = `the engine ${engine.name} has no adapters of kind \`${kind}\``
    return yield* new EngineError({
      operation,
      reason: { _tag: "Unsupported", what: kind, engine: engine.name, detail }
    })
  }
  const { modules } = yield* call(operation, () => engine.facts())
  const targets = resolveTargets(config.targets, modules)
  if (Result.isFailure(targets)) return yield* refused(`${option}.targets`, targets.failure)
  const settings = JSON.stringify({ ...config, targets: targets.success })
  yield* call(operation, () => engine.addAdapter(name, settings, null))
})

interface SetUp {
  readonly adapter?: AdapterConfig | undefined
  readonly lora?: LoraShorthand | undefined
  readonly tokenizer?: Tokenizer | undefined
}

/** Prepares any engine that has just opened: the trained adapter, and the tokens' bytes. */
export const setUp = Effect.fnUntraced(function* (engine: Engine, options: SetUp) {
  const { tokenizer } = options
  const adapter = adapterOf(options)
  const given = options.adapter === undefined ? "lora" : "adapter"
  if (adapter !== undefined) yield* addAdapter(engine, "open", given, defaultName, adapter)
  if (tokenizer !== undefined) {
    const { bytes, offsets } = vocabulary(tokenizer)
    engine.setVocabulary(bytes, offsets)
  }
})

/** Other tools open a folder with a whole model only if it has its tokenizer. */
const withTokenizer = (
  location: Checkpoint.Location | undefined,
  directory: string
): Effect.Effect<void, EngineError> =>
  location !== undefined && existsSync(path.join(directory, "config.json"))
    ? Checkpoint.saveTokenizer(location, directory).pipe(
        // A GGUF file whose tokenizer cannot be rewritten must not cost the trained weights.
        Effect.catchTag("TokenizerError", (error) => Effect.logWarning(error.message)),
        Effect.mapError(
          (error) => new EngineError({ operation: "save", reason: { _tag: "Format", detail: error.message } })
        )
      )
    : Effect.void
