/** The one error for a wrong option. Pure constructors throw it; Effects fail with it. */
import * as Schema from "effect/Schema"

/** Characters of a value that a message shows. */
const SHOWN = 100

export class OptionError extends Schema.TaggedError<OptionError>()("OptionError", {
  /** The function that was given the option: `Reward.weight`, `toolkit`. */
  module: Schema.String,
  /** The option's name, with a path if it lies deeper: `tolerance.relative`. */
  option: Schema.String,
  value: Schema.Unknown,
  /** Values that are allowed. */
  expected: Schema.String,
  /** A sentence that says what to do, without its full stop. */
  remedy: Schema.String
}) {
  override get message(): string {
    return `${this.module}: ${this.option} is ${shown(this.value)}; expected ${this.expected}. ${this.remedy}.`
  }
}

const shown = (value: unknown): string => {
  const text = textOf(value)
  return text.length > SHOWN ? `${text.slice(0, SHOWN)}...` : text
}

const textOf = (value: unknown): string => {
  if (typeof value !== "object" && typeof value !== "string") return String(value)
  try {
    return JSON.stringify(value)
  } catch {
    // The value is circular, or nested deeper than the stack allows.
    return "a value that is not JSON"
  }
}
