/**
 * DAPO's soft penalty for completions that come near the length limit (Yu et al. 2025), as TRL computes it: with
 * `maxLength` L and `buffer` C, nothing up to L - C tokens, then linear down to -1 at L, and -1 beyond. It shapes the
 * reward, so it is a term of it; leaving truncated trajectories out of the loss altogether is `maskTruncated` of
 * `Batch.pack`.
 *
 * ```ts
 * Reward.all({ result: verifier, overlong: Overlong.verifier({ maxLength: 512, buffer: 128 }) })
 * ```
 */
import { policyTokens } from "../rollout/Trajectory.ts"
import type { VerifierInput } from "./Verifier.ts"

export interface Overlong {
  /** Tokens at which the penalty is full. */
  readonly maxLength: number
  /** Tokens before that over which it grows. */
  readonly buffer: number
}

/** Penalty, 0 to -1, of a completion of `length` policy tokens. */
export const penalty = ({ buffer, maxLength }: Overlong, length: number): number => {
  if (length <= maxLength - buffer) return 0
  return length <= maxLength ? (maxLength - buffer - length) / buffer : -1
}

/** The penalty as a verifier, to be one term of a reward. */
export const verifier =
  (options: Overlong) =>
  ({ trajectory }: VerifierInput): number =>
    penalty(options, policyTokens(trajectory))
