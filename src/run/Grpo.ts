/**
 * Group-relative policy optimisation with verifiable rewards: the default composition of the stages, and nothing more.
 * Another advantage, loss or batch rule turns it into Dr.GRPO, DAPO, RLOO, GSPO, CISPO or TAPO; for more than that, copy
 * {@link train} and change it.
 */
import * as Effect from "effect/Effect"
import * as Pull from "effect/Pull"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as Advantage from "../learn/Advantage.ts"
import * as Batch from "../learn/Batch.ts"
import type { Environment } from "../rollout/Environment.ts"
import * as Evaluate from "./Evaluate.ts"
import * as Loss from "../learn/Loss.ts"
import type { Aggregate } from "../learn/Pack.ts"
import { Policy } from "../engine/Policy.ts"
import * as Progress from "./Progress.ts"
import * as Reward from "../score/Reward.ts"
import * as Rollout from "../rollout/Rollout.ts"
import * as Record from "./Record.ts"
import type { SamplingParameters } from "../engine/Sampler.ts"
import * as Task from "../data/Task.ts"
import type { Tokenizer } from "../text/Tokenizer.ts"
import * as Trainer from "./Trainer.ts"
import * as Update from "../learn/Update.ts"
import { corrected } from "./internal/corrected.ts"
import { measured, poolMetrics } from "./internal/grpoMetrics.ts"

/** `R`: the services of the reward; `R2`: those of the environment; `R3`: those of callbacks. */
export interface GrpoOptions<Data, R = never, R2 = never, R3 = never> extends Trainer.Callbacks<R3> {
  readonly tasks: Task.Source<Data>
  readonly environment: Environment<Data, R2>
  readonly reward: Reward.Part<Data, R>
  readonly tokenizer: Tokenizer
  readonly steps: number
  /** Tasks per step. Default 16. */
  readonly groups?: number
  /** Trajectories per task (G). Default 8. */
  readonly size?: number
  /** Keys every random number of the run. Default 0. */
  readonly seed?: number
  /** Default: temperature 1, nothing cut off, so that the log-probabilities are those of what was sampled from. */
  readonly sampling?: Omit<SamplingParameters, "maxTokens" | "stop" | "stopTokens">
  /** Default `Advantage.groupRelative()`. */
  readonly advantage?: Advantage.Advantage
  /** Default `Loss.clipped()`: 0.2 both ways, no KL. */
  readonly loss?: Loss.Loss
  /**
   * Importance-sampling correction for a sampler that is not the policy's own engine, whose log-probabilities differ. Default: TRL's (whole
   * sequences, those of a ratio above 3 left out) where `Sampler.engine` is not `Policy.info.engine` and the loss takes its
   * ratio against the old policy; else `none`. KL and entropy are never weighed. The step's `sampling/*` metrics tell the
   * distance.
   */
  readonly correction?: Loss.ImportanceCorrection | "none"
  /** Default `token`: every policy token of the batch weighs the same. */
  readonly aggregate?: Aggregate
  /** Leave out groups of constant reward and draw others, up to `maxDraws` times the batch. Defaults true, 1 (draw none). */
  readonly dropConstant?: boolean
  readonly maxDraws?: number
  /** AdamW and how the batch is walked. The learning rate has no default: 1e-6 for all weights, 1e-4 to 3e-4 for LoRA. */
  readonly update: Omit<Update.UpdateSettings, "loss" | "aggregate" | "temperature" | "dump">
  /** Tasks never trained on; their accuracy is measured before the first step, every `evaluateEvery` steps and at the end. */
  readonly heldOut?: Task.Source<Data>
  /** Default 10. */
  readonly evaluateEvery?: number
  /** Held-out tasks per evaluation. Default: all. */
  readonly evaluateCount?: number
  /** Which trajectories count as right in evaluation. Default: reward of at least 1. */
  readonly correct?: (scored: Reward.ScoredTrajectory) => boolean
  /** The run directory; a run found there is resumed. */
  readonly directory: string
  /** Steps between checkpoints. Default 50; the last step always has one. */
  readonly checkpointEvery?: number
  /** Steps between records of the trajectories. Default 1; 0 records none. */
  readonly recordEvery?: number
  /** Default: a line on standard error. */
  readonly progress?: Progress.Progress
  /** Fields of the run's record that a resume may change, besides steps and the numbers `...Every`. */
  readonly mayChange?: ReadonlyArray<string>
  /** Continue a run that a callback stopped. Default false: it is done. */
  readonly continueStopped?: boolean
}

export interface GrpoResult {
  readonly steps: number
  /** Held-out accuracy before the first step and after the last; of a resumed run, before its first step. */
  readonly before: number | undefined
  readonly after: number | undefined
  readonly directory: string
  /** Why a callback stopped the run. */
  readonly stopped?: string
}

/** Values of options that are left out. */
const defaults = {
  groups: 16,
  size: 8,
  seed: 0,
  aggregate: "token",
  dropConstant: true,
  maxDraws: 1,
  evaluateEvery: 10,
  checkpointEvery: 50
} as const

/**
 * Trains the policy in context until `steps` are done, resuming what the run directory already holds.
 *
 * @example
 * ```ts
 * Grpo.train({ tasks, heldOut, environment, reward, tokenizer, steps: 200, directory: "runs/a", update: { learningRate: 1e-3 } })
 *   .pipe(Effect.provide(PolicyNative.layer({ model, tokenizer })), NodeRuntime.runMain)
 * ```
 */
