/**
 * A reward is a composition of verifiers: weighted terms that add, gates that multiply, metrics that are only measured,
 * terms that see the whole group, and rewards within rewards. `score` is the stage that applies one to a stream of groups.
 *
 *     reward = (product of the gates) * (sum of weight * score)        gates only: their product
 *
 * A format check belongs in a gate: one that merely adds can be farmed. A trajectory is unscorable when a gate or a
 * weighted term is, unless a gate of 0 has already decided; an unscorable metric changes nothing but the counts.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import type { EnvironmentError } from "../rollout/Environment.ts"
import type { Task } from "../data/Task.ts"
import type { Group, Trajectory } from "../rollout/Trajectory.ts"
import * as Verifier from "./Verifier.ts"
import { VerifierPool, type VerifierLoadError } from "./VerifierPool.ts"

export interface ScoredTrajectory {
  readonly trajectory: Trajectory
  /** `undefined`: unscorable, to be left out of the group's baseline and counted. */
  readonly reward: number | undefined
  /** What each verifier said, by its name in the composition; names of nested rewards are joined by `/`. */
  readonly outcomes: Readonly<Record<string, Verifier.Outcome>>
  /** One number per policy token, in their order in the trajectory; sums to `reward`. */
  readonly tokenRewards?: Float64Array
  /** What the verifiers measured besides the score, as `{name}/{metric}`. */
  readonly metrics: Readonly<Record<string, number>>
  /** What each verdict cost: seconds of the last attempt, and attempts. */
  readonly timings?: Readonly<Record<string, { readonly seconds: number; readonly attempts: number }>>
}

export interface ScoredGroup<out Data = unknown> {
  readonly task: Task<Data>
  /** In the order of the group's trajectories. */
  readonly trajectories: ReadonlyArray<ScoredTrajectory>
  /** As of the {@link Group}: which draw this is, and which trajectories its environment lost. */
  readonly cursor?: number
  readonly failures?: ReadonlyArray<EnvironmentError>
}

/** Scores all trajectories of a group at once: one verdict each, in their order. */
export type GroupFunction<Data = any, R = never> = (input: {
  readonly task: Task<Data>
  readonly trajectories: ReadonlyArray<Trajectory>
  readonly signal: AbortSignal
}) =>
  | ReadonlyArray<Verifier.Verdict>
  | Promise<ReadonlyArray<Verifier.Verdict>>
  | Effect.Effect<ReadonlyArray<Verifier.Verdict>, unknown, R>

/** What may stand as a part of {@link all}; a bare verifier is a term of weight 1. */
export type Part<Data = any, R = never> = Verifier.Verifier<Data, R> | Term<Data, R>

/** A part and its role. `R` is what its effects need; it holds `VerifierPool` when a part runs in the pool. */
export interface Term<Data = any, R = never> {
  readonly _tag: "Term"
  readonly role: "weight" | "gate" | "metric"
  readonly weight: number
  readonly judge: Judge
  readonly "~data"?: (data: Data) => void
  readonly "~services"?: () => R
}

/** A composition of named parts; itself a term of weight 1, so rewards nest. */
export type Reward<Data = any, R = never> = Term<Data, R>

type Judge =
  | { readonly _tag: "Single"; readonly verifier: Verifier.VerifierFunction<any, any> | Verifier.WorkerVerifier }
  | { readonly _tag: "Group"; readonly verifier: GroupFunction<any, any> }
  | { readonly _tag: "All"; readonly terms: ReadonlyArray<readonly [name: string, term: Term<any, any>]> }

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
/** A reward of parts that ask for different task data asks for all of it. */
type Intersection<U> = (U extends unknown ? (value: U) => void : never) extends (value: infer I) => void ? I : never

/** A group reached scoring in a state that no verifier can repair, or lost its identity on the way. */
export class RewardError extends Schema.TaggedError<RewardError>()("RewardError", {
  operation: Schema.String,
  taskId: Schema.String,
  detail: Schema.String
}) {
  override get message(): string {
    return `${this.operation} of task ${this.taskId}: ${this.detail}`
  }
}

const asTerm = (part: Part<any, any>): Term<any, any> =>
  typeof part === "function" || part._tag === "WorkerVerifier"
    ? { _tag: "Term", role: "weight", weight: 1, judge: { _tag: "Single", verifier: part } }
    : part

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
 *   schema: Reward.gate(jsonSchema(Call)),
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
    throw new TypeError("Reward.all needs a weighted term or a gate: metrics alone are no reward")
  }
  if (terms.some(([name]) => name === "" || name.includes("/"))) {
    throw new TypeError("Reward.all: a part's name is not empty and has no slash, which joins nested names")
  }
  return { _tag: "Term", role: "weight", weight: 1, judge: { _tag: "All", terms } }
}

