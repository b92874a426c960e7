/**
 * One worker thread, in a piscina of size one, with a deadline that ends even a synchronous endless loop. Single-thread
 * pools replace one pool of many threads for three reasons. The thread that a call kills is known, nothing else runs on
 * it, and piscina 5.3 permanently stops replacing threads after one died while starting.
 */
import { once } from "node:events"
import { fileURLToPath } from "node:url"
import { Piscina } from "piscina"
import { sibling } from "../../worker/childModule.ts"
import type { CallAnswer, WorkerSettings, WorkerAnswer, WorkerCall } from "./verifierProtocol.ts"

/** Milliseconds after which V8 is assumed to be unable to interrupt a terminated thread. */
const terminationDeadline = 2000

export interface Worker {
  /** Runs one call at a time. `signal` ends the call together with the thread. */
  readonly run: (call: WorkerCall, deadline: number, signal?: AbortSignal) => Promise<CallAnswer>
  /** Tells whether a terminated thread still runs (see `--no-concurrent-osr` in the host process). */
  readonly stuck: () => boolean
  readonly close: () => Promise<void>
}

export const make = (options: WorkerSettings): Worker => {
  let stuck = false
  let pool: Piscina | undefined
  const started = () =>
    (pool ??= new Piscina({
      filename: fileURLToPath(sibling("verifierWorker", import.meta.url)),
      minThreads: 1,
      maxThreads: 1,
      concurrentTasksPerWorker: 1,
      recordTiming: false,
      resourceLimits: { maxOldGenerationSizeMb: options.memoryMb }
    }))

  /** Abandons the present pool; the next call starts another. */
  const discard = async (): Promise<void> => {
    if (pool === undefined) return
    const old = pool
    pool = undefined
    old.on("error", () => {})
    const exits = old.threads.map((thread) => once(thread, "exit"))
    const ended = Promise.allSettled([...exits, old.destroy()])
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<"late">((resolve) => (timer = setTimeout(() => resolve("late"), terminationDeadline)))
    if ((await Promise.race([ended, late])) === "late") stuck = true
    clearTimeout(timer)
  }

  const run: Worker["run"] = async (call, deadline, signal) => {
    const began = new Float64Array(new SharedArrayBuffer(8))
    const piscina = started()
    const abort = new AbortController()
    let timeout: "start" | "call" | undefined
    let timer: NodeJS.Timeout | undefined
    const submitted = performance.timeOrigin + performance.now()
    const watch = (wait: number): void => {
      timer = setTimeout(() => {
        const now = performance.timeOrigin + performance.now()
        const start = began[0]!
        const left = start === 0 ? submitted + options.startDeadline - now : start + deadline - now
        if (left > 0) return watch(start === 0 ? Math.min(left, deadline) : left)
        timeout = start === 0 ? "start" : "call"
        abort.abort()
      }, Math.ceil(wait))
    }
    const stop = () => abort.abort()
    signal?.addEventListener("abort", stop, { once: true })
    if (signal?.aborted) stop()
    watch(deadline)
    try {
      return (await piscina.run({ ...call, began }, { signal: abort.signal })) as WorkerAnswer
    } catch (fault) {
      if (fault instanceof Error && fault.name === "DataCloneError") {
        return { _tag: "Fault", detail: `task or trajectory cannot be sent to a worker: ${fault.message}` }
      }
      await discard()
      if (timeout !== undefined) return { _tag: "Timeout", phase: timeout }
      const code = fault instanceof Error && "code" in fault ? fault.code : undefined
      return { _tag: "Crash", detail: String(fault).slice(0, 1000), memory: code === "ERR_WORKER_OUT_OF_MEMORY" }
    } finally {
      clearTimeout(timer)
      signal?.removeEventListener("abort", stop)
    }
  }

  return { run, stuck: () => stuck, close: discard }
}
