import * as Schema from "effect/Schema"

/** An episode that could not reach its end, through no fault of the policy. */
export class EnvironmentError extends Schema.TaggedError<EnvironmentError>()("EnvironmentError", {
  environment: Schema.String,
  taskId: Schema.String,
  cause: Schema.Defect()
}) {
  override get message(): string {
    const cause = this.cause instanceof Error ? this.cause.message : String(this.cause)
    return `environment ${this.environment} failed on task ${this.taskId}: ${cause}`
  }
}
