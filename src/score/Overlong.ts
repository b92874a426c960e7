/**
 * DAPO's soft penalty for completions near the length limit (Yu et al. 2025). It equals TRL's.
 *
 * With `maxLength` L and `buffer` C the penalty is 0 up to L - C tokens, then linear down to -1 at L, and -1 beyond. It
 * shapes the reward, so it is a term of the reward. To leave truncated trajectories out of the loss, use
 * `maskTruncated` of `Batch.pack`.
 *
 * ```ts
 * Reward.all({ result: verifier, overlong: Overlong.verifier({ maxLength: 512, buffer: 128 }) })
 * ```
 */
import { policyTokens } from "../rollout/Trajectory.ts"
import type { VerifierInput } from "./Verifier.ts"

export interface Overlong {
  /** Tokens at which the penalty reaches -1. */
  readonly maxLength: number
  /** Tokens before `maxLength` over which the penalty grows. */
  readonly buffer: number
}

/** Returns the penalty, 0 to -1, of a completion of `length` policy tokens. */
export const penalty = ({ buffer, maxLength }: Overlong, length: number): number => {
  if (length <= maxLength - buffer) return 0
  return length <= maxLength ? (maxLength - buffer - length) / buffer : -1
}

/** Makes a verifier of the penalty, for use as a term of a reward. */
export const verifier =
  (options: Overlong) =>
  ({ trajectory }: VerifierInput): number =>
    penalty(options, policyTokens(trajectory))
