/**
 * The host's side of the JavaScript engines: which boundary the children get, how an evaluation travels to one of them, and
 * what its end means. Whatever a candidate does is a status of the candidate; only what the sandbox itself fails at is
 * infrastructure.
 */
import { existsSync as exists } from "node:fs"
import { availableParallelism } from "node:os"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { isMainThread } from "node:worker_threads"
import {
  SandboxRefused,
  type Boundary,
  type CallResult,
  type Candidate,
  type Engine,
  type Evaluation,
  type Isolation,
  type Sandbox,
  type SandboxOptions
} from "../../Sandbox.ts"
import * as boundary from "../boundary.ts"
import * as ChildPool from "../childPool.ts"
import { isName } from "./modules.ts"
import type { CaseResult, ChildRequest, ChildResponse, SandboxLimits, Source } from "./protocol.ts"
import * as scriptTests from "./scriptTests.ts"
import * as TypedData from "../../TypedData.ts"

export interface EngineParts {
  readonly engine: Engine
  /** Name of the child's module in this folder, without its ending. */
  readonly child: string
  /** What the child is told on its command line. */
  readonly args: ReadonlyArray<string>
  readonly flags: ReadonlyArray<string>
  /** Folders that the child reads beside its own code. */
  readonly folders: ReadonlyArray<string>
  readonly holds: ReadonlyArray<string>
  readonly lacks: ReadonlyArray<string>
}

/** Longest source that is run; a longer one has status `load`. Characters. */
export const maxSource = 262_144
/** Milliseconds that a child has beyond its own clocks before it is killed from outside. */
export const grace = 3000
/** How often an evaluation is tried when its child died without a word. */
const attempts = 2

export type Link = ChildPool.Link<ChildRequest, ChildResponse>
export type Pool = ChildPool.ChildPool<ChildRequest, ChildResponse>
type Way = Isolation | "bare"