export const train = Effect.fn("Grpo.train")(function* <Data, R, R2 = never, R3 = never>(
  given: GrpoOptions<Data, R, R2, R3>
) {
  const options = { ...defaults, ...given }
  const { contextLength } = (yield* Policy).info
  const { correction, engines, loss } = yield* corrected(options)
  const progress = options.progress ?? Progress.make({ label: "GRPO" })
  if (correction !== "none") {
    const rule = `${correction.mode} ${correction.level} ratios beyond ${correction.min} to ${correction.max}`
    progress.note(`samples of ${engines.sampler}, updates by ${engines.policy}: corrected (${rule})`)
  }
  let cursor = 0
  const trainer = yield* Trainer.open({
    directory: options.directory,
    record: yield* recordOf(options, loss, { correction, sampler: engines.sampler, policy: engines.policy }),
    needs: loss.needs ?? [],
    mayChange: [...mayChange, ...(options.mayChange ?? [])],
    participants: [
      // The distance is measured from where training began, also by a resumed run.
      ...(Loss.needs(loss, "reference") ? [Trainer.reference] : []),
      Trainer.policy,
      Trainer.state("cursor", Schema.Int, { get: () => cursor, set: (value) => (cursor = value) })
    ],
    progress
  })
  const temperature = options.sampling?.temperature ?? 1
  const updater = Update.make({
    ...options.update,
    learningRate: trainer.learningRate(options.update.learningRate),
    loss,
    aggregate: options.aggregate,
    temperature,
    dump: trainer.dump
  })
  const rollout = { ...options, contextLength, sampling: { ...options.sampling, temperature } }
  const next = yield* Stream.toPull(batches(rollout, cursor))

  const result = yield* trainer.train({
    ...options,
    settable: ["learningRate"],
    counters: poolMetrics,
    ...(options.heldOut === undefined
      ? {}
      : { evaluate: { every: options.evaluateEvery, run: evaluation(options, options.heldOut, contextLength) } }),
    step: Effect.fnUntraced(function* ({ phase, step }) {
      const pulled = phase("rollout_and_reward", next).pipe(Pull.catchDone(() => Effect.undefined))
      const batch = (yield* pulled)?.[0]
      if (batch === undefined) return undefined
      const report = yield* updater.batch(batch, step)
      cursor = batch.next!
      return measured(batch, report)
    })
  })
  return {
    steps: result.steps,
    before: result.before?.["eval_accuracy"],
    after: result.after?.["eval_accuracy"],
    directory: options.directory,
    ...(result.stopped === undefined ? {} : { stopped: result.stopped })
  } satisfies GrpoResult
}, Effect.scoped)

type Complete<Data, R, R2> = GrpoOptions<Data, R, R2, any> & Required<Pick<GrpoOptions<Data>, keyof typeof defaults>>

/** Batches from a position of the task stream on, each drawn, sampled and scored when it is pulled. */
const batches = <Data, R, R2>(options: Complete<Data, R, R2> & { readonly contextLength: number }, from: number) =>
  Task.stream(options.tasks, { seed: options.seed, from }).pipe(
    Batch.rounds(
      {
        groups: options.groups,
        advantage: options.advantage ?? Advantage.groupRelative(),
        dropConstant: options.dropConstant,
        maxDraws: options.maxDraws
      },
      (draws) =>
        draws.pipe(
          Rollout.groups({
            environment: options.environment,
            tokenizer: options.tokenizer,
            seed: options.seed,
            contextLength: options.contextLength,
            size: options.size,
            ...(options.sampling === undefined ? {} : { sampling: options.sampling }),
            forTraining: true,
            concurrency: options.groups
          }),
          Reward.score(options.reward)
        )
    )
  )

const evaluation = <Data, R, R2>(options: Complete<Data, R, R2>, tasks: Task.Source<Data>, contextLength: number) =>
  Evaluate.run({
    tasks,
    environment: options.environment,
    reward: options.reward,
    tokenizer: options.tokenizer,
    contextLength,
    ...(options.evaluateCount === undefined ? {} : { count: options.evaluateCount }),
    ...(options.correct === undefined ? {} : { correct: options.correct })
  }).pipe(Effect.map(({ accuracy, reward }) => ({ eval_reward: reward, eval_accuracy: accuracy })))

/** Fields that say how long and how closely a run is watched, not what it computes. */
const mayChange = ["settings.steps", "settings.evaluateEvery", "settings.checkpointEvery"]

const recordOf = <Data, R, R2>(
  options: Complete<Data, R, R2>,
  loss: Loss.Loss,
  {
    correction,
    policy,
    sampler
  }: { readonly correction: Schema.JsonObject | "none"; readonly policy: string; readonly sampler: string }
) =>
  Record.make({
    name: "grpo",
    loss,
    advantage: options.advantage ?? Advantage.groupRelative(),
    aggregate: typeof options.aggregate === "string" ? options.aggregate : { ...options.aggregate },
    // One engine needs none.
    ...(sampler === policy && correction === "none" ? {} : { correction: { sampler, rule: correction } }),
    update: options.update,
    tasks: options.tasks,
    ...(options.heldOut === undefined ? {} : { heldOut: options.heldOut }),
    environment: options.environment,
    reward: options.reward,
    tokenizer: options.tokenizer,
    settings: {
      steps: options.steps,
      seed: options.seed,
      groups: options.groups,
      size: options.size,
      sampling: options.sampling ?? {},
      dropConstant: options.dropConstant,
      maxDraws: options.maxDraws,
      evaluateEvery: options.evaluateEvery,
      evaluateCount: options.evaluateCount,
      checkpointEvery: options.checkpointEvery
    }
  })
