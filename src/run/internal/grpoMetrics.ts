/** Metrics of a step of group-relative optimisation. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Batch from "../../learn/Batch.ts"
import type { StepReport } from "../../learn/Update.ts"
import * as Reward from "../../score/Reward.ts"
import { VerifierPool } from "../../score/VerifierPool.ts"
import type { Stepped } from "./trainOptions.ts"

/** The metrics and the record of a step. */
export const measured = (batch: Batch.Batch, report: StepReport): Stepped => {
  const groups = [...batch.groups, ...batch.unused]
  const metrics: Record<string, number> = {
    ...Batch.metrics(batch),
    ...Reward.metrics(groups),
    ...report.metrics,
    loss: report.loss,
    grad_norm: report.gradNorm,
    learning_rate: report.learningRate,
    entropy: report.entropy,
    skipped_updates: report.skipped,
    ...busy(groups)
  }
  const { total: _, ...seconds } = report.seconds
  const shown = { reward: metrics["reward"] ?? Number.NaN, entropy: report.entropy }
  return { metrics, tokens: report.tokens.forward, groups, seconds, shown }
}

/** Seconds of work that overlaps, added up over trajectories. */
const busy = (groups: ReadonlyArray<Reward.ScoredGroup>): Record<string, number> => {
  const all = groups.flatMap(({ trajectories }) => trajectories)
  const sum = (seconds: (scored: Reward.ScoredTrajectory) => number) =>
    all.reduce((total, one) => total + seconds(one), 0)
  return {
    "busy_s/sample": sum(({ trajectory }) => trajectory.seconds.sample),
    "busy_s/environment": sum(({ trajectory }) => trajectory.seconds.environment),
    "busy_s/verifiers": sum(({ timings = {} }) => Object.values(timings).reduce((own, { seconds }) => own + seconds, 0))
  }
}

/** Metrics of the pool that the run's verifiers share, if there is one. */
export const poolMetrics = Effect.serviceOption(VerifierPool).pipe(
  Effect.flatMap(
    Option.match({
      onNone: () => Effect.succeed<Readonly<{ [name: string]: number }>>({}),
      onSome: (pool) => pool.metrics
    })
  )
)
