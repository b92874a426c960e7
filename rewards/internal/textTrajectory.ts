import type { Task } from "../../src/Task.ts"
import { Producer, type Trajectory } from "../../src/Trajectory.ts"

/** The trajectory of a text that was not sampled here: one policy token stands for all of it. */
export const textTrajectory = (
  text: string,
  task: Task<any>,
  index: number,
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
