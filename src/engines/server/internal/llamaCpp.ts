/**
 * llama.cpp's `/completion`. It reports log-probabilities before the temperature, and ends a sample only at the model's
 * own ends of generation. It omits log-probabilities of tokens that end inside a UTF-8 character.
 */
import * as Schema from "effect/Schema"
import { type Dialect, type Draw, Unusable } from "./dialect.ts"

const Scored = Schema.Struct({ id: Schema.Number, logprob: Schema.NullOr(Schema.Number) })
const Body = Schema.Struct({
  tokens: Schema.optionalKey(Schema.NullOr(Schema.Array(Schema.Number))),
  completion_probabilities: Schema.optionalKey(
    Schema.Array(
      Schema.Struct({
        id: Schema.Number,
        logprob: Schema.NullOr(Schema.Number),
        top_logprobs: Schema.optionalKey(Schema.Array(Scored))
      })
    )
  ),
  stop_type: Schema.String
})

// The highest 32-bit number requests a random seed.
const SEED_BITS = 31

const completion = (draw: Draw, alternatives: number) => ({
  path: "/completion",
  body: {
    prompt: Array.from(draw.prompt),
    n_predict: draw.maxTokens,
    temperature: draw.temperature,
    top_k: draw.topK,
    top_p: draw.topP,
    min_p: draw.minP,
    // Samplers that are not named are not applied: no penalties.
    samplers: ["temperature", "top_k", "top_p", "min_p"],
    repeat_penalty: 1,
    presence_penalty: 0,
    frequency_penalty: 0,
    mirostat: 0,
    dynatemp_range: 0,
    seed: Number(BigInt.asUintN(SEED_BITS, draw.seed)),
    n_probs: alternatives,
    post_sampling_probs: false,
    return_tokens: true,
    cache_prompt: true,
    stream: false
  }
})

export const llamaCpp: Dialect<typeof Body.Type> = {
  name: "llama.cpp",
  decode: Body,
  draw: (draw) => completion(draw, 1),
  answer: ({ completion_probabilities: scored, stop_type: type, tokens }) => {
    if (tokens === undefined || tokens === null || (tokens.length === 0 && (scored?.length ?? 0) > 0)) {
      throw new Unusable("the answer has no token ids (return_tokens); llama.cpp gives them since 2024-12")
    }
    if (scored === undefined) {
      throw new Unusable("the answer has no completion_probabilities, which were asked for (n_probs)")
    }
    if (scored.length < tokens.length) {
      throw new Unusable(
        `${tokens.length} tokens and ${scored.length} log-probabilities: llama.cpp gives none for tokens that end inside a ` +
          "UTF-8 character; sample from vLLM or SGLang if the model writes such text"
      )
    }
    if (scored.some(({ id }, t) => id !== tokens[t])) {
      throw new Unusable("tokens and completion_probabilities are not of the same tokens")
    }
    return {
      tokens,
      logprobs: scored.map(({ logprob }) => logprob),
      finish: type === "eos" ? "stop" : type === "limit" ? "length" : "other",
      reason: type
    }
  },
  probe: (prompt, temperature) =>
    completion({ prompt, maxTokens: 1, temperature, topK: 0, topP: 1, minP: 0, stopTokens: [], stop: [], seed: 1n }, 5),
  alternatives: ({ completion_probabilities: scored }) =>
    new Map(
      (scored?.[0]?.top_logprobs ?? []).flatMap(({ id, logprob }) =>
        logprob === null ? [] : [[String(id), logprob] as const]
      )
    ),
  beforeFilters: false,
  tempered: "llama.cpp has no setting for it: sample at temperature 1 (or 0)",
  cut: true,
  refusesStop:
    "llama.cpp drops the tokens of a stop string from its log-probabilities: end turns by stop tokens instead",
  adapters: false
}
