/** The schemas of a run's files. */
import * as Schema from "effect/Schema"
import { Identity } from "../../data/Identity.ts"

/** Counts changes of the files; a run of another format is refused. */
export const FORMAT = 2

const Hash = Schema.String

/** Tasks or demonstrations: a finite source is known by its content, a generator by its name. */
export const DataRecord = Schema.Struct({
  name: Schema.String,
  count: Schema.optionalKey(Schema.Int),
  /** SHA-256 of ids and prompts, or of the encoded examples. */
  sha256: Schema.optionalKey(Hash)
})
export type DataRecord = typeof DataRecord.Type

/**
 * The options and parts of a run: `config.json`. A resume with other parts is refused, except for fields that
 * may change.
 */
export const RunRecord = Schema.Struct({
  format: Schema.Literal(FORMAT),
  model: Schema.Struct({
    name: Schema.String,
    /** Hash of the weights that training began with. */
    hash: Hash,
    dtype: Schema.String,
    engine: Schema.String
  }),
  /** Settings of the adapter that is trained; null: all weights, or an adapter that the engine does not describe. */
  adapter: Schema.NullOr(Schema.JsonObject),
  algorithm: Schema.Struct({
    /** The recipe. */
    name: Schema.String,
    loss: Schema.optionalKey(Identity),
    advantage: Schema.optionalKey(Identity),
    aggregate: Schema.optionalKey(Schema.Json),
    /** How samples of another engine are corrected, and that engine. */
    correction: Schema.optionalKey(Schema.Json),
    /** AdamW, the learning rate's identity, and how the batch is walked. */
    update: Schema.optionalKey(Schema.JsonObject)
  }),
  data: Schema.Struct({
    tasks: Schema.optionalKey(DataRecord),
    heldOut: Schema.optionalKey(DataRecord),
    environment: Schema.optionalKey(Identity),
    reward: Schema.optionalKey(Identity),
    tokenizer: Schema.optionalKey(Identity)
  }),
  /** The recipe's other options: seed, steps, groups, size, ... */
  settings: Schema.JsonObject,
  versions: Schema.Struct({ quintain: Schema.String, node: Schema.String, addon: Schema.String })
})
export type RunRecord = typeof RunRecord.Type

/** The position of a run: `state.json` of a checkpoint. Everything else that the next step needs, participants save. */
export const State = Schema.Struct({
  format: Schema.Literal(FORMAT),
  /** Steps done. */
  step: Schema.Int,
  /** Policy and prompt tokens seen, for `num_tokens`. */
  tokens: Schema.Int,
  /** Values that callbacks set, by name. */
  set: Schema.Record(Schema.String, Schema.Finite),
  /** Why a callback ended the run here. */
  stopped: Schema.optionalKey(Schema.String),
  /** The checkpoint is written, and its `onCheckpoint` has not returned yet. */
  announcing: Schema.optionalKey(Schema.Literal(true))
})
export type State = typeof State.Type
