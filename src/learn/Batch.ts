/**
 * The groups of one update: collected, filtered with a bound, given their advantages; and packed for the policy.
 *
 * Two ways to collect. {@link rounds} draws tasks only when a batch is asked for and waits for all of them, so every
 * batch is on-policy and a resumed run repeats it bit for bit; it is what `Grpo` uses. {@link collect} is the plain
 * stage: it takes groups as they come, and what runs upstream may be ahead of the policy by its concurrency.
 */
import type * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Pull from "effect/Pull"
import * as Stream from "effect/Stream"
import type { Advantage, AdvantagedGroup } from "./Advantage.ts"
import { groupRelative } from "./Advantage.ts"
import type { Batch } from "./internal/batchTypes.ts"
import * as Pack from "./Pack.ts"
import type { ScoredGroup } from "../score/Reward.ts"
import type { Drawn } from "../data/Task.ts"
import * as Trajectory from "../rollout/Trajectory.ts"

export { metrics } from "./internal/batchMetrics.ts"
export type { Batch, Dropped } from "./internal/batchTypes.ts"

export interface CollectOptions {
  /** Groups in a batch. */
  readonly groups: number
  /** Default `Advantage.groupRelative()`. */
  readonly advantage?: Advantage
  /**
   * Leave out groups without anything to learn from (all rewards the same, all advantages 0) and draw others in their
   * place: DAPO's dynamic sampling. Default true. Turn it off where constant groups still count, as under an entropy
   * bonus.
   */
  readonly dropConstant?: boolean
  /** Most groups drawn for a batch, as a multiple of `groups`. Default 10, as TAPO's `max_num_gen_batches`. */
  readonly maxDraws?: number
  /**
   * The rule for a batch that is not full at the bound: false continues with what it has, true fills it up
   * with the constant groups drawn (verl's TAPO recipe). Default false. A batch may be empty; an update then does nothing.
   */
  readonly fill?: boolean
  /** A constant group whose reward is above this counts as all good. Default 0.5. */
  readonly good?: number
}

type Kind = "mixed" | "allGood" | "allBad" | "unscorable"

const sameTokens = (a: Float64Array | undefined, b: Float64Array | undefined): boolean =>
  a === b || (a !== undefined && b !== undefined && a.length === b.length && a.every((value, i) => value === b[i]))

/** Whether there is anything to learn from a group by itself. */
const kindOf = (group: ScoredGroup, advantage: Advantage, good: number): Kind => {
  const scored = group.trajectories.filter(({ reward }) => reward !== undefined)
  const first = scored[0]
  if (first === undefined) return "unscorable"
  const constant = scored.every(
    ({ reward, tokenRewards }) => reward === first.reward && sameTokens(tokenRewards, first.tokenRewards)
  )
  // Rewards may differ and advantages still be 0: by rounding, or because the estimator looks at something else.
  const flat = (value: number) => Math.abs(value) < 1e-9
  const idle = () =>
    advantage([group])[0]!.advantages.every((value) => (typeof value === "number" ? flat(value) : value.every(flat)))
  if (!constant && !idle()) return "mixed"
  return first.reward! > good ? "allGood" : "allBad"
}

const check = ({ groups, maxDraws = 10 }: CollectOptions): void => {
  if (!Number.isInteger(groups) || groups < 1 || !(maxDraws >= 1)) {
    throw new RangeError(`Batch: groups is ${groups} and maxDraws ${maxDraws}; both must be at least 1`)
  }
}

