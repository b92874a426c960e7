/**
 * Tells whether a server's log-probabilities are those before its temperature (`raw`) or after (`processed`).
 *
 * The server's settings decide it, and no answer states it. So one token is requested at temperature 1 and at 2. The
 * normaliser cancels in the difference of two tokens' log-probabilities, which the temperature divides.
 */
import type { Alternatives } from "./dialect.ts"

export type Meaning = "raw" | "processed"

export const PROBED = 2

// Two equally likely tokens tell nothing. From this difference on, 16-bit rounding is small in comparison.
const LEAST_DIFFERENCE = 0.2

/** Returns undefined if the two answers are inconclusive. */
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
