/**
 * Credit for each trajectory (or each of its policy tokens), from the rewards of its group or of the whole batch. An
 * {@link Advantage} is a pure function of a batch's groups. Unscorable trajectories are left out of every mean and
 * deviation and get 0. A group with a single scored trajectory has nothing to compare it with: it gets 0 from the
 * group-relative estimators (as in TRL and SkyRL; verl keeps the bare reward instead).
 *
 * Formulas, with r the rewards of a group, n its scored trajectories, std with n - 1 in the denominator:
 *
 * | name | advantage |
 * |---|---|
 * | `groupRelative` | (r - mean) / (std + 1e-4), or without the division, or by the deviation of the batch |
 * | `rloo` | r - mean of the others |
 * | `maxRL` | (r - mean) / (mean + 1e-6) |
 * | `opo` | r - sum(length r) / sum(length) |
 * | `passK` | only the best trajectory: (best - second best) / (std + 1e-6) |
 * | `gdpo` | each verifier normalised by itself, summed by weight, then normalised over the batch |
 * | `reinforcePlusPlus` | returns by token, whitened over all tokens of the batch |
 * | `tokenLevel` | reward-to-go by token minus the group's mean at that position |
 */
import * as Identity from "../data/Identity.ts"
import { deviation, mean } from "../internal/statistics.ts"
import type { ScoredGroup, ScoredTrajectory } from "../score/Reward.ts"
import { policyTokens, promptOf, spans, tokensOf } from "../rollout/Trajectory.ts"

export interface AdvantagedGroup<out Data = unknown> extends ScoredGroup<Data> {
  /** The advantage of each trajectory: a number for all its policy tokens, or one per policy token. 0 if unscorable. */
  readonly advantages: ReadonlyArray<number | Float64Array>
}

/** The groups that an estimator compares: each by itself, or all of the batch. */
export type Scope = "group" | "batch"

export interface Advantage {
  <Data>(groups: ReadonlyArray<ScoredGroup<Data>>): ReadonlyArray<AdvantagedGroup<Data>>
  /** Name and settings, which the record of a run keeps. Default: opaque, by the function's name. */
  readonly identity?: Identity.Identity
  /** Default `group`. */
  readonly scope?: Scope
}

/** The estimator with its name and settings. */
const named = (
  estimate: Advantage,
  name: string,
  settings: Readonly<Record<string, unknown>> = {},
  scope: Scope = "group"
): Advantage => Object.assign(estimate, { identity: Identity.make(name, settings), scope })

const rewardsOf = (group: ScoredGroup): ReadonlyArray<number> =>
  group.trajectories.flatMap(({ reward }) => (reward === undefined ? [] : [reward]))

/** An estimator by group: of the scored rewards to a function of each. Groups with fewer than two get 0. */
const byGroup =
  (
    estimate: (
      rewards: ReadonlyArray<number>,
      group: ScoredGroup,
      all: () => ReadonlyArray<number>
    ) => (reward: number) => number
  ): Advantage =>
  (groups) => {
    let every: ReadonlyArray<number> | undefined
    const all = () => (every ??= groups.flatMap(rewardsOf))
    return groups.map((group) => {
      const rewards = rewardsOf(group)
      const of = rewards.length < 2 ? () => 0 : estimate(rewards, group, all)
      return { ...group, advantages: group.trajectories.map(({ reward }) => (reward === undefined ? 0 : of(reward))) }
    })
  }

export interface GroupRelative {
  /**
   * `std`: by the group's deviation (GRPO, Shao et al. 2024). `none`: not at all (Dr.GRPO, Liu et al. 2025: no bias
   * towards questions that are nearly solved or nearly hopeless). `batch`: by the deviation of all rewards of the batch.
   */
  readonly scale?: "std" | "none" | "batch"
  /** Added to the deviation. Default 1e-4, as in TRL; verl has 1e-6. */
  readonly epsilon?: number
}

