/** Converts text to token ids through Hugging Face's own library for JavaScript. */
import { Tokenizer } from "@huggingface/tokenizers"
import { TookTooLong, within } from "../../internal/deadline.ts"
import { splitter } from "./addedTokens.ts"
import { probes } from "./pattern.ts"
import { TokenizerError } from "./TokenizerError.ts"
import type { TokenizerFile } from "./tokenizerFile.ts"
import { BYTE_CHARACTERS } from "./tokenText.ts"

export interface EncodeSettings {
  /** Whether control tokens spelled in the text become tokens. */
  readonly special: boolean
  /** Whether the text follows other text. SentencePiece vocabularies then put no space before it. */
  readonly joined: boolean
  /** A character that breaks the spelling of control tokens that are text; it is taken out. */
  readonly mark?: string
}

export type Encode = (text: string, settings: EncodeSettings) => Uint32Array

const CACHED_LENGTH = 64
const CACHED_PIECES = 50_000
const PROBE_MILLISECONDS = 5000

type Component = TokenizerFile["normalizer"]

/** Splits off a last step that only spells pieces in GPT-2's characters for bytes. That step changes no boundary. */
const withoutBytes = (value: Component): { readonly preTokenizer: Component; readonly spelledInBytes: boolean } => {
  const steps = (value?.["pretokenizers"] ?? []) as ReadonlyArray<NonNullable<Component>>
  const last = steps.at(-1)
  if (last?.["type"] !== "ByteLevel" || last["add_prefix_space"] === true || last["use_regex"] === true) {
    return { preTokenizer: value, spelledInBytes: false }
  }
  return { preTokenizer: { ...value, pretokenizers: steps.slice(0, -1) }, spelledInBytes: true }
}

const utf8 = new TextEncoder()
const spellBytes = (text: string): string => {
  let spelled = ""
  for (const byte of utf8.encode(text)) spelled += BYTE_CHARACTERS[byte]
  return spelled
}

/** Removes from a normaliser or pre-tokeniser what it puts before a text. */
const withoutPrefix = (value: Component): Component => {
  if (value === null) return null
  const { type } = value
  const list = type === "Sequence" && ("normalizers" in value ? "normalizers" : "pretokenizers")
  if (list !== false) {
    const items = value[list] as ReadonlyArray<NonNullable<Component>>
    return { ...value, [list]: items.filter((item) => item["type"] !== "Prepend").map(withoutPrefix) }
  }
  if (type === "Prepend") return null
  if (type === "Metaspace") return { ...value, prepend_scheme: "never" }
  return type === "ByteLevel" ? { ...value, add_prefix_space: false } : value
}

/** Throws {@link TokenizerError} for what the library cannot build, or patterns that are too slow. */
export const makeEncoder = (file: TokenizerFile): Encode => {
  const fail = (field: string, problem: string) =>
    new TokenizerError({ file: file.file, field, problem, remedy: "Use a checkpoint with another tokenizer" })
  const build = (parts: Pick<TokenizerFile, "model" | "normalizer" | "preTokenizer">): Tokenizer => {
    const { model, normalizer, preTokenizer } = parts
    const rest = { decoder: null, post_processor: null, added_tokens: [] }
    try {
      return new Tokenizer({ model, normalizer, pre_tokenizer: preTokenizer, ...rest }, {})
    } catch (error) {
      throw fail("", error instanceof Error ? error.message : String(error))
    }
  }
  const { preTokenizer: boundaries, spelledInBytes } = withoutBytes(file.preTokenizer)
  const library = build({ ...file, preTokenizer: boundaries })
  const { model, normalizer, pre_tokenizer: preTokenizer } = library
  if (model === null) throw fail("model", "the library cannot build it")
  if (file.foreignPatterns) {
    try {
      within(PROBE_MILLISECONDS, () => {
        for (const text of probes) preTokenizer?.(normalizer?.(text) ?? text, { section_index: 0 })
      })
    } catch (error) {
      const problem = error instanceof TookTooLong ? "takes too long on some texts" : String(error)
      throw fail("pre_tokenizer", `a pattern in it ${problem}`)
    }
  }

  const joinedParts = build({
    model: { type: "BPE", vocab: {}, merges: [] },
    normalizer: withoutPrefix(file.normalizer),
    preTokenizer: withoutPrefix(boundaries)
  })

  const raw = splitter(
    file.addedTokens.filter(({ normalized }) => !normalized || normalizer === null),
    ({ content }) => content
  )
  const normalised = splitter(
    file.addedTokens.filter(({ normalized }) => normalized && normalizer !== null),
    ({ content }) => normalizer?.(content) ?? content
  )

  const ids = model.tokens_to_ids
  const unknown = model.unk_token_id
  let cache = new Map<string, ReadonlyArray<number>>()
  const encodePiece = (piece: string): ReadonlyArray<number> => {
    const known = cache.get(piece)
    if (known !== undefined) return known
    const spelled = spelledInBytes ? spellBytes(piece) : piece
    const found = model([spelled]).flatMap((token: string) => ids.get(token) ?? unknown ?? [])
    if (piece.length <= CACHED_LENGTH) {
      if (cache.size >= CACHED_PIECES) cache = new Map()
      cache.set(piece, found)
    }
    return found
  }

  return (text, { joined, mark, special }) => {
    const tokens: Array<number> = []
    for (const outer of raw(text, special)) {
      if ("token" in outer) {
        tokens.push(outer.token.id)
        continue
      }
      const goesOn = joined && outer.start === 0
      const normalize = goesOn ? joinedParts.normalizer : normalizer
      const marked = mark !== undefined && outer.text.includes(mark)
      const plain = marked ? outer.text.replaceAll(mark, "") : outer.text
      const spelled = normalize === null ? plain : normalize(plain)
      for (const inner of normalised(spelled, special && !marked)) {
        if ("token" in inner) {
          tokens.push(inner.token.id)
          continue
        }
        const split = goesOn && inner.start === 0 ? joinedParts.pre_tokenizer : preTokenizer
        const section = { section_index: outer.start === 0 && inner.start === 0 ? 0 : 1 }
        const pieces = split === null ? [inner.text] : split(inner.text, section)
        for (const piece of pieces) {
          if (piece === "") continue
          for (const id of encodePiece(piece)) tokens.push(id)
        }
      }
    }
    return Uint32Array.from(tokens)
  }
}
