import { spans } from "../../rollout/Trajectory.ts"
import type { VerifierFunction } from "../Verifier.ts"

/**
 * Makes a verifier of the environment's own rewards: the sum over the turns, 0 for a turn without one.
 *
 * Token scores put each turn's reward on its last token. A turn without tokens adds to the token before it.
 *
 * @example
 * ```ts
 * const reward = Reward.all({ game: Reward.environment(), brevity: Reward.weight(0.1, brevity) })
 * ```
 */
export const environment =
  (): VerifierFunction =>
  ({ trajectory }) => {
    const tokenScores: Array<number> = []
    let score = 0
    let placed = true
    for (const [turn, { end, start }] of spans(trajectory).entries()) {
      const { reward = 0 } = trajectory.turns[turn]!
      score += reward
      for (let token = start; token < end; token++) tokenScores.push(0)
      if (tokenScores.length > 0) tokenScores[tokenScores.length - 1]! += reward
      else if (reward !== 0) placed = false
    }
    return placed ? { score, tokenScores } : { score }
  }
