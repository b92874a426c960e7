/** Interface of both engines: tokens in, tokens and log-probabilities out. */
export interface Engine {
  readonly name: string
  /** The most likely token after the prompt, `count` times. */
  readonly greedy: (prompt: ReadonlyArray<number>, count: number) => Promise<ReadonlyArray<number>>
  /** log p(tokens[i + 1]) after tokens[..i]. */
  readonly logprobs: (tokens: ReadonlyArray<number>) => Promise<ReadonlyArray<number>>
  /** Logit of `a` less logit of `b` after `prefix`. */
  readonly gap: (prefix: ReadonlyArray<number>, a: number, b: number) => Promise<number>
  /** Computes prompts that it has not seen and draws `count` tokens after each, all at once. */
  readonly decode: (prompts: ReadonlyArray<ReadonlyArray<number>>, count: number) => Promise<void>
  readonly close: () => Promise<void>
}
