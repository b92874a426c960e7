/** One worker of the verifier pool as a host process: started at its first call, replaced when it dies. */
import { fork, type ChildProcess } from "node:child_process"
import { fileURLToPath } from "node:url"
import type { Socket } from "node:net"
import type { Worker } from "./verifierThread.ts"
import { conditions, sibling } from "../../worker/childModule.ts"
import type { HostRequest, HostResponse, CallAnswer, WorkerSettings } from "./verifierProtocol.ts"

/** Milliseconds that the host has, beyond the call's own deadlines, before it is killed from outside. */
const grace = 5000
/** V8's report of a fatal error: kept for the crash's detail, not repeated on our stderr. */
const fatal = /FATAL ERROR|Last few GCs|JS stacktrace|Native stack trace|^\s*\d+: 0x/m

export const make = (options: WorkerSettings): Worker => {
  let child: ChildProcess | undefined
  let nextId = 0
  let tail = ""

  const started = (): ChildProcess => {
    if (child !== undefined) return child
    const host = fork(fileURLToPath(sibling("verifierHost", import.meta.url)), {
      // The first flag makes every loop interruptible; the second keeps hot loops fast under the first.
      execArgv: ["--no-concurrent-osr", "--no-concurrent-recompilation", ...conditions(import.meta.url)],
      serialization: "advanced",
      stdio: ["ignore", "inherit", "pipe", "ipc"]
    })
    host.stderr!.setEncoding("utf8").on("data", (text: string) => {
      tail = (tail + text).slice(-2000)
      if (!fatal.test(text)) process.stderr.write(text)
    })
    host.on("exit", () => {
      if (child === host) child = undefined
    })
    host.send({ options } satisfies HostRequest)
    child = host
    return host
  }

  const kill = (host: ChildProcess): void => {
    host.kill("SIGKILL")
    if (child === host) child = undefined
  }

  const run: Worker["run"] = (call, deadline, signal) =>
    new Promise<CallAnswer>((resolve) => {
      const host = started()
      const id = nextId++
      tail = ""
      keepAlive(host, true)
      const finish = (answer: CallAnswer, end: boolean): void => {
        clearTimeout(timer)
        host.off("message", onMessage).off("exit", onExit).off("error", onError)
        signal?.removeEventListener("abort", onAbort)
        if (end) kill(host)
        else keepAlive(host, false)
        resolve(answer)
      }
      const onMessage = (response: HostResponse): void => {
        if (response.id === id) finish(response.answer, response.stuck)
      }
      const onExit = (code: number | null, ended: NodeJS.Signals | null): void => {
        const memory = tail.includes("heap out of memory") || tail.includes("Allocation failed")
        finish({ _tag: "Crash", detail: `its process ended with ${ended ?? `code ${code}`}`, memory }, true)
      }
      const onError = (fault: Error): void => finish({ _tag: "Crash", detail: String(fault), memory: false }, true)
      const onAbort = (): void => finish({ _tag: "Crash", detail: "interrupted", memory: false }, true)
      const timer = setTimeout(
        // An answer that has already arrived counts, however late this thread reads it.
        () => setImmediate(() => finish({ _tag: "Timeout", phase: "call" }, true)),
        options.startDeadline + deadline + grace
      )
      host.on("message", onMessage).on("exit", onExit).on("error", onError)
      signal?.addEventListener("abort", onAbort, { once: true })
      if (signal?.aborted) return onAbort()
      host.send({ id, call, deadline } satisfies HostRequest, undefined, {}, (fault) => {
        if (fault === null) return
        // Not cloneable: nothing was sent, and the host is intact.
        if (fault.name === "DataCloneError") finish({ _tag: "Fault", detail: fault.message }, false)
        else onError(fault)
      })
    }).catch((fault: unknown) => ({ _tag: "Fault", detail: String(fault) }))

  return {
    run,
    stuck: () => false,
    close: () =>
      new Promise((resolve) => {
        if (child === undefined) return resolve()
        // Its end is awaited, so it keeps this process alive until then.
        child.ref()
        child.once("exit", () => resolve())
        kill(child)
      })
  }
}

/** An idle host does not keep this process from ending. */
const keepAlive = (host: ChildProcess, on: boolean): void => {
  const handles = [host, host.channel, host.stderr as Socket | null]
  for (const handle of handles) {
    if (on) handle?.ref()
    else handle?.unref()
  }
}
