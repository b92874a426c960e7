/**
 * Tokenizers of real checkpoints, equal to Hugging Face's `tokenizers` token for token.
 *
 * They are read from a folder's `tokenizer.json`, or rebuilt from the metadata of a GGUF file.
 *
 * Control tokens spelled in a text stay text unless requested otherwise ({@link Tokenizer.EncodeOptions}), so a user or
 * an environment cannot end a turn. Rendered conversations equal Hugging Face's if their messages have no such text, or
 * with `specialTokens`.
 */
import * as Effect from "effect/Effect"
import * as Fs from "node:fs/promises"
import * as Path from "node:path"
import * as ChatTemplate from "./ChatTemplate.ts"
import { makeChat, turnEnd } from "./internal/chat.ts"
import { makeEncoder } from "./internal/encoder.ts"
import { readFolder } from "./internal/folder.ts"
import { filesOf } from "./internal/ggufFiles.ts"
import { fromMetadata, type GgufMetadata } from "./internal/ggufTokenizer.ts"
import { parseTokenizer } from "./internal/tokenizerFile.ts"
import { TokenizerError } from "./internal/TokenizerError.ts"
import { tokenText } from "./internal/tokenText.ts"
import * as Addon from "../addon/addon.ts"
import { type Tokenizer, UnknownText } from "./Tokenizer.ts"

export { TokenizerError }

/** Parts of a tokenizer. */
interface Parts {
  readonly file: string
  /** Value in the form of `tokenizer.json`. */
  readonly json: unknown
  /** Token that begins a text: an id, a spelling, or null for none. Default: the post-processor's. */
  readonly begin?: number | string | null | undefined
  /** Tokens that end a text or a turn, as ids or spellings; the first is the end of text. */
  readonly ends: ReadonlyArray<number | string>
  readonly templates?: ChatTemplate.Sources | undefined
  readonly variables: Readonly<Record<string, string>>
}

const build = ({ ends, file, json, templates, variables, ...parts }: Parts): Tokenizer => {
  const parsed = parseTokenizer(file, json)
  const encode = makeEncoder(parsed)
  const { addedTokens, spellings } = parsed
  const control = addedTokens.filter(({ special }) => special)
  const text = tokenText(parsed.decoder, spellings, new Set(control.map(({ id }) => id)))
  const name = `${Path.basename(file)}(${spellings.length})`

  const stopTokens = new Set<number>()
  for (const end of ends) {
    const id = typeof end === "number" ? end : spellings.indexOf(end)
    if (spellings[id] === undefined) {
      throw new TokenizerError({
        file,
        field: "eos_token",
        problem: `${JSON.stringify(end)} ends a text, but is not a token of the vocabulary`,
        remedy: "Correct it in tokenizer_config.json or generation_config.json"
      })
    }
    stopTokens.add(id)
  }
  const template = templates === undefined ? undefined : ChatTemplate.make(templates, { file, variables })
  const special = control.map(({ content }) => content)
  const turn = template === undefined ? undefined : turnEnd(template, special)
  if (turn !== undefined) stopTokens.add(spellings.indexOf(turn))
  const [endOfText] = stopTokens
  if (endOfText === undefined) {
    throw new TokenizerError({
      file,
      field: "eos_token",
      problem: "missing, so that no completion would end",
      remedy: "Name it in tokenizer_config.json"
    })
  }

  const stops = Array.from(stopTokens, (id) => spellings[id]!)
  const chat =
    template === undefined ? undefined : makeChat({ file, template, encode, special, stops, stopTokens, endOfText })
  const begin =
    typeof parts.begin === "string"
      ? spellings.indexOf(parts.begin)
      : parts.begin === undefined
        ? parsed.begin
        : parts.begin
  return {
    name,
    vocabularySize: spellings.length,
    endOfText,
    stopTokens: Array.from(stopTokens),
    ...(begin === undefined || begin === null || begin < 0 ? {} : { startOfText: begin }),
    encode: (value, options = {}) => {
      if (!value.isWellFormed()) {
        // Half of a surrogate pair is not a character: UTF-8 has no bytes for it, and encoders silently write U+FFFD.
        const position = value.search(/\p{Surrogate}/u)
        throw new UnknownText({ tokenizer: name, character: value.charAt(position), position })
      }
      return encode(value, { special: options.specialTokens === true, joined: options.continues === true })
    },
    ...text,
    render: (messages, options) => {
      if (chat !== undefined) return chat.render(messages, options)
      throw new ChatTemplate.TemplateError({
        file,
        problem: "there is none",
        remedy: "Give prompts as text, or use a chat model's checkpoint"
      })
    },
    ...(chat === undefined ? {} : { continuation: chat.continuation, renderTurns: chat.renderTurns })
  }
}

