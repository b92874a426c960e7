/**
 * Builds the `tokenizer.json` that a GGUF file's metadata describes. Sources: llama.cpp's `llm_tokenizer` tables (the
 * pre-tokeniser for each `tokenizer.ggml.pre`) and transformers' reader of GGUF files.
 */
import * as Schema from "effect/Schema"
import { DEEPSEEK_V3, GPT2, GPT4O, LLAMA3, QWEN2, TEKKEN } from "./pattern.ts"
import { TokenizerError } from "./TokenizerError.ts"

/** A file's metadata: scalars and arrays of them, by key. */
export type GgufMetadata = Readonly<Record<string, unknown>>

export interface GgufTokenizer {
  /** Value in the form of `tokenizer.json`. */
  readonly json: object
  readonly begin: number | undefined
  /** Id of the end of text, then other ids that end a turn. */
  readonly ends: ReadonlyArray<number>
  /** Spellings of the begin and end tokens, as chat templates name them. */
  readonly bosToken: string | undefined
  readonly eosToken: string | undefined
  readonly chatTemplate: string | undefined
  /** `tool_use` and the like. */
  readonly namedTemplates: Readonly<Record<string, string>>
}

/** `tokenizer.ggml.token_type` */
const UNKNOWN = 2
const CONTROL = 3
const USER_DEFINED = 4
const BYTE = 6

interface Pre {
  readonly patterns?: ReadonlyArray<string>
  /** Whether each numeric character is split off before GPT-2's pattern applies. */
  readonly digits?: boolean
  readonly nfc?: boolean
  readonly ignoreMerges?: boolean
}

const llama3: Pre = { patterns: [LLAMA3], ignoreMerges: true }
const qwen2: Pre = { patterns: [QWEN2], nfc: true }
const gpt2: Pre = { patterns: [GPT2] }
const digits: Pre = { digits: true }
const gpt4o: Pre = { patterns: [GPT4O] }

const PRE = new Map<string, Pre>([
  // Old files name none; transformers treats them as GPT-2's.
  ["default", gpt2],
  ["gpt-2", gpt2],
  ["olmo", gpt2],
  ["smollm", digits],
  ["starcoder", digits],
  ["llama3", llama3],
  ["llama-v3", llama3],
  ["llama-bpe", llama3],
  ["falcon3", llama3],
  ["qwen2", qwen2],
  ["deepseek-r1-qwen", qwen2],
  ["tekken", { patterns: [TEKKEN], ignoreMerges: true }],
  ["gpt-4o", gpt4o],
  ["deepseek-v3", { patterns: DEEPSEEK_V3 }]
])

const MAX_TOKENS = 2 ** 20
/** Most characters of a SentencePiece vocabulary, each a place to cut. Gemma's has 2 million. */
const MAX_CUTS = 2 ** 22
const Id = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: MAX_TOKENS - 1 }))
const Text = Schema.String.check(Schema.isMaxLength(2 ** 20))
const Metadata = Schema.Struct({
  "general.architecture": Schema.optionalKey(Schema.String),
  "tokenizer.ggml.model": Schema.String,
  "tokenizer.ggml.pre": Schema.optionalKey(Schema.String),
  "tokenizer.ggml.tokens": Schema.Array(Schema.String).check(Schema.isMinLength(1), Schema.isMaxLength(MAX_TOKENS)),
  "tokenizer.ggml.scores": Schema.optionalKey(Schema.Array(Schema.Number)),
  "tokenizer.ggml.token_type": Schema.optionalKey(Schema.Array(Schema.Int)),
  "tokenizer.ggml.merges": Schema.optionalKey(Schema.Array(Schema.String)),
  "tokenizer.ggml.bos_token_id": Schema.optionalKey(Id),
  "tokenizer.ggml.eos_token_id": Schema.optionalKey(Id),
  "tokenizer.ggml.eot_token_id": Schema.optionalKey(Id),
  "tokenizer.ggml.eom_token_id": Schema.optionalKey(Id),
  "tokenizer.ggml.unknown_token_id": Schema.optionalKey(Id),
  "tokenizer.ggml.add_bos_token": Schema.optionalKey(Schema.Boolean),
  "tokenizer.ggml.add_space_prefix": Schema.optionalKey(Schema.Boolean),
  "tokenizer.chat_template": Schema.optionalKey(Text)
})
const decodeMetadata = Schema.decodeUnknownSync(Metadata)

