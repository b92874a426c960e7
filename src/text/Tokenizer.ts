/**
 * Text to token ids and back. A `Tokenizer` is a plain value, not a service: it is pure, and several can be in use at
 * once. Token ids are the only truth of a trajectory; text is derived from them for verifiers and people. Two small
 * vocabularies are here: `characters` for toy problems, `bytes` for any text.
 */
import * as Schema from "effect/Schema"
import { OptionError } from "../OptionError.ts"
import type { Message, RenderOptions, ToolCall } from "./Conversation.ts"

export type { RenderOptions } from "./Conversation.ts"

export interface EncodeOptions {
  /**
   * Control tokens that are written out in the text (`<|im_end|>`) become those tokens, as Hugging Face has it. Default
   * false: they are text like any other, so that what an environment or a user says cannot end a turn or begin one.
   */
  readonly specialTokens?: boolean
  /** The text goes on after other tokens: vocabularies that put a space before a text (SentencePiece) put none. */
  readonly continues?: boolean
}

/** A stretch of a rendered conversation, with who wrote it. */
export interface Piece {
  readonly tokens: Uint32Array
  /** `policy`: what an assistant's turn says, its end token included. `template`: all else, other roles' turns included. */
  readonly producer: "policy" | "template"
  /** Index of the message that a `policy` piece is the turn of. */
  readonly message?: number
}

/** Decodes a completion while it is generated. */
export interface TextStream {
  /** The text that became certain with `token`; never a part of a character. */
  readonly push: (token: number) => string
  /** The text that was held back. All parts together equal `decode` of all tokens. */
  readonly end: () => string
}

export interface Tokenizer {
  /** Names the vocabulary in run records, e.g. `characters(19)`. */
  readonly name: string
  readonly vocabularySize: number
  /** Ends a completion: sampled by the policy, never part of the text. */
  readonly endOfText: number
  /** Stands before a text that is not a conversation, where the model was trained so. Chat templates write it themselves. */
  readonly startOfText?: number
  /** The ids that end a turn; default `[endOfText]`. */
  readonly stopTokens?: ReadonlyArray<number>
  /** Token ids of `text`; throws {@link UnknownText} for text that the vocabulary cannot express. */
  readonly encode: (text: string, options?: EncodeOptions) => Uint32Array
  /** Text of `tokens`, special tokens left out. Never throws: ids outside the vocabulary become U+FFFD. */
  readonly decode: (tokens: ArrayLike<number>) => string
  /** Decodes token by token. */
  readonly stream: () => TextStream
  /** The bytes that a token stands for; empty for special tokens. Lets the sampler match stop strings exactly. */
  readonly bytes: (token: number) => Uint8Array
  /** Renders a conversation up to where the assistant's next turn begins. */
  readonly render: (messages: ReadonlyArray<Message>, options?: RenderOptions) => Uint32Array
  /**
   * A whole conversation with its assistant's turns told apart, for training on them: what comes before a `policy` piece
   * is, token for token, what the policy would be sampled with in an episode of these turns.
   */
  readonly renderTurns?: (messages: ReadonlyArray<Message>, options?: RenderOptions) => ReadonlyArray<Piece>
  /**
   * The tokens between the policy's turn and its next one, with `messages` (what tools or the user said) in them. What the
   * policy wrote is never encoded again.
   */
  readonly continuation?: (messages: ReadonlyArray<Message>, options: ContinuationOptions) => Uint32Array
}

export interface ContinuationOptions extends RenderOptions {
  /** The policy's turn has its end token already; it is not repeated. */
  readonly ended: boolean
}

/** Token ids of a text that an example or an episode begins with: after the start of text, where the model has one. */
export const encodePrompt = (tokenizer: Tokenizer, text: string): Uint32Array => {
  const { startOfText } = tokenizer
  const tokens = tokenizer.encode(text)
  return startOfText === undefined ? tokens : Uint32Array.from([startOfText, ...tokens])
}

/** Text that a vocabulary cannot express. Thrown by `encode` and `render`; a rollout turns it into a failed episode. */
export class UnknownText extends Schema.TaggedError<UnknownText>()("UnknownText", {
  tokenizer: Schema.String,
  /** The first character without a token. */
  character: Schema.String,
  /** Its position in the text, in UTF-16 units. */
  position: Schema.Int
}) {
  override get message(): string {
    return (
      `${this.tokenizer} has no token for ${JSON.stringify(this.character)} at position ${this.position}: ` +
      "add it to the alphabet, or use Tokenizer.bytes()"
    )
  }
}

const encoder = new TextEncoder()
// ignoreBOM keeps a byte order mark in the text; the default drops it, and text would not survive the round trip.
const decoder = new TextDecoder("utf-8", { ignoreBOM: true })
const empty = new Uint8Array()
const REPLACEMENT = "\uFFFD"

/** A stream for a vocabulary in which no token depends on another: `text` is what one token adds. */
const perToken = (text: (token: number) => string) => (): TextStream => ({ push: text, end: () => "" })

/**
 * One token per character (code point) of `alphabet`, numbered in its order, then the end of text: `vocabularySize` is
 * the alphabet's size + 1. A conversation is rendered as its contents, each followed by a line feed if the alphabet has
 * one: roles have no tokens, so single messages are what this vocabulary is for.
 *
 * ```ts
 * const digits = Tokenizer.characters("0123456789+=?")
 * digits.encode("12+7=?")   // Uint32Array [1, 2, 10, 7, 11, 12]
 * ```
 */