/** Sorts groups into those that make the batch and those that do not. */
const accumulator = <Data>(options: CollectOptions) => {
  const { advantage = groupRelative(), dropConstant = true, fill = false, good = 0.5, groups, maxDraws = 10 } = options
  const limit = Math.ceil(groups * maxDraws)
  const used: Array<ScoredGroup<Data>> = []
  const left: Array<{ readonly group: ScoredGroup<Data>; readonly kind: Kind }> = []
  let constant = 0
  let drawn = 0
  return {
    drawn: (count: number) => void (drawn += count),
    add: (group: ScoredGroup<Data>) => {
      const kind = kindOf(group, advantage, good)
      if (kind === "unscorable" || (kind !== "mixed" && dropConstant)) left.push({ group, kind })
      else {
        used.push(group)
        if (kind !== "mixed") constant++
      }
    },
    /** Groups to draw next; 0 when the batch is done. */
    wanted: () => Math.max(0, Math.min(groups - used.length, limit - drawn)),
    empty: () => drawn === 0,
    finish: (next: number | undefined): Batch<Data> => {
      const filling = fill ? left.filter(({ kind }) => kind !== "unscorable").slice(0, groups - used.length) : []
      const unused = left.filter((entry) => !filling.includes(entry))
      const taken = [...used, ...filling.map(({ group }) => group)]
      const count = (kind: Kind) => unused.filter((entry) => entry.kind === kind).length
      const all = [...taken, ...unused.map(({ group }) => group)]
      return {
        groups: advantage(taken),
        unused: unused.map(({ group }) => group),
        drawn,
        dropped: {
          allGood: count("allGood"),
          allBad: count("allBad"),
          unscorable: count("unscorable"),
          unscorableTrajectories: all
            .flatMap(({ trajectories }) => trajectories)
            .filter(({ reward }) => reward === undefined).length,
          failedTrajectories: all.reduce((sum, { failures }) => sum + (failures?.length ?? 0), 0)
        },
        constant: constant + filling.length,
        ...(next === undefined ? {} : { next })
      }
    }
  }
}

/**
 * Collects batches by rounds: a round draws the tasks that are missing, runs them through `pipeline` to the end, and
 * repeats until the batch is full or the bound on draws is reached. Nothing is drawn or sampled between batches, while
 * the policy is updated. Inside a round generation and scoring overlap; groups are put in the order of their draw, so it
 * does not matter in which order the pipeline finishes them.
 *
 * ```ts
 * Task.stream(tasks, { seed, from: 320 }).pipe(
 *   Batch.rounds({ groups: 16, maxDraws: 4 }, (draws) => draws.pipe(Rollout.groups(rollout), Reward.score(reward))),
 *   Update.stage({ loss: Loss.clipped(), learningRate: 1e-5 })
 * )
 * ```
 */
export const rounds = <Data, E2, R2>(
  options: CollectOptions,
  pipeline: (draws: Stream.Stream<Drawn<Data>>) => Stream.Stream<ScoredGroup<Data>, E2, R2>
) => {
  check(options)
  return <E, R>(draws: Stream.Stream<Drawn<Data>, E, R>): Stream.Stream<Batch<Data>, E | E2, R | R2> =>
    Stream.transformPull(draws, (upstream) =>
      Effect.sync(() => {
        let waiting: Array<Drawn<Data>> = []
        let ended = false
        const take = Effect.fnUntraced(function* (count: number): Effect.fn.Return<Array<Drawn<Data>>, E> {
          while (waiting.length < count && !ended) {
            const more = yield* upstream.pipe(Pull.catchDone(() => Effect.succeed<ReadonlyArray<Drawn<Data>>>([])))
            // A pull never gives an empty array.
            ended = more.length === 0
            waiting.push(...more)
          }
          const taken = waiting.slice(0, count)
          waiting = waiting.slice(count)
          return taken
        })
        return Effect.gen(function* () {
          const batch = accumulator<Data>(options)
          let next: number | undefined
          for (let wanted = batch.wanted(); wanted > 0; wanted = batch.wanted()) {
            const round = yield* take(wanted)
            const last = round.at(-1)
            if (last === undefined) break
            next = last.cursor + 1
            batch.drawn(round.length)
            const scored = yield* Stream.runCollect(pipeline(Stream.fromIterable(round)))
            for (const group of scored.toSorted((a, b) => (a.cursor ?? 0) - (b.cursor ?? 0))) batch.add(group)
          }
          if (batch.empty()) return yield* Cause.done()
          return [batch.finish(next)] as Arr.NonEmptyReadonlyArray<Batch<Data>>
        })
      })
    )
}

