/**
 * Runs model-written code: one contract, three engines (`SandboxIsolate`, `SandboxQuickJs`, `SandboxPython`). A candidate
 * never meets the answer: it gets its source and one case's input, and what comes back is data that the host compares.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as SandboxIsolate from "./SandboxIsolate.ts"
import * as SandboxPython from "./SandboxPython.ts"
import * as SandboxQuickJs from "./SandboxQuickJs.ts"

export type Language = "javascript" | "typescript" | "python"

export type Engine = "isolated-vm" | "quickjs" | "python"

/**
 * What stands between a candidate and this machine, strongest first. `bubblewrap`: namespaces, a seccomp filter, a user
 * without rights, a private file system, no network. `process`: a child process that can be killed, with the rights that
 * this platform lets it give up.
 */
export type Isolation = "bubblewrap" | "process"

export interface SandboxOptions {
  /** The weakest isolation that is accepted. Default: `process` for the JavaScript engines, `bubblewrap` for Python. */
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

/** What was found to hold here when the sandbox was started. */
export interface Boundary {
  readonly engine: Engine
  readonly isolation: Isolation
  /** Such as `no network`, `private file system`, `cgroup memory limit`. */
  readonly holds: ReadonlyArray<string>
  readonly lacks: ReadonlyArray<string>
}

/** Refused: this machine holds less than was asked for. */
export class SandboxRefused extends Schema.TaggedError<SandboxRefused>()("SandboxRefused", {
  engine: Schema.Literals(["isolated-vm", "quickjs", "python"]),
  asked: Schema.String,
  found: Schema.String,
  /** Why, as the probe saw it. */
  detail: Schema.String,
  /** The command that would mend it. */
  remedy: Schema.String
}) {
  override get message(): string {
    return `${this.engine}: isolation "${this.asked}" was asked for, "${this.found}" is what holds here (${this.detail}). To mend it: ${this.remedy}`
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

export interface EngineOptions extends SandboxOptions {
  /** Of the candidates. JavaScript and TypeScript share an engine. Default `javascript`. */
  readonly language?: Language
  /** Default: `python` for Python; else `isolated-vm`, and `quickjs` where that cannot be loaded. */
  readonly engine?: Engine
}

/**
 * A sandbox for candidates of a language. Nothing is started before it is first used. Where isolated-vm cannot be loaded,
 * QuickJS takes its place, and `boundary()` says so.
 *
 * @param options Times in milliseconds, memory in MB; `isolation` is the least that is accepted, not what is used: that is
 *   the strongest that holds.
 * @throws SandboxRefused (a rejection of every method) where this machine holds less than `isolation`.
 *
 * @example
 * ```ts
 * const sandbox = Sandbox.make({ language: "python", isolation: "bubblewrap" })
 * const candidate = { source: "def add(a, b):\n    return a + b", language: "python" } as const
 * await sandbox.call(candidate, { entry: "add", calls: [[1, 2]] })
 * // { _tag: "Evaluated", results: [{ status: "value", value: 3 }] }
 * ```
 */
export const make = (options: EngineOptions = {}): Sandbox => {
  const { language = "javascript" } = options
  const engine = options.engine ?? (language === "python" ? "python" : undefined)
  if ((engine === "python") !== (language === "python")) {
    throw new TypeError(`engine: ${engine} does not run ${language}; leave "engine" out, or set "language"`)
  }
  if (engine === "python") return SandboxPython.make(options)
  if (engine === "isolated-vm") return SandboxIsolate.make(options)
  if (engine === "quickjs") return SandboxQuickJs.make(options)
  return firstThatStarts(options)
}

/** isolated-vm, or QuickJS where a child with it does not start although one with QuickJS does. */
const firstThatStarts = (options: SandboxOptions): Sandbox => {
  let chosen: Promise<{ readonly sandbox: Sandbox; readonly note: ReadonlyArray<string> }> | undefined
  const choose = async () => {
    const second = SandboxQuickJs.make(options)
    if (SandboxIsolate.addon() === undefined) return { sandbox: second, note: ["isolated-vm: it is not installed"] }
    const first = SandboxIsolate.make(options)
    try {
      await first.boundary()
      return { sandbox: first, note: [] }
    } catch (fault) {
      // refused for the isolation, not for the engine, is refused by both
      await second.boundary()
      return {
        sandbox: second,
        note: [`isolated-vm: ${fault instanceof SandboxRefused ? fault.detail : String(fault)}`]
      }
    }
  }
  const present = (): NonNullable<typeof chosen> => {
    if (chosen === undefined) {
      const own = (chosen = choose())
      own.catch(() => {
        if (chosen === own) chosen = undefined
      })
    }
    return chosen
  }
  return {
    boundary: async () => {
      const { note, sandbox } = await present()
      const found = await sandbox.boundary()
      return { ...found, lacks: [...found.lacks, ...note] }
    },
    call: async (candidate, work, signal) => (await present()).sandbox.call(candidate, work, signal),
    run: async (candidate, work, signal) => (await present()).sandbox.run(candidate, work, signal),
    test: async (candidate, work, signal) => (await present()).sandbox.test(candidate, work, signal),
    close: async () => {
      const last = chosen
      chosen = undefined
      await last?.then(
        ({ sandbox }) => sandbox.close(),
        () => {}
      )
    }
  }
}

const shared = new Map<string, Sandbox>()

/** One sandbox per set of options for the whole process (or worker), started when first used. */
export const get = (options: EngineOptions = {}): Sandbox => {
  const { children, engine, isolation, language, memoryMb, strongest, timeout, total } = options
  const key = JSON.stringify([language === "python", engine, isolation, strongest, children, timeout, total, memoryMb])
  let sandbox = shared.get(key)
  if (sandbox === undefined) shared.set(key, (sandbox = make(options)))
  return sandbox
}

/** Sandboxes of several languages as a service; interruption ends what runs. */
export class Sandboxes extends Context.Service<
  Sandboxes,
  {
    /** What holds around candidates of this language. */
    readonly boundary: (language: Language) => Effect.Effect<Boundary, SandboxRefused>
    readonly call: (candidate: Candidate, work: Calls) => Effect.Effect<Evaluation<CallResult>, SandboxRefused>
    readonly run: (
      candidate: Candidate,
      work: Programs
    ) => Effect.Effect<Evaluation<CallResult<string>>, SandboxRefused>
    readonly test: (candidate: Candidate, work: Tests) => Effect.Effect<Evaluation<TestResult>, SandboxRefused>
  }
>()("quintain/rewards/Sandboxes") {}

export interface SandboxesOptions extends SandboxOptions {
  /** Which languages candidates come in: their engines are started, or refused, at once. */
  readonly languages: ReadonlyArray<Language>
}

/**
 * Starts an engine for every language, and ends them all with its scope. Fails with {@link SandboxRefused} at start, not at
 * the first candidate, where this machine holds less than `isolation`.
 *
 * @example
 * ```ts
 * const program = Effect.gen(function* () {
 *   const { call } = yield* Sandbox.Sandboxes
 *   return yield* call({ source: "const one = () => 1", language: "javascript" }, { entry: "one", calls: [[]] })
 * }).pipe(Effect.provide(Sandbox.layer({ languages: ["javascript"] })))
 * ```
 */
export const layer = (options: SandboxesOptions): Layer.Layer<Sandboxes, SandboxRefused> =>
  Layer.effect(Sandboxes, makeService(options))

const refusable = <A>(work: (signal: AbortSignal) => Promise<A>): Effect.Effect<A, SandboxRefused> =>
  Effect.tryPromise({ try: work, catch: (fault) => fault }).pipe(
    Effect.catch((fault) => (fault instanceof SandboxRefused ? Effect.fail(fault) : Effect.die(fault)))
  )

/** The service of {@link layer}, for a scope of your own. */
export const makeService = Effect.fnUntraced(function* ({ languages, ...options }: SandboxesOptions) {
  const kinds = new Set(languages.map((language) => (language === "python" ? language : "javascript")))
  const made = new Map<Language, Sandbox>()
  for (const language of kinds) {
    const sandbox = yield* Effect.acquireRelease(
      Effect.sync(() => make({ ...options, language })),
      (own) => Effect.promise(() => own.close())
    )
    yield* refusable(() => sandbox.boundary())
    made.set(language, sandbox)
  }
  const of = (language: Language): Sandbox => {
    const sandbox = made.get(language === "python" ? language : "javascript")
    if (sandbox === undefined)
      throw new TypeError(`languages: ${language} is not among them; add it to the layer's options`)
    return sandbox
  }
  return Sandboxes.of({
    boundary: (language) => refusable(async () => of(language).boundary()),
    call: (candidate, work) => refusable(async (signal) => of(candidate.language).call(candidate, work, signal)),
    run: (candidate, work) => refusable(async (signal) => of(candidate.language).run(candidate, work, signal)),
    test: (candidate, work) => refusable(async (signal) => of(candidate.language).test(candidate, work, signal))
  })
})
