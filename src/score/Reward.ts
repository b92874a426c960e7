/**
 * A reward is a composition of verifiers; `score` applies one to a stream of groups.
 *
 * Its parts are weighted terms that add, gates that multiply, metrics that are only measured, terms that see the whole
 * group, and other rewards.
 *
 *     reward = (product of the gates) * (sum of weight * score)        gates only: their product
 *
 * Put a format check in a gate: a policy can exploit one that only adds. A trajectory is unscorable if a gate or a
 * weighted term is, unless a gate of 0 has already decided. An unscorable metric changes nothing except the counts.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { OptionError } from "../OptionError.ts"
import type { Group } from "../rollout/Trajectory.ts"
import { type Context, evaluate } from "./internal/evaluate.ts"
import {
  asTerm,
  type GroupFunction,
  type Part,
  type Reward,
  type ScoredGroup,
  type ScoredTrajectory,
  type Term
} from "./internal/term.ts"
import type * as Verifier from "./Verifier.ts"
import type { VerifierLoadError, VerifierPool } from "./VerifierPool.ts"

export { environment } from "./internal/turnRewards.ts"
export { metrics } from "./internal/verdictMetrics.ts"
export type { GroupFunction, Part, Reward, ScoredGroup, ScoredTrajectory, Term } from "./internal/term.ts"

type DataOf<P> =
  P extends Term<infer D, any>
    ? D
    : P extends Verifier.WorkerVerifier<infer D>
      ? D
      : P extends (input: Verifier.VerifierInput<infer D>) => unknown
        ? D
        : unknown
type ServicesOf<P> =
  P extends Term<any, infer R>
    ? R
    : P extends Verifier.WorkerVerifier
      ? VerifierPool
      : P extends (...input: Array<never>) => infer V
        ? EffectServices<V>
        : never
type EffectServices<V> = V extends Effect.Effect<any, any, infer R> ? R : never
/** A reward needs the task data of all of its parts. */
type Intersection<U> = (U extends unknown ? (value: U) => void : never) extends (value: infer I) => void ? I : never

/** A group that cannot be scored. Its state is invalid for every verifier, or it lost its identity on the way. */
export class RewardError extends Schema.TaggedError<RewardError>()("RewardError", {
  operation: Schema.String,
  taskId: Schema.String,
  detail: Schema.String
}) {
  override get message(): string {
    return `${this.operation} of task ${this.taskId}: ${this.detail}`
  }
}

const withRole = (part: Part<any, any>, role: Term["role"], weight: number): Term<any, any> => ({
  ...asTerm(part),
  role,
  weight
})

/**
 * Names parts and combines them.
 *
 * @example
 * ```ts
 * const reward = Reward.all({
 *   schema: Reward.gate(jsonSchema({ type: "object", required: ["name", "arguments"] })),
 *   result: toolReplay({ tools }),
 *   brevity: Reward.weight(0.1, ({ trajectory }) => (trajectory.text.length < 40 ? 1 : 0)),
 *   length: Reward.metric(({ trajectory }) => trajectory.text.length)
 * })
 * ```
 */
export const all = <const Parts extends Readonly<Record<string, Part<any, any>>>>(
  parts: Parts
): Reward<Intersection<DataOf<Parts[keyof Parts]>>, ServicesOf<Parts[keyof Parts]>> => {
  const terms = Object.entries(parts).map(([name, part]) => [name, asTerm(part)] as const)
  if (!terms.some(([, term]) => term.role !== "metric")) {
    throw new OptionError({
      module: "Reward.all",
      option: "parts",
      value: terms.map(([name]) => name),
      expected: "at least one weighted term or gate",
      remedy: "Add one; metrics alone are not a reward"
    })
  }
  const wrong = terms.find(([name]) => name === "" || name.includes("/"))
  if (wrong !== undefined) {
    throw new OptionError({
      module: "Reward.all",
      option: "part name",
      value: wrong[0],
      expected: `text without "/"`,
      remedy: "Rename the part"
    })
  }
  return { _tag: "Term", role: "weight", weight: 1, judge: { _tag: "All", terms } }
}

/** Adds `weight` times the score. A weight may be negative (a penalty); 0 makes it a metric. */
export const weight = <P extends Part<any, any>>(weight: number, part: P): Term<DataOf<P>, ServicesOf<P>> => {
  if (!Number.isFinite(weight))
    throw new OptionError({
      module: "Reward.weight",
      option: "weight",
      value: weight,
      expected: "a finite number",
      remedy: "Give the factor of the score, such as 0.1"
    })
  return withRole(part, weight === 0 ? "metric" : "weight", weight)
}

/** Multiplies the reward by the score: 0 removes the reward, 1 keeps it. */
export const gate = <P extends Part<any, any>>(part: P): Term<DataOf<P>, ServicesOf<P>> => withRole(part, "gate", 1)