/**
 * The plain stage: takes groups in the order they arrive, and gives a batch when it is full or the bound on draws is
 * reached; at the end of the stream the last batch may be smaller.
 */
export const collect = (options: CollectOptions) => {
  check(options)
  return <Data, E, R>(groups: Stream.Stream<ScoredGroup<Data>, E, R>): Stream.Stream<Batch<Data>, E, R> =>
    Stream.mapAccum(
      groups,
      () => accumulator<Data>(options),
      (batch, group) => {
        batch.drawn(1)
        batch.add(group)
        return batch.wanted() > 0 ? [batch, []] : [accumulator<Data>(options), [batch.finish(undefined)]]
      },
      { onHalt: (batch) => (batch.empty() ? [] : [batch.finish(undefined)]) }
    )
}

export interface PackOptions extends Pack.PackOptions {
  /**
   * Leave truncated trajectories (stop reason `length` or `context`) out of the loss: DAPO's overlong filtering. They
   * still count in their group's baseline, and in B. Default false.
   */
  readonly maskTruncated?: boolean
  /** Index in the batch of the first group given, if these are a part of one. Default 0. */
  readonly firstGroup?: number
}

/** The policy's tokens, turn by turn. */
const targetsOf = ({ branches, promptLength, turns }: Trajectory.Trajectory): Pack.Targets => {
  const length = Trajectory.policyTokens({ turns })
  const [branch, position, token] = [new Uint32Array(length), new Uint32Array(length), new Uint32Array(length)]
  let n = 0
  for (const turn of turns) {
    const { tokens } = branches[turn.branch]!
    // The prompt is not part of a pack's branch 0.
    const offset = turn.branch === 0 ? promptLength : 0
    for (let at = turn.start; at < turn.end; at++) {
      branch[n] = turn.branch
      position[n] = at - offset
      token[n++] = tokens[at]!
    }
  }
  return { branch, position, token }
}

const sequenceOf = (
  trajectory: Trajectory.Trajectory,
  advantage: number | Float64Array,
  maskTruncated: boolean
): Pack.PackSequence => {
  const { branches, index, promptLength, turns } = trajectory
  const [first, ...forks] = branches
  const tokens = first.tokens.subarray(promptLength)
  if (maskTruncated && Trajectory.isTruncated(trajectory)) return { tokens, target: [], advantage: 0, index }
  return {
    tokens,
    forks,
    target: targetsOf(trajectory),
    advantage,
    samplerLogprobs: Trajectory.policyLogprobs(trajectory),
    index,
    temperatures: turns.map(({ temperature }) => temperature)
  }
}

/**
 * The batch as packs: targets are the tokens that the policy produced and nothing else, in numerator and denominator
 * (TAPO). A trajectory is one sequence, however many branches it has. Unscorable trajectories are left out whole: they
 * have no advantage and count nowhere.
 */
export const pack = (
  batch: { readonly groups: ReadonlyArray<AdvantagedGroup> },
  options: PackOptions
): ReadonlyArray<Pack.Pack> => {
  const { firstGroup = 0, maskTruncated = false, ...packing } = options
  return Pack.pack(
    batch.groups.map(({ advantages, trajectories }, g): Pack.PackGroup => {
      const first = trajectories[0]?.trajectory
      return {
        index: firstGroup + g,
        prompt: first === undefined ? new Uint32Array() : Trajectory.promptOf(first),
        sequences: trajectories.flatMap(({ reward, trajectory }, i) =>
          reward === undefined ? [] : [sequenceOf(trajectory, advantages[i]!, maskTruncated)]
        )
      }
    }),
    packing
  )
}
