/** Converts sequences to rows that tokens are drawn from, and results to the sequences' tokens. */
import { chooseFiltered } from "./filteredDraw.ts"
import type { Drawing, Outcome } from "./samplerRun.ts"
import type { Sequence } from "./sequence.ts"

/** Gives a sample a token, or (undefined) reports numbers that are not finite. */
export type Accept = (sequence: Sequence, token: number | undefined, logprob: number) => void

/** The draw of the token at a position, from a row of the run. */
export const drawingOf = ({ group, sample }: Sequence, row: number, position: number): Drawing => ({
  row,
  inverseTemperature: group.inverseTemperature,
  uniform: group.uniform(sample, position),
  greedy: group.request.temperature === 0
})

/** Accepts the token of draw number `index`. */
export const acceptDraw = (
  outcome: Outcome,
  index: number,
  draw: Drawing,
  sequence: Sequence,
  accept: Accept
): void => {
  const { filtered, request } = sequence.group
  let [token, logprob] = [outcome.tokens[index]!, outcome.logprobs[index]!]
  if (filtered) {
    const vocabulary = outcome.logits!.length / outcome.logprobs.length
    const logits = outcome.logits!.subarray(index * vocabulary, (index + 1) * vocabulary)
    // The logits are tempered already.
    ;({ logprob, token } = chooseFiltered(logits, { ...request, temperature: 1 }, draw.uniform))
  }
  accept(sequence, Number.isFinite(logprob) ? token : undefined, logprob)
}
