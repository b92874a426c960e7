/**
 * Estimators of KL(policy || reference) from the log-probabilities of sampled tokens, d = logprob - reference
 * (Schulman, "Approximating KL divergence", 2020). They differ in value and in gradient: in expectation over the
 * policy's own samples only `k2` has the gradient of the divergence, `k1` has none at all and `k3` that of the
 * reversed divergence, which is what `straightThrough` is for.
 */

/** `k1` = d, `abs` = |d|, `k2` = d^2 / 2, `k3` = exp(-d) + d - 1. */
export type KlEstimator = "k1" | "abs" | "k2" | "k3"

/** Value of the estimator for d = logprob - reference logprob, in nats. */
export const value = (estimator: KlEstimator, d: number): number => {
  switch (estimator) {
    case "k1":
      return d
    case "abs":
      return Math.abs(d)
    case "k2":
      return 0.5 * d * d
    case "k3":
      // exp(-d) - 1 loses every digit for small d; expm1 keeps them, and d near 0 is the normal case.
      return Math.expm1(-d) + d
  }
}

/** d value / d logprob. */
export const gradient = (estimator: KlEstimator, d: number): number => {
  switch (estimator) {
    case "k1":
      return 1
    case "abs":
      return Math.sign(d)
    case "k2":
      return d
    case "k3":
      return -Math.expm1(-d)
  }
}
