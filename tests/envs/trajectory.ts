import { promptTokens } from "../../src/rollout/Rollout.ts"
import type { Task } from "../../src/data/Task.ts"
import type { Tokenizer } from "../../src/text/Tokenizer.ts"
import { ofText, type Trajectory } from "../../src/rollout/Trajectory.ts"

/** The trajectory of one turn in which the policy wrote `text`, and its end unless `end` is false. */
export const wrote = (
  tokenizer: Tokenizer,
  task: Task,
  text: string,
  options: { readonly end?: boolean; readonly index?: number } = {}
): Trajectory => {
  const end = options.end ?? true
  return ofText(text, task, {
    prompt: promptTokens(task.prompt, tokenizer),
    tokens: Uint32Array.from([...tokenizer.encode(text), ...(end ? [tokenizer.endOfText] : [])]),
    stopReason: end ? "stop" : "length",
    ...(options.index === undefined ? {} : { index: options.index })
  })
}
