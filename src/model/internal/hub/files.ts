/** Selects the files of a repository that a model needs. Never pickles (`.bin`, `.pt`): reading one runs its code. */
import * as Schema from "effect/Schema"

/** A file as the Hub announces it. */
export interface RemoteFile {
  readonly path: string
  readonly size: number
  /**
   * SHA-256 of the contents for large files, git's blob hash for the others. It is the name of the blob in the cache.
   */
  readonly hash: string
}

/** Files of a tokenizer, its chat template and its generation settings, besides further named templates. */
export const TOKENIZER_FILES: ReadonlySet<string> = new Set([
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
  "tokenizer.model",
  "chat_template.jinja",
  "chat_template.json"
])
const SMALL = new Set([...TOKENIZER_FILES, "config.json", "adapter_config.json", "adapter_model.safetensors"])
export const WEIGHTS = "model.safetensors"
export const INDEX = "model.safetensors.index.json"

const Hex = (length: number) => Schema.String.check(Schema.isPattern(new RegExp(`^[0-9a-f]{${length}}$`)))
const Size = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2 ** 50 }))

const Entry = Schema.Struct({
  type: Schema.Literal("file"),
  path: Schema.String,
  size: Size,
  oid: Hex(40),
  lfs: Schema.optionalKey(Schema.Struct({ oid: Hex(64), size: Size }))
})
const decodeEntry = Schema.decodeUnknownSync(Entry)

/** Parses one entry of a listing; throws if it is invalid. */
export const remoteFile = (entry: unknown): RemoteFile => {
  const { lfs, oid, path, size } = decodeEntry(entry)
  return { path, size: lfs?.size ?? size, hash: lfs?.oid ?? oid }
}

/** Tells whether a file is anything but weights, or the weights' index. */
export const isSmall = (path: string): boolean =>
  SMALL.has(path) || /^additional_chat_templates\/[^/]+\.jinja$/.test(path)

const Index = Schema.fromJsonString(Schema.Struct({ weight_map: Schema.Record(Schema.String, Schema.String) }))
const decodeIndex = Schema.decodeUnknownSync(Index)

/** Lists the shards that an index names, each once; throws if it is not an index. */
export const shardsOf = (text: string): ReadonlyArray<string> =>
  Array.from(new Set(Object.values(decodeIndex(text).weight_map)))
