/**
 * A sampler with scripted replies.
 *
 * It tests environments, rewards and pipelines without a model.
 *
 * ```ts
 * const layer = SamplerScripted.layer({ tokenizer, reply: (request, index) => (index === 0 ? "19" : "20") })
 * ```
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { type Completion, Sampler, type SampleRequest } from "../../engine/Sampler.ts"
import type { Tokenizer } from "../../text/Tokenizer.ts"

export interface Script {
  readonly tokenizer: Tokenizer
  /**
   * Returns the completion of sample `index` (its number within the group): text, ended by the end of text, or exact
   * ids.
   */
  readonly reply: (request: SampleRequest, index: number) => string | Uint32Array
}

const completion = ({ reply, tokenizer }: Script, request: SampleRequest, index: number): Completion => {
  const said = reply(request, index)
  const whole = typeof said === "string" ? Uint32Array.from([...tokenizer.encode(said), tokenizer.endOfText]) : said
  const end = whole.findIndex((token) => request.stopTokens?.includes(token) ?? false)
  const stopped = end !== -1 && end < request.maxTokens
  const tokens = whole.slice(0, stopped ? end + 1 : request.maxTokens)
  // A script is deterministic: every token has probability 1.
  const logprobs = new Float32Array(tokens.length)
  const stopReason = stopped || tokens.length < request.maxTokens ? "stop" : "length"
  return { tokens, logprobs, stopReason, versions: new Uint32Array(tokens.length) }
}

/**
 * Makes a sampler from a script.
 *
 * It honours stop tokens and `maxTokens`, but not stop strings, temperature and the other settings.
 */
export const layer = (script: Script): Layer.Layer<Sampler> =>
  Layer.succeed(Sampler, {
    name: "scripted",
    engine: "scripted",
    weights: { _tag: "Fixed" },
    sample: (request) =>
      Effect.sync(() =>
        Array.from({ length: request.count }, (_, i) => completion(script, request, request.key.index + i))
      )
  })
