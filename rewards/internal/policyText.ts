/** The text that is judged: the policy's own turns, without its environment's. */
import type { Trajectory } from "../../src/rollout/Trajectory.ts"

/** The answer: what the policy wrote last. */
export const lastTurn = ({ turns }: Trajectory): string => turns.at(-1) ?? ""

/** All that the policy wrote, a turn a line. */
export const policyText = ({ turns }: Trajectory): string => turns.join("\n")