/** Throws {@link TokenizerError}. */
export const fromMetadata = (file: string, metadata: GgufMetadata): GgufTokenizer => {
  const fail = (field: string, problem: string) =>
    new TokenizerError({
      file,
      field,
      problem,
      remedy: "Use the model's Hugging Face folder, or write a Tokenizer of your own"
    })
  let fields: typeof Metadata.Type
  try {
    fields = decodeMetadata(metadata)
  } catch (error) {
    throw fail("tokenizer.ggml", error instanceof Error ? error.message.replaceAll("\n", " ") : String(error))
  }
  const tokens = fields["tokenizer.ggml.tokens"]
  const types = fields["tokenizer.ggml.token_type"] ?? []
  const model = fields["tokenizer.ggml.model"]
  const id = (key: "bos" | "eos" | "eot" | "eom" | "unknown"): number | undefined => {
    const field = `tokenizer.ggml.${key}_token_id` as const
    const value = fields[field]
    if (value !== undefined && value >= tokens.length) throw fail(field, `${value}, of ${tokens.length} tokens`)
    return value
  }
  const bos = id("bos")
  const unknown = id("unknown")
  const eos = id("eos")
  if (eos === undefined) throw fail("tokenizer.ggml.eos_token_id", "missing, so that no completion would end")

  const gemma = (fields["general.architecture"] ?? "").startsWith("gemma")
  const pieces = {
    file,
    // Gemma writes runs of spaces as spaces. Its normaliser turns them into U+2581 before they are looked up.
    tokens: gemma ? tokens.map((token) => (/^ {2,}$/.test(token) ? "▁".repeat(token.length) : token)) : tokens,
    types,
    unknown,
    gemma
  }
  const addSpace = fields["tokenizer.ggml.add_space_prefix"] ?? true
  let parts: object
  if (model === "gpt2") {
    const merges = fields["tokenizer.ggml.merges"]
    if (merges === undefined) throw fail("tokenizer.ggml.merges", "missing")
    const name = fields["tokenizer.ggml.pre"] ?? "default"
    const pre = PRE.get(name)
    if (pre === undefined) {
      throw fail("tokenizer.ggml.pre", `${JSON.stringify(name)} is not read, only ${Array.from(PRE.keys()).join(", ")}`)
    }
    parts = byteLevel(pieces.tokens, merges, pre)
  } else if (model === "llama") {
    const scores = fields["tokenizer.ggml.scores"]
    if (!gemma && scores?.length !== tokens.length) {
      throw fail("tokenizer.ggml.scores", `${scores?.length ?? 0} scores of ${tokens.length} tokens`)
    }
    const cuts = pieces.tokens.reduce((sum, token) => sum + token.length, 0)
    if (cuts > MAX_CUTS) throw fail("tokenizer.ggml.tokens", `${cuts} characters, more than ${MAX_CUTS}`)
    parts = sentencePiece(pieces, scores ?? [], addSpace)
  } else throw fail("tokenizer.ggml.model", `${JSON.stringify(model)} is not read, only gpt2 and llama`)

  const seen = new Set<string>()
  const added_tokens = pieces.tokens.flatMap((content, index) => {
    const type = types[index]
    const special = type === CONTROL || type === UNKNOWN
    // A spelling that occurs twice is read as its first token.
    if (seen.has(content) || content === "") return []
    seen.add(content)
    if (!special && (type !== USER_DEFINED || pieces.tokens[index] !== tokens[index])) return []
    return [{ id: index, content, special, normalized: false }]
  })
  const addBos = fields["tokenizer.ggml.add_bos_token"] ?? model === "llama"
  const namedTemplates: Record<string, string> = {}
  for (const [key, value] of Object.entries(metadata)) {
    const name = /^tokenizer\.chat_template\.(\w{1,64})$/.exec(key)?.[1]
    if (name !== undefined && typeof value === "string") namedTemplates[name] = value
  }
  const ends = [eos, id("eot"), id("eom")].filter((end) => end !== undefined)
  return {
    json: { ...parts, added_tokens },
    begin: addBos ? bos : undefined,
    ends: Array.from(new Set(ends)),
    bosToken: bos === undefined ? undefined : tokens[bos],
    eosToken: tokens[eos],
    chatTemplate: fields["tokenizer.chat_template"],
    namedTemplates
  }
}

