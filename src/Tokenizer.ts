/**
 * Text to token ids and back. A `Tokenizer` is a plain value, not a service: it is pure, and several can be in use at
 * once. Token ids are the only truth of a trajectory; text is derived from them for verifiers and people.
 */
import type { Message } from "./Task.ts"

export interface Tokenizer {
  /** Names the vocabulary in run records, e.g. `characters(19)`. */
  readonly name: string
  readonly vocabularySize: number
  /** Ends a completion: sampled by the policy, never part of the text. */
  readonly endOfText: number
  /** Token ids of `text`; throws {@link UnknownText} for text that the vocabulary cannot express. */
  readonly encode: (text: string) => Uint32Array
  /** Text of `tokens`, special tokens left out. Never throws: ids outside the vocabulary become U+FFFD. */
  readonly decode: (tokens: ArrayLike<number>) => string
  /** The bytes that a token stands for; empty for special tokens. Lets the sampler match stop strings exactly. */
  readonly bytes: (token: number) => Uint8Array
  /** Renders a conversation up to where the assistant's next turn begins. */
  readonly render: (messages: ReadonlyArray<Message>) => Uint32Array
}
