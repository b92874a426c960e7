/** The tokenizer's files in a checkpoint folder, read with bounds. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Fs from "node:fs/promises"
import * as Path from "node:path"
import { TokenizerError } from "./TokenizerError.ts"

export interface Folder {
  readonly json: unknown
  /** Spelling of the begin token. null means none, whatever the post-processor says. */
  readonly begin: string | null | undefined
  readonly ends: ReadonlyArray<number | string>
  readonly templates: Readonly<Record<string, string>> | undefined
  readonly variables: Readonly<Record<string, string>>
}

// Gemma 3's, the largest known, has 33 MB.
const MAX_TOKENIZER = 2 ** 27
const MAX_SMALL = 2 ** 24

const Spelling = Schema.Union([Schema.String, Schema.Struct({ content: Schema.String })])
const OptionalSpelling = Schema.optionalKey(Schema.NullOr(Spelling))
const Config = Schema.Struct({
  bos_token: OptionalSpelling,
  eos_token: OptionalSpelling,
  pad_token: OptionalSpelling,
  unk_token: OptionalSpelling,
  add_bos_token: Schema.optionalKey(Schema.NullOr(Schema.Boolean)),
  chat_template: Schema.optionalKey(
    Schema.NullOr(
      Schema.Union([
        Schema.String,
        Schema.Array(Schema.Struct({ name: Schema.String, template: Schema.String })).check(Schema.isMaxLength(64))
      ])
    )
  )
})
const Generation = Schema.Struct({
  eos_token_id: Schema.optionalKey(Schema.NullOr(Schema.Union([Schema.Int, Schema.Array(Schema.Int)])))
})
const decodeConfig = Schema.decodeUnknownEffect(Schema.fromJsonString(Config))
const decodeGeneration = Schema.decodeUnknownEffect(Schema.fromJsonString(Generation))

const TOKENS = ["bos_token", "eos_token", "pad_token", "unk_token"] as const

export const readFolder = Effect.fnUntraced(function* (folder: string): Effect.fn.Return<Folder, TokenizerError> {
  const fail = (name: string, problem: string, remedy = "Download it again") =>
    new TokenizerError({ file: Path.join(folder, name), field: "", problem, remedy })

  /** Reads a file; `undefined` if it is missing. */
  const read = (name: string, limit: number): Effect.Effect<string | undefined, TokenizerError> =>
    Effect.tryPromise({
      try: async (signal) => {
        const path = Path.join(folder, name)
        const { size } = await Fs.stat(path)
        if (size > limit) throw fail(name, `${size} bytes, more than ${limit}`, "Use another checkpoint")
        return await Fs.readFile(path, { encoding: "utf8", signal })
      },
      catch: (cause) => cause
    }).pipe(
      Effect.catch((cause) => {
        if (cause instanceof TokenizerError) return Effect.fail(cause)
        if ((cause as { readonly code?: unknown }).code === "ENOENT") return Effect.succeed(undefined)
        return Effect.fail(fail(name, `cannot be read: ${String(cause)}`))
      })
    )
  const parse = <A>(
    name: string,
    text: string | undefined,
    decode: (text: string) => Effect.Effect<A, Schema.SchemaError>
  ): Effect.Effect<A | undefined, TokenizerError> =>
    text === undefined
      ? Effect.succeed(undefined)
      : Effect.mapError(decode(text), (error) => fail(name, error.message.replaceAll("\n", " ")))

  const text = yield* read("tokenizer.json", MAX_TOKENIZER)
  if (text === undefined) {
    return yield* fail(
      "tokenizer.json",
      "the file is missing",
      "Save the tokenizer with transformers' save_pretrained, or give a tokenizer"
    )
  }
  const json = yield* Effect.try({
    try: () => JSON.parse(text) as unknown,
    catch: (cause) => fail("tokenizer.json", `not JSON: ${String(cause)}`)
  })
  const [config, map, generation, jinja] = yield* Effect.all([
    Effect.flatMap(read("tokenizer_config.json", MAX_SMALL), (found) =>
      parse("tokenizer_config.json", found, decodeConfig)
    ),
    Effect.flatMap(read("special_tokens_map.json", MAX_SMALL), (found) =>
      parse("special_tokens_map.json", found, decodeConfig)
    ),
    Effect.flatMap(read("generation_config.json", MAX_SMALL), (found) =>
      parse("generation_config.json", found, decodeGeneration)
    ),
    read("chat_template.jinja", MAX_SMALL)
  ])

  const variables: Record<string, string> = {}
  for (const name of TOKENS) {
    const found = config?.[name] ?? map?.[name]
    if (typeof found === "string") variables[name] = found
    else if (found?.content !== undefined) variables[name] = found.content
  }
  const listed = config?.chat_template
  const templates =
    typeof listed === "string"
      ? { default: listed }
      : Object.fromEntries((listed ?? []).map(({ name, template }) => [name, template]))
  if (jinja !== undefined) templates["default"] = jinja
  const eos = generation?.eos_token_id
  const ends = typeof eos === "number" ? [eos] : (eos ?? [])
  return {
    json,
    begin: config?.add_bos_token === false ? null : config?.add_bos_token === true ? variables["bos_token"] : undefined,
    ends: [...(variables["eos_token"] === undefined ? [] : [variables["eos_token"]]), ...ends],
    templates: Object.keys(templates).length === 0 ? undefined : templates,
    variables
  }
})