/** The first occurrence counts, so that a repeated spelling keeps its lower id. */
const vocabulary = (tokens: ReadonlyArray<string>): ReadonlyMap<string, number> => {
  const vocab = new Map<string, number>()
  for (const [index, token] of tokens.entries()) if (!vocab.has(token)) vocab.set(token, index)
  return vocab
}

const byteLevel = (tokens: ReadonlyArray<string>, merges: ReadonlyArray<string>, pre: Pre): object => {
  const split = (Regex: string) => ({ type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false })
  const splits =
    pre.digits === true
      ? [{ type: "Digits", individual_digits: true }, split(GPT2)]
      : (pre.patterns ?? []).map((pattern) => split(pattern))
  return {
    normalizer: pre.nfc === true ? { type: "NFC" } : null,
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [...splits, { type: "ByteLevel", add_prefix_space: false, use_regex: false }]
    },
    model: {
      type: "BPE",
      vocab: Object.fromEntries(vocabulary(tokens)),
      merges,
      ignore_merges: pre.ignoreMerges === true
    },
    decoder: { type: "ByteLevel" }
  }
}

interface Pieces {
  readonly file: string
  readonly tokens: ReadonlyArray<string>
  readonly types: ReadonlyArray<number>
  readonly unknown: number | undefined
  readonly gemma: boolean
}

const sentencePiece = (pieces: Pieces, scores: ReadonlyArray<number>, addSpace: boolean): object => {
  const { gemma, tokens, unknown } = pieces
  const replace = { type: "Replace", pattern: { String: "▁" }, content: " " }
  const strip = addSpace && !gemma ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : []
  return {
    normalizer: gemma ? { type: "Replace", pattern: { String: " " }, content: "▁" } : null,
    pre_tokenizer: gemma
      ? null
      : { type: "Metaspace", replacement: "▁", prepend_scheme: addSpace ? "first" : "never", split: false },
    model: {
      type: "BPE",
      vocab: Object.fromEntries(vocabulary(tokens)),
      merges: merges(pieces, scores),
      unk_token: unknown === undefined ? null : tokens[unknown],
      fuse_unk: true,
      byte_fallback: true
    },
    decoder: { type: "Sequence", decoders: [replace, { type: "ByteFallback" }, { type: "Fuse" }, ...strip] }
  }
}

/**
 * Lists the merges: every way to cut each piece in two pieces. SentencePiece merges any two adjacent pieces whose union
 * is a piece, best score first. Gemma's scores do not follow its order of merging; its ids do.
 */
const merges = ({ gemma, tokens, types }: Pieces, scores: ReadonlyArray<number>): ReadonlyArray<[string, string]> => {
  const usable = new Map<string, number>()
  for (const [token, id] of vocabulary(tokens)) {
    const type = types[id]
    if (type !== CONTROL && type !== UNKNOWN && type !== BYTE) usable.set(token, id)
  }
  const found: Array<{ readonly pair: [string, string]; readonly score: number; readonly order: number }> = []
  for (const [token, id] of usable) {
    if (token.length > 256) continue
    const cuts: Array<readonly [left: number, right: number, cut: number]> = []
    for (let cut = 1; cut < token.length; cut++) {
      const left = usable.get(token.slice(0, cut))
      const right = left === undefined ? undefined : usable.get(token.slice(cut))
      if (left !== undefined && right !== undefined) cuts.push([left, right, cut])
    }
    cuts.sort((a, b) => a[0] - b[0] || a[1] - b[1])
    for (const [, , cut] of cuts) {
      const score = gemma ? -id : scores[id]!
      found.push({ pair: [token.slice(0, cut), token.slice(cut)], score, order: found.length })
    }
  }
  const length = (text: string) => (text.length === 1 ? 1 : Array.from(text).length)
  found.sort(
    (a, b) =>
      b.score - a.score ||
      length(b.pair[0]) - length(a.pair[0]) ||
      length(b.pair[1]) - length(a.pair[1]) ||
      a.order - b.order
  )
  return found.map(({ pair }) => pair)
}
