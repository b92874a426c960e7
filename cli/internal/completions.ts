/** One line of completions: `{ id?, task: { id, prompt?, data? }, completion }`, or flat as TRL writes them. */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { MessagesSchema } from "../../src/text/Conversation.ts"
import type { Prompt, Task } from "../../src/data/Task.ts"

export interface Completion {
  readonly id: string | undefined
  readonly task: Task
  readonly text: string
  readonly info: Schema.JsonObject
}

const Id = Schema.Union([Schema.String, Schema.Finite])
const PromptField = Schema.Union([Schema.String, MessagesSchema])
const Text = Schema.Union([Schema.String, MessagesSchema])
const Nested = Schema.Struct({
  id: Schema.optionalKey(Id),
  task: Schema.Struct({
    id: Id,
    prompt: Schema.optionalKey(PromptField),
    data: Schema.optionalKey(Schema.Unknown)
  }),
  completion: Text,
  info: Schema.optionalKey(Schema.JsonObject)
})
const Flat = Schema.Struct({
  id: Schema.optionalKey(Id),
  prompt: Schema.optionalKey(PromptField),
  completion: Text
})
const Row = Schema.Record(Schema.String, Schema.Unknown)

const decodeRow = Schema.decodeUnknownResult(Row)
const decodeNested = Schema.decodeUnknownResult(Nested)
const decodeFlat = Schema.decodeUnknownResult(Flat)

/** The policy's turns of a conversation, in order, with tool calls as models write them. */
const written = (completion: typeof Text.Type): string =>
  typeof completion === "string"
    ? completion
    : completion
        .filter(({ role }) => role === "assistant")
        .flatMap(({ content, tool_calls = [] }) => [
          ...(content === null || content === "" ? [] : [content]),
          ...tool_calls.map((call) => `<tool_call>${JSON.stringify(call.function)}</tool_call>`)
        ])
        .join("\n")

/**
 * Reads one line. In the flat form the task's data is the object itself without its completion, as in `Task.jsonl`, and
 * its id the line's when it has none.
 */
export const parseCompletion = (text: string, line: number): Completion | { readonly fault: string } => {
  let json: unknown
  try {
    json = JSON.parse(text)
  } catch (fault) {
    return { fault: `not JSON: ${fault instanceof Error ? fault.message.slice(0, 160) : ""}` }
  }
  const row = decodeRow(json)
  if (Result.isFailure(row) || Array.isArray(json)) return { fault: "not an object" }
  const { completion: _, ...data } = row.success
  const nested = typeof row.success["task"] === "object"
  if (nested) {
    const found = decodeNested(json)
    if (Result.isFailure(found)) return { fault: shorten(found.failure.message) }
    const { completion, id, info = {}, task } = found.success
    return {
      id: id === undefined ? undefined : String(id),
      task: { id: String(task.id), prompt: (task.prompt ?? "") as Prompt, data: task.data },
      text: written(completion),
      info
    }
  }
  const found = decodeFlat(json)
  if (Result.isFailure(found)) return { fault: shorten(found.failure.message) }
  const { completion, id, prompt = "" } = found.success
  return {
    id: id === undefined ? undefined : String(id),
    task: { id: id === undefined ? `line ${line}` : String(id), prompt: prompt as Prompt, data },
    text: written(completion),
    info: {}
  }
}

const shorten = (message: string): string => message.replaceAll(/\s+/g, " ").slice(0, 240)
