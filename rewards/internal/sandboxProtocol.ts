/** What crosses between the sandbox's host and its child processes, as JSON. */

export interface SandboxLimits {
  /** Milliseconds of one case, by the engine's clock. */
  readonly timeout: number
  /** Milliseconds of all cases. */
  readonly total: number
  readonly memoryMb: number
}

export interface ChildRequest {
  readonly id: number
  readonly source: string
  readonly language: "javascript" | "typescript"
  /** Name of the function that is called; checked to be an identifier. */
  readonly entry: string
  /** The arguments of each case, as typed data. */
  readonly cases: ReadonlyArray<string>
  readonly limits: SandboxLimits
  /** Ends at the first case that has no value. */
  readonly stopEarly: boolean
}

/** `value`: what the call returned, as typed data. Everything else has no value. */
export type CaseStatus = "value" | "load" | "error" | "timeout" | "memory" | "output"

export interface CaseResult {
  readonly status: CaseStatus
  readonly text: string
}

export interface ChildResponse {
  readonly id: number
  readonly results: ReadonlyArray<CaseResult>
  /** The child has to go, or has gone: something in it could not be ended. */
  readonly recycle: boolean
}
