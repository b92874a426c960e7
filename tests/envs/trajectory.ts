import { promptTokens } from "../../src/rollout/Rollout.ts"
import type { Task } from "../../src/data/Task.ts"
import type { Tokenizer } from "../../src/text/Tokenizer.ts"
import { Producer, type Trajectory } from "../../src/rollout/Trajectory.ts"

/** The trajectory of one turn in which the policy wrote `text`, and its end unless `end` is false. */
export const wrote = (
  tokenizer: Tokenizer,
  task: Task,
  text: string,
  options: { readonly end?: boolean; readonly index?: number } = {}
): Trajectory => {
  const prompt = promptTokens(task.prompt, tokenizer)
  const end = options.end ?? true
  const tokens = Uint32Array.from([...prompt, ...tokenizer.encode(text), ...(end ? [tokenizer.endOfText] : [])])
  return {
    taskId: task.id,
    index: options.index ?? 0,
    tokens,
    producer: Uint8Array.from(tokens, (_, position) =>
      position < prompt.length ? Producer.Template : Producer.Policy
    ),
    logprobs: new Float32Array(tokens.length),
    promptLength: prompt.length,
    stopReason: end ? "stop" : "length",
    text,
    turns: [text],
    info: {},
    metrics: {},
    seconds: { sample: 0, environment: 0 },
    policyVersion: 0
  }
}
