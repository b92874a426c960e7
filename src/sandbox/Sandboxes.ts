/** Makes sandboxes by the language of their candidates: one, a shared one per set of options, or a service. */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { SandboxRefused, Sandboxes, type Language, type Runtime, type Sandbox, type SandboxOptions } from "./Sandbox.ts"
import * as SandboxIsolate from "./SandboxIsolate.ts"
import * as SandboxPython from "./SandboxPython.ts"
import * as SandboxQuickJs from "./SandboxQuickJs.ts"

export interface RuntimeOptions extends SandboxOptions {
  /** Language of the candidates. JavaScript and TypeScript share a runtime. Default `javascript`. */
  readonly language?: Language
  /** Default: `python` for Python; else `isolated-vm`, and `quickjs` where that cannot be loaded. */
  readonly runtime?: Runtime
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
 * const sandbox = Sandboxes.make({ language: "python", isolation: "bubblewrap" })
 * const candidate = { source: "def add(a, b):\n    return a + b", language: "python" } as const
 * await sandbox.call(candidate, { entry: "add", calls: [[1, 2]] })
 * // { _tag: "Evaluated", results: [{ status: "value", value: 3 }] }
 * ```
 */
export const make = (options: RuntimeOptions = {}): Sandbox => {
  const { language = "javascript" } = options
  const runtime = options.runtime ?? (language === "python" ? "python" : undefined)
  if ((runtime === "python") !== (language === "python")) {
    throw new TypeError(`runtime: ${runtime} does not run ${language}; leave "runtime" out, or set "language"`)
  }
  if (runtime === "python") return SandboxPython.make(options)
  if (runtime === "isolated-vm") return SandboxIsolate.make(options)
  if (runtime === "quickjs") return SandboxQuickJs.make(options)
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
      // refused for the isolation, not for the runtime, is refused by both
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
export const get = (options: RuntimeOptions = {}): Sandbox => {
  const { children, runtime, isolation, language, memoryMb, strongest, timeout, total } = options
  const key = JSON.stringify([language === "python", runtime, isolation, strongest, children, timeout, total, memoryMb])
  let sandbox = shared.get(key)
  if (sandbox === undefined) shared.set(key, (sandbox = make(options)))
  return sandbox
}

export interface SandboxesOptions extends SandboxOptions {
  /** Which languages candidates come in: their runtimes are started, or refused, at once. */
  readonly languages: ReadonlyArray<Language>
}

/**
 * Starts a runtime for every language, and ends them all with its scope. Fails with {@link SandboxRefused} at start, not at
 * the first candidate, where this machine holds less than `isolation`.
 *
 * @example
 * ```ts
 * const program = Effect.gen(function* () {
 *   const { call } = yield* Sandbox.Sandboxes
 *   return yield* call({ source: "const one = () => 1", language: "javascript" }, { entry: "one", calls: [[]] })
 * }).pipe(Effect.provide(Sandboxes.layer({ languages: ["javascript"] })))
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
