/**
 * quintain for programs that do not use Effect: promises, `AbortSignal`, `await using`. Every method is the Effect of the
 * same name run on one runtime; rejections are the typed errors themselves.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as Result from "effect/Result"
import * as Checkpoint from "./Checkpoint.ts"
import * as Evaluate from "./Evaluate.ts"
import * as Grpo from "./Grpo.ts"
import * as PolicyNative from "./PolicyNative.ts"
import { Policy } from "./Policy.ts"
import { type Completion, Sampler, type SampleRequest } from "./Sampler.ts"
import * as Sft from "./Sft.ts"
import type { Tokenizer } from "./Tokenizer.ts"
import * as VerifierPool from "./VerifierPool.ts"

export interface Cancellation {
  readonly signal?: AbortSignal
}

export interface Session extends AsyncDisposable {
  /** The one given, or else the model's own. Throws where there is neither: a model made from a configuration has none. */
  readonly tokenizer: Tokenizer
  readonly grpo: <Data, R extends VerifierPool.VerifierPool>(
    options: Grpo.GrpoOptions<Data, R>,
    cancellation?: Cancellation
  ) => Promise<Grpo.GrpoResult>
  readonly sft: (options: Sft.SftOptions, cancellation?: Cancellation) => Promise<Sft.SftResult>
  readonly evaluate: <Data, R extends VerifierPool.VerifierPool>(
    options: Evaluate.EvaluateOptions<Data, R>,
    cancellation?: Cancellation
  ) => Promise<Evaluate.Evaluation<Data>>
  readonly sample: (request: SampleRequest, cancellation?: Cancellation) => Promise<ReadonlyArray<Completion>>
  readonly save: (directory: string) => Promise<void>
  readonly close: () => Promise<void>
}

export interface SessionOptions extends PolicyNative.NativeOptions {
  readonly verifiers?: VerifierPool.VerifierPoolOptions
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
  const engine = PolicyNative.layer({
    ...options,
    model,
    ...(Result.isSuccess(tokenizer) ? { tokenizer: tokenizer.success } : {})
  })
  const runtime = ManagedRuntime.make(Layer.merge(engine, VerifierPool.layer(options.verifiers)))
  await runtime.context()
  const close = (): Promise<void> => runtime.dispose()
  return {
    get tokenizer() {
      return Result.getOrThrowWith(tokenizer, (error) => error)
    },
    grpo: (train, cancellation) => runtime.runPromise(Grpo.train(train), cancellation),
    sft: (train, cancellation) => runtime.runPromise(Sft.train(train), cancellation),
    evaluate: (evaluate, cancellation) => runtime.runPromise(Evaluate.run(evaluate), cancellation),
    sample: (request, cancellation) =>
      runtime.runPromise(
        Sampler.use((sampler) => sampler.sample(request)),
        cancellation
      ),
    save: (directory) => runtime.runPromise(Policy.use((policy) => policy.save(directory))),
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
