/** What engines fail with, whatever they are: a kernel in this process, a runtime on a device, a server. */
import * as Schema from "effect/Schema"

const detail = Schema.String

/** Why a call failed. `detail` says what is wrong and what to do. */
export const Reason = Schema.TaggedUnion({
  /** Arguments do not fit each other or the model. */
  Shape: { detail },
  /** An option has a value that the engine cannot use. `option` is its name, if one option is at fault. */
  Config: { option: Schema.optionalKey(Schema.String), detail },
  /** The operating system refused a file operation. */
  Io: { path: Schema.optionalKey(Schema.String), detail },
  /** A file or an answer was read, but does not hold what it should. */
  Format: { path: Schema.optionalKey(Schema.String), detail },
  /** The caller ended the call, or closed the engine. */
  Aborted: { detail },
  /** A number is infinite or not a number. */
  NonFinite: { detail },
  /** A memory bound would be exceeded. The engine stays as it was. */
  OutOfMemory: { detail },
  /** The call is legal, but not now. */
  State: { detail },
  /** A fault of the engine itself. */
  Internal: { detail },
  /** The engine lacks what was asked for. */
  Unsupported: { what: Schema.String, engine: Schema.String, detail },
  /** The engine cannot be reached: no addon, no execution provider, a lost device or worker, a server that is away. */
  Unavailable: { detail },
  /** No answer within the time that the options allow. */
  Deadline: { milliseconds: Schema.Finite, detail },
  /** A server refused the request, in its own words. */
  Rejected: { status: Schema.optionalKey(Schema.Int), detail }
})
export type Reason = typeof Reason.Type

/**
 * The one error of policies and samplers. `reason` tells the kinds apart:
 *
 * @example
 * ```ts
 * program.pipe(Effect.catchReason("EngineError", "OutOfMemory", (reason) => Effect.logWarning(reason.detail)))
 * ```
 */
export class EngineError extends Schema.TaggedError<EngineError>()("EngineError", {
  /** The call that failed, for instance `sample`. */
  operation: Schema.String,
  reason: Reason
}) {
  override get message(): string {
    return `${this.operation} failed (${this.reason._tag}): ${this.reason.detail}`
  }
}
