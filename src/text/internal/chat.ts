/**
 * Converts conversations to tokens. A template renders text; this module keeps apart which part who wrote, and never
 * encodes the policy's tokens again.
 *
 * Pieces are encoded one by one, cut where turns begin and end, as in an episode. There the prompt is encoded alone,
 * the policy's tokens stay as sampled, and text between its turns is encoded alone. Encoding the whole text at once
 * gives the same ids unless a pre-token spans a cut. Control tokens at the ends of turns prevent that.
 */
import { type ChatTemplate, TemplateError, type TemplateOptions } from "../ChatTemplate.ts"
import type { Message } from "../Conversation.ts"
import type { ContinuationOptions, Piece, RenderOptions } from "../Tokenizer.ts"
import type { Encode } from "./encoder.ts"

export interface Chat {
  readonly render: (messages: ReadonlyArray<Message>, options?: RenderOptions) => Uint32Array
  readonly renderTurns: (messages: ReadonlyArray<Message>, options?: RenderOptions) => ReadonlyArray<Piece>
  readonly continuation: (messages: ReadonlyArray<Message>, options: ContinuationOptions) => Uint32Array
}

export interface ChatParts {
  readonly file: string
  readonly template: ChatTemplate
  readonly encode: Encode
  /** Spellings of control tokens. */
  readonly special: ReadonlyArray<string>
  /** Spellings of the tokens that end a turn. */
  readonly stops: ReadonlyArray<string>
  readonly stopTokens: ReadonlySet<number>
  readonly endOfText: number
}

// Templates do not change these marks, and no content has them.
const ANSWER = "\uE0F0answer\uE0F1"

const mapStrings = <A>(value: A, change: (text: string) => string): A => {
  if (typeof value === "string") return change(value) as A
  if (Array.isArray(value)) return value.map((item) => mapStrings(item, change)) as A
  if (typeof value !== "object" || value === null) return value
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [change(key), mapStrings<unknown>(item, change)])
  ) as A
}

/** Finds the first of `stops` in `text`, from `from` on. */
const firstStop = (
  text: string,
  from: number,
  stops: ReadonlyArray<string>
): { start: number; end: number } | undefined => {
  let found: { start: number; end: number } | undefined
  for (const stop of stops) {
    const start = text.indexOf(stop, from)
    if (start < 0) continue
    const longer = found?.start === start && stop.length > found.end - found.start
    if (found === undefined || start < found.start || longer) found = { start, end: start + stop.length }
  }
  return found
}

const lastStop = (text: string, stops: ReadonlyArray<string>): number =>
  Math.max(
    -1,
    ...stops.map((stop) => {
      const start = text.lastIndexOf(stop)
      return start < 0 ? -1 : start + stop.length
    })
  )

/** Returns the text that a template writes after an answer. */
const afterAnswer = (template: ChatTemplate): string => {
  try {
    const text = template.render([
      { role: "user", content: "u" },
      { role: "assistant", content: ANSWER }
    ])
    const at = text.indexOf(ANSWER)
    return at < 0 ? "" : text.slice(at + ANSWER.length)
  } catch {
    return ""
  }
}

/** Finds the control token that follows an answer in a template; the model learnt to end its turns with it. */
export const turnEnd = (template: ChatTemplate, special: ReadonlyArray<string>): string | undefined => {
  const after = afterAnswer(template)
  const stop = firstStop(after, 0, special)
  return stop !== undefined && after.slice(0, stop.start).trim() === "" ? after.slice(stop.start, stop.end) : undefined
}

/** Breaks control tokens spelled in `values` with a character that occurs nowhere in them. */
const guard = <A>(values: A, special: ReadonlyArray<string>): { readonly values: A; readonly mark?: string } => {
  const whole = JSON.stringify(values)
  const written = special.filter((token) => whole.includes(JSON.stringify(token).slice(1, -1)))
  if (written.length === 0) return { values }
  let code = 0xe000
  while (whole.includes(String.fromCharCode(code))) code += 1
  const mark = String.fromCharCode(code)
  const change = (text: string) => {
    let broken = text
    for (const token of written) {
      const [first = ""] = token
      // A token of one character cannot be broken, so it is left out.
      broken = broken.replaceAll(
        token,
        token.length === first.length ? mark : `${first}${mark}${token.slice(first.length)}`
      )
    }
    return broken
  }
  return { values: mapStrings(values, change), mark }
}

const templateOptions = (options: RenderOptions, tools: ReadonlyArray<object> | undefined): TemplateOptions => ({
  ...(tools === undefined ? {} : { tools }),
  ...(options.variables === undefined ? {} : { variables: options.variables })
})

/** Renders the messages up to the policy's turn. */
const promptText = (template: ChatTemplate, messages: ReadonlyArray<Message>, options: TemplateOptions): string =>
  template.render(messages, { ...options, addGenerationPrompt: true })

