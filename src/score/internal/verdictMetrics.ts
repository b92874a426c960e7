/** Costs and faults of verdicts. */
import type { UnscorableKind } from "../outcome.ts"
import type { ScoredGroup } from "./term.ts"

/**
 * Reports cost and faults of the verdicts on these groups, by verifier as `verifiers/{name}/...`. The counts are
 * `zeros`, `unscorable` and its parts `timeouts`, `crashes` and `errors`, and `retries`. `latency_p50` and
 * `latency_p95` are in seconds. `Batch.metrics` has the scores, under TRL's names.
 */
export const metrics = (groups: ReadonlyArray<ScoredGroup>): Record<string, number> => {
  const all = groups.flatMap(({ trajectories }) => trajectories)
  const out: Record<string, number> = {}
  for (const name of new Set(all.flatMap(({ outcomes }) => Object.keys(outcomes)))) {
    const outcomes = all.flatMap(({ outcomes }) => (Object.hasOwn(outcomes, name) ? [outcomes[name]!] : []))
    const timings = all.flatMap(({ timings }) => (timings?.[name] === undefined ? [] : [timings[name]]))
    const seconds = timings.map((timing) => timing.seconds).toSorted((a, b) => a - b)
    const failed = (...kinds: ReadonlyArray<UnscorableKind | undefined>) =>
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
