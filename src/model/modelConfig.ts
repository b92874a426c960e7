import * as Schema from "effect/Schema"

const Positive = Schema.Int.check(Schema.isGreaterThan(0))

/** A decoder of the Llama family, in the field names of a Hugging Face `config.json`. */
export const ModelConfig = Schema.Struct({
  model_type: Schema.optionalKey(Schema.Literals(["llama", "qwen2", "qwen3"])),
  vocab_size: Positive,
  hidden_size: Positive,
  num_hidden_layers: Positive,
  num_attention_heads: Positive,
  /** Grouped-query attention if fewer than the attention heads. Default: as many. */
  num_key_value_heads: Schema.optionalKey(Positive),
  head_dim: Schema.optionalKey(Positive),
  intermediate_size: Positive,
  max_position_embeddings: Schema.optionalKey(Positive),
  rms_norm_eps: Schema.optionalKey(Schema.Finite),
  rope_theta: Schema.optionalKey(Schema.Finite),
  tie_word_embeddings: Schema.optionalKey(Schema.Boolean),
  /** Bias on the query, key and value projections, as in Qwen2. */
  attention_bias: Schema.optionalKey(Schema.Boolean),
  initializer_range: Schema.optionalKey(Schema.Finite)
})
export type ModelConfig = typeof ModelConfig.Type
