import type { GgufTokenizer } from "./ggufTokenizer.ts"

type Fields = Readonly<Record<string, unknown>>

/** `tokenizers` rejects files without these fields, though some have no effect. */
const DEFAULTS: Readonly<Record<string, Fields>> = {
  ByteLevel: { add_prefix_space: false, trim_offsets: true, use_regex: true },
  BPE: {
    dropout: null,
    unk_token: null,
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    fuse_unk: false,
    byte_fallback: false,
    ignore_merges: false
  }
}

/** Completes one part of a pipeline, or several in a sequence, with every field. */
const complete = (part: unknown): unknown => {
  if (Array.isArray(part)) return part.map(complete)
  if (typeof part !== "object" || part === null) return part
  const { decoders, pretokenizers, type, ...rest } = part as Fields
  return {
    type,
    ...DEFAULTS[String(type)],
    ...rest,
    ...(decoders === undefined ? {} : { decoders: complete(decoders) }),
    ...(pretokenizers === undefined ? {} : { pretokenizers: complete(pretokenizers) })
  }
}

/** Writes the begin token before a text. */
const beginning = (content: string, id: number): Fields => {
  const begin = { SpecialToken: { id: content, type_id: 0 } }
  const text = (name: string, type_id: number) => ({ Sequence: { id: name, type_id } })
  return {
    type: "TemplateProcessing",
    single: [begin, text("A", 0)],
    pair: [begin, text("A", 0), { SpecialToken: { id: content, type_id: 1 } }, text("B", 1)],
    special_tokens: { [content]: { id: content, ids: [id], tokens: [content] } }
  }
}

/** Makes the files from which transformers reads a tokenizer, for a GGUF file: texts by name. */
export const filesOf = ({
  begin,
  bosToken,
  chatTemplate,
  ends,
  eosToken,
  json,
  namedTemplates
}: GgufTokenizer): Readonly<Record<string, string>> => {
  const pretty = (value: unknown): string => `${JSON.stringify(value, undefined, 2)}\n`
  const { added_tokens, decoder, model, normalizer, pre_tokenizer } = json as Fields
  const template = chatTemplate ?? namedTemplates["default"]
  const others = Object.entries(namedTemplates).filter(([name]) => name !== "default")
  return {
    "tokenizer.json": pretty({
      version: "1.0",
      truncation: null,
      padding: null,
      added_tokens: (added_tokens as ReadonlyArray<Fields>).map(({ content, id, normalized, special }) => ({
        id,
        content,
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized,
        special
      })),
      normalizer,
      pre_tokenizer: complete(pre_tokenizer),
      post_processor: begin === undefined || bosToken === undefined ? null : beginning(bosToken, begin),
      decoder: complete(decoder),
      model: complete(model)
    }),
    "tokenizer_config.json": pretty({
      tokenizer_class: "PreTrainedTokenizerFast",
      ...(bosToken === undefined ? {} : { bos_token: bosToken }),
      ...(eosToken === undefined ? {} : { eos_token: eosToken })
    }),
    "generation_config.json": pretty({ eos_token_id: ends }),
    ...(template === undefined ? {} : { "chat_template.jinja": template }),
    ...Object.fromEntries(others.map(([name, text]) => [`additional_chat_templates/${name}.jinja`, text]))
  }
}
