/**
 * Group-relative policy optimisation with verifiable rewards: the default composition of the stages, and nothing more.
 * Another advantage, loss or batch rule turns it into Dr.GRPO, DAPO, RLOO, GSPO, CISPO or TAPO; for more than that, copy
 * {@link train} and change it.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as path from "node:path"
import * as Advantage from "../learn/Advantage.ts"
import * as Batch from "../learn/Batch.ts"
import type { Environment } from "../rollout/Environment.ts"
import * as Evaluate from "./Evaluate.ts"
import * as Loss from "../learn/Loss.ts"
import type { Aggregate } from "../learn/Pack.ts"
import { Policy, type PolicyInfo } from "../engine/Policy.ts"
import * as Progress from "./Progress.ts"
import * as Reward from "../score/Reward.ts"
import * as Rollout from "../rollout/Rollout.ts"
import * as Run from "./Run.ts"
import { Sampler, type SamplingParameters } from "../engine/Sampler.ts"
import * as Task from "../data/Task.ts"
import type { Tokenizer } from "../text/Tokenizer.ts"
import * as Update from "../learn/Update.ts"
import { VerifierPool } from "../score/VerifierPool.ts"

/** `R`: the services of the reward; `R2`: those of the environment. */
export interface GrpoOptions<Data, R = never, R2 = never> {
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
   * What makes up for a sampler that is not the policy's own engine, whose log-probabilities differ. Default: TRL's (whole
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
  /** Sees every step's metrics, as they are written. */
  readonly onStep?: (metrics: Readonly<Record<string, number>>) => void
}

export interface GrpoResult {
  readonly steps: number
  /** Held-out accuracy before the first step and after the last; of a resumed run, before its first step. */
  readonly before: number | undefined
  readonly after: number | undefined
  readonly directory: string
}

/**
 * Trains the policy in context until `steps` are done, resuming what the run directory already holds.
 *
 * @example
 * ```ts
 * Grpo.train({ tasks, heldOut, environment, reward, tokenizer, steps: 200, directory: "runs/a", update: { learningRate: 1e-3 } })
 *   .pipe(Effect.provide(PolicyNative.layer({ model, tokenizer })), NodeRuntime.runMain)
 * ```
 */
export const train = Effect.fn("Grpo.train")(function* <Data, R, R2 = never>(options: GrpoOptions<Data, R, R2>) {
  const { environment, reward, tokenizer } = options
  const policy = yield* Policy
  const sampler = yield* Sampler
  const engines = { sampler: sampler.engine, policy: policy.info.engine }
  const { correction, loss } = corrected(options, engines)
  const seed = options.seed ?? 0
  const temperature = options.sampling?.temperature ?? 1
  const contextLength = policy.info.contextLength
  const progress = options.progress ?? Progress.make({ label: "GRPO" })
  const run = yield* Run.open({
    directory: options.directory,
    config: {
      ...describe(options, policy.info),
      // One engine needs none, and a run of one may have begun before there was any.
      ...(engines.sampler === engines.policy && correction === "none" ? {} : { sampler: engines.sampler, correction })
    },
    mayChange: ["steps", "evaluateEvery", "checkpointEvery"]
  })

  if (correction !== "none") {
    const rule = `${correction.mode} ${correction.level} ratios beyond ${correction.min} to ${correction.max}`
    progress.note(`samples of ${engines.sampler}, updates by ${engines.policy}: corrected (${rule})`)
  }

  let position: Run.Position = run.resumed?.position ?? { step: 0, cursor: 0, tokens: 0, custom: null }
  if (loss.reference === true) {
    // The policy that training began with is kept in the run: a resumed one must measure its distance from the same.
    const reference = path.join(options.directory, "reference")
    yield* run.resumed === undefined ? policy.save(reference) : policy.load(reference)
    yield* policy.freezeReference
  }
  if (run.resumed !== undefined) {
    yield* policy.load(run.resumed.weights)
    progress.note(`resumed ${options.directory} after step ${position.step}`)
  }

  const evaluate =
    options.heldOut === undefined
      ? Effect.succeed(undefined)
      : Evaluate.run({
          tasks: options.heldOut,
          environment,
          reward,
          tokenizer,
          contextLength,
          ...(options.evaluateCount === undefined ? {} : { count: options.evaluateCount }),
          ...(options.correct === undefined ? {} : { correct: options.correct })
        })
  const before = yield* evaluate
  let heldOut = before

  const updater = Update.make({
    ...options.update,
    loss,
    aggregate: options.aggregate ?? "token",
    temperature,
    dump: (dump) => run.skipped(dump.step, dump).pipe(Effect.ignore)
  })

  const finish = Effect.fnUntraced(function* (batch: Batch.Batch<Data>, report: Update.StepReport, begun: number) {
    const step = position.step + 1
    position = { ...position, step, cursor: batch.next!, tokens: position.tokens + report.tokens.forward }
    const last = step === options.steps
    const evaluated = last || step % (options.evaluateEvery ?? 10) === 0
    if (evaluated) heldOut = yield* evaluate
    const seconds = (performance.now() - begun) / 1000
    const metrics: Record<string, number> = {
      step,
      ...Batch.metrics(batch),
      ...Reward.metrics([...batch.groups, ...batch.unused]),
      ...(yield* poolMetrics),
      ...report.metrics,
      loss: report.loss,
      grad_norm: report.gradNorm,
      learning_rate: report.learningRate,
      entropy: report.entropy,
      skipped_updates: report.skipped,
      num_tokens: position.tokens,
      step_time: seconds,
      ...prefixed("timing_s/", report.seconds),
      "timing_s/rollout_and_reward": seconds - report.seconds.total,
      ...(evaluated && heldOut !== undefined ? { eval_reward: heldOut.reward, eval_accuracy: heldOut.accuracy } : {})
    }
    yield* run.metrics(metrics)
    const every = options.recordEvery ?? 1
    if (every > 0 && (step % every === 0 || last)) yield* run.trajectories(step, [...batch.groups, ...batch.unused])
    if (last || step % (options.checkpointEvery ?? 50) === 0) {
      yield* run.checkpoint(position, (directory) => policy.save(directory, { optimizer: true }))
    }
    options.onStep?.(metrics)
    progress.step({
      step,
      steps: options.steps,
      reward: metrics["reward"] ?? Number.NaN,
      entropy: report.entropy,
      tokensPerSecond: report.tokens.forward / seconds,
      ...(heldOut === undefined ? {} : { heldOut: heldOut.accuracy })
    })
  })

  let begun = performance.now()
  yield* Task.stream(options.tasks, { seed, from: position.cursor }).pipe(
    Batch.rounds(
      {
        groups: options.groups ?? 16,
        advantage: options.advantage ?? Advantage.groupRelative(),
        dropConstant: options.dropConstant ?? true,
        maxDraws: options.maxDraws ?? 1
      },
      (draws) =>
        draws.pipe(
          Rollout.groups({
            environment,
            tokenizer,
            seed,
            contextLength,
            size: options.size ?? 8,
            sampling: { ...options.sampling, temperature },
            forTraining: true,
            concurrency: options.groups ?? 16
          }),
          Reward.score(reward)
        )
    ),
    Stream.take(Math.max(0, options.steps - position.step)),
    Stream.runForEach(
      Effect.fnUntraced(function* (batch) {
        const report = yield* updater.batch(batch, position.step)
        yield* finish(batch, report, begun)
        begun = performance.now()
      })
    )
  )
  progress.end()
  return {
    steps: position.step,
    before: before?.accuracy,
    after: heldOut?.accuracy,
    directory: options.directory
  } satisfies GrpoResult
}, Effect.scoped)

/** Of the pool that the run's verifiers share, where there is one. */
const poolMetrics = Effect.serviceOption(VerifierPool).pipe(
  Effect.flatMap(Option.match({ onNone: () => Effect.succeed({}), onSome: (pool) => pool.metrics }))
)

const prefixed = (prefix: string, values: Readonly<Record<string, number>>): Record<string, number> =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [prefix + name, value]))

