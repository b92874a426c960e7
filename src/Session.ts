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

/** Services that a session's Effects may need. */
export type Services = Policy | Sampler | VerifierPool.VerifierPool

/** Options whose tokenizer is the session's own unless they name another. */
export type OwnTokenizer<A extends { readonly tokenizer: Tokenizer }> = Omit<A, "tokenizer"> &
  Partial<Pick<A, "tokenizer">>

export interface Session extends AsyncDisposable {
  /** The given tokenizer, or the model's own. Throws if there is neither: a model made from a configuration has none. */
  readonly tokenizer: Tokenizer
  readonly grpo: <Data, R extends Services, R2 extends Services = never, R3 extends Services = never>(
    options: OwnTokenizer<Grpo.GrpoOptions<Data, R, R2, R3>>,
    call?: CallOptions
  ) => Promise<Grpo.GrpoResult>
  readonly sft: <R2 extends Services = never>(
    options: OwnTokenizer<Sft.SftOptions<R2>>,
    call?: CallOptions
  ) => Promise<Sft.SftResult>
  readonly evaluate: <Data, R extends Services, R2 extends Services = never>(
    options: OwnTokenizer<Evaluate.EvaluateOptions<Data, R, R2>>,
    call?: CallOptions
  ) => Promise<Evaluate.Evaluation<Data>>
  /** Runs any Effect on the session's engine and verifier pool: stages, a trainer, a loop of your own. */
  readonly run: <A, E, R extends Services>(effect: Effect.Effect<A, E, R>, call?: CallOptions) => Promise<A>
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
 * const { after } = await session.grpo({ tasks, environment, reward, steps: 100, directory: "runs/b", update: { learningRate: 1e-4 } })
 * ```
 */
export const open = async (options: SessionOptions): Promise<Session> => {
  const { model, tokenizer } = await withTokenizer(options)
  const { verifiers: _, ...engineOptions } = options
  const engine = layer({
    ...engineOptions,
    model,
    ...(Result.isSuccess(tokenizer) ? { tokenizer: tokenizer.success } : {})
  })
  const runtime = ManagedRuntime.make(Layer.merge(engine, WorkerPool.layer(options.verifiers)))
  await runtime.context()
  const run = <A, E, R extends Services>(
    effect: Effect.Effect<A, E, R>,
    { adapter, ...cancellation }: CallOptions = {}
  ): Promise<A> =>
    adapter === undefined
      ? runtime.runPromise(effect, cancellation)
      : runtime.runPromise(Effect.provide(effect, Adapter.layer(adapter)), cancellation)
  const close = (): Promise<void> => runtime.dispose()
  const own = (): Tokenizer => Result.getOrThrowWith(tokenizer, (error) => error)
  const complete = <A extends { readonly tokenizer: Tokenizer }>(options: OwnTokenizer<A>): A =>
    ({ ...options, tokenizer: options.tokenizer ?? own() }) as unknown as A
  return {
    get tokenizer() {
      return own()
    },
    grpo: <Data, R extends Services, R2 extends Services, R3 extends Services>(
      options: OwnTokenizer<Grpo.GrpoOptions<Data, R, R2, R3>>,
      call?: CallOptions
    ) =>
      run(
        Effect.suspend(() => Grpo.train<Data, R, R2, R3>(complete(options))),
        call
      ),
    sft: <R2 extends Services>(options: OwnTokenizer<Sft.SftOptions<R2>>, call?: CallOptions) =>
      run(
        Effect.suspend(() => Sft.train<R2>(complete(options))),
        call
      ),
    evaluate: <Data, R extends Services, R2 extends Services>(
      options: OwnTokenizer<Evaluate.EvaluateOptions<Data, R, R2>>,
      call?: CallOptions
    ) =>
      run(
        Effect.suspend(() => Evaluate.run<Data, R, R2>(complete(options))),
        call
      ),
    run,
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

/** Defers the errors of a model's own tokenizer until it is read: training on token ids needs none. */
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
