/**
 * Reads and checks a `tokenizer.json`. It accepts parts that give the same tokens as Hugging Face's `tokenizers`, in forms
 * that the library reads exactly, and refuses the rest by name.
 */
import * as Schema from "effect/Schema"
import type { AddedToken } from "./addedTokens.ts"
import { readDecoder } from "./decoder.ts"
import { readNormalizer } from "./normalizer.ts"
import { readPreTokenizer } from "./preTokenizer.ts"
import { type Fail, Fields, isObject, type Json } from "./tokenizerFields.ts"
import { MAX_TOKENS, readModel } from "./tokenizerModel.ts"
import type { Decoder } from "./tokenText.ts"

export interface TokenizerFile {
  readonly file: string
  readonly model: Json
  readonly normalizer: Json | null
  readonly preTokenizer: Json | null
  readonly decoder: Decoder
  readonly addedTokens: ReadonlyArray<AddedToken>
  /** Spelling of each id, added tokens included. */
  readonly spellings: ReadonlyArray<string | undefined>
  /** The token that the post-processor puts before a text. */
  readonly begin: number | undefined
  /** Whether it has patterns that no known model has; these are tried out before use. */
  readonly foreignPatterns: boolean
}

const MAX_ADDED_SPELLING = 256

const Flag = Schema.optionalKey(Schema.Boolean)
const Component = Schema.Record(Schema.String, Schema.Unknown)
const File = Schema.Struct({
  model: Component,
  normalizer: Schema.optionalKey(Schema.NullOr(Component)),
  pre_tokenizer: Schema.optionalKey(Schema.NullOr(Component)),
  post_processor: Schema.optionalKey(Schema.NullOr(Component)),
  decoder: Schema.optionalKey(Schema.NullOr(Component)),
  added_tokens: Schema.optionalKey(
    Schema.Array(
      Schema.Struct({
        id: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: MAX_TOKENS - 1 })),
        content: Schema.String.check(Schema.isMinLength(1), Schema.isMaxLength(MAX_ADDED_SPELLING)),
        single_word: Flag,
        lstrip: Flag,
        rstrip: Flag,
        normalized: Flag,
        special: Flag
      })
    )
  )
})
const decodeFile = Schema.decodeUnknownSync(File)

type AddedTokens = (typeof File.Type)["added_tokens"]

/** The added tokens; each takes its place among `spellings`. */
const readAddedTokens = (
  added: AddedTokens,
  spellings: Array<string | undefined>,
  ids: Map<string | undefined, number>,
  fail: Fail
): ReadonlyArray<AddedToken> =>
  (added ?? []).map((token, index) => {
    const at = `added_tokens.${index}`
    const known = ids.get(token.content)
    if (known !== undefined && known !== token.id) {
      throw fail(`${at}.id`, `${token.id}, but ${JSON.stringify(token.content)} has the id ${known} in the vocabulary`)
    }
    if (spellings[token.id] !== undefined && spellings[token.id] !== token.content) {
      throw fail(`${at}.id`, `${token.id} is taken by ${JSON.stringify(spellings[token.id])}`)
    }
    while (spellings.length <= token.id) spellings.push(undefined)
    spellings[token.id] = token.content
    ids.set(token.content, token.id)
    const { single_word = false, lstrip = false, rstrip = false, special = false } = token
    const { normalized = !special } = token
    return { id: token.id, content: token.content, single_word, lstrip, rstrip, normalized, special }
  })

/** Reads the value of a parsed `tokenizer.json`; throws a `TokenizerError`. */
export const parseTokenizer = (file: string, json: unknown): TokenizerFile => {
  const fields = new Fields(file)
  let parsed: typeof File.Type
  try {
    parsed = decodeFile(json)
  } catch (error) {
    const problem = error instanceof Error ? error.message.replaceAll("\n", " ") : String(error)
    throw fields.fail("", problem, "Download it again")
  }
  const { model, spellings } = readModel(parsed.model, fields.fail)
  const ids = new Map(spellings.map((spelling, id) => [spelling, id]))
  const addedTokens = readAddedTokens(parsed.added_tokens, spellings, ids, fields.fail)
  const normalizer = isObject(parsed.normalizer) ? readNormalizer(fields, parsed.normalizer, "normalizer") : null
  const preTokenizer = isObject(parsed.pre_tokenizer) ? readPreTokenizer(fields, parsed.pre_tokenizer) : null
  const decoder = readDecoder(fields, parsed.decoder ?? null)
  return {
    file,
    model,
    normalizer,
    preTokenizer,
    decoder,
    addedTokens,
    spellings,
    begin: readBegin(parsed.post_processor ?? null, ids),
    foreignPatterns: fields.foreignPatterns
  }
}

/** Returns the special token that begins a post-processor's template for one text. */
const readBegin = (value: Json | null, ids: ReadonlyMap<string | undefined, number>): number | undefined => {
  const steps: unknown = value?.["type"] === "Sequence" ? value["processors"] : [value]
  for (const step of Array.isArray(steps) ? (steps as ReadonlyArray<unknown>) : []) {
    const single = (step as Json | null)?.["single"]
    const first = Array.isArray(single) ? (single[0] as { SpecialToken?: { id?: unknown } } | null) : null
    const id = first?.SpecialToken?.id
    if (typeof id === "string") return ids.get(id)
  }
  return undefined
}
