/**
 * Whether a server's log-probabilities are those before its temperature (`raw`) or after (`processed`): told by its answers
 * alone, since settings of the server decide it and no answer says so. One token is asked for at temperature 1 and at 2. The
 * normaliser of a distribution drops out of the difference of two tokens' log-probabilities, which the temperature divides.
 */
import type { Alternatives } from "./dialect.ts"

export type Meaning = "raw" | "processed"

export const PROBED = 2

// Of two tokens as likely as each other nothing can be told. Beyond this, rounding in 16 bits is small beside it.
const LEAST_DIFFERENCE = 0.2

/** Undefined where the two answers do not tell. */
export const meaningOf = (plain: Alternatives, tempered: Alternatives): Meaning | undefined => {
  const shared = [...plain.keys()].filter((token) => tempered.has(token))
  const by = shared.toSorted((a, b) => plain.get(a)! - plain.get(b)!)
  const [low, high] = [by[0], by.at(-1)]
  if (low === undefined || high === undefined) return undefined
  const difference = plain.get(high)! - plain.get(low)!
  if (!(difference >= LEAST_DIFFERENCE)) return undefined
  const share = (tempered.get(high)! - tempered.get(low)!) / difference
  if (Math.abs(share - 1) < 0.1) return "raw"
  return Math.abs(share - 1 / PROBED) < 0.1 ? "processed" : undefined
}
