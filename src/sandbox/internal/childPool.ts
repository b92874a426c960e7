/**
 * A pool of child processes that can be killed. It knows nothing of what they do: a child says "ready", is lent to one user
 * at a time, and exchanges messages with it over an IPC channel. A child that has to go is killed, never asked; its place
 * is filled before it is needed. Idle children do not keep this process from ending, and end with it.
 */
import { spawn, type ChildProcess, type SpawnOptions } from "node:child_process"
import type { Socket } from "node:net"

/** How to start a child: `stdio` is none, none, a pipe for what it says of its end, the channel, and then `more`. */
export interface Start {
  readonly file: string
  readonly args: ReadonlyArray<string>
  readonly options: Pick<SpawnOptions, "cwd" | "detached" | "env" | "uid" | "gid">
  readonly more: ReadonlyArray<"pipe" | "ignore" | number>
  /** Called at once with the started process; says later whether the kernel ended it for want of memory. */
  readonly started?: (child: ChildProcess) => { readonly ranOutOfMemory: () => boolean } | undefined
  /** Default: SIGKILL to the process. */
  readonly kill?: (child: ChildProcess) => void
}

/** Why nothing came. `crash`: it ended by itself; `outside`: someone else ended it; `hang`: the deadline passed. */
export interface Lost {
  readonly lost: "start" | "crash" | "outside" | "hang"
  readonly detail: string
}

/** A child that is lent. */
export interface Link<Request extends object, Response extends object> {
  readonly send: (request: Request) => void
  /** The next message, or why there is none; after that, there is nothing more. */
  readonly next: (deadline: number) => Promise<Response | Lost>
  /** Gives the child back, or kills it. */
  readonly release: (end: boolean) => void
}

export interface ChildPool<Request extends object, Response extends object> {
  /** A child that is ready, or why there is none. */
  readonly take: (signal?: AbortSignal) => Promise<Link<Request, Response> | Lost>
  /** Kills every child and waits for their ends, but not for long: what the kernel does not let go of is let be. */
  readonly close: () => Promise<void>
}

const startDeadline = 20_000
/** Milliseconds that the end of a killed process is waited for. */
const endDeadline = 5000
/** Evaluations after which a child is replaced, whatever its state. */
const lifetime = 5000

interface Child {
  readonly process: ChildProcess
  readonly ready: Promise<boolean>
  readonly kill: () => void
  ranOutOfMemory: () => boolean
  stderr: string
  uses: number
}

/** An idle child does not keep this process from ending. */
const keepAlive = (child: ChildProcess, on: boolean): void => {
  for (const handle of [child, child.channel, child.stderr as Socket | null]) {
    if (on) handle?.ref()
    else handle?.unref()
  }
}

export const isLost = (outcome: object): outcome is Lost => "lost" in outcome

/** Starts a child process and gathers what it says of its end. */
const spawnChild = ({ args, file, kill: end, more, options, started }: Start): Child => {
  const own = spawn(file, args, {
    ...options,
    stdio: ["ignore", "ignore", "pipe", "ipc", ...more],
    serialization: "json"
  } as SpawnOptions)
  const child: Child = {
    process: own,
    kill: () => {
      if (end === undefined) own.kill("SIGKILL")
      else end(own)
    },
    ranOutOfMemory: () => false,
    stderr: "",
    uses: 0,
    ready: new Promise((resolve) => {
      own.once("message", () => resolve(true))
      own.once("exit", () => resolve(false))
      own.once("error", (fault) => {
        child.stderr += String(fault)
        resolve(false)
      })
      const timer = setTimeout(() => resolve(false), startDeadline)
      timer.unref()
      own.once("message", () => clearTimeout(timer))
    })
  }
  own.on("error", () => {})
  own.stderr?.setEncoding("utf8").on("data", (text: string) => {
    // the cause of an end comes first, behind it a long stack
    child.stderr = (child.stderr + text).slice(0, 4000)
  })
  own.stderr?.on("error", () => {})
  own.once("exit", () => {
    // a process that it left behind may hold the other end open
    setImmediate(() => {
      if (own.connected) own.disconnect()
    })
  })
  const group = started?.(own)
  if (group !== undefined) child.ranOutOfMemory = group.ranOutOfMemory
  return child
}