/** Measures and reports a score without changing the reward. */
export const metric = <P extends Part<any, any>>(part: P): Term<DataOf<P>, ServicesOf<P>> => withRole(part, "metric", 0)

/**
 * Makes a term that sees all trajectories of the group.
 *
 * Examples are a ranking and a diversity bonus.
 *
 * @example
 * ```ts
 * const novelty = Reward.weight(0.2, Reward.group(({ trajectories }) => {
 *   const texts = trajectories.map((trajectory) => trajectory.text)
 *   return texts.map((text) => 1 / texts.filter((other) => other === text).length)
 * }))
 * ```
 */
export const group = <Data = any, R = never>(verifier: GroupFunction<Data, R>): Term<Data, R> => ({
  _tag: "Term",
  role: "weight",
  weight: 1,
  judge: { _tag: "Group", verifier }
})

export interface ScoreOptions {
  /** Most groups scored at the same time, which bounds the groups in flight. Default 8. */
  readonly concurrency?: number
  /** Milliseconds of one verdict on the main thread, if its verifier states none. Default 10,000. */
  readonly deadline?: number
  /** Most retries of an unscorable verdict. Default 1. */
  readonly retries?: number
}

/**
 * Scores groups while others are still being generated.
 *
 * Groups leave in the order of completion. Every score stays tied to its trajectory's task and index. A failing
 * verifier is an outcome, not a failed stream. The stream fails only if a verifier cannot be loaded or a group is
 * invalid.
 *
 * @example
 * ```ts
 * groups.pipe(Reward.score(reward, { concurrency: 16 }))
 * ```
 */
export const score: {
  <Data, R>(reward: Reward<Data, R>, options?: ScoreOptions): Stage<Data, R>
  <const P extends Part<any, any>>(verifier: P, options?: ScoreOptions): Stage<DataOf<P>, ServicesOf<P>>
} =
  (reward: Part<any, any>, options: ScoreOptions = {}): Stage<any, any> =>
  (groups) =>
    Stream.mapEffect(groups, (group) => scoreGroup(reward as Reward<any, any>, group, options), {
      concurrency: options.concurrency ?? 8,
      unordered: true
    })

/** A stream stage from groups to scored groups. */
export type Stage<Data, R> = <D extends Data, E, R2>(
  groups: Stream.Stream<Group<D>, E, R2>
) => Stream.Stream<ScoredGroup<D>, E | RewardError | VerifierLoadError, R | R2>

/** Scores one group; see {@link score}. */
export const scoreGroup: {
  <Data, R, D extends Data>(
    reward: Reward<Data, R>,
    group: Group<D>,
    options?: ScoreOptions
  ): Effect.Effect<ScoredGroup<D>, RewardError | VerifierLoadError, R>
  <const P extends Part<any, any>, D extends DataOf<P>>(
    verifier: P,
    group: Group<D>,
    options?: ScoreOptions
  ): Effect.Effect<ScoredGroup<D>, RewardError | VerifierLoadError, ServicesOf<P>>
} = (reward: Part<any, any>, group: Group<any>, options: ScoreOptions = {}) =>
  Effect.gen(function* () {
    const seen = new Set<number>()
    for (const { taskId, index } of group.trajectories) {
      if (taskId !== group.task.id || seen.has(index)) {
        return yield* new RewardError({
          operation: "scoring",
          taskId: group.task.id,
          detail: `its group holds trajectory ${index} of task ${taskId}${seen.has(index) ? " twice" : ""}`
        })
      }
      seen.add(index)
    }
    const root = asTerm(reward)
    const context: Context = {
      task: group.task,
      trajectories: group.trajectories,
      deadline: options.deadline ?? 10_000,
      retries: options.retries ?? 1
    }
    const evaluated = yield* evaluate(root, root.judge._tag === "All" ? "" : "score", context)
    return {
      ...group,
      trajectories: group.trajectories.map((trajectory, row): ScoredTrajectory => {
        const own = evaluated[row]!
        const value = own.value
        return {
          trajectory,
          reward: value === undefined ? undefined : value * root.weight,
          outcomes: Object.fromEntries(own.leaves.map((leaf) => [leaf.name, leaf.outcome])),
          ...(own.tokens === undefined || value === undefined ? {} : { tokenRewards: scaled(own.tokens, root.weight) }),
          metrics: Object.fromEntries(
            own.leaves.flatMap(({ name, outcome }) =>
              outcome._tag === "Scored"
                ? Object.entries(outcome.metrics ?? {}).map(([key, value]) => [`${name}/${key}`, value] as const)
                : []
            )
          ),
          timings: Object.fromEntries(
            own.leaves.map(({ name, seconds, attempts }) => [name, { seconds, attempts }] as const)
          )
        }
      })
    }
  })

const scaled = (values: Float64Array, factor: number): Float64Array => values.map((value) => value * factor)