/** Adds `weight` times the score. A weight may be negative (a penalty); 0 makes it a metric. */
export const weight = <P extends Part<any, any>>(weight: number, part: P): Term<DataOf<P>, ServicesOf<P>> => {
  if (!Number.isFinite(weight)) throw new RangeError(`Reward.weight takes a finite weight, got ${weight}`)
  return withRole(part, weight === 0 ? "metric" : "weight", weight)
}

/** Multiplies the reward by the score: 0 takes all of it, 1 leaves it. */
export const gate = <P extends Part<any, any>>(part: P): Term<DataOf<P>, ServicesOf<P>> => withRole(part, "gate", 1)

/** Measures and reports, and changes no reward. */
export const metric = <P extends Part<any, any>>(part: P): Term<DataOf<P>, ServicesOf<P>> => withRole(part, "metric", 0)

/**
 * A term that sees all trajectories of the group, such as a ranking or a diversity bonus.
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
  /** Groups scored at the same time; with it, what is in flight is bounded. Default 8. */
  readonly concurrency?: number
  /** Milliseconds of one verdict on the main thread, where its verifier states none. Default 10,000. */
  readonly deadline?: number
  /** How often a verdict that is unscorable is asked for again. Default 1. */
  readonly retries?: number
}

/**
 * The stage that scores groups while others are still being generated. Groups leave in the order in which they are done;
 * every score stays tied to its trajectory's task and index. A failing verifier is an outcome, never a failed stream;
 * the stream fails only where going on would be wrong: a verifier that cannot be loaded, or a group that is not one.
 *
 * @example
 * ```ts
 * Rollout.groups({ environment, size: 8 })(tasks).pipe(Reward.score(reward, { concurrency: 16 }))
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

interface Context {
  readonly task: Task<any>
  readonly trajectories: ReadonlyArray<Trajectory>
  readonly deadline: number
  readonly retries: number
}

interface Leaf {
  readonly name: string
  readonly outcome: Verifier.Outcome
  readonly seconds: number
  readonly attempts: number
}

/** One trajectory's value of one term, before the term's own weight. */
interface Evaluated {
  readonly value: number | undefined
  readonly tokens: Float64Array | undefined
  readonly leaves: ReadonlyArray<Leaf>
}

const evaluate = (
  term: Term<any, any>,
  name: string,
  context: Context
): Effect.Effect<ReadonlyArray<Evaluated>, RewardError | VerifierLoadError, any> => {
  const { judge } = term
  switch (judge._tag) {
    case "Single":
      return Effect.forEach(
        context.trajectories,
        (trajectory) => Effect.map(judgeOne(judge.verifier, name, trajectory, context), fromLeaf),
        { concurrency: "unbounded" }
      )
    case "Group":
      return Effect.map(judgeGroup(judge.verifier, name, context), (leaves) => leaves.map(fromLeaf))
    case "All":
      return Effect.map(
        Effect.forEach(judge.terms, ([own, part]) => evaluate(part, name === "" ? own : `${name}/${own}`, context), {
          concurrency: "unbounded"
        }),
        (columns) =>
          context.trajectories.map((_, row) =>
            combine(
              judge.terms,
              columns.map((column) => column[row]!)
            )
          )
      )
  }
}

const fromLeaf = (leaf: Leaf): Evaluated => ({
  value: leaf.outcome._tag === "Scored" ? leaf.outcome.score : undefined,
  tokens:
    leaf.outcome._tag === "Scored" && leaf.outcome.tokenScores !== undefined
      ? Float64Array.from(leaf.outcome.tokenScores)
      : undefined,
  leaves: [leaf]
})

/** The formula of the module comment, for one trajectory. */
const combine = (
  terms: ReadonlyArray<readonly [string, Term<any, any>]>,
  parts: ReadonlyArray<Evaluated>
): Evaluated => {
  const leaves = parts.flatMap((part) => part.leaves)
  const of = (role: Term["role"]) =>
    terms.flatMap(([, term], index) => (term.role === role ? [{ weight: term.weight, ...parts[index]! }] : []))
  const gates = of("gate")
  const weighted = of("weight")
  if (gates.some((gate) => gate.value === 0)) return { value: 0, tokens: zeros(weighted), leaves }
  let factor = 1
  for (const gate of gates) {
    if (gate.value === undefined) return { value: undefined, tokens: undefined, leaves }
    factor *= gate.value
  }
  if (weighted.length === 0) return { value: factor, tokens: undefined, leaves }
  let sum = 0
  let tokens: Float64Array | undefined = zeros(weighted)
  for (const part of weighted) {
    if (part.value === undefined) return { value: undefined, tokens: undefined, leaves }
    sum += part.weight * part.value
    if (tokens !== undefined)
      for (let t = 0; t < tokens.length; t++) tokens[t]! += factor * part.weight * part.tokens![t]!
  }
  return { value: factor * sum, tokens, leaves }
}

