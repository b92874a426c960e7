import * as Schema from "effect/Schema"

/** A failure of the Hub, the network, the cache on disk, or the requested name. */
export class HubError extends Schema.TaggedError<HubError>()("HubError", {
  /** Name of the model as it was given: `org/name@revision`. */
  model: Schema.String,
  /** The operation, for example `download model.safetensors`. */
  operation: Schema.String,
  code: Schema.Literals([
    "NAME",
    "GATED",
    "NOT_FOUND",
    "RATE_LIMITED",
    "UNAVAILABLE",
    "UNREACHABLE",
    "TIMEOUT",
    "OFFLINE",
    "PROTOCOL",
    "FILENAME",
    "SIZE",
    "HASH",
    "UNSUPPORTED",
    "DISK"
  ]),
  /** The HTTP status, if there was one. */
  status: Schema.optionalKey(Schema.Int),
  /** Seconds that the server asks to wait. */
  retryAfter: Schema.optionalKey(Schema.Finite),
  detail: Schema.String,
  remedy: Schema.String
}) {
  override get message(): string {
    const status = this.status === undefined ? "" : ` (HTTP ${this.status})`
    return `hub: ${this.operation} of ${this.model}: ${this.detail}${status}. ${this.remedy}.`
  }
}

/** Tells whether the same request may succeed later. Until then a copy in the cache serves. */
export const isPassing = (error: HubError): boolean =>
  error.code === "UNREACHABLE" ||
  error.code === "TIMEOUT" ||
  error.code === "UNAVAILABLE" ||
  error.code === "RATE_LIMITED"
