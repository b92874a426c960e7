/**
 * Runs model-written JavaScript and TypeScript: a fresh isolate per evaluation, a fresh context per case, inside child
 * processes that can be killed, share nothing with this one, and start before they are needed. The candidate never
 * shares a realm with tests or expected values: it gets arguments, and what it returns comes back as typed data.
 *
 * Three clocks end what does not end: the engine's timeout, disposing the isolate, SIGKILL. A child is replaced after
 * every kill. Whatever a candidate does is a status of the candidate; only what the sandbox itself fails at is `infra`.
 */
import { fork, type ChildProcess } from "node:child_process"
import { createRequire } from "node:module"
import type { Socket } from "node:net"
import { availableParallelism } from "node:os"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { isMainThread } from "node:worker_threads"
import type { CaseResult, ChildRequest, ChildResponse } from "./internal/sandboxProtocol.ts"
import * as TypedData from "./internal/TypedData.ts"

export interface SandboxOptions {
  /** Child processes, each with one evaluation at a time. Default: the machine's cores; 1 in a worker of the verifier pool. */
  readonly children?: number
  /** Milliseconds of one case. Default 1000. */
  readonly timeout?: number
  /** Milliseconds of all cases of an evaluation. Default 5000. */
  readonly total?: number
  /** Heap of an isolate. Default 64, at least 8. */
  readonly memoryMb?: number
}

export interface Candidate {
  readonly source: string
  /** Default `javascript`. TypeScript is only transformed, never checked. */
  readonly language?: "javascript" | "typescript"
  /** Name of the function to call. */
  readonly entry: string
  /** Arguments of each call: data (JSON, undefined, NaN, bigint, Date, Map, Set). */
  readonly calls: ReadonlyArray<ReadonlyArray<unknown>>
  /** End at the first call without a value; the calls after it have no result. Default false. */
  readonly stopEarly?: boolean
}

export type CallResult =
  | { readonly status: "value"; readonly value: unknown }
  | { readonly status: "load" | "error" | "timeout" | "memory" | "output"; readonly detail: string }

export type Evaluation =
  | { readonly _tag: "Evaluated"; readonly calls: ReadonlyArray<CallResult> }
  /** The sandbox failed, the candidate is not judged. */
  | { readonly _tag: "Infrastructure"; readonly detail: string }

export interface JavaScriptSandbox {
  readonly evaluate: (candidate: Candidate, signal?: AbortSignal) => Promise<Evaluation>
  /** Ends the children; the next evaluation starts new ones. */
  readonly close: () => Promise<void>
}

/** Longest source that is run; a longer one has status `load`. Characters. */
const maxSource = 262_144
const startDeadline = 20_000
/** Milliseconds that a child has beyond its own clocks before it is killed from outside. */
const grace = 3000
/** How often an evaluation is tried when its child died without a word. */
const attempts = 2

interface Child {
  readonly process: ChildProcess
  readonly ready: Promise<boolean>
  stderr: string
}

/**
 * @example
 * ```ts
 * const sandbox = JavaScriptSandbox.make({ timeout: 500 })
 * const evaluation = await sandbox.evaluate({ source: "const add = (a, b) => a + b", entry: "add", calls: [[1, 2]] })
 * // { _tag: "Evaluated", calls: [{ status: "value", value: 3 }] }
 * ```
 */
