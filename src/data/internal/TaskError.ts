import * as Schema from "effect/Schema"

/** An invalid source. It names the place, the value and what to do. */
export class TaskError extends Schema.TaggedError<TaskError>()("TaskError", {
  source: Schema.String,
  /** `line 3` of a file, `index 3` of an array, or empty for the source as a whole. */
  place: Schema.String,
  field: Schema.String,
  value: Schema.String,
  problem: Schema.String,
  remedy: Schema.String
}) {
  override get message(): string {
    const place = this.place === "" ? "" : `, ${this.place}`
    const field = this.field === "" ? "" : `, field ${this.field}`
    const value = this.value === "" ? "" : ` (found ${this.value})`
    return `${this.source}${place}${field}: ${this.problem}${value}. ${this.remedy}.`
  }
}

const shorten = (text: string): string => (text.length > 120 ? `${text.slice(0, 117)}...` : text)

/** Formats a value for an error. */
export const show = (value: unknown): string => {
  try {
    return shorten(JSON.stringify(value) ?? String(value))
  } catch {
    return shorten(String(value))
  }
}
