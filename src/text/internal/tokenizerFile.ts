/**
 * What a `tokenizer.json` says, checked. Only what gives the same tokens as Hugging Face's `tokenizers` is let through, in
 * forms that the library reads exactly; the rest is refused by name.
 */
import * as Schema from "effect/Schema"
import type { AddedToken } from "./addedTokens.ts"
import { GPT2, isKnown, problemOf } from "./pattern.ts"
import { TokenizerError } from "./TokenizerError.ts"
import type { Decoder } from "./tokenText.ts"

type Json = Readonly<Record<string, unknown>>

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
  /** Has patterns that no known model has: they are tried out before use. */
  readonly foreignPatterns: boolean
}

/** The largest vocabularies that are known have a quarter of it. */
const MAX_TOKENS = 2 ** 20
const MAX_SPELLING = 4096
const MAX_ADDED_SPELLING = 256
/** What a replacement may write; several in a row multiply. */
const MAX_CONTENT = 8
const MAX_REPLACEMENTS = 4

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

const OTHER = "Use a checkpoint of another kind, or write a Tokenizer of your own"

/** Reads the value of a parsed `tokenizer.json`; throws {@link TokenizerError}. */
export const parseTokenizer = (file: string, json: unknown): TokenizerFile => {
  const fail = (field: string, problem: string, remedy = OTHER) => new TokenizerError({ file, field, problem, remedy })
  let foreignPatterns = false

  const isObject = (value: unknown): value is Json =>
    typeof value === "object" && value !== null && !Array.isArray(value)
  const unknownType = (field: string, value: Json) =>
    fail(`${field}.type`, `${JSON.stringify(value["type"])} is not read`)
  const text = (value: unknown, field: string): string => {
    if (typeof value !== "string") throw fail(field, "text was expected")
    return value
  }

  const short = (value: unknown, field: string): string => {
    const found = text(value, field)
    if (found.length > MAX_CONTENT) throw fail(field, `${found.length} characters, more than ${MAX_CONTENT}`)
    return found
  }
  /** At most so many steps of a kind: each may make the text longer. */
  const bounded = (steps: ReadonlyArray<Json>, field: string): void => {
    for (const [type, most] of [
      ["Replace", MAX_REPLACEMENTS],
      ["ByteLevel", 1],
      ["Metaspace", 1],
      ["Prepend", 1]
    ] as const) {
      if (steps.filter((step) => step["type"] === type).length > most) throw fail(field, `more than ${most} of ${type}`)
    }
  }

  const sequence = (value: unknown, field: string, each: (item: Json, field: string) => Json): ReadonlyArray<Json> => {
    if (!Array.isArray(value) || value.length > 16) throw fail(field, "a list of at most 16 was expected")
    return value.map((item, index) => {
      const at = `${field}.${index}`
      if (!isObject(item) || item["type"] === "Sequence") throw fail(at, "no component, or a sequence in a sequence")
      return each(item, at)
    })
  }

  const regex = (source: string, field: string): Json => {
    const problem = problemOf(source)
    if (problem !== undefined) throw fail(field, problem)
    foreignPatterns ||= !isKnown(source)
    return { Regex: source }
  }

  const literal = (value: unknown, field: string): string => {
    const found = short(value, field)
    if (found === "") throw fail(field, "a text of no length is found everywhere")
    return found
  }

  const pattern = (value: unknown, field: string): Json => {
    if (!isObject(value)) throw fail(field, "{ String } or { Regex } was expected")
    return typeof value["Regex"] === "string"
      ? regex(value["Regex"], `${field}.Regex`)
      : { String: literal(value["String"], `${field}.String`) }
  }

  const normalizer = (value: Json, field: string): Json => {
    const { type } = value
    if (type === "Sequence") {
      const normalizers = sequence(value["normalizers"], `${field}.normalizers`, normalizer)
      bounded(normalizers, field)
      return { type, normalizers }
    }
    if (type === "NFC" || type === "NFD" || type === "NFKC" || type === "NFKD") return { type }
    if (type === "Prepend") return { type, prepend: short(value["prepend"], `${field}.prepend`) }
    if (type === "Replace") {
      const content = short(value["content"], `${field}.content`)
      // The library gives the content to String.replace, which reads dollar signs.
      return { type, pattern: pattern(value["pattern"], `${field}.pattern`), content: content.replaceAll("$", "$$$$") }
    }
    throw unknownType(field, value)
  }

  const isolated = (Regex: string): Json => ({
    type: "Split",
    pattern: { Regex },
    behavior: "Isolated",
    invert: false
  })

  const split = (value: Json, field: string): Json => {
    const behavior = text(value["behavior"], `${field}.behavior`)
    const found = pattern(value["pattern"], `${field}.pattern`)
    const invert = value["invert"] === true
    if (behavior === "Isolated") return { type: "Split", pattern: found, behavior, invert: false }
    if (behavior === "Removed") return { type: "Split", pattern: found, behavior, invert }
    const literal = found["String"]
    if (typeof literal === "string" && Array.from(literal).length === 1 && !invert) {
      const one = /[\w\s]/.test(literal) ? literal : `\\u{${literal.codePointAt(0)!.toString(16)}}`
      if (behavior === "MergedWithPrevious") return isolated(`[^${one}]*${one}|[^${one}]+`)
      if (behavior === "MergedWithNext") return isolated(`${one}[^${one}]*|[^${one}]+`)
    }
    throw fail(`${field}.behavior`, `${behavior} of such a pattern is not read`)
  }

  const preTokenizers = (value: Json, field: string): ReadonlyArray<Json> => {
    const { type } = value
    if (type === "ByteLevel") {
      const bytes = {
        type,
        add_prefix_space: value["add_prefix_space"] === true,
        use_regex: value["use_regex"] !== false
      }
      // As two steps, so that the second, which changes no boundary, comes after the look in the encoder's memory.
      return bytes.add_prefix_space || !bytes.use_regex ? [bytes] : [isolated(GPT2), { ...bytes, use_regex: false }]
    }
    // char::is_numeric, which the library takes for decimal digits alone.
    if (type === "Digits") return [isolated(value["individual_digits"] === true ? "\\p{N}" : "\\p{N}+")]
    if (type === "Split") return [split(value, field)]
    if (type === "Metaspace") {
      const replacement = literal(value["replacement"] ?? "▁", `${field}.replacement`)
      const scheme = value["prepend_scheme"] ?? (value["add_prefix_space"] === false ? "never" : "always")
      const metaspace = { type, replacement, prepend_scheme: scheme }
      if (value["split"] === false) return [metaspace]
      const next = { type: "Split", pattern: { String: replacement }, behavior: "MergedWithNext" }
      return [metaspace, split(next, field)]
    }
    throw unknownType(field, value)
  }

  const preTokenizer = (value: Json): Json => {
    const field = "pre_tokenizer"
    const parts: Array<Json> = []
    if (value["type"] === "Sequence") {
      sequence(value["pretokenizers"], `${field}.pretokenizers`, (item, at) => {
        parts.push(...preTokenizers(item, at))
        return item
      })
    } else parts.push(...preTokenizers(value, field))
    bounded(parts, field)
    return { type: "Sequence", pretokenizers: parts }
  }

  const decoder = (value: Json | null): Decoder => {
    const field = "decoder"
    if (value === null) throw fail(field, "there is none")
    const steps = value["type"] === "Sequence" ? value["decoders"] : [value]
    if (!Array.isArray(steps) || steps.length > 16) throw fail(`${field}.decoders`, "a list of at most 16 was expected")
    if (steps.length === 1 && isObject(steps[0]) && steps[0]["type"] === "ByteLevel") return { kind: "byteLevel" }
    const replace: Array<readonly [string, string]> = []
    let byteFallback = false
    let strip = 0
    let dropInFirst: string | undefined
    let fused = false
    for (const [index, step] of steps.entries()) {
      const at = value["type"] === "Sequence" ? `${field}.decoders.${index}` : field
      if (!isObject(step)) throw fail(at, "no component")
      const { type } = step
      // These work on single tokens, and in this order; only Strip comes after the whole text is put together.
      if (type === "Replace" && !fused && !byteFallback) {
        const found = isObject(step["pattern"]) ? step["pattern"]["String"] : undefined
        replace.push([literal(found, `${at}.pattern.String`), short(step["content"], `${at}.content`)])
        if (replace.length > MAX_REPLACEMENTS) throw fail(at, `more than ${MAX_REPLACEMENTS} replacements`)
      } else if (type === "ByteFallback" && !fused) byteFallback = true
      else if (type === "Fuse") fused = true
      else if (type === "Strip" && fused && step["content"] === " " && step["stop"] === 0) {
        const { start } = step
        if (!Number.isSafeInteger(start) || Number(start) < 0) throw fail(`${at}.start`, "a count was expected")
        strip += Number(start)
      } else if (type === "Metaspace" && steps.length === 1) {
        const replacement = literal(step["replacement"] ?? "▁", `${at}.replacement`)
        const scheme = step["prepend_scheme"] ?? (step["add_prefix_space"] === false ? "never" : "always")
        if (scheme !== "never") dropInFirst = replacement
        replace.push([replacement, " "])
      } else throw unknownType(at, step)
    }
    return { kind: "pieces", replace, byteFallback, strip, dropInFirst }
  }

  let parsed: typeof File.Type
  try {
    parsed = decodeFile(json)
  } catch (error) {
    throw fail("", error instanceof Error ? error.message.replaceAll("\n", " ") : String(error), "Download it again")
  }
  const { model, spellings } = readModel(parsed.model, fail)
  const addedTokens: Array<AddedToken> = []
  const ids = new Map(spellings.map((spelling, id) => [spelling, id]))
  for (const [index, token] of (parsed.added_tokens ?? []).entries()) {
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
    addedTokens.push({ id: token.id, content: token.content, single_word, lstrip, rstrip, normalized, special })
  }
  const begin = readBegin(parsed.post_processor ?? null, ids)
  return {
    file,
    model,
    normalizer: isObject(parsed.normalizer) ? normalizer(parsed.normalizer, "normalizer") : null,
    preTokenizer: isObject(parsed.pre_tokenizer) ? preTokenizer(parsed.pre_tokenizer) : null,
    decoder: decoder(parsed.decoder ?? null),
    addedTokens,
    spellings,
    begin,
    foreignPatterns
  }
}

