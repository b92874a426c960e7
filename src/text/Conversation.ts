/**
 * Conversations in the form of chat models, Hugging Face templates and TRL's data sets.
 *
 * A conversation has messages with roles, calls of tools, and the definitions of the tools.
 */
import * as Schema from "effect/Schema"
import * as SchemaTransformation from "effect/SchemaTransformation"

/** A call that the assistant made. `arguments` is an object or its JSON text, as the template requires. */
export interface ToolCall {
  readonly id?: string
  readonly type?: "function"
  readonly function: { readonly name: string; readonly arguments: Readonly<Record<string, unknown>> | string }
}

/** One turn of a conversation. */
export interface Message {
  readonly role: "system" | "user" | "assistant" | "tool"
  /** `null` if the assistant only called tools: some templates distinguish it from an empty text. */
  readonly content: string | null
  /** The tool that answers, in a `tool` message. */
  readonly name?: string
  readonly tool_calls?: ReadonlyArray<ToolCall>
  /** The call that a `tool` message answers. */
  readonly tool_call_id?: string
  /** The reasoning before the answer, if the data keeps it apart. */
  readonly reasoning_content?: string
}

/** A JSON-schema function definition as Hugging Face takes them: `{ type: "function", function: { name, parameters } }`. */
export type ToolDefinition = Readonly<Record<string, unknown>>

/** Messages, and the tools that the template describes to the model. */
export interface Conversation {
  readonly messages: ReadonlyArray<Message>
  readonly tools?: ReadonlyArray<ToolDefinition>
  /** Further variables of the template, for example `{ enable_thinking: false }`. The name is that of TRL's column. */
  readonly chat_template_kwargs?: Readonly<Record<string, unknown>>
}

/** Text, a conversation, or token ids that are used as they are. */
export type Prompt = string | ReadonlyArray<Message> | Conversation | Uint32Array

/** Options of a chat template besides the messages. */
export interface RenderOptions {
  /** Function definitions as JSON Schema, in the form that Hugging Face's chat templates take. */
  readonly tools?: ReadonlyArray<object>
  /**
   * Whether control tokens spelled in messages and tools become those tokens, as in Hugging Face. Default false: only
   * those that the template writes do. A conversation without such texts gives the same tokens either way.
   */
  readonly specialTokens?: boolean
  /** Further variables of the template, for example `{ enable_thinking: false }`. */
  readonly variables?: Readonly<Record<string, unknown>>
}

const Role = Schema.Literals(["system", "user", "assistant", "tool"])
const Arguments = Schema.Union([Schema.String, Schema.Record(Schema.String, Schema.Unknown)])

const ToolCallJson = Schema.Struct({
  id: Schema.optionalKey(Schema.NullOr(Schema.String)),
  type: Schema.optionalKey(Schema.NullOr(Schema.Literal("function"))),
  function: Schema.Struct({ name: Schema.String, arguments: Arguments })
})

// Data sets that were stored with Arrow have `null` for every key that only other lines use.
const MessageJson = Schema.Struct({
  role: Role,
  content: Schema.optionalKey(Schema.NullOr(Schema.String)),
  name: Schema.optionalKey(Schema.NullOr(Schema.String)),
  tool_calls: Schema.optionalKey(Schema.NullOr(Schema.Array(ToolCallJson))),
  tool_call_id: Schema.optionalKey(Schema.NullOr(Schema.String)),
  reasoning_content: Schema.optionalKey(Schema.NullOr(Schema.String))
}).check(
  Schema.makeFilter(({ content, role, tool_calls }) =>
    typeof content === "string" || (role === "assistant" && (tool_calls?.length ?? 0) > 0)
      ? undefined
      : "a message needs content, text that may be empty; only an assistant's message with tool_calls may go without"
  )
)

const ToolCallType = Schema.Struct({
  id: Schema.optionalKey(Schema.String),
  type: Schema.optionalKey(Schema.Literal("function")),
  function: Schema.Struct({ name: Schema.String, arguments: Arguments })
})

const MessageType = Schema.Struct({
  role: Role,
  content: Schema.NullOr(Schema.String),
  name: Schema.optionalKey(Schema.String),
  tool_calls: Schema.optionalKey(Schema.Array(ToolCallType)),
  tool_call_id: Schema.optionalKey(Schema.String),
  reasoning_content: Schema.optionalKey(Schema.String)
})

const message = ({
  content,
  name,
  reasoning_content,
  role,
  tool_call_id,
  tool_calls
}: typeof MessageJson.Type): Message => ({
  role,
  content: content ?? null,
  ...(typeof name === "string" ? { name } : {}),
  ...(tool_calls !== undefined && tool_calls !== null && tool_calls.length > 0
    ? {
        tool_calls: tool_calls.map((call) => ({
          ...(typeof call.id === "string" ? { id: call.id } : {}),
          ...(call.type === "function" ? { type: call.type } : {}),
          function: call.function
        }))
      }
    : {}),
  ...(typeof tool_call_id === "string" ? { tool_call_id } : {}),
  ...(typeof reasoning_content === "string" ? { reasoning_content } : {})
})

/** Decodes a message of a data set; a `null` field counts as absent. */
export const MessageSchema = MessageJson.pipe(
  Schema.decodeTo(
    MessageType,
    SchemaTransformation.transform<Message, typeof MessageJson.Type>({ decode: message, encode: (decoded) => decoded })
  )
)

/** Decodes a list of messages that is not empty. */
export const MessagesSchema = Schema.Array(MessageSchema).check(Schema.isMinLength(1))

const Tool = Schema.Record(Schema.String, Schema.Unknown)

/** Decodes tool definitions: an array of objects, or its JSON text. Data sets with uniform columns use the text. */
export const ToolsSchema = Schema.Union([Schema.Array(Tool), Schema.fromJsonString(Schema.Array(Tool))])

/** Decodes variables of a template. */
export const KwargsSchema = Schema.Record(Schema.String, Schema.Unknown)

/** Decodes `{ messages, tools?, chat_template_kwargs? }`. */
export const ConversationSchema = Schema.Struct({
  messages: MessagesSchema,
  tools: Schema.optionalKey(ToolsSchema),
  chat_template_kwargs: Schema.optionalKey(KwargsSchema)
})

/** Tells whether a prompt is `{ messages, tools? }`. */
export const isConversation = (prompt: Prompt): prompt is Conversation =>
  typeof prompt === "object" && "messages" in prompt

/** Makes the options of a tokenizer's `render` from a conversation. */
export const renderOptions = ({ chat_template_kwargs, tools }: Omit<Conversation, "messages">): RenderOptions => ({
  ...(tools === undefined ? {} : { tools }),
  ...(chat_template_kwargs === undefined ? {} : { variables: chat_template_kwargs })
})
