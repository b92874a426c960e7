/**
 * quintain for programs that do not use Effect: promises, `AbortSignal`, `await using`. Every method is the Effect of the
 * same name run on one runtime; rejections are the typed errors themselves.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as Result from "effect/Result"
import * as Adapter from "./engine/Adapter.ts"
import * as Checkpoint from "./model/Checkpoint.ts"
import * as Evaluate from "./run/Evaluate.ts"
import * as Grpo from "./run/Grpo.ts"
import { type AdapterInfo, type ExportOptions, Policy } from "./engine/Policy.ts"
import { type EngineOptions, layer } from "./engines/Engine.ts"
import { type Completion, Sampler, type SampleRequest } from "./engine/Sampler.ts"
import * as Sft from "./run/Sft.ts"
import type { Tokenizer } from "./text/Tokenizer.ts"
import type * as VerifierPool from "./score/VerifierPool.ts"
import * as WorkerPool from "./score/WorkerPool.ts"

export interface Cancellation {
  readonly signal?: AbortSignal
}

export interface CallOptions extends Cancellation {
  /** The adapter that the call trains or samples, one of {@link Session.adapters}. Default: as the option `adapter` says. */
  readonly adapter?: string
}

export interface Session extends AsyncDisposable {
  /** The one given, or else the model's own. Throws where there is neither: a model made from a configuration has none. */
  readonly tokenizer: Tokenizer
  readonly grpo: <Data, R extends VerifierPool.VerifierPool, R2 extends VerifierPool.VerifierPool>(
    options: Grpo.GrpoOptions<Data, R, R2>,
    call?: CallOptions
  ) => Promise<Grpo.GrpoResult>
  readonly sft: (options: Sft.SftOptions, call?: CallOptions) => Promise<Sft.SftResult>
  readonly evaluate: <Data, R extends VerifierPool.VerifierPool, R2 extends VerifierPool.VerifierPool>(
    options: Evaluate.EvaluateOptions<Data, R, R2>,
    call?: CallOptions
  ) => Promise<Evaluate.Evaluation<Data>>
  readonly sample: (request: SampleRequest, call?: CallOptions) => Promise<ReadonlyArray<Completion>>
  /** Several adapters on one base: see `Policy`. */
  readonly adapters: {
    readonly add: (name: string, from: Adapter.AdapterConfig | string) => Promise<void>
    readonly remove: (name: string) => Promise<void>
    readonly list: () => Promise<ReadonlyArray<AdapterInfo>>
  }
  readonly save: (directory: string, call?: CallOptions) => Promise<void>
  /** A Hugging Face folder that every tool opens, an adapter merged into it. */
  readonly exportModel: (directory: string, options?: ExportOptions) => Promise<void>
  readonly close: () => Promise<void>
}

export interface SessionOptions extends EngineOptions {
  readonly verifiers?: WorkerPool.WorkerPoolOptions
}

/**
 * Opens a model and a verifier pool; they are closed by `close`, or at the end of an `await using` block.
 *
 * @example
 * ```ts
 * await using session = await Session.open({ model: "HuggingFaceTB/SmolLM2-135M-Instruct@main", lora: { rank: 16 } })
 * const { tokenizer } = session
 * const { after } = await session.grpo({ tasks, environment, reward, tokenizer, steps: 100, directory: "runs/b", update: { learningRate: 1e-4 } })
 * ```
 */
export const open = async (options: SessionOptions): Promise<Session> => {
  const { model, tokenizer } = await withTokenizer(options)
  const { verifiers: _, ...own } = options
  const engine = layer({
    ...own,
    model,
    ...(Result.isSuccess(tokenizer) ? { tokenizer: tokenizer.success } : {})
  })
  const runtime = ManagedRuntime.make(Layer.merge(engine, WorkerPool.layer(options.verifiers)))
  await runtime.context()
  const run = <A, E, R extends Policy | Sampler | VerifierPool.VerifierPool>(
    effect: Effect.Effect<A, E, R>,
    { adapter, ...cancellation }: CallOptions = {}
  ): Promise<A> =>
    adapter === undefined
      ? runtime.runPromise(effect, cancellation)
      : runtime.runPromise(Effect.provide(effect, Adapter.layer(adapter)), cancellation)
  const close = (): Promise<void> => runtime.dispose()
  return {
    get tokenizer() {
      return Result.getOrThrowWith(tokenizer, (error) => error)
    },
    grpo: (train, call) => run(Grpo.train(train), call),
    sft: (train, call) => run(Sft.train(train), call),
    evaluate: (evaluate, call) => run(Evaluate.run(evaluate), call),
    sample: (request, call) =>
      run(
        Sampler.use((sampler) => sampler.sample(request)),
        call
      ),
    adapters: {
      add: (name, from) => run(Policy.use(({ adapters }) => adapters.add(name, from))),
      remove: (name) => run(Policy.use(({ adapters }) => adapters.remove(name))),
      list: () => run(Policy.use(({ adapters }) => adapters.list))
    },
    save: (directory, call) =>
      run(
        Policy.use((policy) => policy.save(directory)),
        call
      ),
    exportModel: (directory, options) => run(Policy.use((policy) => policy.exportModel(directory, options))),
    close,
    [Symbol.asyncDispose]: close
  }
}

/** What is wrong with a model's own tokenizer is said where it is asked for: training on token ids needs none. */
const withTokenizer = async ({ hub, model, tokenizer }: SessionOptions) => {
  if (tokenizer !== undefined) return { model, tokenizer: Result.succeed(tokenizer) }
  if (typeof model !== "string") {
    const problem = "a model made from a configuration has no tokenizer; give Session.open one"
    return { model, tokenizer: Result.fail(new TypeError(`Session: ${problem}`)) }
  }
  // A name on the Hub is fetched once, here: the engine then opens a path.
  const location = await Effect.runPromise(Checkpoint.locate(model, hub === undefined ? {} : { hub }))
  return { model: location.path, tokenizer: await Effect.runPromise(Effect.result(Checkpoint.tokenizerOf(location))) }
}