/**
 * GRPO's advantage and its variants.
 *
 * ```ts
 * Advantage.groupRelative({ scale: "none" })   // Dr.GRPO
 * ```
 */
export const groupRelative = ({ epsilon = 1e-4, scale = "std" }: GroupRelative = {}): Advantage =>
  named(
    byGroup((rewards, _, all) => {
      const center = mean(rewards)
      const divisor = scale === "none" ? 1 : deviation(scale === "std" ? rewards : all()) + epsilon
      return (reward) => (reward - center) / divisor
    }),
    "groupRelative",
    { scale, epsilon },
    scale === "batch" ? "batch" : "group"
  )

/** Leave-one-out baseline (Ahmadian et al. 2024): r minus the mean of the others, n / (n - 1) (r - mean). */
export const rloo = (): Advantage =>
  named(
    byGroup((rewards) => {
      const center = mean(rewards)
      const factor = rewards.length / (rewards.length - 1)
      return (reward) => factor * (reward - center)
    }),
    "rloo"
  )

/** MaxRL: (r - mean) / (mean + epsilon), for rewards from 0 up; a group without any reward gets 0. */
export const maxRL = ({ epsilon = 1e-6 }: { readonly epsilon?: number } = {}): Advantage =>
  named(
    byGroup((rewards) => {
      const center = mean(rewards)
      return (reward) => (reward - center) / (center + epsilon)
    }),
    "maxRL",
    { epsilon }
  )

/** OPO (Hao et al. 2025): the baseline of least variance under its assumptions, rewards weighted by length in tokens. */
export const opo = (): Advantage =>
  named(
    byGroup((_, group) => {
      let weighted = 0
      let total = 0
      for (const { reward, trajectory } of group.trajectories) {
        if (reward === undefined) continue
        const length = policyTokens(trajectory)
        weighted += length * reward
        total += length
      }
      const baseline = total === 0 ? 0 : weighted / total
      return (reward) => reward - baseline
    }),
    "opo"
  )

/** Pass@k (verl's `grpo_passk`): only the best trajectory is paid, by its lead over the second best. */
export const passK = ({ epsilon = 1e-6 }: { readonly epsilon?: number } = {}): Advantage =>
  named(
    byGroup((rewards) => {
      const best = Math.max(...rewards)
      const second = rewards.toSorted((a, b) => b - a)[1]!
      const lead = (best - second) / (deviation(rewards) + epsilon)
      // Two best trajectories lead by nothing.
      return (reward) => (reward === best ? lead : 0)
    }),
    "passK",
    { epsilon }
  )

export interface Gdpo {
  /** Weight of each verifier, by its name in the reward. */
  readonly weights: Readonly<Record<string, number>>
  /** Default 1e-4. */
  readonly epsilon?: number
}

/**
 * GDPO (Liu et al. 2026, TRL's `normalize_then_sum`): each verifier's scores are normalised within the group before they
 * are summed by weight, so that one of small variance is not drowned; the sums are then normalised over the batch. A
 * trajectory that one verifier could not score goes without that verifier's share.
 */
export const gdpo = ({ epsilon = 1e-4, weights }: Gdpo): Advantage => {
  const estimate: Advantage = (groups) => {
    const sums = groups.map((group) => {
      const sum = group.trajectories.map(({ reward }) => (reward === undefined ? undefined : 0))
      for (const [name, weight] of Object.entries(weights)) {
        const scores = group.trajectories.map(({ outcomes }, i) => {
          const outcome = sum[i] === undefined ? undefined : outcomes[name]
          return outcome?._tag === "Scored" ? outcome.score : undefined
        })
        const scored = scores.filter((score) => score !== undefined)
        if (scored.length < 2) continue
        const center = mean(scored)
        const divisor = deviation(scored) + epsilon
        scores.forEach((score, i) => {
          if (score !== undefined) sum[i]! += (weight * (score - center)) / divisor
        })
      }
      return sum
    })
    const all = sums.flat().filter((sum) => sum !== undefined)
    const center = mean(all)
    const divisor = deviation(all) + epsilon
    return groups.map((group, g) => ({
      ...group,
      advantages: sums[g]!.map((sum) => (sum === undefined || all.length < 2 ? 0 : (sum - center) / divisor))
    }))
  }
  return named(estimate, "gdpo", { weights, epsilon }, "batch")
}