type Fail = (field: string, problem: string, remedy?: string) => TokenizerError

const readModel = (
  model: Json,
  fail: Fail
): { readonly model: Json; readonly spellings: Array<string | undefined> } => {
  // Files older than 2020 name no type.
  const { type = "merges" in model ? "BPE" : undefined, unk_token = null, vocab } = model
  const spellings: Array<string | undefined> = []
  const put = (spelling: string, id: unknown, field: string) => {
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id >= MAX_TOKENS) {
      throw fail(
        field,
        `${JSON.stringify(spelling.slice(0, 80))} has the id ${JSON.stringify(id)}; ids go to ${MAX_TOKENS - 1}`
      )
    }
    if (spelling.length > MAX_SPELLING) throw fail(field, `a token of ${spelling.length} characters`)
    while (spellings.length <= id) spellings.push(undefined)
    if (spellings[id] !== undefined) throw fail(field, `two tokens have the id ${id}`)
    spellings[id] = spelling
  }
  const off = (field: string) => {
    const value = model[field]
    if (value !== undefined && value !== null && value !== "" && value !== 0 && value !== false) {
      throw fail(`model.${field}`, `${JSON.stringify(value)} is not read`)
    }
  }
  if (unk_token !== null && typeof unk_token !== "string") throw fail("model.unk_token", "text was expected")

  if (type === "BPE") {
    for (const field of ["dropout", "continuing_subword_prefix", "end_of_word_suffix"]) off(field)
    if (typeof vocab !== "object" || vocab === null || Array.isArray(vocab)) {
      throw fail("model.vocab", "an object of tokens and ids was expected", "Download it again")
    }
    const entries = Object.entries(vocab)
    for (const [spelling, id] of entries) put(spelling, id, "model.vocab")
    const known = new Set(spellings)
    const { merges } = model
    if (!Array.isArray(merges)) throw fail("model.merges", "a list was expected", "Download it again")
    const pairs = merges.map((merge: unknown, index) => {
      const pair: unknown = typeof merge === "string" ? merge.split(" ") : merge
      if (!Array.isArray(pair) || pair.length !== 2 || typeof pair[0] !== "string" || typeof pair[1] !== "string") {
        throw fail(`model.merges.${index}`, `${JSON.stringify(merge)?.slice(0, 80)} is no pair of tokens`)
      }
      for (const part of [pair[0], pair[1], pair[0] + pair[1]]) {
        if (!known.has(part)) throw fail(`model.merges.${index}`, `${JSON.stringify(part)} is not in the vocabulary`)
      }
      return [pair[0], pair[1]]
    })
    return {
      model: {
        type,
        vocab,
        merges: pairs,
        unk_token,
        fuse_unk: model["fuse_unk"] === true,
        byte_fallback: model["byte_fallback"] === true,
        ignore_merges: model["ignore_merges"] === true
      },
      spellings
    }
  }

  if (type === "Unigram") {
    off("byte_fallback")
    const { unk_id } = model
    if (!Array.isArray(vocab))
      throw fail("model.vocab", "a list of tokens and scores was expected", "Download it again")
    for (const [id, entry] of vocab.entries()) {
      if (!Array.isArray(entry) || typeof entry[0] !== "string" || !Number.isFinite(entry[1])) {
        throw fail(`model.vocab.${id}`, "a token and its score were expected")
      }
      put(entry[0], id, `model.vocab.${id}`)
    }
    if (typeof unk_id !== "number" || spellings[unk_id] === undefined) {
      throw fail("model.unk_id", `${JSON.stringify(unk_id)} is no id of the vocabulary`)
    }
    return { model: { type, vocab, unk_id }, spellings }
  }
  throw fail("model.type", `${JSON.stringify(type)} is not read, only BPE and Unigram`)
}

/** The special token that a post-processor's template for one text begins with. */
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