export const make = (parts: EngineParts, options: SandboxOptions): Sandbox => {
  const limits: SandboxLimits = {
    timeout: options.timeout ?? 1000,
    total: options.total ?? 5000,
    memoryMb: Math.max(8, options.memoryMb ?? 64)
  }
  const size = options.children ?? (isMainThread ? availableParallelism() : 1)
  const asked: Isolation = options.isolation ?? "process"
  const waiting = new Set<() => void>()
  let running = 0
  let nextId = 0
  let ready: Promise<{ readonly pool: Pool; readonly boundary: Boundary }> | undefined

  /** The strongest way that really starts a child. */
  const begin = async (): Promise<{ readonly pool: Pool; readonly boundary: Boundary }> => {
    const best = await boundary.probe(options.strongest)
    let detail = best.detail
    for (const way of ["bubblewrap", "process", "bare"] as const) {
      if (way === "bubblewrap" && best.isolation !== "bubblewrap") continue
      if (way !== "bubblewrap" && asked === "bubblewrap") break
      const pool: Pool = ChildPool.make(size, () => startOf(parts, limits, way))
      const first = await pool.take()
      if (!ChildPool.isLost(first)) {
        first.release(false)
        const found = way === "bubblewrap" ? best : await boundary.probe("process")
        const holds = way === "bare" ? ["a process of its own"] : found.holds
        return {
          pool,
          boundary: {
            engine: parts.engine,
            isolation: way === "bubblewrap" ? "bubblewrap" : "process",
            holds: [...holds, ...parts.holds],
            lacks: [
              ...(way === "bare" ? found.holds.filter((one) => !holds.includes(one)) : []),
              ...found.lacks,
              ...parts.lacks
            ]
          }
        }
      }
      detail = `${detail}${detail === "" ? "" : "; "}${way}: ${first.detail}`
      await pool.close()
    }
    throw new SandboxRefused({
      engine: parts.engine,
      asked,
      found: best.isolation === "bubblewrap" ? "none" : best.isolation,
      detail,
      remedy:
        best.remedy !== ""
          ? best.remedy
          : options.strongest === "process"
            ? 'leave "strongest" out'
            : "see that node and this package can be read by other users"
    })
  }

  const started = (): NonNullable<typeof ready> => {
    if (ready === undefined) {
      const own = (ready = begin())
      // a start that failed is tried again by the next evaluation
      own.catch(() => {
        if (ready === own) ready = undefined
      })
    }
    return ready
  }

  /** One evaluation at a time per child: a place is handed on, first come first served. */
  const placed = async <Result>(
    signal: AbortSignal | undefined,
    work: (pool: Pool) => Promise<Evaluation<Result>>
  ): Promise<Evaluation<Result>> => {
    const { pool } = await started()
    if (running < size) running++
    else if (!(await place(signal))) return infrastructure("interrupted")
    try {
      return await work(pool)
    } finally {
      const [next] = waiting
      if (next === undefined) running--
      else next()
    }
  }

  /** Waits for a place; `false` when it was given up before. */
  const place = (signal: AbortSignal | undefined): Promise<boolean> =>
    new Promise((resolve) => {
      const settle = (given: boolean): void => {
        waiting.delete(take)
        signal?.removeEventListener("abort", leave)
        resolve(given)
      }
      const take = (): void => settle(true)
      const leave = (): void => settle(false)
      if (signal?.aborted) return resolve(false)
      waiting.add(take)
      signal?.addEventListener("abort", leave, { once: true })
    })

  /** One try in one child. */
  const attempt = async (pool: Pool, request: ChildRequest, signal?: AbortSignal) => {
    const link = await pool.take(signal)
    if (ChildPool.isLost(link)) return link
    link.send(request)
    const outcome = await link.next(limits.total + limits.timeout + grace)
    const done =
      !ChildPool.isLost(outcome) && outcome.kind === "done" && outcome.id === request.id ? outcome : undefined
    link.release(done?.recycle ?? true)
    return done ?? (ChildPool.isLost(outcome) ? outcome : { lost: "outside" as const, detail: "an answer to nothing" })
  }

  const evaluate = <Value>(
    request: Extract<ChildRequest, { readonly kind: "call" | "run" }>,
    read: (result: CaseResult) => CallResult<Value>,
    signal: AbortSignal | undefined
  ): Promise<Evaluation<CallResult<Value>>> =>
    placed(signal, async (pool) => {
      if (request.code.source.length > maxSource) {
        return every(request, { status: "load", text: `the source is longer than ${maxSource} characters` }, read)
      }
      for (let tried = 1; ; tried++) {
        if (signal?.aborted) return infrastructure("interrupted")
        const outcome = await attempt(pool, request, signal)
        if (!ChildPool.isLost(outcome)) {
          return { _tag: "Evaluated", results: outcome.results.slice(0, request.cases.length).map(read) }
        }
        if (signal?.aborted) return infrastructure("interrupted")
        if (tried < attempts) continue
        const own = ofCandidate(outcome)
        return own === undefined ? infrastructure(outcome.detail) : every(request, own, read)
      }
    })

  const call: Sandbox["call"] = async (candidate, work, signal) => {
    if (!isName(work.entry)) return infrastructure(`${JSON.stringify(work.entry)} is no name of a function`)
    const cases = work.calls.map((one) => TypedData.encode(one, "script"))
    const { entry, stopEarly = false } = work
    const code = codeOf(candidate)
    return evaluate({ id: nextId++, kind: "call", code, entry, cases, limits, stopEarly }, readValue, signal)
  }

  const run: Sandbox["run"] = async (candidate, work, signal) => {
    const { inputs: cases, stopEarly = false } = work
    const code = codeOf(candidate)
    return evaluate({ id: nextId++, kind: "run", code, cases, limits, stopEarly }, readText, signal)
  }

  const test: Sandbox["test"] = (candidate, work, signal) =>
    placed(signal, async (pool) => {
      const code = codeOf(candidate)
      for (let tried = 1; ; tried++) {
        const outcome = await scriptTests.evaluate(pool, code, work.tests, limits, signal)
        if (outcome._tag === "Evaluated" || tried >= attempts || signal?.aborted || outcome.final === true)
          return outcome
      }
    })

  const close = async (): Promise<void> => {
    const present = ready
    ready = undefined
    await present?.then(
      ({ pool }) => pool.close(),
      () => {}
    )
  }

  return { boundary: async () => (await started()).boundary, call, run, test, close }
}

