/**
 * The contract of what runs model-written code. `SandboxIsolate`, `SandboxQuickJs` and `SandboxPython` implement it, one
 * runtime each; `Sandboxes` chooses among them. A candidate never meets the answer: it gets its source and one case's
 * input, and what comes back is data that the host compares.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

export type Language = "javascript" | "typescript" | "python"

export type Runtime = "isolated-vm" | "quickjs" | "python"

/**
 * Isolation between a candidate and this machine, strongest first. `bubblewrap`: namespaces, a seccomp filter, a user
 * without rights, a private file system, no network. `process`: a child process that can be killed, with the rights that
 * this platform lets it give up.
 */
export type Isolation = "bubblewrap" | "process"

export interface SandboxOptions {
  /** The weakest isolation that is accepted. Default: `process` for the JavaScript runtimes, `bubblewrap` for Python. */
  readonly isolation?: Isolation
  /** The strongest isolation that is used: `process` to do without bubblewrap where it holds. Default `bubblewrap`. */
  readonly strongest?: Isolation
  /** Child processes, each with one evaluation at a time. Default: the machine's cores; 1 in a worker of the verifier pool. */
  readonly children?: number
  /** Milliseconds of one case. Default 1000. */
  readonly timeout?: number
  /** Milliseconds of all cases of an evaluation. Default 5000. */
  readonly total?: number
  /** Default 64 for JavaScript (at least 8), 256 for Python. */
  readonly memoryMb?: number
}

export interface Candidate {
  readonly source: string
  readonly language: Language
}

/** Calls of one function, each with arguments of its own. */
export interface Calls {
  readonly entry: string
  /** Data: JSON, undefined, NaN, bigint, Date, Map, Set. */
  readonly calls: ReadonlyArray<ReadonlyArray<unknown>>
  /** End at the first call without a value; the calls after it have no result. Default false. */
  readonly stopEarly?: boolean
}

/**
 * Runs of a whole program, each with a standard input of its own. A JavaScript program has `console.log`, `readline()`,
 * `process.stdin`, `stdout`, `exit`, and, of node's modules, what `fs`, `readline`, `os` and `process` need for that.
 */
export interface Programs {
  readonly inputs: ReadonlyArray<string>
  readonly stopEarly?: boolean
}

/**
 * A test file of the user's, which runs in a process of its own and reaches the candidate's functions over a data channel.
 * In JavaScript or TypeScript: `import { add } from "./solution"` (any relative path), and `describe`, `it`, `test`,
 * `expect`, hooks and `assert` as in vitest, jest, node:test and node:assert. Data travels; a test that passes a function,
 * or makes an instance of a candidate's class, is refused as the file's own fault.
 */
export interface Tests {
  readonly tests: string
}

/** Why there is no value. The candidate's doing, always. `load`: the source did not load or lacks the function. */
export type Fault = "load" | "error" | "timeout" | "memory" | "output"

export type CallResult<Value = unknown> =
  | { readonly status: "value"; readonly value: Value }
  | { readonly status: Fault; readonly detail: string }

export interface TestResult {
  readonly name: string
  readonly status: "pass" | "fail" | Fault
  readonly detail: string
}

export type Evaluation<Result> =
  | { readonly _tag: "Evaluated"; readonly results: ReadonlyArray<Result> }
  /** The sandbox failed; the candidate is not judged. */
  | { readonly _tag: "Infrastructure"; readonly detail: string }

/** Isolation report: the guarantees that were found to hold when the sandbox started. */
export interface Boundary {
  readonly runtime: Runtime
  readonly isolation: Isolation
  /** Such as `no network`, `private file system`, `cgroup memory limit`. */
  readonly holds: ReadonlyArray<string>
  readonly lacks: ReadonlyArray<string>
}

/** Refused: this machine holds less than was asked for. */
export class SandboxRefused extends Schema.TaggedError<SandboxRefused>()("SandboxRefused", {
  runtime: Schema.Literals(["isolated-vm", "quickjs", "python"]),
  asked: Schema.String,
  found: Schema.String,
  /** Why, as the probe saw it. */
  detail: Schema.String,
  /** The command that fixes it. */
  remedy: Schema.String
}) {
  override get message(): string {
    return `${this.runtime}: isolation "${this.asked}" was asked for, "${this.found}" is what holds here (${this.detail}). To fix it: ${this.remedy}`
  }
}

/** Rejects with {@link SandboxRefused} where less holds than was asked for; everything else is an evaluation. */
export interface Sandbox {
  readonly boundary: () => Promise<Boundary>
  readonly call: (candidate: Candidate, work: Calls, signal?: AbortSignal) => Promise<Evaluation<CallResult>>
  readonly run: (candidate: Candidate, work: Programs, signal?: AbortSignal) => Promise<Evaluation<CallResult<string>>>
  readonly test: (candidate: Candidate, work: Tests, signal?: AbortSignal) => Promise<Evaluation<TestResult>>
  /** Ends the children; the next evaluation starts new ones. */
  readonly close: () => Promise<void>
}

/** Sandboxes of several languages as a service; interruption ends what runs. */
export class Sandboxes extends Context.Service<
  Sandboxes,
  {
    /** Isolation report for candidates of this language. */
    readonly boundary: (language: Language) => Effect.Effect<Boundary, SandboxRefused>
    readonly call: (candidate: Candidate, work: Calls) => Effect.Effect<Evaluation<CallResult>, SandboxRefused>
    readonly run: (
      candidate: Candidate,
      work: Programs
    ) => Effect.Effect<Evaluation<CallResult<string>>, SandboxRefused>
    readonly test: (candidate: Candidate, work: Tests) => Effect.Effect<Evaluation<TestResult>, SandboxRefused>
  }
>()("quintain/rewards/Sandboxes") {}
