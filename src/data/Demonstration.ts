/**
 * Demonstrations for supervised fine-tuning, in the forms of TRL's data sets.
 *
 * A demonstration is a conversation, a prompt with a completion, or plain text. `encode` tokenizes it and marks the
 * targets.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { OptionError } from "../OptionError.ts"
import { type Conversation, type Message, MessageSchema, MessagesSchema, renderOptions } from "../text/Conversation.ts"
import { type Place, placeIn, readJsonl, type Row } from "./internal/jsonl.ts"
import type { TaskError } from "./internal/TaskError.ts"
import { templateColumns } from "./internal/templateColumns.ts"
import { encodePrompt, type Tokenizer } from "../text/Tokenizer.ts"

/** A prompt and its completion: both text, or both messages. */
export interface PromptCompletion {
  readonly prompt: string
  readonly completion: string
}

/** Messages to answer, and the messages that answer them, tool results included. */
export interface PromptCompletionMessages extends Omit<Conversation, "messages"> {
  readonly prompt: ReadonlyArray<Message>
  readonly completion: ReadonlyArray<Message>
}

/** Text without a prompt, as for continued pretraining. */
export interface Text {
  readonly text: string
}

export type Demonstration = PromptCompletion | PromptCompletionMessages | Conversation | Text

/** Demonstrations, read and checked. */
export interface Demonstrations {
  readonly values: ReadonlyArray<Demonstration>
  /** Place of a demonstration in its source, as errors state it: `line 3`. */
  readonly place: (index: number) => string
}

/** A source of demonstrations. */
export interface Source {
  readonly name: string
  readonly load: Effect.Effect<Demonstrations, TaskError>
}

/** Makes a source from an array. */
export const fromArray = (values: ReadonlyArray<Demonstration>, name = "array"): Source => ({
  name,
  load: Effect.succeed({ values, place: (index) => `index ${index}` })
})

const decodeMessages = Schema.decodeUnknownResult(MessagesSchema)
const decodePrompt = Schema.decodeUnknownResult(Schema.Union([Schema.String, MessagesSchema]))
const decodeText = Schema.decodeUnknownResult(Schema.String)
const decodeCompletion = Schema.decodeUnknownResult(Schema.Array(MessageSchema))

/**
 * Makes a source from a file with one demonstration per line, in TRL's format.
 *
 * A line has `messages`; or `prompt` and `completion`, both text or both messages; or `text`. With messages, `tools`
 * may define the tools (an array or its JSON text), and `chat_template_kwargs` other variables of the template. Other
 * fields and blank lines are skipped. Everything is read and checked when the source is loaded.
 *
 * ```ts
 * yield* Sft.train({ demonstrations: Demonstration.jsonl("chat.jsonl"), tokenizer, epochs: 3, update: { learningRate: 1e-4 } })
 * ```
 */
export const jsonl = (path: string): Source => ({
  name: path,
  load: Effect.map(readJsonl(path, parse), (rows) => ({
    values: rows.map(({ value }) => value),
    place: (index) => rows[index]!.place
  }))
})

const MESSAGES = "Give an array of { role, content }; see Conversation.MessageSchema"
const TOOLS = "Give function definitions as JSON schemas"

const parse = Effect.fnUntraced(function* (row: Row, place: Place): Effect.fn.Return<Demonstration, TaskError> {
  if (row["messages"] !== undefined && row["messages"] !== null) {
    const messages = yield* place.decode(decodeMessages(row["messages"]), row["messages"], "messages", MESSAGES)
    return { messages, ...(yield* templateColumns(row, place, "tools", TOOLS)) }
  }
  if (row["prompt"] !== undefined && row["prompt"] !== null) {
    const prompt = yield* place.decode(decodePrompt(row["prompt"]), row["prompt"], "prompt", `Give text. ${MESSAGES}`)
    const given = row["completion"]
    if (typeof prompt === "string") {
      const remedy = "Give text, as the prompt is; or make both messages"
      return { prompt, completion: yield* place.decode(decodeText(given), given, "completion", remedy) }
    }
    const remedy = "Give messages, as the prompt has; or make both text"
    const completion = yield* place.decode(decodeCompletion(given), given, "completion", remedy)
    return { prompt, completion, ...(yield* templateColumns(row, place, "tools", TOOLS)) }
  }
  if (row["text"] !== undefined) {
    return { text: yield* place.decode(decodeText(row["text"]), row["text"], "text", "Give text") }
  }
  const found = Object.keys(row)
  return yield* place.fail("", found, "neither `messages`, nor `prompt` and `completion`, nor `text`", "Rename a field")
})

export interface EncodeOptions {
  /** Train only on the assistant's turns of a conversation (TRL's `assistant_only_loss`). Default true. */
  readonly assistantOnlyLoss?: boolean
  /** Train only on the completion of a prompt (TRL's `completion_only_loss`). Default true. */
  readonly completionOnlyLoss?: boolean
  /** Most tokens of an example (TRL's `max_length`); longer ones are cut. Default: no limit. */
  readonly maxLength?: number
  /** Part of a long example that stays (TRL's `truncation_mode`). Default `keep_start`. */
  readonly truncationMode?: "keep_start" | "keep_end"
}

/** One demonstration as tokens. */
export interface Example {
  readonly tokens: Uint32Array
  /** 1 for each token that is a target. The first token is never a target, since nothing predicts it. */
  readonly target: Uint8Array
}