export const characters = (alphabet: string): Tokenizer => {
  const symbols = Array.from(alphabet)
  const ids = new Map(symbols.map((symbol, id) => [symbol, id]))
  if (ids.size !== symbols.length) {
    const twice = symbols.find((symbol, id) => ids.get(symbol) !== id)
    throw new OptionError({
      module: "Tokenizer.characters",
      option: "alphabet",
      value: alphabet,
      expected: "different characters",
      remedy: `Remove one of the two ${JSON.stringify(twice)}`
    })
  }
  const endOfText = symbols.length
  const name = `characters(${symbols.length})`
  const symbolBytes = symbols.map((symbol) => encoder.encode(symbol))
  const encode = (text: string): Uint32Array => {
    const tokens: Array<number> = []
    let position = 0
    for (const character of text) {
      const id = ids.get(character)
      if (id === undefined) throw new UnknownText({ tokenizer: name, character, position })
      tokens.push(id)
      position += character.length
    }
    return Uint32Array.from(tokens)
  }
  const separator = ids.has("\n") ? "\n" : ""
  const text = (token: number): string => (token === endOfText ? "" : (symbols[token] ?? REPLACEMENT))
  return {
    name,
    vocabularySize: symbols.length + 1,
    endOfText,
    encode,
    decode: (tokens) => Array.from(tokens, text).join(""),
    stream: perToken(text),
    bytes: (token) => symbolBytes[token] ?? empty,
    render: (messages) => encode(messages.map(({ content }) => (content ?? "") + separator).join(""))
  }
}

const END_OF_TEXT = 256
const roles = { system: 257, user: 258, assistant: 259, tool: 260 } as const

/**
 * One token per byte of UTF-8 (0 to 255), the end of text (256), and one token per role: system 257, user 258, assistant
 * 259, tool 260. A conversation is rendered as role, content, end of text for each message, then the assistant's role;
 * calls follow their content as `<tool_call>{"name":...,"arguments":...}</tool_call>`, and tools stand as their JSON in a
 * system message of their own before all others.
 */
export const bytes = (): Tokenizer => {
  const name = "bytes(256)"
  const table = Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte))
  const encode = (text: string): Uint32Array => {
    if (!text.isWellFormed()) {
      // Half of a surrogate pair is not a character: UTF-8 has no bytes for it, and encoders silently write U+FFFD.
      const position = text.search(/\p{Surrogate}/u)
      throw new UnknownText({ tokenizer: name, character: text.charAt(position), position })
    }
    return Uint32Array.from(encoder.encode(text))
  }
  const template = (tokens: Uint32Array): Piece => ({ tokens, producer: "template" })
  const opening = template(Uint32Array.of(roles.assistant))
  const turn = ({ content, role, tool_calls = [] }: Message): readonly [Piece, Piece] => [
    template(Uint32Array.of(roles[role])),
    template(Uint32Array.from([...encode([content ?? "", ...tool_calls.map(called)].join("")), END_OF_TEXT]))
  ]
  const system = (options: RenderOptions = {}): ReadonlyArray<Piece> =>
    options.tools === undefined ? [] : turn({ role: "system", content: JSON.stringify(options.tools) })
  return {
    name,
    vocabularySize: 261,
    endOfText: END_OF_TEXT,
    encode,
    decode: (tokens) => {
      let text = ""
      let run: Array<number> = []
      const flush = () => {
        if (run.length > 0) text += decoder.decode(Uint8Array.from(run))
        run = []
      }
      for (let i = 0; i < tokens.length; i++) {
        const token = tokens[i]!
        if (token < 256) run.push(token)
        else {
          flush()
          if (token > roles.tool) text += REPLACEMENT
        }
      }
      flush()
      return text
    },
    stream: () => {
      const utf8 = new TextDecoder("utf-8", { ignoreBOM: true })
      return {
        push: (token) =>
          token < 256
            ? utf8.decode(table[token], { stream: true })
            : utf8.decode() + (token > roles.tool ? REPLACEMENT : ""),
        end: () => utf8.decode()
      }
    },
    bytes: (token) => table[token] ?? empty,
    render: (messages, options) => joined([...system(options), ...messages.flatMap(turn), opening]),
    renderTurns: (messages, options) => {
      const pieces: Array<Piece> = [...system(options)]
      for (const [index, message] of messages.entries()) {
        const [role, said] = turn(message)
        pieces.push(role)
        pieces.push(message.role === "assistant" ? { ...said, producer: "policy", message: index } : said)
      }
      return pieces
    },
    continuation: (messages, { ended }) =>
      joined([...(ended ? [] : [{ tokens: Uint32Array.of(END_OF_TEXT) }]), ...messages.flatMap(turn), opening])
  }
}

const joined = (pieces: ReadonlyArray<Pick<Piece, "tokens">>): Uint32Array =>
  Uint32Array.from(pieces.flatMap(({ tokens }) => Array.from(tokens)))

const called = ({ function: { arguments: given, name } }: ToolCall): string =>
  `<tool_call>{"name":${JSON.stringify(name)},"arguments":${typeof given === "string" ? given : JSON.stringify(given)}}</tool_call>`
