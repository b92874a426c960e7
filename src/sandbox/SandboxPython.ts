/**
 * Runs model-written Python: a fresh interpreter for every evaluation, inside bubblewrap, started before it is needed. The
 * candidate gets its source and one case's input at a time; what comes back is data, which the host compares. A user's test
 * file runs in another interpreter than the candidate and reaches it through this process.
 *
 * What ends what does not end: the host's timer for each case and for all, a limit of CPU time, and the end of this process,
 * each with the whole family of processes. The timers leave out, within bounds, the time in which a candidate was ready to
 * run while the machine ran others. Whatever a candidate does is a status of the candidate; only what the sandbox itself
 * fails at is `Infrastructure`.
 */
import { availableParallelism } from "node:os"
import { isMainThread } from "node:worker_threads"
import { probe, type Found, type Tools } from "./internal/boundary.ts"
import { interpreters } from "./internal/python/interpreter.ts"
import * as PythonProcess from "./internal/python/process.ts"
import { maxEnded, number, runTests, Served, text, Unjudged, type Session } from "./internal/python/session.ts"
import * as TypedData from "./TypedData.ts"
import {
  SandboxRefused,
  type CallResult,
  type Evaluation,
  type Isolation,
  type Sandbox,
  type SandboxOptions,
  type TestResult
} from "./Sandbox.ts"

export interface PythonOptions extends SandboxOptions {
  /** Path of the interpreter. Default: the first `python3` on the path, or in /usr/bin, that a confined process can run. */
  readonly interpreter?: string
  /** Whether installed packages (numpy) can be imported. Default false: the standard library alone, which starts faster. */
  readonly packages?: boolean
}

/** Longest source that is run, in characters; a longer one has status `load`. */
const maxSource = 262_144
/** Processes started ahead, for each that is at work: starting one is more waiting than work. */
const ahead = 2
/** How often something is tried when a process was lost from outside. */
const attempts = 2

/** Milliseconds after which a process is replaced although its evaluation still runs. */
const replaceAfter = 5

interface Setting {
  readonly found: Found
  readonly interpreter: PythonProcess.Interpreter
}

/** A process was lost from outside. */
class Lost extends Error {}

/**
 * Nothing is started before the first evaluation. That rejects with {@link SandboxRefused} where this machine does not hold
 * the isolation (default `bubblewrap`), or has no interpreter; the error names the remedy.
 *
 * @param options `timeout` and `total` in milliseconds, `memoryMb` per process and, where a control group can be made, of
 *   all its processes.
 * @param tools what to confine with, for tests; default: what is installed.
 *
 * @example
 * ```ts
 * const sandbox = SandboxPython.make({ timeout: 500 })
 * const candidate = { source: "def add(a, b):\n    return a + b", language: "python" } as const
 * await sandbox.call(candidate, { entry: "add", calls: [[1, 2]] })
 * // { _tag: "Evaluated", results: [{ status: "value", value: 3 }] }
 * await sandbox.test(candidate, { tests: "from solution import add\ndef test_add():\n    assert add(1, 2) == 3" })
 * // { _tag: "Evaluated", results: [{ name: "test_add", status: "pass", detail: "" }] }
 * ```
 */
export const make = (options: PythonOptions = {}, tools?: Tools): Sandbox => {
  const pool = new Pool(options, tools)
  return {
    boundary: async () => {
      const { found } = await pool.prepared()
      return { runtime: "python", isolation: found.isolation, holds: found.holds, lacks: found.lacks }
    },
    call: callIn(pool),
    run: runIn(pool),
    test: testIn(pool),
    close: () => pool.close()
  }
}

/** The interpreters of one sandbox, idle and at work, and the queue of its evaluations. */
class Pool {
  readonly #options: PythonOptions
  readonly #tools: Tools | undefined
  readonly #timeout: number
  readonly #total: number
  readonly #least: Isolation
  readonly #strongest: Isolation
  readonly #limits: PythonProcess.Limits
  readonly #size: number
  readonly #idle: Array<PythonProcess.PythonProcess> = []
  readonly #all = new Set<PythonProcess.PythonProcess>()
  readonly #waiting: Array<() => void> = []
  #running = 0
  #setting: Promise<Setting> | undefined
  /** Counts the closings: what was asked for before one is not started after it. */
  #era = 0

