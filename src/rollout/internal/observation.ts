/** Token ids of prompts and observations. */
import type { Prompt } from "../../data/Task.ts"
import { isConversation, renderOptions } from "../../text/Conversation.ts"
import { encodePrompt, type Tokenizer } from "../../text/Tokenizer.ts"
import type { Action, Observation } from "../Environment.ts"
import { Producer } from "../Trajectory.ts"

/** Encodes a prompt; throws `UnknownText` for text that the vocabulary cannot express. */
export const promptTokens = (prompt: Prompt, tokenizer: Tokenizer): Uint32Array => {
  if (typeof prompt === "string") return encodePrompt(tokenizer, prompt)
  if (prompt instanceof Uint32Array) return prompt
  if (!isConversation(prompt)) return tokenizer.render(prompt)
  return tokenizer.render(prompt.messages, renderOptions(prompt))
}

/** The ids that end a turn. */
export const stopTokensOf = (tokenizer: Tokenizer): ReadonlyArray<number> =>
  tokenizer.stopTokens ?? [tokenizer.endOfText]

/** Tokens that precede a turn, with the producers of the last ones. */
export interface Context {
  /** The prompt that the context began with. Its render options hold for what follows. */
  readonly asked: Prompt
  readonly tokens: Uint32Array
  readonly producers: Uint8Array
}

const encoded = (
  observation: Observation,
  asked: Prompt,
  action: Action,
  tokenizer: Tokenizer
): { readonly tokens: Uint32Array; readonly closing: number } => {
  if (typeof observation === "string") {
    return { tokens: tokenizer.encode(observation, { continues: true }), closing: 0 }
  }
  if (observation instanceof Uint32Array) return { tokens: observation, closing: 0 }
  if (tokenizer.continuation === undefined) {
    throw new TypeError(
      `the tokenizer ${tokenizer.name} has no chat template: observe text or token ids, or use a chat model's tokenizer`
    )
  }
  const stopTokens = stopTokensOf(tokenizer)
  const ended = stopTokens.includes(action.tokens.at(-1) ?? -1)
  const told = typeof asked === "object" && isConversation(asked) ? renderOptions(asked) : {}
  const tokens = tokenizer.continuation(observation, { ended, ...told })
  return { tokens, closing: ended || !stopTokens.includes(tokens[0] ?? -1) ? 0 : 1 }
}

/**
 * Builds the context after a turn and its observation. If the template's first token ends a turn that was cut off, the
 * template produced it, not the policy or the environment.
 */
export const observed = (context: Context, action: Action, observation: Observation, tokenizer: Tokenizer): Context => {
  const { closing, tokens } = encoded(observation, context.asked, action, tokenizer)
  return {
    asked: context.asked,
    tokens: Uint32Array.from([...context.tokens, ...action.tokens, ...tokens]),
    producers: new Uint8Array(tokens.length).fill(Producer.Environment).fill(Producer.Template, 0, closing)
  }
}
