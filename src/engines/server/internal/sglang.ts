/**
 * SGLang's `/generate`. Its log-probabilities are those of the tempered distribution before any filter. `ignore_eos`
 * would also ignore the stop tokens, so the model's own end of text always ends a sample. The seed takes effect only
 * under `--enable-deterministic-inference`.
 */
import * as Schema from "effect/Schema"
import { type Call, type Dialect, type Draw, Unusable } from "./dialect.ts"

/** [log-probability, token id, text or null] */
const Scored = Schema.TupleWithRest(Schema.Tuple([Schema.NullOr(Schema.Number), Schema.Number]), [Schema.Unknown])
const Body = Schema.Struct({
  output_ids: Schema.optionalKey(Schema.NullOr(Schema.Array(Schema.Number))),
  meta_info: Schema.Struct({
    finish_reason: Schema.NullOr(
      Schema.Struct({
        type: Schema.String,
        matched: Schema.optionalKey(Schema.Unknown),
        message: Schema.optionalKey(Schema.Unknown)
      })
    ),
    output_token_logprobs: Schema.optionalKey(Schema.NullOr(Schema.Array(Scored))),
    output_top_logprobs: Schema.optionalKey(Schema.NullOr(Schema.Array(Schema.NullOr(Schema.Array(Scored)))))
  })
})

const SEED_BITS = 31

const generate = (draw: Omit<Draw, "seed"> & { readonly seed: bigint }, alternatives: number): Call => ({
  path: "/generate",
  body: {
    input_ids: Array.from(draw.prompt),
    sampling_params: {
      max_new_tokens: draw.maxTokens,
      temperature: draw.temperature,
      top_k: draw.topK > 0 ? draw.topK : -1,
      top_p: draw.topP,
      min_p: draw.minP,
      presence_penalty: 0,
      frequency_penalty: 0,
      repetition_penalty: 1,
      min_new_tokens: 0,
      n: 1,
      sampling_seed: Number(BigInt.asUintN(SEED_BITS, draw.seed)),
      stop_token_ids: draw.stopTokens,
      ...(draw.stop.length === 0 ? {} : { stop: draw.stop }),
      ignore_eos: false,
      skip_special_tokens: false,
      no_stop_trim: true
    },
    return_logprob: true,
    // Log-probabilities of the answer alone; older versions begin with the prompt.
    logprob_start_len: -1,
    top_logprobs_num: alternatives,
    stream: false,
    ...(draw.adapter === undefined ? {} : { lora_path: draw.adapter })
  }
})

export const sglang: Dialect<typeof Body.Type> = {
  name: "SGLang",
  decode: Body,
  draw: (draw) => generate(draw, 0),
  answer: ({ meta_info: { finish_reason: finish, output_token_logprobs: scored }, output_ids: ids }) => {
    if (scored === undefined || scored === null) {
      throw new Unusable("the answer has no output_token_logprobs, which were asked for (return_logprob)")
    }
    const tokens = scored.map(([, token]) => token)
    if (ids !== undefined && ids !== null && (ids.length !== tokens.length || ids.some((id, t) => id !== tokens[t]))) {
      throw new Unusable(
        `output_ids has ${ids.length} tokens and output_token_logprobs ${tokens.length}, or they are not the same`
      )
    }
    const { matched, message, type = "null" } = finish ?? {}
    return {
      tokens,
      logprobs: scored.map(([logprob]) => logprob),
      finish: type === "stop" || type === "length" ? type : "other",
      reason: typeof message === "string" ? `${type}: ${message.slice(0, 200)}` : type,
      ...(typeof matched === "number" || typeof matched === "string" ? { matched } : {})
    }
  },
  probe: (prompt, temperature) =>
    generate({ prompt, maxTokens: 1, temperature, topK: 0, topP: 1, minP: 0, stopTokens: [], stop: [], seed: 1n }, 5),
  alternatives: ({ meta_info: { output_top_logprobs: top } }) =>
    new Map(
      (top?.[0] ?? []).flatMap(([logprob, token]) => (logprob === null ? [] : [[String(token), logprob] as const]))
    ),
  beforeFilters: true,
  tempered: "start SGLang without SGLANG_RETURN_ORIGINAL_LOGPROB",
  cut: false,
  adapters: true,
  load: {
    adapter: (name, directory) => ({ path: "/load_lora_adapter", body: { lora_name: name, lora_path: directory } }),
    unload: (name) => ({ path: "/unload_lora_adapter", body: { lora_name: name } }),
    model: (directory) => ({ path: "/update_weights_from_disk", body: { model_path: directory, flush_cache: true } }),
    refused: () => ""
  }
}