export const make = (options: SandboxOptions = {}): JavaScriptSandbox => {
  const limits = {
    timeout: options.timeout ?? 1000,
    total: options.total ?? 5000,
    memoryMb: Math.max(8, options.memoryMb ?? 64)
  }
  const size = options.children ?? (isMainThread ? availableParallelism() : 1)
  const idle: Array<Child> = []
  const all = new Set<Child>()
  const waiting: Array<() => void> = []
  let running = 0
  let nextId = 0

  const start = (): Child => {
    const { addon, readable } = locations()
    const own = fork(fileURLToPath(new URL(childModule, import.meta.url)), [addon], {
      execArgv: [
        "--no-concurrent-osr",
        "--no-concurrent-recompilation",
        "--max-old-space-size=96",
        "--no-warnings",
        "--permission",
        "--allow-addons",
        "--allow-fs-write=/proc/self/oom_score_adj",
        ...readable.map((path) => `--allow-fs-read=${path}`)
      ],
      env: {},
      stdio: ["ignore", "ignore", "pipe", "ipc"]
    })
    const child: Child = {
      process: own,
      stderr: "",
      ready: new Promise((resolve) => {
        own.once("message", () => resolve(true))
        own.once("exit", () => resolve(false))
        own.once("error", () => resolve(false))
        setTimeout(() => resolve(false), startDeadline).unref()
      })
    }
    own.stderr!.setEncoding("utf8").on("data", (text: string) => {
      // the cause of an end comes first, behind it a long stack
      child.stderr = (child.stderr + text).slice(0, 4000)
    })
    own.on("error", () => {})
    own.once("exit", () => {
      all.delete(child)
      const index = idle.indexOf(child)
      if (index >= 0) idle.splice(index, 1)
    })
    all.add(child)
    return child
  }

  const kill = (child: Child): void => {
    all.delete(child)
    child.process.kill("SIGKILL")
  }

  /** One try in one child. `undefined`: the child died or hung without saying what the candidate did. */
  const attempt = async (request: ChildRequest, signal?: AbortSignal): Promise<ChildResponse | Lost> => {
    const child = idle.pop() ?? start()
    keepAlive(child.process, true)
    if (!(await child.ready)) {
      kill(child)
      return { lost: "start", detail: child.stderr.slice(0, 500) || "a child process did not start" }
    }
    child.stderr = ""
    return new Promise((resolve) => {
      const finish = (outcome: ChildResponse | Lost, end: boolean): void => {
        clearTimeout(timer)
        child.process.off("message", onMessage).off("close", onClose)
        signal?.removeEventListener("abort", onAbort)
        keepAlive(child.process, false)
        if (end) {
          kill(child)
          // replaced before it is needed
          if (all.size < size && !signal?.aborted) {
            const next = start()
            keepAlive(next.process, false)
            idle.unshift(next)
          }
        } else idle.push(child)
        resolve(outcome)
      }
      const onMessage = (response: ChildResponse): void => {
        if (response.id === request.id) finish(response, response.recycle)
      }
      // not `exit`, which can come before what the child wrote about its end
      const onClose = (code: number | null, ended: NodeJS.Signals | null): void => {
        // SIGKILL is not ours: we would not be listening. Someone else, such as the kernel, was short of memory.
        const lost = ended === "SIGKILL" || ended === "SIGTERM" ? "outside" : "crash"
        finish({ lost, detail: `ended with ${ended ?? `code ${code}`}: ${child.stderr.slice(0, 500)}` }, true)
      }
      const onAbort = (): void => finish({ lost: "outside", detail: "interrupted" }, true)
      const timer = setTimeout(
        // a response that is already here counts, however late this thread comes to look
        () => setImmediate(() => finish({ lost: "hang", detail: "the child process did not answer" }, true)),
        limits.total + limits.timeout + grace
      )
      child.process.on("message", onMessage).on("close", onClose)
      signal?.addEventListener("abort", onAbort, { once: true })
      if (signal?.aborted) return onAbort()
      child.process.send(request, (fault) => {
        if (fault !== null) finish({ lost: "outside", detail: String(fault) }, true)
      })
    })
  }

  const evaluate: JavaScriptSandbox["evaluate"] = async (candidate, signal) => {
    if (!/^[\p{ID_Start}$_][\p{ID_Continue}$]*$/u.test(candidate.entry)) {
      return { _tag: "Infrastructure", detail: `${JSON.stringify(candidate.entry)} is no name of a function` }
    }
    if (candidate.source.length > maxSource) {
      return every(candidate, { status: "load", detail: `the source is longer than ${maxSource} characters` })
    }
    const request: ChildRequest = {
      id: nextId++,
      source: candidate.source,
      language: candidate.language ?? "javascript",
      entry: candidate.entry,
      cases: candidate.calls.map((call) => TypedData.encode(call)),
      limits,
      stopEarly: candidate.stopEarly ?? false
    }
    // a place is handed on, first come first served
    if (running < size) running++
    else await new Promise<void>((resolve) => waiting.push(resolve))
    try {
      for (let tried = 1; ; tried++) {
        const outcome = await attempt(request, signal)
        if (!("lost" in outcome)) return { _tag: "Evaluated", calls: outcome.results.map(read) }
        if (signal?.aborted) return { _tag: "Infrastructure", detail: "interrupted" }
        if (tried < attempts) continue
        if (outcome.lost === "crash") {
          const memory = /out of memory|Allocation failed|invalid (size|array length)/i.test(outcome.detail)
          const detail = `it ended the sandbox's process, which ${outcome.detail}`
          return every(candidate, { status: memory ? "memory" : "error", detail })
        }
        if (outcome.lost === "hang") return every(candidate, { status: "timeout", detail: "it hung the sandbox" })
        return { _tag: "Infrastructure", detail: outcome.detail }
      }
    } finally {
      const next = waiting.shift()
      if (next === undefined) running--
      else next()
    }
  }

  const close = async (): Promise<void> => {
    const ends = [...all].map((child) => new Promise((resolve) => child.process.once("exit", resolve)))
    // their end is awaited, so they keep this process alive until then
    for (const child of all) child.process.ref()
    all.forEach(kill)
    idle.length = 0
    await Promise.all(ends)
  }

  return { evaluate, close }
}