const attempt = (file: string, parts: () => Parts): Effect.Effect<Tokenizer, TokenizerError> =>
  Effect.try({
    try: () => build(parts()),
    catch: (cause) => {
      if (cause instanceof TokenizerError) return cause
      const field = cause instanceof ChatTemplate.TemplateError ? "chat_template" : ""
      const problem = cause instanceof Error ? cause.message : String(cause)
      return new TokenizerError({ file, field, problem, remedy: "Use another checkpoint" })
    }
  })

/**
 * Reads the tokenizer of a checkpoint folder.
 *
 * It reads `tokenizer.json` and, if present, `tokenizer_config.json`, `special_tokens_map.json`,
 * `generation_config.json` (the ids that end a turn) and `chat_template.jinja`. Supported are byte-level BPE,
 * SentencePiece's BPE with byte fallback, and Unigram vocabularies. A part that cannot be read exactly is refused by
 * name.
 *
 * `stopTokens` are the end of text, the ids of generation_config.json, and the control token that ends an answer in the
 * chat template.
 *
 * @example
 * ```ts
 * const tokenizer = yield* TokenizerJson.fromDirectory("./SmolLM2-135M-Instruct")
 * const prompt = tokenizer.render([{ role: "user", content: "What is 2+2?" }])
 * ```
 */
export const fromDirectory = Effect.fn("TokenizerJson.fromDirectory")(function* (
  path: string
): Effect.fn.Return<Tokenizer, TokenizerError> {
  const files = yield* readFolder(path)
  return yield* attempt(path, () => ({ file: path, ...files }))
})

/** Metadata of a GGUF file, in the keys of the format (`tokenizer.ggml.model`, ...). */
export type { GgufMetadata }

/** Makes the tokenizer that a GGUF file's metadata describes. `file` names it in errors and records. */
export const fromGgufMetadata = (file: string, metadata: GgufMetadata): Effect.Effect<Tokenizer, TokenizerError> =>
  attempt(file, () => {
    const { begin, bosToken, chatTemplate, ends, eosToken, json, namedTemplates } = fromMetadata(file, metadata)
    const default_ = chatTemplate ?? namedTemplates["default"]
    return {
      file,
      json,
      begin,
      ends,
      templates: default_ === undefined ? undefined : { ...namedTemplates, default: default_ },
      variables: {
        ...(bosToken === undefined ? {} : { bos_token: bosToken }),
        ...(eosToken === undefined ? {} : { eos_token: eosToken })
      }
    }
  })

/**
 * Reads the tokenizer in a GGUF file's metadata, its chat template included.
 *
 * Supported are the models `gpt2` (with the pre-tokenizers of Llama 3, Qwen2, SmolLM, GPT-2, GPT-4o, Mistral and
 * DeepSeek) and `llama`.
 *
 * @example
 * ```ts
 * const tokenizer = yield* TokenizerJson.fromGguf("./SmolLM2-135M-Instruct.gguf")
 * ```
 */
export const fromGguf = Effect.fn("TokenizerJson.fromGguf")(function* (
  path: string
): Effect.fn.Return<Tokenizer, TokenizerError> {
  return yield* fromGgufMetadata(path, yield* readMetadata(path))
})

/**
 * Converts the tokenizer in a GGUF file to the files of a Hugging Face folder.
 *
 * Returns texts by name: `tokenizer.json`, `tokenizer_config.json`, `chat_template.jinja`, ...
 */
export const filesFromGguf = Effect.fn("TokenizerJson.filesFromGguf")(function* (
  path: string
): Effect.fn.Return<Readonly<Record<string, string>>, TokenizerError> {
  const metadata = yield* readMetadata(path)
  return yield* Effect.try({
    try: () => filesOf(fromMetadata(path, metadata)),
    catch: (cause) =>
      cause instanceof TokenizerError
        ? cause
        : new TokenizerError({ file: path, field: "", problem: String(cause), remedy: "Use another checkpoint" })
  })
})

const readMetadata = Effect.fnUntraced(function* (path: string): Effect.fn.Return<GgufMetadata, TokenizerError> {
  const fail = (cause: unknown) =>
    new TokenizerError({
      file: path,
      field: "",
      problem: `cannot be read: ${Addon.describe(cause).detail}`,
      remedy: "Check the path, or download the file again"
    })
  yield* Effect.tryPromise({ try: () => Fs.access(path), catch: fail })
  const text = yield* Effect.tryPromise({ try: () => Addon.load().readGguf(path), catch: fail })
  return (JSON.parse(text) as Addon.GgufHeader).metadata
})
