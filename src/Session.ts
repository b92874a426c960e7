/**
 * quintain for programs that do not use Effect: promises, `AbortSignal`, `await using`. Every method is the Effect of the
 * same name run on one runtime; rejections are the typed errors themselves.
 */
import * as Layer from "effect/Layer"
import * as ManagedRuntime from "effect/ManagedRuntime"
import * as Evaluate from "./Evaluate.ts"
import * as Grpo from "./Grpo.ts"
import * as PolicyNative from "./PolicyNative.ts"
import { Policy } from "./Policy.ts"
import { type Completion, Sampler, type SampleRequest } from "./Sampler.ts"
import * as Sft from "./Sft.ts"
import * as VerifierPool from "./VerifierPool.ts"

export interface Cancellation {
  readonly signal?: AbortSignal
}

export interface Session extends AsyncDisposable {
  readonly grpo: <Data, R extends VerifierPool.VerifierPool>(
    options: Grpo.GrpoOptions<Data, R>,
    cancellation?: Cancellation
  ) => Promise<Grpo.GrpoResult>
  readonly sft: (options: Sft.SftOptions, cancellation?: Cancellation) => Promise<ReadonlyArray<number>>
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
 * await using session = await Session.open({ model: "runs/a/checkpoints/step-000200" })
 * const { after } = await session.grpo({ tasks, environment, reward, tokenizer, steps: 100, directory: "runs/b", update: { learningRate: 1e-4 } })
 * ```
 */
export const open = async (options: SessionOptions): Promise<Session> => {
  const runtime = ManagedRuntime.make(Layer.merge(PolicyNative.layer(options), VerifierPool.layer(options.verifiers)))
  await runtime.context()
  const close = (): Promise<void> => runtime.dispose()
  return {
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
