/** Columns that a chat template reads in addition to messages, as in TRL's data sets. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { type Conversation, KwargsSchema, ToolsSchema } from "../../text/Conversation.ts"
import type { Place, Row } from "./jsonl.ts"
import type { TaskError } from "./TaskError.ts"

const decodeTools = Schema.decodeUnknownResult(ToolsSchema)
const decodeKwargs = Schema.decodeUnknownResult(KwargsSchema)
const KWARGS = "chat_template_kwargs"

export const templateColumns = Effect.fnUntraced(function* (
  row: Row,
  { decode }: Place,
  toolsField: string,
  remedy: string
): Effect.fn.Return<Omit<Conversation, "messages">, TaskError> {
  const tools = row[toolsField] ?? undefined
  const kwargs = row[KWARGS] ?? undefined
  return {
    ...(tools === undefined ? {} : { tools: yield* decode(decodeTools(tools), tools, toolsField, remedy) }),
    ...(kwargs === undefined
      ? {}
      : { chat_template_kwargs: yield* decode(decodeKwargs(kwargs), kwargs, KWARGS, "Give an object") })
  }
})