/** All demonstrations as tokens. */
export interface Encoded {
  readonly examples: ReadonlyArray<Example>
  /** Examples that were cut to `maxLength`. */
  readonly truncated: number
  /** Examples left out because the cut left them no target. */
  readonly dropped: number
}

/** A run of tokens, and whether it is a target. */
interface Stretch {
  readonly tokens: Uint32Array
  readonly learnt: boolean
}

const ended = (tokens: Uint32Array, { endOfText }: Tokenizer): Uint32Array =>
  tokens.at(-1) === endOfText ? tokens : Uint32Array.from([...tokens, endOfText])

const stretches = (
  demonstration: Demonstration,
  tokenizer: Tokenizer,
  options: EncodeOptions
): ReadonlyArray<Stretch> => {
  const { assistantOnlyLoss = true, completionOnlyLoss = true } = options
  if ("text" in demonstration) {
    return [{ tokens: ended(encodePrompt(tokenizer, demonstration.text), tokenizer), learnt: true }]
  }
  if ("messages" in demonstration) {
    return turns(demonstration.messages, demonstration, tokenizer).map(({ producer, tokens }) => ({
      tokens,
      learnt: !assistantOnlyLoss || producer === "policy"
    }))
  }
  if (!isConversational(demonstration)) {
    // The prompt is encoded alone, as for sampling, whatever follows.
    return [
      { tokens: encodePrompt(tokenizer, demonstration.prompt), learnt: !completionOnlyLoss },
      { tokens: ended(tokenizer.encode(demonstration.completion, { continues: true }), tokenizer), learnt: true }
    ]
  }
  const { completion, prompt } = demonstration
  const pieces = turns([...prompt, ...completion], demonstration, tokenizer)
  // The completion begins with its first turn and includes everything after it.
  const first = pieces.findIndex(({ message = -1 }) => message >= prompt.length)
  return pieces.map(({ producer, tokens }, index) => ({
    tokens,
    learnt: (!completionOnlyLoss || (first >= 0 && index >= first)) && (!assistantOnlyLoss || producer === "policy")
  }))
}

const isConversational = (
  demonstration: PromptCompletion | PromptCompletionMessages
): demonstration is PromptCompletionMessages => typeof demonstration.prompt !== "string"

const turns = (messages: ReadonlyArray<Message>, told: Omit<Conversation, "messages">, tokenizer: Tokenizer) => {
  if (tokenizer.renderTurns === undefined) {
    throw new OptionError({
      module: "Demonstration.encode",
      option: "tokenizer",
      value: tokenizer.name,
      expected: "a tokenizer with a chat template",
      remedy: "Use the tokenizer of a chat model, or give text"
    })
  }
  return tokenizer.renderTurns(messages, renderOptions(told))
}

const join = (parts: ReadonlyArray<Stretch>): Example => {
  const length = parts.reduce((sum, { tokens }) => sum + tokens.length, 0)
  const [tokens, target] = [new Uint32Array(length), new Uint8Array(length)]
  let at = 0
  for (const part of parts) {
    tokens.set(part.tokens, at)
    if (part.learnt) target.fill(1, at, at + part.tokens.length)
    at += part.tokens.length
  }
  target[0] = 0
  return { tokens, target }
}

const cut = ({ target, tokens }: Example, { maxLength, truncationMode }: EncodeOptions): Example => {
  const from = truncationMode === "keep_end" ? tokens.length - maxLength! : 0
  const kept = { tokens: tokens.slice(from, from + maxLength!), target: target.slice(from, from + maxLength!) }
  kept.target[0] = 0
  return kept
}

/**
 * Tokenizes every demonstration and marks its targets.
 *
 * A demonstration without a target is an error, unless the cut removed its targets.
 */
export const encode = Effect.fn("Demonstration.encode")(function* (
  source: Source,
  tokenizer: Tokenizer,
  options: EncodeOptions = {}
): Effect.fn.Return<Encoded, TaskError> {
  const { maxLength = Infinity } = options
  if (!(maxLength >= 2)) {
    const problem = "expected at least 2: one token that predicts and one that is predicted"
    return yield* placeIn(source.name, "").fail("maxLength", maxLength, problem, "Raise it")
  }
  const { place, values } = yield* source.load
  const examples: Array<Example> = []
  let [truncated, dropped] = [0, 0]
  for (const [index, demonstration] of values.entries()) {
    const { fail } = placeIn(source.name, place(index))
    const whole = yield* Effect.try({
      try: () => join(stretches(demonstration, tokenizer, options)),
      catch: (cause) => {
        const problem = cause instanceof Error ? cause.message : String(cause)
        return fail("", demonstration, `cannot be rendered: ${problem}`, "Correct it, or leave it out")
      }
    })
    if (!whole.target.includes(1)) {
      const remedy = "Add an assistant's turn or a completion, or leave it out"
      return yield* fail("", demonstration, "has no target tokens", remedy)
    }
    const fits = whole.tokens.length <= maxLength
    const example = fits ? whole : cut(whole, options)
    if (!fits) truncated++
    if (example.target.includes(1)) examples.push(example)
    else dropped++
  }
  if (examples.length > 0) return { examples, truncated, dropped }
  const problem = dropped > 0 ? `none of ${dropped} fits in ${maxLength} tokens` : "holds no demonstration"
  return yield* placeIn(source.name, "").fail("", undefined, problem, dropped > 0 ? "Raise maxLength" : "Add one")
})
