import * as Schema from "effect/Schema"

/** A run directory that cannot be opened, read or written. */
export class RunError extends Schema.TaggedError<RunError>()("RunError", {
  operation: Schema.String,
  path: Schema.String,
  detail: Schema.String
}) {
  override get message(): string {
    return `run: ${this.operation} ${this.path}: ${this.detail}`
  }
}
