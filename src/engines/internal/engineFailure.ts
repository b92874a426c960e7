/** Converts errors of the kernel, of ONNX Runtime's worker and of the Hub to {@link EngineError}s. */
import * as Addon from "../../addon/addon.ts"
import { EngineError, type Reason } from "../../engine/EngineError.ts"
import type { HubError } from "../../model/Hub.ts"

/** Codes of `native/core/src/error.rs`, then those that the addon's loader and the worker add. */
const tags = {
  SHAPE: "Shape",
  CONFIG: "Config",
  IO: "Io",
  FORMAT: "Format",
  ABORTED: "Aborted",
  NON_FINITE: "NonFinite",
  OUT_OF_MEMORY: "OutOfMemory",
  STATE: "State",
  INTERNAL: "Internal",
  ARGUMENT: "Shape",
  PROVIDER: "Unavailable",
  DEVICE_LOST: "Unavailable",
  ENGINE_LOST: "Unavailable",
  RUNTIME: "Internal"
} as const satisfies Record<string, Reason["_tag"]>

const isKnown = (code: string): code is keyof typeof tags => Object.hasOwn(tags, code)

/** Returns the reason for an error's `code`. Unknown codes are faults of the engine. */
export const reasonOf = ({ code, detail }: { readonly code: string; readonly detail: string }): Reason => {
  const _tag = isKnown(code) ? tags[code] : "Internal"
  if (_tag !== "Config") return { _tag, detail }
  const option = /^config field `([^`]+)`/.exec(detail)?.[1]
  return option === undefined ? { _tag, detail } : { _tag, option, detail }
}

/** Makes the failure of a call of the addon or of the worker. */
export const engineFailure = (operation: string, cause: unknown): EngineError =>
  new EngineError({ operation, reason: reasonOf(Addon.describe(cause)) })

/** Returns why a model on the Hub could not be opened. */
export const hubReason = ({ code, message: detail, status }: HubError): Reason => {
  switch (code) {
    case "NAME":
      return { _tag: "Config", option: "model", detail }
    case "GATED":
    case "NOT_FOUND":
      return { _tag: "Rejected", ...(status === undefined ? {} : { status }), detail }
    case "RATE_LIMITED":
    case "UNAVAILABLE":
    case "UNREACHABLE":
    case "TIMEOUT":
    case "OFFLINE":
      return { _tag: "Unavailable", detail }
    case "PROTOCOL":
    case "FILENAME":
    case "SIZE":
    case "HASH":
    case "UNSUPPORTED":
      return { _tag: "Format", detail }
    case "DISK":
      return { _tag: "Io", detail }
  }
}