  constructor(options: PythonOptions, tools: Tools | undefined) {
    this.#options = options
    this.#tools = tools
    this.#timeout = options.timeout ?? 1000
    this.#total = options.total ?? 5000
    this.#least = options.isolation ?? "bubblewrap"
    this.#strongest = options.strongest ?? "bubblewrap"
    this.#limits = { memoryMb: options.memoryMb ?? 256, cpuSeconds: Math.ceil(this.#total / 1000) + 2 }
    this.#size = options.children ?? (isMainThread ? availableParallelism() : 1)
  }

  prepared(): Promise<Setting> {
    return (this.#setting ??= this.#prepare().catch((fault: unknown) => {
      // what was missing may have been installed by the next time
      this.#setting = undefined
      throw fault
    }))
  }

  /** One evaluation: its clock, its processes, its slot in the queue. */
  async evaluate<Result>(
    signal: AbortSignal | undefined,
    work: (session: Session) => Promise<ReadonlyArray<Result>>
  ): Promise<Evaluation<Result>> {
    const ready = await this.prepared()
    const present = this.#era
    if (this.#running < this.#size) this.#running++
    else await new Promise<void>((resolve) => this.#waiting.push(resolve))
    const mine = new Set<PythonProcess.PythonProcess>()
    const onAbort = (): void => mine.forEach((own) => own.kill("lost", "interrupted"))
    signal?.addEventListener("abort", onAbort, { once: true })
    try {
      for (let tried = 1; ; tried++) {
        const start = performance.now()
        const remaining = (): number =>
          start + this.#total + [...mine].reduce((sum, own) => sum + own.starved(), 0) - performance.now()
        try {
          const results = await work({
            left: () => Math.min(this.#timeout, remaining()),
            remaining,
            over: () => remaining() <= 0,
            process: async () => {
              if (signal?.aborted) throw new Unjudged("interrupted")
              const own = await this.#take(ready)
              mine.add(own)
              if (signal?.aborted) onAbort()
              return own
            },
            check: (end) => {
              if (signal?.aborted) throw new Unjudged("interrupted")
              if (end.reason === "lost") throw new Lost(end.detail)
              return end.reason === "exit" ? "error" : end.reason
            }
          })
          return { _tag: "Evaluated", results }
        } catch (fault) {
          if (fault instanceof Lost && tried < attempts && !signal?.aborted) continue
          if (fault instanceof Lost || fault instanceof Unjudged)
            return { _tag: "Infrastructure", detail: fault.message }
          throw fault
        } finally {
          for (const own of mine) own.kill("exit", "")
          mine.clear()
          if (present === this.#era) this.#fill(ready)
        }
      }
    } finally {
      signal?.removeEventListener("abort", onAbort)
      const next = this.#waiting.shift()
      if (next === undefined) this.#running--
      else next()
    }
  }

  async close(): Promise<void> {
    this.#era++
    const ends = [...this.#all].map((own) => {
      // their end is awaited, so they keep this process alive until then
      own.keepAlive(true)
      own.kill("lost", "the sandbox was closed")
      return own.gone
    })
    this.#idle.length = 0
    await Promise.all(ends)
  }

  async #prepare(): Promise<Setting> {
    const options = this.#options
    const least = this.#least
    const strongest = this.#strongest
    const found = await probe(strongest, this.#tools)
    const refuse = (what: string, detail: string, remedy: string) =>
      new SandboxRefused({ runtime: "python", asked: least, found: what, detail, remedy })
    if (least === "bubblewrap" && found.isolation !== "bubblewrap") {
      throw strongest === least
        ? refuse(found.isolation, found.detail, found.remedy)
        : refuse(found.isolation, `"strongest" is ${strongest}`, 'leave "strongest" out, or set "isolation" to it')
    }
    const tried = await interpreters(found.isolation, options.interpreter, options.packages ?? false)
    if (tried.interpreter === undefined) {
      throw refuse("no interpreter", tried.detail, "apt-get install python3, or name one that other users can read")
    }
    return { found, interpreter: tried.interpreter }
  }

  #start({ found, interpreter }: Setting): PythonProcess.PythonProcess {
    const own = PythonProcess.start(interpreter, this.#limits, found.isolation)
    this.#all.add(own)
    const forget = async (): Promise<void> => {
      await own.gone
      this.#all.delete(own)
      const index = this.#idle.indexOf(own)
      if (index >= 0) this.#idle.splice(index, 1)
    }
    void forget()
    return own
  }

  #fill(present: Setting): void {
    for (let missing = ahead * this.#size - this.#idle.length; missing > 0; missing--) {
      const next = this.#start(present)
      next.keepAlive(false)
      this.#idle.push(next)
    }
  }

  /** A process of the caller's own; the one that comes after it is started at once. */
  async #take(ready: Setting): Promise<PythonProcess.PythonProcess> {
    for (let tried = 1; ; tried++) {
      const own = this.#idle.shift() ?? this.#start(ready)
      own.keepAlive(true)
      if (await own.ready) {
        const present = this.#era
        // starting a process takes this thread's time: a short evaluation comes first, and then its replacement
        const timer = setTimeout(() => present === this.#era && this.#fill(ready), replaceAfter)
        timer.unref()
        return own
      }
      own.kill("lost", "it did not start")
      if (tried === attempts) throw new Lost(((await own.line("", 1)) as PythonProcess.End).detail)
    }
  }
}

const callIn =
  (pool: Pool): Sandbox["call"] =>
  ({ source }, { calls, entry, stopEarly = false }, signal) => {
    const fault = tooLong(source)
    if (fault !== undefined) return Promise.resolve(every(calls, { status: "load", detail: fault }))
    if (!/^[\p{ID_Start}_][\p{ID_Continue}]*(\.[\p{ID_Start}_][\p{ID_Continue}]*)*$/u.test(entry)) {
      return Promise.resolve({
        _tag: "Infrastructure",
        detail: `${JSON.stringify(entry)} is not the name of a function`
      })
    }
    const inputs = calls.map((call) => TypedData.encode(call))
    return pool.evaluate<CallResult>(signal, async (session) => {
      const results: Array<CallResult> = []
      const candidate = new Served(session, source)
      for (const input of inputs) {
        const answer = await candidate.ask(`"call",${JSON.stringify(entry)},${input}`)
        const result =
          answer.status === "value" ? read(answer.text) : { status: answer.status, detail: text(answer.text) }
        results.push(result)
        if (result.status !== "value" && stopEarly) break
      }
      return results
    })
  }

const runIn =
  (pool: Pool): Sandbox["run"] =>
  ({ source }, { inputs, stopEarly = false }, signal) => {
    const fault = tooLong(source)
    if (fault !== undefined) return Promise.resolve(every(inputs, { status: "load", detail: fault }))
    return pool.evaluate<CallResult<string>>(signal, async (session) => {
      const results: Array<CallResult<string>> = []
      let late = 0
      for (const input of inputs) {
        if (session.over() || late >= maxEnded) {
          results.push({ status: "timeout", detail: "the time of all cases is over" })
          continue
        }
        const own = await session.process()
        const nonce = number()
        own.send(`["${nonce}","program",${JSON.stringify(source)}]`, "program")
        own.input(input)
        const { end, output } = await own.finished(session.left())
        own.kill("exit", "")
        if (end.reason === "exit") results.push({ status: "value", value: output })
        else results.push({ status: session.check(end), detail: end.detail })
        if (end.reason === "timeout") late++
        if (end.reason !== "exit" && stopEarly) break
      }
      return results
    })
  }

const testIn =
  (pool: Pool): Sandbox["test"] =>
  ({ source }, { tests }, signal) => {
    const fault = tooLong(source)
    if (fault !== undefined) {
      return Promise.resolve({ _tag: "Evaluated", results: [{ name: "solution", status: "load", detail: fault }] })
    }
    return pool.evaluate<TestResult>(signal, (session) => runTests(session, source, tests))
  }

const tooLong = (source: string): string | undefined =>
  source.length > maxSource ? `the source is longer than ${maxSource} characters` : undefined

const read = (payload: string): CallResult => {
  try {
    return { status: "value", value: TypedData.decode(payload) }
  } catch {
    return { status: "error", detail: "it returned something that is no data" }
  }
}

const every = <Result>(work: ReadonlyArray<unknown>, result: Result): Evaluation<Result> => ({
  _tag: "Evaluated",
  results: work.map(() => result)
})