/** Room for the token rewards, when every weighted part says where its score was earned. */
const zeros = (weighted: ReadonlyArray<Evaluated>): Float64Array | undefined =>
  weighted.length > 0 && weighted.every((part) => part.tokens !== undefined)
    ? new Float64Array(weighted[0]!.tokens!.length)
    : undefined

const scaled = (values: Float64Array, factor: number): Float64Array => values.map((value) => value * factor)

const judgeOne = (
  verifier: Verifier.VerifierFunction<any, any> | Verifier.WorkerVerifier,
  name: string,
  trajectory: Trajectory,
  context: Context
): Effect.Effect<Leaf, VerifierLoadError, any> => {
  const input = { task: context.task, trajectory }
  const once =
    typeof verifier === "function"
      ? Verifier.run(verifier, input, verifier.deadline ?? context.deadline)
      : VerifierPool.use((pool) => pool.verify(verifier, input))
  return Effect.gen(function* () {
    for (let attempts = 1; ; attempts++) {
      const start = performance.now()
      const outcome = yield* once
      const seconds = (performance.now() - start) / 1000
      // the pool has already given a crashed call its second chance
      const final = outcome._tag === "Scored" || outcome.kind === "crash" || attempts > context.retries
      if (final) return { name, outcome, seconds, attempts }
    }
  })
}

const judgeGroup = (
  verifier: GroupFunction<any, any>,
  name: string,
  context: Context
): Effect.Effect<ReadonlyArray<Leaf>, never, any> => {
  const every = (outcome: Verifier.Outcome) => context.trajectories.map(() => outcome)
  const once = Verifier.invoke(
    (signal) => verifier({ task: context.task, trajectories: context.trajectories, signal }),
    context.deadline,
    (verdicts): ReadonlyArray<Verifier.Outcome> =>
      Array.isArray(verdicts) && verdicts.length === context.trajectories.length
        ? context.trajectories.map((trajectory, row) => Verifier.outcome(verdicts[row], trajectory))
        : every(Verifier.unscorable(`no verdict for each of the group's ${context.trajectories.length}`, "verdict")),
    (reason, kind) => every(Verifier.unscorable(reason, kind))
  )
  return Effect.gen(function* () {
    for (let attempts = 1; ; attempts++) {
      const start = performance.now()
      const outcomes = yield* once
      const seconds = (performance.now() - start) / 1000
      if (attempts > context.retries || outcomes.every((outcome) => outcome._tag === "Scored")) {
        return outcomes.map((outcome) => ({ name, outcome, seconds, attempts }))
      }
    }
  })
}

/**
 * What the verdicts on these groups cost, and what became of those that are none, apart from scores of 0: by verifier,
 * `verifiers/{name}/` and `zeros`, `unscorable`, of these `timeouts`, `crashes`, `errors` (counts), `retries`, `latency_p50` and
 * `latency_p95` (seconds). The scores themselves are among `Batch.metrics`, under TRL's names.
 */
export const metrics = (groups: ReadonlyArray<ScoredGroup>): Record<string, number> => {
  const all = groups.flatMap(({ trajectories }) => trajectories)
  const out: Record<string, number> = {}
  for (const name of new Set(all.flatMap(({ outcomes }) => Object.keys(outcomes)))) {
    const outcomes = all.flatMap(({ outcomes }) => (Object.hasOwn(outcomes, name) ? [outcomes[name]!] : []))
    const timings = all.flatMap(({ timings }) => (timings?.[name] === undefined ? [] : [timings[name]]))
    const seconds = timings.map((timing) => timing.seconds).toSorted((a, b) => a - b)
    const failed = (...kinds: ReadonlyArray<Verifier.UnscorableKind | undefined>) =>
      outcomes.filter((outcome) => outcome._tag === "Unscorable" && kinds.includes(outcome.kind)).length
    const own = {
      zeros: outcomes.filter((outcome) => outcome._tag === "Scored" && outcome.score === 0).length,
      unscorable: outcomes.filter((outcome) => outcome._tag === "Unscorable").length,
      timeouts: failed("timeout"),
      crashes: failed("crash"),
      errors: failed("error", "verdict"),
      retries: timings.reduce((sum, { attempts }) => sum + attempts - 1, 0),
      latency_p50: seconds[Math.ceil(0.5 * seconds.length) - 1],
      latency_p95: seconds[Math.ceil(0.95 * seconds.length) - 1]
    }
    for (const [key, value] of Object.entries(own)) if (value !== undefined) out[`verifiers/${name}/${key}`] = value
  }
  return out
}
