/** Dense reward for text with one right form: how far from its start the policy's text agrees with the answer. */
import type { Tokenizer } from "../../src/text/Tokenizer.ts"
import { policyIds, type Trajectory } from "../../src/rollout/Trajectory.ts"
import type { Scored } from "../../src/score/Verifier.ts"

/**
 * Scores the share of the answer that the policy produced from the start without a mistake, in [0, 1]. It counts
 * characters, and the end if `end` is set. Token scores are what each policy token added to it. Tokens are compared by
 * the text that each stands for, so any tokenizer works.
 */
export const score = (
  trajectory: Trajectory,
  tokenizer: Tokenizer,
  answer: string,
  options: { readonly end: boolean }
): Omit<Scored, "_tag"> => {
  const parts = answer.length + (options.end ? 1 : 0)
  const tokenScores: Array<number> = []
  let matched = 0
  let right = true
  policyIds(trajectory).forEach((token) => {
    const before = matched
    if (right && token === tokenizer.endOfText) {
      if (options.end && matched === answer.length) matched++
      right = false
    } else if (right) {
      const text = tokenizer.decode([token])
      let agreed = 0
      while (agreed < text.length && matched < answer.length && text[agreed] === answer[matched]) {
        agreed++
        matched++
      }
      right = text.length > 0 && agreed === text.length
    }
    tokenScores.push((matched - before) / parts)
  })
  return {
    score: matched / parts,
    tokenScores,
    ...(matched === parts ? {} : { reason: `${matched} of ${parts} matched, expected ${JSON.stringify(answer)}` })
  }
}
