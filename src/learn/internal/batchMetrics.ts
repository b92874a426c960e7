import { deviationOrZero, least, mean, most } from "../../internal/statistics.ts"
import type { Batch } from "./batchTypes.ts"
import { isTruncated, policyTokens } from "../../rollout/Trajectory.ts"

/**
 * Metrics of a batch before any update, over all groups drawn for it, dropped ones included. TRL's names: `reward`,
 * `reward_std` (mean of the groups' deviations), `frac_reward_zero_std`, `completions/{mean,min,max}_length` and
 * `_terminated_length`, `completions/clipped_ratio`, `rewards/{verifier}/{mean,std}`. Beside them
 * `rewards/{verifier}/unscorable` (a count), `rewards/{verifier}/{metric}`, `env/{metric}`, `stop/{reason}` (shares), and
 * `batch/*`: groups `drawn` and `used`, of them `constant`, and what was dropped by reason. A metric without a value is
 * left out, never 0.
 */
export const metrics = (batch: Batch): Record<string, number> => {
  const groups = [...batch.groups, ...batch.unused]
  const scored = groups.flatMap(({ trajectories }) => trajectories)
  const columns = new Map<string, Array<number>>()
  const add = (name: string, value: number) => {
    const column = columns.get(name)
    if (column === undefined) columns.set(name, [value])
    else column.push(value)
  }
  const out: Record<string, number> = {}

  const rewards = scored.flatMap(({ reward }) => (reward === undefined ? [] : [reward]))
  const deviations = groups.flatMap(({ trajectories }) => {
    const own = trajectories.flatMap(({ reward }) => (reward === undefined ? [] : [reward]))
    return own.length === 0 ? [] : [deviationOrZero(own)]
  })
  if (rewards.length > 0) {
    out["reward"] = mean(rewards)
    out["reward_std"] = mean(deviations)
    out["frac_reward_zero_std"] = deviations.filter((std) => std < 1e-9).length / deviations.length
  }

  const unscorable: Record<string, number> = {}
  const verifiers = new Map<string, Array<number>>()
  for (const { metrics, outcomes, trajectory } of scored) {
    for (const [name, outcome] of Object.entries(outcomes)) {
      unscorable[name] ??= 0
      const scores = verifiers.get(name) ?? []
      if (outcome._tag === "Scored") scores.push(outcome.score)
      else unscorable[name]++
      verifiers.set(name, scores)
    }
    for (const [name, value] of Object.entries(metrics)) add(`rewards/${name}`, value)
    for (const [name, value] of Object.entries(trajectory.metrics)) add(`env/${name}`, value)
  }
  for (const [name, scores] of verifiers) {
    if (scores.length > 0) {
      out[`rewards/${name}/mean`] = mean(scores)
      out[`rewards/${name}/std`] = deviationOrZero(scores)
    }
    out[`rewards/${name}/unscorable`] = unscorable[name]!
  }
  for (const [name, values] of columns) out[name] = mean(values)

  if (scored.length > 0) {
    const lengths = scored.map(({ trajectory }) => policyTokens(trajectory))
    const terminated = lengths.filter((_, i) => !isTruncated(scored[i]!.trajectory))
    for (const [suffix, values] of [
      ["length", lengths],
      ["terminated_length", terminated]
    ] as const) {
      if (values.length === 0) continue
      out[`completions/mean_${suffix}`] = mean(values)
      out[`completions/min_${suffix}`] = least(values)
      out[`completions/max_${suffix}`] = most(values)
    }
    out["completions/clipped_ratio"] = 1 - terminated.length / lengths.length
    for (const { trajectory } of scored) {
      const key = `stop/${trajectory.stopReason}`
      out[key] = (out[key] ?? 0) + 1 / scored.length
    }
  }
  return {
    ...out,
    "batch/drawn": batch.drawn,
    "batch/used": batch.groups.length,
    "batch/constant": batch.constant,
    "batch/all_good": batch.dropped.allGood,
    "batch/all_bad": batch.dropped.allBad,
    "batch/unscorable": batch.dropped.unscorable,
    "batch/unscorable_trajectories": batch.dropped.unscorableTrajectories,
    "batch/failed_trajectories": batch.dropped.failedTrajectories
  }
}