/** Reward of each policy token: where it was earned if that is known, else all of it on the last one. */
const rewardByToken = ({ reward, tokenRewards, trajectory }: ScoredTrajectory): Float64Array => {
  if (tokenRewards !== undefined) return tokenRewards
  const byToken = new Float64Array(policyTokens(trajectory))
  if (byToken.length > 0) byToken[byToken.length - 1] = reward ?? 0
  return byToken
}

/** Discounted sum of what follows: R_t = r_t + gamma R_(t+1). Tokens of the environment do not count as steps. */
const rewardToGo = (rewards: Float64Array, gamma: number): Float64Array => {
  const returns = new Float64Array(rewards.length)
  let next = 0
  for (let t = rewards.length - 1; t >= 0; t--) returns[t] = next = rewards[t]! + gamma * next
  return returns
}

const returnsOf = (groups: ReadonlyArray<ScoredGroup>, gamma: number): Array<Array<Float64Array | undefined>> =>
  groups.map((group) =>
    group.trajectories.map((scored) =>
      scored.reward === undefined ? undefined : rewardToGo(rewardByToken(scored), gamma)
    )
  )

export interface ReinforcePlusPlus {
  /** Default 1. */
  readonly gamma?: number
  /** Subtract the group's mean reward first, instead of discounting (REINFORCE++-baseline). Default false. */
  readonly baseline?: boolean
}

/** REINFORCE++ (Hu 2025): returns by token, whitened with mean and deviation over all policy tokens of the batch. */
export const reinforcePlusPlus = ({ baseline = false, gamma = 1 }: ReinforcePlusPlus = {}): Advantage => {
  const estimate: Advantage = (groups) => {
    const returns = baseline
      ? groups.map((group) => {
          const rewards = rewardsOf(group)
          // A lone reward is kept, as in verl: the batch is its baseline.
          const center = rewards.length < 2 ? 0 : mean(rewards)
          return group.trajectories.map(({ reward, trajectory }) =>
            reward === undefined ? undefined : new Float64Array(policyTokens(trajectory)).fill(reward - center)
          )
        })
      : returnsOf(groups, gamma)
    let count = 0
    let sum = 0
    for (const row of returns.flat()) for (const value of row ?? []) sum += (count++, value)
    const center = sum / count
    let squares = 0
    for (const row of returns.flat()) for (const value of row ?? []) squares += (value - center) ** 2
    const factor = count < 2 ? 0 : 1 / Math.sqrt(squares / (count - 1) + 1e-8)
    return groups.map((group, g) => ({
      ...group,
      advantages: returns[g]!.map((row) => (row === undefined ? 0 : row.map((value) => (value - center) * factor)))
    }))
  }
  return named(estimate, "reinforcePlusPlus", { baseline, gamma }, "batch")
}

export interface TokenLevel {
  /** Discount per policy token. Default 1. */
  readonly gamma?: number
  /**
   * The baseline of the reward-to-go at token t: the mean over the group at the same count of policy tokens
   * (`position`; a trajectory that has ended is worth 0 there), or over the trajectories that agree with it in every
   * token before t (`prefix`; if there is no other, the position's). Default `position`.
   */
  readonly baseline?: "position" | "prefix"
  /**
   * `std`: divided by the deviation of the group's rewards. `mean`: by the baseline itself, which is MaxRL token by token:
   * with `gamma: 0` and the `prefix` baseline its gradient is, for large groups, that of the log-probability that the
   * token is right, so rare successes weigh as much as in supervised learning and the policy does not settle for the
   * most frequent token. For rewards from 0 up. Default `none`.
   */
  readonly scale?: "std" | "mean" | "none"
  /** Default 1e-4. */
  readonly epsilon?: number
}

