/**
 * Supervised fine-tuning: the same verbs with a cross-entropy loss. Of a conversation what the assistant says is learnt, of
 * a prompt with a completion the completion; examples are packed without padding. With a directory it is a durable run,
 * which resumes bit for bit.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Demonstration from "../data/Demonstration.ts"
import * as Loss from "../learn/Loss.ts"
import { encoded, meanLoss, orderOf, packsOf } from "./internal/examples.ts"
import type { OptionError } from "../OptionError.ts"
import type { EngineError } from "../engine/EngineError.ts"
import { Policy } from "../engine/Policy.ts"
import * as Progress from "./Progress.ts"
import * as Record from "./Record.ts"
import type * as Run from "./Run.ts"
import * as Trainer from "./Trainer.ts"
import type { TaskError } from "../data/Task.ts"
import type { Tokenizer } from "../text/Tokenizer.ts"
import * as Update from "../learn/Update.ts"

export { packsOf } from "./internal/examples.ts"

export interface SftOptions<R2 = never> extends Demonstration.EncodeOptions, Trainer.Callbacks<R2> {
  /** Examples to learn from, or a file of them (`Demonstration.jsonl`). */
  readonly demonstrations: ReadonlyArray<Demonstration.Demonstration> | Demonstration.Source
  readonly tokenizer: Tokenizer
  /** Default: as many as `epochs` take. */
  readonly steps?: number
  /** Passes over the demonstrations, where `steps` are not given. Default 1. */
  readonly epochs?: number
  /** Examples per step. Default 32. */
  readonly batch?: number
  /** Orders the examples; again in every epoch. Default 0. */
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
  /** Fields of the run's record that a resume may change, besides steps, epochs and the numbers `...Every`. */
  readonly mayChange?: ReadonlyArray<string>
  /** Continue a run that a callback stopped. Default false: it is done. */
  readonly continueStopped?: boolean
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
  /** Why a callback stopped the run. */
  readonly stopped?: string
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
export const train = Effect.fn("Sft.train")(function* <R2 = never>(
  options: SftOptions<R2>
): Effect.fn.Return<
  SftResult,
  EngineError | OptionError | TaskError | Run.RunError | Trainer.CallbackError,
  Policy | R2
> {
  return yield* Effect.scoped(body(options))
})

/** Values of options that are left out. */
const defaults = { epochs: 1, batch: 32, seed: 0, evaluateEvery: 50, checkpointEvery: 50 }
const MAX_TOKENS = 16384

const body = Effect.fnUntraced(function* <R2>(given: SftOptions<R2>) {
  const options = { ...defaults, progress: Progress.silent, ...given }
  const { contextLength } = (yield* Policy).info
  const maxTokens = options.update.maxTokens ?? MAX_TOKENS
  const encoding = { maxLength: contextLength, ...options }
  const read = (data: SftOptions["demonstrations"]) => encoded(data, options.tokenizer, encoding)
  const { dropped, examples, record: tasks, truncated } = yield* read(options.demonstrations)
  if (truncated > 0) {
    options.progress.note(
      `${truncated} of ${examples.length + dropped} examples are cut to ${encoding.maxLength} tokens, ${dropped} of them left out`
    )
  }
  const held = options.heldOut === undefined ? undefined : yield* read(options.heldOut)

  let cursor = 0
  const trainer = yield* Trainer.open({
    ...(options.directory === undefined ? {} : { directory: options.directory }),
    record: yield* Record.make({
      name: "sft",
      loss: Loss.crossEntropy,
      update: options.update,
      tasks,
      ...(held === undefined ? {} : { heldOut: held.record }),
      tokenizer: options.tokenizer,
      settings: settingsOf(options, encoding.maxLength)
    }),
    mayChange: [...mayChange, ...(options.mayChange ?? [])],
    participants: [
      Trainer.policy,
      Trainer.state("cursor", Schema.Int, { get: () => cursor, set: (value) => (cursor = value) })
    ],
    progress: options.progress
  })
  const updater = Update.make({
    ...options.update,
    learningRate: trainer.learningRate(options.update.learningRate),
    loss: Loss.crossEntropy,
    dump: trainer.dump
  })
  const last = options.steps === undefined ? Math.max(1, Math.round(options.epochs * examples.length)) : Infinity
  const exampleAt = orderOf(examples, options.seed)
  const losses: Array<number> = []
  const result = yield* trainer.train({
    ...options,
    steps: options.steps ?? Math.ceil(last / Math.min(options.batch, examples.length)),
    settable: ["learningRate"],
    ...(held === undefined
      ? {}
      : {
          evaluate: {
            every: options.evaluateEvery,
            run: Effect.map(meanLoss(held.examples, maxTokens), (loss) => ({ eval_loss: loss }))
          }
        }),
    step: Effect.fnUntraced(function* ({ step }) {
      const count = Math.min(options.batch, examples.length, last - cursor)
      const chosen = Array.from({ length: count }, (_, i) => exampleAt(cursor + i))
      const report = yield* updater.packs(packsOf(chosen, maxTokens), step)
      losses.push(report.loss)
      cursor += count
      return measured(report, cursor / examples.length)
    })
  })
  const { steps, stopped } = result
  return {
    steps,
    losses,
    before: result.before?.["eval_loss"],
    after: result.after?.["eval_loss"],
    examples: examples.length,
    truncated,
    dropped,
    ...(stopped === undefined ? {} : { stopped })
  }
})

/** Fields that say how long and how closely a run is watched, not what it computes. */
const mayChange = ["settings.steps", "settings.epochs", "settings.evaluateEvery", "settings.checkpointEvery"]

const settingsOf = (options: typeof defaults & Pick<SftOptions, "steps">, maxLength: number | undefined) => ({
  steps: options.steps,
  epochs: options.epochs,
  maxLength,
  batch: options.batch,
  seed: options.seed,
  evaluateEvery: options.evaluateEvery,
  checkpointEvery: options.checkpointEvery
})

/** The metrics of a step. */
const measured = (report: Update.StepReport, epoch: number): Trainer.Stepped => {
  const { total: _, ...seconds } = report.seconds
  const metrics = {
    epoch,
    loss: report.loss,
    grad_norm: report.gradNorm,
    learning_rate: report.learningRate,
    entropy: report.entropy,
    skipped_updates: report.skipped
  }
  return { metrics, tokens: report.tokens.forward, seconds, shown: { loss: report.loss } }
}
