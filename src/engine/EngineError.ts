/** Failures of engines: a kernel in this process, a runtime on a device, a server. */
import * as Schema from "effect/Schema"

const detail = Schema.String

/** Reason why a call failed. `detail` names the fault and what to do. */
export const Reason = Schema.TaggedUnion({
  /** Arguments do not fit each other or the model. */
  Shape: { detail },
  /** An option has a value that the engine cannot use. `option` is its name, if one option is at fault. */
  Config: { option: Schema.optionalKey(Schema.String), detail },
  /** The operating system refused a file operation. */
  Io: { path: Schema.optionalKey(Schema.String), detail },
  /** A file or an answer was read, but its content is invalid. */
  Format: { path: Schema.optionalKey(Schema.String), detail },
  /** The caller ended the call, or closed the engine. */
  Aborted: { detail },
  /** A number is infinite or NaN. */
  NonFinite: { detail },
  /** A memory bound would be exceeded. The engine stays as it was. */
  OutOfMemory: { detail },
  /** The call is legal, but not in the present state. */
  State: { detail },
  /** A fault of the engine itself. */
  Internal: { detail },
  /** The engine lacks what the call needs. */
  Unsupported: { what: Schema.String, engine: Schema.String, detail },
  /**
   * The engine cannot be reached. It lacks the addon or an execution provider, a device or worker is lost, or a server
   * is down.
   */
  Unavailable: { detail },
  /** The engine gave no answer within the time that the options allow. */
  Deadline: { milliseconds: Schema.Finite, detail },
  /** A server refused the request; `detail` quotes it. */
  Rejected: { status: Schema.optionalKey(Schema.Int), detail }
})
export type Reason = typeof Reason.Type

/**
 * The error of every policy and sampler. `reason` tells its kinds apart:
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
