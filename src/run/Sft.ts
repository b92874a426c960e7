/**
 * Supervised fine-tuning: the same verbs with a cross-entropy loss. Of a conversation what the assistant says is learnt, of
 * a prompt with a completion the completion; examples are packed without padding. With a directory it is a durable run,
 * which resumes bit for bit.
 */
import * as Effect from "effect/Effect"
import { createHash } from "node:crypto"
import * as Demonstration from "../data/Demonstration.ts"
import * as Loss from "../learn/Loss.ts"
import * as Pack from "../learn/Pack.ts"
import type { EngineError } from "../engine/EngineError.ts"
import { Policy, type PolicyInfo } from "../engine/Policy.ts"
import * as Progress from "./Progress.ts"
import * as Run from "./Run.ts"
import { shuffled, type TaskError } from "../data/Task.ts"
import type { Tokenizer } from "../text/Tokenizer.ts"
import * as Update from "../learn/Update.ts"

export interface SftOptions extends Demonstration.EncodeOptions {
  /** Examples to learn from, or a file of them (`Demonstration.jsonl`). */
  readonly demonstrations: ReadonlyArray<Demonstration.Demonstration> | Demonstration.Source
  readonly tokenizer: Tokenizer
  /** Default: as many as `epochs` take. */
  readonly steps?: number
  /** Passes over the demonstrations, where `steps` are not given. Default 1. */
  readonly epochs?: number
  /** Examples per step. Default 32. */
  readonly batch?: number
  /** Orders the examples; every epoch anew. Default 0. */
  readonly seed?: number
  readonly update: Omit<Update.UpdateSettings, "loss" | "aggregate" | "temperature" | "dump" | "epochs" | "minibatches">
  /** Demonstrations never trained on; their loss is measured before the first step, every `evaluateEvery` and at the end. */
  readonly heldOut?: ReadonlyArray<Demonstration.Demonstration> | Demonstration.Source
  /** Default 50. */
  readonly evaluateEvery?: number
  /** The run directory; a run found there is resumed. Default: none, nothing is written. */
  readonly directory?: string
  /** Steps between checkpoints. Default 50; the last step always has one. */
  readonly checkpointEvery?: number
  /** Default: none is shown. */
  readonly progress?: Progress.Progress
  /** Sees every step's metrics, as they are written. */
  readonly onStep?: (metrics: Readonly<Record<string, number>>) => void
}

export interface SftResult {
  /** Steps done, those before a resume included. */
  readonly steps: number
  /** Mean loss per target (nats) of every step done now. */
  readonly losses: ReadonlyArray<number>
  /** The same of the held-out demonstrations, before the first step done now and after the last. */
  readonly before: number | undefined
  readonly after: number | undefined
  /** Examples trained on; how many of them were cut to `maxLength`, and how many were left out since nothing was left. */
  readonly examples: number
  readonly truncated: number
  readonly dropped: number
}

/**
 * Trains the policy in context on the demonstrations. Text ends with the tokenizer's end of text, a turn with the end that
 * the chat template gives it; `maxLength` is the model's context unless given.
 *
 * @example
 * ```ts
 * const { losses } = yield* Sft.train({
 *   demonstrations: Demonstration.jsonl("chat.jsonl"), tokenizer, epochs: 3, directory: "runs/sft", update: { learningRate: 1e-4 }
 * })
 * ```
 */
export const train = Effect.fn("Sft.train")(function* (
  options: SftOptions
): Effect.fn.Return<SftResult, EngineError | TaskError | Run.RunError, Policy> {
  return yield* Effect.scoped(body(options))
})