/** The loss, and what corrects it for the distance between the engines. */
const corrected = (
  { correction, loss = Loss.clipped() }: Pick<GrpoOptions<never>, "correction" | "loss">,
  engines: { readonly sampler: string; readonly policy: string }
): { readonly loss: Loss.Loss; readonly correction: Required<Loss.ImportanceCorrection> | "none" } => {
  const needed = engines.sampler !== engines.policy && loss.againstSampler !== true
  const chosen = correction ?? (needed ? {} : "none")
  if (chosen === "none") return { loss, correction: chosen }
  const { level = "sequence", max = 3, min = 0, mode = "mask" } = chosen
  return { loss: Loss.withImportanceCorrection(loss, chosen), correction: { level, mode, min, max } }
}

/** What a resumed run must share with the one it continues. Functions are left to the user's honesty. */
const describe = <Data, R, R2>(options: GrpoOptions<Data, R, R2>, policy: PolicyInfo): Record<string, unknown> => ({
  algorithm: "grpo",
  steps: options.steps,
  tasks: options.tasks.name,
  heldOut: options.heldOut?.name ?? null,
  environment: options.environment.name,
  tokenizer: options.tokenizer.name,
  groups: options.groups ?? 16,
  size: options.size ?? 8,
  seed: options.seed ?? 0,
  sampling: options.sampling ?? {},
  aggregate: options.aggregate ?? "token",
  dropConstant: options.dropConstant ?? true,
  maxDraws: options.maxDraws ?? 1,
  update: { ...options.update, learningRate: String(options.update.learningRate) },
  evaluateEvery: options.evaluateEvery ?? 10,
  checkpointEvery: options.checkpointEvery ?? 50,
  // Not the device: a run may go on elsewhere, though bit for bit only on the same kind of machine.
  policy: { ...policy, device: undefined }
})
