import type { Task } from "../../src/data/Task.ts"
import { Producer, type Trajectory } from "../../src/rollout/Trajectory.ts"

/**
 * The trajectory of a text that was not sampled here, for judging it: one policy token stands for all of it.
 *
 * @example
 * ```ts
 * const verdict = await verifier({ task, trajectory: textTrajectory("#### 42", task), signal: AbortSignal.timeout(5000) })
 * ```
 */
export const textTrajectory = (
  text: string,
  task: Task<any>,
  index = 0,
  info: Readonly<Record<string, unknown>> = {}
): Trajectory => ({
  taskId: task.id,
  index,
  tokens: new Uint32Array(1),
  producer: Uint8Array.of(Producer.Policy),
  logprobs: new Float32Array(1),
  promptLength: 0,
  stopReason: "stop",
  text,
  turns: [text],
  info,
  metrics: {},
  seconds: { sample: 0, environment: 0 },
  policyVersion: 0
})