const body = Effect.fnUntraced(function* (options: SftOptions) {
  const { batch = 32, epochs = 1, progress = Progress.silent, seed = 0 } = options
  const policy = yield* Policy
  const maxTokens = options.update.maxTokens ?? 16384
  const encoding = { maxLength: policy.info.contextLength, ...options }
  const sourceOf = (given: SftOptions["demonstrations"]) => ("load" in given ? given : Demonstration.fromArray(given))
  const source = sourceOf(options.demonstrations)
  const { dropped, examples, truncated } = yield* Demonstration.encode(source, options.tokenizer, encoding)
  if (truncated > 0) {
    progress.note(
      `${truncated} of ${examples.length + dropped} examples are cut to ${encoding.maxLength} tokens, ${dropped} of them left out`
    )
  }
  const held =
    options.heldOut === undefined
      ? undefined
      : yield* Demonstration.encode(sourceOf(options.heldOut), options.tokenizer, encoding)

  const last = options.steps === undefined ? Math.max(1, Math.round(epochs * examples.length)) : Infinity
  const steps = options.steps ?? Math.ceil(last / Math.min(batch, examples.length))
  const run =
    options.directory === undefined
      ? undefined
      : yield* Run.open({
          directory: options.directory,
          config: describe(options, source.name, examples, encoding, policy.info),
          mayChange: ["steps", "epochs", "evaluateEvery", "checkpointEvery"]
        })
  let position: Run.Position = run?.resumed?.position ?? { step: 0, cursor: 0, tokens: 0, custom: null }
  if (run?.resumed !== undefined) {
    yield* policy.load(run.resumed.weights)
    progress.note(`resumed ${run.directory} after step ${position.step}`)
  }

  const evaluate = held === undefined ? Effect.succeed(undefined) : meanLoss(held.examples, maxTokens)
  const before = yield* evaluate
  let after = before
  const updater = Update.make({
    ...options.update,
    loss: Loss.crossEntropy,
    ...(run === undefined ? {} : { dump: (dump) => run.skipped(dump.step, dump).pipe(Effect.ignore) })
  })
  const exampleAt = orderOf(examples, seed)
  const losses: Array<number> = []
  while (position.step < steps) {
    const begun = performance.now()
    const count = Math.min(batch, examples.length, last - position.cursor)
    const chosen = Array.from({ length: count }, (_, i) => exampleAt(position.cursor + i))
    const report = yield* updater.packs(packsOf(chosen, maxTokens), position.step)
    position = {
      step: position.step + 1,
      cursor: position.cursor + count,
      tokens: position.tokens + report.tokens.forward,
      custom: null
    }
    const { step } = position
    const final = step === steps
    const evaluated = final || step % (options.evaluateEvery ?? 50) === 0
    if (evaluated) after = yield* evaluate
    const seconds = (performance.now() - begun) / 1000
    const metrics: Record<string, number> = {
      step,
      epoch: position.cursor / examples.length,
      loss: report.loss,
      grad_norm: report.gradNorm,
      learning_rate: report.learningRate,
      entropy: report.entropy,
      skipped_updates: report.skipped,
      num_tokens: position.tokens,
      step_time: seconds,
      ...(evaluated && after !== undefined ? { eval_loss: after } : {})
    }
    losses.push(report.loss)
    if (run !== undefined) {
      yield* run.metrics(metrics)
      if (final || step % (options.checkpointEvery ?? 50) === 0) {
        yield* run.checkpoint(position, (directory) => policy.save(directory, { optimizer: true }))
      }
    }
    options.onStep?.(metrics)
    progress.step({ step, steps, loss: report.loss, tokensPerSecond: report.tokens.forward / seconds })
  }
  progress.end()
  return { steps: position.step, losses, before, after, examples: examples.length, truncated, dropped }
})

/** The example at a place of the endless sequence of epochs, each in an order of its own. */
const orderOf = (examples: ReadonlyArray<Demonstration.Example>, seed: number) => {
  let epoch = -1
  let order: ReadonlyArray<number> = []
  return (cursor: number): Demonstration.Example => {
    const own = Math.floor(cursor / examples.length)
    if (own !== epoch) order = shuffled(examples.length, seed, (epoch = own))
    return examples[order[cursor % examples.length]!]!
  }
}

/** Packs without padding. What comes before an example's first target is its prompt, which is computed, not learnt. */
export const packsOf = (examples: ReadonlyArray<Demonstration.Example>, maxTokens: number): ReadonlyArray<Pack.Pack> =>
  Pack.pack(
    examples.map(({ target, tokens }) => {
      const start = target.indexOf(1)
      const sequence = { tokens: tokens.subarray(start), target: target.subarray(start), advantage: 0 }
      return { prompt: tokens.subarray(0, start), sequences: [sequence] }
    }),
    { aggregate: "token", maxTokens }
  )

/** Mean loss per target, in nats; nothing is learnt. */
const meanLoss = Effect.fnUntraced(function* (
  examples: ReadonlyArray<Demonstration.Example>,
  maxTokens: number
): Effect.fn.Return<number, EngineError, Policy> {
  const policy = yield* Policy
  let [sum, count] = [0, 0]
  for (const { forest } of packsOf(examples, maxTokens)) {
    const { logprobs } = yield* policy.forward(forest)
    for (const logprob of logprobs) sum -= logprob
    count += logprobs.length
  }
  return sum / count
})

/** What a resumed run must share with the one it continues. */
const describe = (
  options: SftOptions,
  name: string,
  examples: ReadonlyArray<Demonstration.Example>,
  encoding: Demonstration.EncodeOptions,
  policy: PolicyInfo
): Record<string, unknown> => {
  const hash = createHash("sha256")
  for (const { target, tokens } of examples) hash.update(tokens).update(target)
  return {
    algorithm: "sft",
    steps: options.steps ?? null,
    epochs: options.epochs ?? null,
    demonstrations: name,
    // Not the file's text: what the tokenizer and the options make of it.
    examples: { count: examples.length, sha256: hash.digest("hex") },
    tokenizer: options.tokenizer.name,
    maxLength: encoding.maxLength,
    batch: options.batch ?? 32,
    seed: options.seed ?? 0,
    update: { ...options.update, learningRate: String(options.update.learningRate) },
    evaluateEvery: options.evaluateEvery ?? 50,
    checkpointEvery: options.checkpointEvery ?? 50,
    policy: { ...policy, device: undefined }
  }
}