/** Renders the text between two turns of the policy, from the token that ends the first. */
const between = (
  { file, stops, template }: Pick<ChatParts, "file" | "stops" | "template">,
  messages: ReadonlyArray<Message>,
  options: TemplateOptions,
  ended: boolean,
  addGenerationPrompt = true
): string => {
  const answers = messages.filter(({ role }) => role === "tool")
  const plain: Message = { role: "assistant", content: ANSWER }
  const calling: Message = {
    role: "assistant",
    content: null,
    tool_calls: answers.map(({ name, tool_call_id }, index) => ({
      id: tool_call_id ?? `call0000${index}`,
      type: "function",
      function: { name: name ?? "call", arguments: { answer: ANSWER } }
    }))
  }
  let problem: unknown
  // Some templates accept a tool's answer only after a call; others accept no calls at all.
  for (const turn of answers.length > 0 ? [calling, plain] : [plain]) {
    try {
      const asked: Message = { role: "user", content: "u" }
      const text = template.render([asked, turn, ...messages], { ...options, addGenerationPrompt })
      const at = text.lastIndexOf(ANSWER)
      if (at < 0) continue
      const stop = firstStop(text, at + ANSWER.length, stops)
      // Without a token that ends a turn, only the end of a plain answer is known.
      if (stop === undefined && turn === calling) continue
      if (stop === undefined) return text.slice(at + ANSWER.length)
      return text.slice(ended ? stop.end : stop.start)
    } catch (error) {
      problem = error
    }
  }
  if (problem instanceof TemplateError) throw problem
  throw new TemplateError({
    file,
    problem: "an assistant's turn does not stay in the text when a message follows it",
    remedy: "Use single turns"
  })
}

/** Returns the policy's part of the assistant's turn `turn` after `before`, its end included. */
const turnText = (
  { stops, template }: Pick<ChatParts, "stops" | "template">,
  before: ReadonlyArray<Message>,
  turn: Message,
  opened: string,
  options: TemplateOptions
): string => {
  const text = template.render([...before, turn], options)
  if (text.startsWith(opened)) {
    const rest = text.slice(opened.length)
    const end = lastStop(rest, stops)
    if (end >= 0) return rest.slice(0, end)
    // Without a token that ends turns, the text after an answer is the template's.
    const tail = afterAnswer(template)
    return rest.endsWith(tail) ? rest.slice(0, rest.length - tail.length) : rest
  }
  // The prompt opens the turn with text that the template does not write again (`<think>`). A call contributes the text
  // after the common prefix. An answer's content is used as it is, since the template may drop its thoughts.
  if (turn.content === null || (turn.tool_calls?.length ?? 0) > 0) {
    let shared = 0
    while (shared < text.length && text[shared] === opened[shared]) shared += 1
    const end = lastStop(text, stops)
    return end < shared ? text.slice(shared) : text.slice(shared, end)
  }
  const { content } = turn
  let overlap = Math.min(content.length, opened.length)
  while (overlap > 0 && !opened.endsWith(content.slice(0, overlap))) overlap -= 1
  return content.slice(overlap) + (stops[0] ?? "")
}

export const makeChat = (parts: ChatParts): Chat => {
  const { encode, endOfText, special, stopTokens, template } = parts
  const toTokens = (text: string, joined: boolean, mark: string | undefined): Uint32Array =>
    encode(text, { special: true, joined, ...(mark === undefined ? {} : { mark }) })
  const guarded = (messages: ReadonlyArray<Message>, options: RenderOptions) =>
    guard({ messages, tools: options.tools }, options.specialTokens === true ? [] : special)

  return {
    render: (messages, options = {}) => {
      const { mark, values } = guarded(messages, options)
      return toTokens(promptText(template, values.messages, templateOptions(options, values.tools)), false, mark)
    },

    continuation: (messages, options) => {
      const { mark, values } = guarded(messages, options)
      return toTokens(
        between(parts, values.messages, templateOptions(options, values.tools), options.ended),
        true,
        mark
      )
    },

    renderTurns: (messages, options = {}) => {
      const { mark, values } = guarded(messages, options)
      const settings = templateOptions(options, values.tools)
      const pieces: Array<Piece> = []
      let from = 0
      for (const [index, turn] of values.messages.entries()) {
        if (turn.role !== "assistant") continue
        const before = values.messages.slice(0, index)
        const opened = promptText(template, before, settings)
        const said = pieces.length === 0 ? opened : between(parts, values.messages.slice(from, index), settings, true)
        pieces.push({ tokens: toTokens(said, pieces.length > 0, mark), producer: "template" })
        const tokens = toTokens(turnText(parts, before, turn, opened, settings), true, mark)
        const ended = stopTokens.has(tokens.at(-1) ?? -1) ? tokens : Uint32Array.from([...tokens, endOfText])
        pieces.push({ tokens: ended, producer: "policy", message: index })
        from = index + 1
      }
      const rest = values.messages.slice(from)
      if (rest.length > 0) {
        const text = from === 0 ? template.render(rest, settings) : between(parts, rest, settings, true, false)
        pieces.push({ tokens: toTokens(text, from > 0, mark), producer: "template" })
      }
      return pieces
    }
  }
}
