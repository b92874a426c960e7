/**
 * The metrics of a run: what each name in `metrics.jsonl` means, and its unit. A name in braces stands for what the run
 * brings: a verifier, an environment's own metric, a reason.
 */

export interface Metric {
  /** As in `metrics.jsonl`; `{...}` stands for one or more parts of a name. */
  readonly name: string
  readonly unit: Unit
  readonly meaning: string
}

export type Unit = "steps" | "epochs" | "tokens" | "nats" | "s" | "count" | "share" | "ratio" | "reward" | "any"

const metric = (name: string, unit: Unit, meaning: string): Metric => ({ name, unit, meaning })

const loop: ReadonlyArray<Metric> = [
  metric("step", "steps", "steps done"),
  metric("epoch", "epochs", "passes over the demonstrations"),
  metric("num_tokens", "tokens", "tokens through the model since the run began"),
  metric("step_time", "s", "wall time since the former step's metrics; the sum of `timing_s/*`"),
  metric("timing_s/{phase}", "s", "wall time of the training fiber in one phase; phases do not overlap"),
  metric("busy_s/sample", "s", "time in the sampler, added up over trajectories that overlap"),
  metric("busy_s/environment", "s", "time in environments, added up over trajectories that overlap"),
  metric("busy_s/verifiers", "s", "time of the last verdicts, added up over trajectories that overlap"),
  metric("eval_reward", "reward", "mean reward of the held-out tasks"),
  metric("eval_accuracy", "share", "held-out tasks that are right"),
  metric("eval_loss", "nats", "mean loss per target of the held-out demonstrations")
]

const update: ReadonlyArray<Metric> = [
  metric("loss", "any", "the loss; mean over several updates of a batch"),
  metric("grad_norm", "any", "norm of the gradient before clipping; mean over updates"),
  metric("learning_rate", "any", "learning rate of the step"),
  metric("entropy", "nats", "mean entropy of the policy at its tokens"),
  metric("skipped_updates", "count", "updates whose loss or gradient was not finite"),
  metric("policy_loss", "any", "the loss without its added terms"),
  metric("clip_ratio/{side}", "share", "tokens whose ratio was clipped, by side"),
  metric("cispo_clip_ratio", "share", "tokens whose weight CISPO clipped"),
  metric("is_masked", "share", "tokens that DPPO masked"),
  metric("kl", "nats", "mean divergence from the reference"),
  metric("nll", "nats", "mean negative log-likelihood of the targets"),
  metric("sampling/sampling_logp_difference/mean", "nats", "mean distance between sampler and policy"),
  metric("sampling/sampling_logp_difference/max", "nats", "largest distance between sampler and policy"),
  metric("sampling/importance_sampling_ratio/min", "ratio", "smallest probability ratio of policy and sampler"),
  metric("sampling/importance_sampling_ratio/mean", "ratio", "mean probability ratio of policy and sampler"),
  metric("sampling/importance_sampling_ratio/max", "ratio", "largest probability ratio of policy and sampler"),
  metric("sampling/kl_v1", "nats", "mean of sampler minus policy"),
  metric("sampling/kl_v2", "nats", "mean of half the squared distance"),
  metric("sampling/correction_share", "share", "tokens that the importance-sampling correction changed"),
  metric("update/recorded_share", "share", "forwards taken from the sampler's activations")
]

const batch: ReadonlyArray<Metric> = [
  metric("reward", "reward", "mean reward of the trajectories"),
  metric("reward_std", "reward", "mean of the groups' standard deviations"),
  metric("frac_reward_zero_std", "share", "groups whose rewards are all the same"),
  metric("rewards/{verifier}/mean", "reward", "mean score of a verifier"),
  metric("rewards/{verifier}/std", "reward", "standard deviation of a verifier's scores"),
  metric("rewards/{verifier}/unscorable", "count", "verdicts of a verifier without a score"),
  metric("rewards/{verifier}/{metric}", "any", "mean of what a verifier measured besides its score"),
  metric("env/{metric}", "any", "mean of what the environment measured"),
  metric("stop/{reason}", "share", "trajectories that ended for this reason"),
  ...["length", "terminated_length"].flatMap((length) => {
    const which = length === "length" ? "all trajectories" : "trajectories that no limit cut off"
    return [
      metric(`completions/mean_${length}`, "tokens", `mean policy tokens of ${which}`),
      metric(`completions/min_${length}`, "tokens", `least policy tokens of ${which}`),
      metric(`completions/max_${length}`, "tokens", `most policy tokens of ${which}`)
    ]
  }),
  metric("completions/clipped_ratio", "share", "trajectories that a limit cut off"),
  metric("batch/drawn", "count", "groups drawn for the batch"),
  metric("batch/used", "count", "groups trained on"),
  metric("batch/constant", "count", "groups trained on whose rewards are all the same"),
  metric("batch/all_good", "count", "groups left out because every reward is the same and good"),
  metric("batch/all_bad", "count", "groups left out because every reward is the same and not good"),
  metric("batch/unscorable", "count", "groups left out because no trajectory has a reward"),
  metric("batch/unscorable_trajectories", "count", "trajectories without a reward"),
  metric("batch/failed_trajectories", "count", "trajectories that their environment lost")
]

const verifiers: ReadonlyArray<Metric> = [
  metric("verifiers/{verifier}/zeros", "count", "scores of 0"),
  metric("verifiers/{verifier}/unscorable", "count", "verdicts without a score"),
  metric("verifiers/{verifier}/timeouts", "count", "verdicts missing because the deadline passed"),
  metric("verifiers/{verifier}/crashes", "count", "verdicts missing because the worker died"),
  metric("verifiers/{verifier}/errors", "count", "verdicts missing because the verifier failed"),
  metric("verifiers/{verifier}/retries", "count", "verdicts asked for again"),
  metric("verifiers/{verifier}/latency_p50", "s", "median time of a verdict"),
  metric("verifiers/{verifier}/latency_p95", "s", "95th percentile of the time of a verdict"),
  metric("verifiers/pool/{count}", "count", "calls, faults and restarts of the verifier pool"),
  metric("verifiers/pool/latency_p{percentile}", "s", "time of a call in the verifier pool"),
  metric("verifiers/pool/wait_p{percentile}", "s", "time until a worker of the verifier pool was free")
]

/** All metrics that `Grpo.train` and `Sft.train` write. */
export const all: ReadonlyArray<Metric> = [...loop, ...update, ...batch, ...verifiers]

const patterns = all.map((metric) => {
  const parts = metric.name.split(/\{\w+\}/).map((part) => part.replaceAll(/[.*+?^$()|[\]\\]/g, "\\$&"))
  return { metric, exact: parts.length === 1, pattern: new RegExp(`^${parts.join(".+")}$`) }
})

/**
 * The meaning of a name in `metrics.jsonl`; undefined for one of your own.
 *
 * @example
 * ```ts
 * Metrics.find("rewards/schema/mean")?.unit   // "reward"
 * ```
 */
export const find = (name: string): Metric | undefined =>
  (
    patterns.find(({ exact, metric }) => exact && metric.name === name) ??
    patterns.find(({ pattern }) => pattern.test(name))
  )?.metric