const infrastructure = (detail: string) => ({ _tag: "Infrastructure" as const, detail })

const codeOf = ({ language, source }: Candidate): Source => {
  if (language === "python")
    throw new TypeError("a JavaScript engine does not run python: make the sandbox for that language")
  return { source, language }
}

const every = <Value>(
  { cases, stopEarly }: { readonly cases: ReadonlyArray<string>; readonly stopEarly: boolean },
  result: CaseResult,
  read: (result: CaseResult) => CallResult<Value>
): Evaluation<CallResult<Value>> => ({
  _tag: "Evaluated",
  results: (stopEarly ? cases.slice(0, 1) : cases).map(() => read(result))
})

/** What the loss of a child says of the candidate, if it says anything. */
export const ofCandidate = (loss: ChildPool.Lost): CaseResult | undefined => {
  if (loss.lost === "hang") return { status: "timeout", text: "it hung the sandbox" }
  if (loss.lost !== "crash") return undefined
  const memory = /out of memory|Allocation failed|invalid (size|array length)/i.test(loss.detail)
  return { status: memory ? "memory" : "error", text: `it ended the sandbox's process, which ${loss.detail}` }
}

/** The child is not trusted either: what it says is text until it has been read here. */
const readValue = (result: CaseResult): CallResult => {
  if (result.status !== "value") return { status: result.status, detail: String(result.text) }
  try {
    return { status: "value", value: TypedData.decode(result.text) }
  } catch {
    return { status: "error", detail: "it returned something that is no data" }
  }
}

const readText = (result: CaseResult): CallResult<string> =>
  result.status === "value"
    ? { status: "value", value: String(result.text) }
    : { status: result.status, detail: String(result.text) }

const here = dirname(fileURLToPath(import.meta.url))
const ending = import.meta.url.endsWith(".ts") ? ".ts" : ".js"

const startOf = (parts: EngineParts, limits: SandboxLimits, way: Way): ChildPool.Start => {
  const sandbox = join(here, "../..")
  // Node looks for the package's manifest in every folder above: of src/sandbox, or of dist/src/sandbox.
  const manifests = ["..", "../..", "../../.."].map((above) => join(sandbox, above, "package.json"))
  const folders = [sandbox, ...parts.folders]
  const args = [
    ...parts.flags,
    "--max-old-space-size=96",
    "--no-warnings",
    "--permission",
    "--allow-fs-write=/proc/self/oom_score_adj",
    // the first tells how busy the machine is, the last is looked at by addons to tell musl from glibc
    ...["/proc/self/task/*", ...folders.map((folder) => join(folder, "*")), ...manifests, "/etc/alpine-release"].map(
      (path) => `--allow-fs-read=${path}`
    ),
    join(here, `${parts.child}${ending}`),
    ...parts.args
  ]
  if (way === "bare") return { file: process.execPath, args, options: { env: {} }, more: [] }
  const confined = boundary.confine(
    {
      file: process.execPath,
      args,
      env: {},
      readable: [...folders, ...manifests.filter(exists)],
      // a backstop: the child watches itself and ends at less
      memoryMb: 2 * limits.memoryMb + 768,
      processes: 128,
      fileMb: 1,
      // of a life, not of an evaluation
      cpuSeconds: 100_000,
      descriptors: [3]
    },
    way
  )
  return {
    file: confined.file,
    args: confined.args,
    options: confined.options,
    more: confined.stdio,
    started: confined.started,
    kill: confined.kill
  }
}
