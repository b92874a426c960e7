/** What is judged: the policy's own words. What its environment said is nobody's answer. */
import type { Trajectory } from "../../src/rollout/Trajectory.ts"

/** The answer: what the policy wrote last. */
export const lastTurn = ({ turns }: Trajectory): string => turns.at(-1) ?? ""

/** All that the policy wrote, a turn a line. */
export const policyText = ({ turns }: Trajectory): string => turns.join("\n")
