/**
 * Held-out evaluation: every task of a source once, with the same environment and reward as in training, greedily. A run
 * shows it beside the training reward, because a reward that rises while accuracy falls is being exploited.
 */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import type { Environment } from "../rollout/Environment.ts"
import * as Reward from "../score/Reward.ts"
import * as Rollout from "../rollout/Rollout.ts"
import type { SamplingParameters } from "../engine/Sampler.ts"
import type * as Task from "../data/Task.ts"
import type { Tokenizer } from "../text/Tokenizer.ts"

/** `R`: the services of the reward; `R2`: those of the environment. */
export interface EvaluateOptions<Data, R = never, R2 = never> {
  readonly tasks: Task.Source<Data>
  readonly environment: Environment<Data, R2>
  readonly reward: Reward.Part<Data, R>
  readonly tokenizer: Tokenizer
  /** Tasks to evaluate, from the first. Default: all of a finite source, 256 of an infinite one. */
  readonly count?: number
  /** Which trajectories are right. Default: reward of at least 1. */
  readonly correct?: (scored: Reward.ScoredTrajectory) => boolean
  /** Default greedy. */
  readonly sampling?: Omit<SamplingParameters, "maxTokens" | "stop" | "stopTokens">
  readonly contextLength?: number
}

export interface Evaluation<Data = unknown> {
  /** Mean over the tasks that could be scored. */
  readonly reward: number
  /** Share of them that are right. */
  readonly accuracy: number
  readonly tasks: number
  readonly unscorable: number
  readonly groups: ReadonlyArray<Reward.ScoredGroup<Data>>
}

const fullReward = (scored: Reward.ScoredTrajectory): boolean =>
  scored.reward !== undefined && scored.reward >= 1 - 1e-9

/**
 * @example
 * ```ts
 * const { accuracy } = yield* Evaluate.run({ tasks: heldOut, environment, reward, tokenizer })
 * ```
 */
export const run = Effect.fn("Evaluate.run")(function* <Data, R, R2 = never>(options: EvaluateOptions<Data, R, R2>) {
  const tasks = yield* options.tasks.load
  const count = options.count ?? (Number.isFinite(tasks.length) ? tasks.length : 256)
  const scored = yield* Stream.range(0, count - 1).pipe(
    Stream.map((index) => ({ task: tasks.at(index), epoch: 0, cursor: index })),
    Stream.filter((drawn): drawn is Task.Drawn<Data> => drawn.task !== undefined),
    Rollout.groups({
      environment: options.environment,
      tokenizer: options.tokenizer,
      size: 1,
      seed: 0,
      sampling: options.sampling ?? { temperature: 0 },
      concurrency: 64,
      ...(options.contextLength === undefined ? {} : { contextLength: options.contextLength })
    }),
    Reward.score(options.reward),
    Stream.runCollect
  )
  // Groups are scored out of order; the sums below must not depend on it.
  const groups = scored.toSorted((a, b) => a.cursor! - b.cursor!)
  const all = groups.flatMap((group) => group.trajectories)
  const scorable = all.filter((scored) => scored.reward !== undefined)
  const correct = options.correct ?? fullReward
  const share = (sum: number): number => (scorable.length === 0 ? Number.NaN : sum / scorable.length)
  return {
    reward: share(scorable.reduce((sum, scored) => sum + scored.reward!, 0)),
    accuracy: share(scorable.filter(correct).length),
    tasks: groups.length,
    unscorable: all.length - scorable.length,
    groups
  } satisfies Evaluation<Data>
})
