/**
 * Converts text to token ids and back.
 *
 * A `Tokenizer` is a plain value, not a service: it is pure, and several can be in use at once. A trajectory stores
 * token ids only; text is derived from them for verifiers and people. This module has two small vocabularies:
 * `characters` for toy problems, `bytes` for any text.
 */
import * as Schema from "effect/Schema"
import { OptionError } from "../OptionError.ts"
import type { Message, RenderOptions, ToolCall } from "./Conversation.ts"

export type { RenderOptions } from "./Conversation.ts"

export interface EncodeOptions {
  /**
   * Whether control tokens spelled in the text (`<|im_end|>`) become those tokens, as in Hugging Face. Default false:
   * they are ordinary text, so an environment or a user cannot end or begin a turn.
   */
  readonly specialTokens?: boolean
  /**
   * Whether the text follows other tokens. Vocabularies that put a space before a text (SentencePiece) then put none.
   */
  readonly continues?: boolean
}

/** A part of a rendered conversation, with its producer. */
export interface Piece {
  readonly tokens: Uint32Array
  /**
   * `policy`: the content of an assistant's turn, its end token included. `template`: everything else, other roles'
   * turns included.
   */
  readonly producer: "policy" | "template"
  /** Index of the message whose turn a `policy` piece is. */
  readonly message?: number
}

/** Decodes a completion while it is generated. */
export interface TextStream {
  /** Returns the text that became certain with `token`; never a part of a character. */
  readonly push: (token: number) => string
  /** Returns the text that was held back. All parts together equal `decode` of all tokens. */
  readonly end: () => string
}

export interface Tokenizer {
  /** Names the vocabulary in run records, e.g. `characters(19)`. */
  readonly name: string
  readonly vocabularySize: number
  /** Token that ends a completion: sampled by the policy, never part of the text. */
  readonly endOfText: number
  /**
   * Token that begins a text outside of conversations, if the model was trained so. Chat templates write it themselves.
   */
  readonly startOfText?: number
  /** Token ids that end a turn; default `[endOfText]`. */
  readonly stopTokens?: ReadonlyArray<number>
  /** Encodes `text`; throws {@link UnknownText} for text that the vocabulary cannot express. */
  readonly encode: (text: string, options?: EncodeOptions) => Uint32Array
  /** Decodes `tokens`, special tokens left out. Never throws: ids outside the vocabulary become U+FFFD. */
  readonly decode: (tokens: ArrayLike<number>) => string
  /** Decodes token by token. */
  readonly stream: () => TextStream
  /** Returns the bytes of a token; empty for special tokens. They let the sampler match stop strings exactly. */
  readonly bytes: (token: number) => Uint8Array
  /** Renders a conversation up to the start of the assistant's next turn. */
  readonly render: (messages: ReadonlyArray<Message>, options?: RenderOptions) => Uint32Array
  /**
   * Renders a whole conversation for training, with the assistant's turns marked. The tokens before a `policy` piece
   * are exactly those that the policy would be sampled with in an episode of these turns.
   */
  readonly renderTurns?: (messages: ReadonlyArray<Message>, options?: RenderOptions) => ReadonlyArray<Piece>
  /**
   * Encodes `messages` (of tools or the user) and the template's text between two turns of the policy. The policy's own
   * tokens are never encoded again.
   */
  readonly continuation?: (messages: ReadonlyArray<Message>, options: ContinuationOptions) => Uint32Array
}

export interface ContinuationOptions extends RenderOptions {
  /** Whether the policy's turn already has its end token, which is then not repeated. */
  readonly ended: boolean
}

/** Encodes a text that begins an example or an episode. It follows the start of text, if the model has one. */
export const encodePrompt = (tokenizer: Tokenizer, text: string): Uint32Array => {
  const { startOfText } = tokenizer
  const tokens = tokenizer.encode(text)
  return startOfText === undefined ? tokens : Uint32Array.from([startOfText, ...tokens])
}

/**
 * An error for text that a vocabulary cannot express.
 *
 * `encode` and `render` throw it; a rollout turns it into a failed episode.
 */
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

/** Makes the stream of a vocabulary in which tokens are independent: `text` is what one token adds. */
const perToken = (text: (token: number) => string) => (): TextStream => ({ push: text, end: () => "" })

/**
 * Makes a vocabulary with one token per character (code point) of `alphabet`.
 *
 * Characters are numbered in the alphabet's order, followed by the end of text: `vocabularySize` is the alphabet's size
 * + 1. A conversation is rendered as its contents, each followed by a line feed if the alphabet has one. Roles have no
 * tokens, so use this vocabulary for single messages.
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
 * Makes a vocabulary of UTF-8 bytes (0 to 255), end of text (256) and roles.
 *
 * Roles are system 257, user 258, assistant 259, tool 260. A conversation is rendered as role, content and end of text
 * for each message, then the assistant's role. Calls follow their content as
 * `<tool_call>{"name":...,"arguments":...}</tool_call>`. Tools are rendered as JSON in a system message before all
 * others.
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
