import * as Schema from "effect/Schema"

/** A file from which no tokenizer can be made. It names the field, the value and what to do. */
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