/**
 * Credit by token: the reward still to come at each policy token, minus what the group had still to come there. It is
 * this package's own: a critic-free form of reward-to-go with a time-dependent baseline (Williams 1992; Greensmith et
 * al. 2004). A token is not paid for what was earned before it, so a dense reward, such as the share of an answer that
 * is right from the start, teaches the token that went wrong and not the ones before it. Needs verifiers that give
 * `tokenScores`; if they do not, the whole reward sits on the last token and this is `groupRelative` without scale
 * for groups of equal length.
 */
export const tokenLevel = (options: TokenLevel = {}): Advantage => {
  const { baseline = "position", epsilon = 1e-4, gamma = 1, scale = "none" } = options
  const estimate: Advantage = (groups) => {
    const returns = returnsOf(groups, gamma)
    return groups.map((group, g) => {
      const rows = returns[g]!
      const count = rows.filter((row) => row !== undefined).length
      if (count < 2) return { ...group, advantages: group.trajectories.map(() => 0) }
      const common = scale === "std" ? deviation(rewardsOf(group)) + epsilon : 1
      const longest = Math.max(...rows.map((row) => row?.length ?? 0))
      const byPosition = new Float64Array(longest)
      for (const row of rows) row?.forEach((value, t) => (byPosition[t]! += value / count))
      const byPrefix = baseline === "prefix" ? prefixMeans(group, rows) : undefined
      const advantages = rows.map((row, i) =>
        row === undefined
          ? 0
          : row.map((value, t) => {
              const base = byPrefix?.[i]?.[t] ?? byPosition[t]!
              return (value - base) / (scale === "mean" ? base + epsilon : common)
            })
      )
      return { ...group, advantages }
    })
  }
  return named(estimate, "tokenLevel", { baseline, scale, gamma, epsilon })
}

/** Mean return, at each policy token, over the trajectories with the same tokens before it; undefined where alone. */
const prefixMeans = (
  group: ScoredGroup,
  returns: ReadonlyArray<Float64Array | undefined>
): ReadonlyArray<ReadonlyArray<number | undefined>> => {
  // Trajectories fall into classes of equal prefix; each class is named by the number of the token that made it.
  const classes = new Map<string, number>()
  const members = new Map<number, { sum: number; count: number }>()
  // A negative class is a prefix of the prompt, which the group shares: so many tokens are left of it.
  const longer = (prefix: number, token: number, prompt: Uint32Array): number => {
    if (prefix < 0 && prompt.at(prefix) === token) return prefix + 1
    const key = `${prefix} ${token}`
    const next = classes.get(key) ?? classes.size + 1
    classes.set(key, next)
    return next
  }
  const prefixes = group.trajectories.map(({ trajectory }, i) => {
    const row = returns[i]
    const own: Array<number> = []
    if (row === undefined) return own
    const prompt = promptOf(trajectory)
    const reached = new Map<number, { position: number; prefix: number }>()
    for (const { branch, end, start } of spans(trajectory)) {
      const tokens = tokensOf(trajectory, branch)
      let { position, prefix } = reached.get(branch) ?? { position: 0, prefix: -prompt.length }
      for (; position < start; position++) prefix = longer(prefix, tokens[position]!, prompt)
      for (; position < end; position++) {
        const member = members.get(prefix) ?? { sum: 0, count: 0 }
        members.set(prefix, { sum: member.sum + row[own.length]!, count: member.count + 1 })
        own.push(prefix)
        prefix = longer(prefix, tokens[position]!, prompt)
      }
      reached.set(branch, { position, prefix })
    }
    return own
  })
  return prefixes.map((own) =>
    own.map((prefix) => {
      const { count, sum } = members.get(prefix)!
      return count < 2 ? undefined : sum / count
    })
  )
}
