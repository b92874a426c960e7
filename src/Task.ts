/** One problem: what the policy is asked, and the data its verifiers need. */
export interface Message {
  readonly role: "system" | "user" | "assistant" | "tool"
  readonly content: string
}

/** Text, a conversation, or token ids that are used as they are. */
export type Prompt = string | ReadonlyArray<Message> | Uint32Array

export interface Task<out Data = unknown> {
  /** Unique within its source; keys the random numbers of its samples. */
  readonly id: string
  readonly prompt: Prompt
  readonly data: Data
}
