import { CliError } from "effect/cli"
import * as Effect from "effect/Effect"
import * as Runtime from "effect/Runtime"
import * as Schema from "effect/Schema"

/** Scoring cannot start or go on. `code` is the exit code of the process. */
export class ScoreError extends Schema.TaggedError<ScoreError>()("ScoreError", {
  problem: Schema.String,
  remedy: Schema.String,
  code: Schema.Int.pipe(Schema.withConstructorDefault(Effect.succeed(1)))
}) {
  override get message(): string {
    return `${this.problem}. ${this.remedy}.`
  }
  override readonly [CliError.userMessage] = this.message
  override readonly [Runtime.errorExitCode] = this.code
}