/** Messages with a child that is lent. `giveBack` learns at release whether the child has to go. */
const linkTo = <Request extends object, Response extends object>(
  child: Child,
  signal: AbortSignal | undefined,
  giveBack: (end: boolean) => void
): Link<Request, Response> => {
  const { process: own } = child
  const received: Array<Response> = []
  let lost: Lost | undefined
  let waiting: ((outcome: Response | Lost) => void) | undefined
  const give = (outcome: Response | Lost): void => {
    if (isLost(outcome)) lost ??= outcome
    if (waiting !== undefined) waiting(outcome)
    else if (!isLost(outcome)) received.push(outcome)
  }
  const onMessage = (message: unknown): void => {
    if (typeof message === "object" && message !== null) give(message as Response)
  }
  // not `exit`, which can come before what the child wrote about its end
  const onClose = (code: number | null, ended: NodeJS.Signals | null): void => {
    // SIGKILL is not ours: we would not be listening. Someone else, such as the kernel, was short of memory.
    const outside = ended === "SIGKILL" || ended === "SIGTERM" || code === 137
    const memory = outside && child.ranOutOfMemory() ? "out of memory, " : ""
    give({
      lost: outside && memory === "" ? "outside" : "crash",
      detail: `${memory}ended with ${ended ?? `code ${code}`}: ${child.stderr.slice(0, 500)}`
    })
  }
  const onAbort = (): void => give({ lost: "outside", detail: "interrupted" })
  own.on("message", onMessage).on("close", onClose)
  signal?.addEventListener("abort", onAbort, { once: true })
  if (own.exitCode !== null || own.signalCode !== null) onClose(own.exitCode, own.signalCode)
  return {
    send: (request) => {
      if (own.connected) {
        own.send(request, (fault) => {
          if (fault !== null) give({ lost: "outside", detail: String(fault) })
        })
      }
    },
    next: (deadline) => {
      const first = received.shift()
      if (first !== undefined) return Promise.resolve(first)
      if (signal?.aborted) onAbort()
      if (lost !== undefined) return Promise.resolve(lost)
      return new Promise((resolve) => {
        const timer = setTimeout(
          // a response that is already here counts, however late this thread comes to look
          () => setImmediate(() => give({ lost: "hang", detail: "the child process did not answer" })),
          Math.max(0, deadline)
        )
        waiting = (outcome) => {
          waiting = undefined
          clearTimeout(timer)
          resolve(outcome)
        }
      })
    },
    release: (end) => {
      own.off("message", onMessage).off("close", onClose)
      signal?.removeEventListener("abort", onAbort)
      giveBack(end || lost !== undefined)
    }
  }
}

/** @param size How many children are kept; where more are taken at once, as many as that. */
export const make = <Request extends object, Response extends object>(
  size: number,
  how: () => Start | Promise<Start>
): ChildPool<Request, Response> => {
  let keep = size
  let lent = 0
  const idle: Array<Child> = []
  const all = new Set<Child>()

  const start = async (): Promise<Child> => {
    const child = spawnChild(await how())
    all.add(child)
    child.process.once("exit", () => {
      all.delete(child)
      const index = idle.indexOf(child)
      if (index >= 0) idle.splice(index, 1)
    })
    return child
  }

  const kill = (child: Child): void => {
    all.delete(child)
    child.kill()
  }

  const spare = async (): Promise<void> => {
    if (all.size >= keep) return
    try {
      const child = await start()
      keepAlive(child.process, false)
      idle.unshift(child)
    } catch {
      // the next one who takes a child is told why
    }
  }

  const giveBack = (child: Child, end: boolean, signal: AbortSignal | undefined): void => {
    lent--
    keepAlive(child.process, false)
    if (end || child.uses >= lifetime) {
      kill(child)
      if (!signal?.aborted) void spare()
    } else if (all.has(child)) idle.push(child)
  }

  const take: ChildPool<Request, Response>["take"] = async (signal) => {
    let child: Child
    try {
      child = idle.pop() ?? (await start())
    } catch (fault) {
      return { lost: "start", detail: String(fault).slice(0, 500) }
    }
    keepAlive(child.process, true)
    if (!(await child.ready)) {
      kill(child)
      return { lost: "start", detail: child.stderr.slice(0, 500) || "a child process did not start" }
    }
    child.stderr = ""
    child.uses++
    keep = Math.max(keep, ++lent)
    return linkTo(child, signal, (end) => giveBack(child, end, signal))
  }

  const close = async (): Promise<void> => {
    const ends = [...all].map((child) => {
      // their end is awaited, so they keep this process alive until then
      child.process.ref()
      return new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, endDeadline)
        child.process.once("exit", () => {
          clearTimeout(timer)
          resolve()
        })
      })
    })
    all.forEach(kill)
    idle.length = 0
    await Promise.all(ends)
  }

  return { take, close }
}