interface Lost {
  readonly lost: "start" | "crash" | "outside" | "hang"
  readonly detail: string
}

const childModule = `./internal/sandboxChild${import.meta.url.endsWith(".ts") ? ".ts" : ".js"}`

/** Where the addon is, and the files that a child has to read: its own code and the addon's. */
const locations = () => {
  const own = fileURLToPath(new URL(".", import.meta.url))
  const addon = createRequire(import.meta.url).resolve("isolated-vm")
  const loader = createRequire(addon).resolve("node-gyp-build")
  const manifests = [join(own, "../package.json"), join(own, "../../package.json")]
  // the loader looks at the last one to tell musl from glibc
  const loaded = [join(dirname(addon), "*"), join(dirname(loader), "*"), "/etc/alpine-release"]
  return { addon, readable: [join(own, "*"), ...manifests, ...loaded] }
}

const every = (candidate: Candidate, result: CallResult): Evaluation => ({
  _tag: "Evaluated",
  calls: candidate.calls.map(() => result)
})

/** The child is not trusted either: what it says is text until it has been read here. */
const read = (result: CaseResult): CallResult => {
  if (result.status !== "value") return { status: result.status, detail: String(result.text) }
  try {
    return { status: "value", value: TypedData.decode(result.text) }
  } catch {
    return { status: "error", detail: "it returned something that is no data" }
  }
}

/** An idle child does not keep this process from ending, and ends with it. */
const keepAlive = (child: ChildProcess, on: boolean): void => {
  const handles = [child, child.channel, child.stderr as Socket | null]
  for (const handle of handles) {
    if (on) handle?.ref()
    else handle?.unref()
  }
}

const shared = new Map<string, JavaScriptSandbox>()

/** One sandbox per set of options for the whole process (or worker), started when first used. */
export const get = (options: SandboxOptions = {}): JavaScriptSandbox => {
  const key = JSON.stringify([options.children, options.timeout, options.total, options.memoryMb])
  let sandbox = shared.get(key)
  if (sandbox === undefined) shared.set(key, (sandbox = make(options)))
  return sandbox
}
