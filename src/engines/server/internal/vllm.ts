/**
 * vLLM's `/v1/completions`. Requests set everything that a model's `generation_config.json` could set; `ignore_eos`
 * leaves the stop tokens to the request alone. Token ids need vLLM 0.10.2 or newer.
 */
import * as Schema from "effect/Schema"
import { type Call, type Dialect, type Draw, Unusable } from "./dialect.ts"

const Numbers = Schema.Array(Schema.NullOr(Schema.Number))
const Body = Schema.Struct({
  model: Schema.optionalKey(Schema.String),
  choices: Schema.NonEmptyArray(
    Schema.Struct({
      finish_reason: Schema.NullOr(Schema.String),
      /** The stop token or string; null after the model's own end of text. */
      stop_reason: Schema.optionalKey(Schema.NullOr(Schema.Union([Schema.Number, Schema.String]))),
      token_ids: Schema.optionalKey(Schema.NullOr(Schema.Array(Schema.Number))),
      prompt_token_ids: Schema.optionalKey(Schema.NullOr(Schema.Array(Schema.Number))),
      logprobs: Schema.NullOr(
        Schema.Struct({
          token_logprobs: Numbers,
          top_logprobs: Schema.optionalKey(
            Schema.NullOr(Schema.Array(Schema.NullOr(Schema.Record(Schema.String, Schema.NullOr(Schema.Number)))))
          )
        })
      )
    })
  )
})

// Wider seeds lose digits in JSON.
const SEED_BITS = 53

const completions = (
  draw: Omit<Draw, "seed"> & { readonly seed?: bigint },
  logprobs: number,
  model: string | undefined
): Call => {
  const name = draw.adapter ?? model
  return {
    path: "/v1/completions",
    body: {
      ...(name === undefined ? {} : { model: name }),
      prompt: Array.from(draw.prompt),
      n: 1,
      max_tokens: draw.maxTokens,
      temperature: draw.temperature,
      top_k: draw.topK > 0 ? draw.topK : -1,
      top_p: draw.topP,
      min_p: draw.minP,
      presence_penalty: 0,
      frequency_penalty: 0,
      repetition_penalty: 1,
      ...(draw.seed === undefined ? {} : { seed: Number(BigInt.asUintN(SEED_BITS, draw.seed)) }),
      stop_token_ids: draw.stopTokens,
      ...(draw.stop.length === 0 ? {} : { stop: draw.stop }),
      ignore_eos: true,
      include_stop_str_in_output: true,
      skip_special_tokens: false,
      add_special_tokens: false,
      logprobs,
      return_token_ids: true,
      // Texts of different tokens may be the same.
      return_tokens_as_token_ids: true
    }
  }
}

export const vllm: Dialect<typeof Body.Type> = {
  name: "vLLM",
  decode: Body,
  draw: (draw, model) => completions(draw, 1, model),
  answer: ({ choices: [choice], model }) => {
    const {
      finish_reason: reason,
      logprobs,
      prompt_token_ids: prompt,
      stop_reason: matched,
      token_ids: tokens
    } = choice
    if (tokens === undefined || tokens === null) {
      throw new Unusable("the answer has no token ids; vLLM 0.10.2 and newer gives them (return_token_ids)")
    }
    if (logprobs === null) throw new Unusable("the answer has no log-probabilities, which were asked for")
    return {
      tokens,
      logprobs: logprobs.token_logprobs,
      finish: reason === "stop" || reason === "length" ? reason : "other",
      reason: String(reason),
      ...(model === undefined ? {} : { model }),
      ...(matched === undefined || matched === null ? {} : { matched }),
      ...(prompt === undefined || prompt === null ? {} : { prompt })
    }
  },
  probe: (prompt, temperature, model) =>
    completions(
      { prompt, maxTokens: 1, temperature, topK: 0, topP: 1, minP: 0, stopTokens: [], stop: [], seed: 1n },
      5,
      model
    ),
  alternatives: ({ choices: [choice] }) =>
    new Map(
      Object.entries(choice.logprobs?.top_logprobs?.[0] ?? {}).flatMap(([token, value]) =>
        value === null ? [] : [[token, value] as const]
      )
    ),
  beforeFilters: false,
  tempered: "start vLLM with --logprobs-mode processed_logprobs",
  cut: false,
  adapters: true,
  load: {
    adapter: (name, directory) => ({
      path: "/v1/load_lora_adapter",
      body: { lora_name: name, lora_path: directory }
    }),
    unload: (name) => ({ path: "/v1/unload_lora_adapter", body: { lora_name: name } }),
    refused: () => "vLLM loads adapters by path, but no whole weights: train with `lora`, or sample from SGLang"
  }
}
