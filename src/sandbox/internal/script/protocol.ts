/** Messages between the sandbox's host and its child processes, as JSON. */
import type { Fault } from "../../Sandbox.ts"

export interface SandboxLimits {
  /** Milliseconds of one case, by the runtime's clock. */
  readonly timeout: number
  /** Milliseconds of all cases. */
  readonly total: number
  readonly memoryMb: number
}

export interface Source {
  readonly source: string
  readonly language: "javascript" | "typescript"
}

/** Every request has one `done`. A child gets the next one after that, except for `answer`, which replies to an `ask`. */
export type ChildRequest = { readonly id: number } & (
  | {
      readonly kind: "call"
      readonly code: Source
      /** Checked to be an identifier. */
      readonly entry: string
      /** The arguments of each case, as typed data. */
      readonly cases: ReadonlyArray<string>
      readonly limits: SandboxLimits
      readonly stopEarly: boolean
    }
  | {
      readonly kind: "run"
      readonly code: Source
      /** Standard inputs. */
      readonly cases: ReadonlyArray<string>
      readonly limits: SandboxLimits
      readonly stopEarly: boolean
    }
  /** A candidate that stays, for the tests in another process: `apply` calls it until `close`. */
  | {
      readonly kind: "open"
      readonly code: Source
      readonly names: ReadonlyArray<string>
      readonly limits: SandboxLimits
    }
  | { readonly kind: "apply"; readonly entry: string; readonly args: string }
  | { readonly kind: "close" }
  | {
      readonly kind: "test"
      readonly code: Source
      /** Exports of the candidate as `open` told them: JSON of `["f"]`, `["d", data]` per name, or its fault. */
      readonly exports: string
      readonly names: ReadonlyArray<string>
      readonly limits: SandboxLimits
    }
  | { readonly kind: "answer"; readonly text: string }
)

/** `value`: what the call returned, as typed data, or what the program wrote. Everything else has no value. */
export interface CaseResult {
  readonly status: "value" | Fault
  readonly text: string
  /** It came through a promise. */
  readonly promised?: boolean
}

export type ChildResponse = { readonly id: number } & (
  | {
      readonly kind: "done"
      readonly results: ReadonlyArray<CaseResult>
      /** The child has to go, or has gone: something in it could not be ended. */
      readonly recycle: boolean
    }
  /** Text of the tests: JSON of `{ call, args }`, which waits for its `answer`, or of `{ tests }`, `{ result }`, `{ unsupported }`, which do not. */
  | { readonly kind: "ask"; readonly text: string }
)
