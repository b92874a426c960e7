/** One confined interpreter, used for one evaluation: questions and answers, clocks, what it prints, and why it ended. */
import { spawn, type ChildProcess } from "node:child_process"
import type { Duplex, Readable, Writable } from "node:stream"
import type { Fault, Isolation } from "../../Sandbox.ts"
import { confine } from "../boundary.ts"
import { programOf, starvedFor, watchMemory } from "../processWatch.ts"

export interface Interpreter {
  readonly file: string
  /** Arguments before the program, such as `-I`. */
  readonly args: ReadonlyArray<string>
  /** The program that makes it the driver of guest/python/driver.py. */
  readonly boot: string
  /** Folders that it is read from, where they are not the system's. */
  readonly readable: ReadonlyArray<string>
}

export interface Limits {
  readonly memoryMb: number
  /** CPU seconds of each process, a stop behind the host's clocks. */
  readonly cpuSeconds: number
}

/** `lost`: not the candidate's doing. `exit`: the program ended by itself with code 0. */
export interface End {
  readonly reason: Fault | "exit" | "lost"
  readonly detail: string
}

export interface Line {
  readonly kind: string
  readonly payload: string
}

/** Bytes of an answer: `limit` of guest/python/driver.py. */
export const maxAnswer = 4 * 2 ** 20
/** Bytes that a candidate may print while its functions are called, and that a program may print as its result. */
const maxChatter = 8 * 2 ** 20
export const maxOutput = 1_000_000

const processes = 32
const fileMb = 64
/** Address space beside the candidate's memory: the interpreter's own. */
const interpreterMb = 64
/** What the shell says of a signal: 128 and its number. */
const SIGXCPU = 24
/** How much longer than its time an answer is waited for on a busy machine, as a multiple of its time. */
const patience = 4
const startDeadline = 20_000
/** Milliseconds that a dead process's output may still take: a daemon of its can hold the pipes open. */
const lastWords = 100

export interface PythonProcess {
  /** Whether it has started. */
  readonly ready: Promise<boolean>
  readonly alive: () => boolean
  /** `program`: what it prints from now on is its result. */
  readonly send: (frame: string, program?: "program") => void
  /** Ends standard input; a program gets its input here. */
  readonly input: (text: string) => void
  /** The next line that begins with this number, or how the process ended; it is ended when the time is over. */
  readonly line: (nonce: string, milliseconds: number) => Promise<Line | End>
  /** How the program ended, and what it printed. */
  readonly finished: (milliseconds: number) => Promise<{ readonly end: End; readonly output: string }>
  /** Milliseconds that it was ready to run while others ran, and that its clocks stood still for it. */
  readonly starved: () => number
  readonly kill: (reason: End["reason"], detail: string) => void
  /** Settles when the process is gone. */
  readonly gone: Promise<void>
  readonly keepAlive: (on: boolean) => void
}

export const start = (interpreter: Interpreter, limits: Limits, isolation: Isolation): PythonProcess => {
  const confined = confine(
    {
      file: interpreter.file,
      args: [...interpreter.args, "-c", interpreter.boot],
      env: { PATH: "/usr/bin:/bin", HOME: "/tmp", LANG: "C.UTF-8", MALLOC_ARENA_MAX: "2", OPENBLAS_NUM_THREADS: "1" },
      readable: interpreter.readable,
      memoryMb: limits.memoryMb + interpreterMb,
      addressMb: limits.memoryMb + interpreterMb,
      processes,
      fileMb,
      cpuSeconds: limits.cpuSeconds,
      descriptors: [3]
    },
    isolation
  )
  const child = spawn(confined.file, confined.args, {
    ...confined.options,
    stdio: ["pipe", "pipe", "pipe", "pipe", ...confined.stdio]
  })
  const group = confined.started(child)
  const [stdin, stdout, stderr, channel] = child.stdio as unknown as [Writable, Readable, Readable, Duplex]

  const lines: Array<string> = []
  let partial: Array<string> = []
  let partialSize = 0
  let received = 0
  let printed = 0
  let output: Array<Buffer> = []
  let isProgram = false
  let said = ""
  let end: End | undefined
  let wake: (() => void) | undefined

  const over = (reason: End["reason"], detail: string): void => {
    if (end !== undefined) return
    end = { reason, detail }
    stopWatching()
    wake?.()
  }
  const kill: PythonProcess["kill"] = (reason, detail) => {
    over(reason, detail)
    confined.kill(child)
  }
  const stopWatching =
    group?.limitsMemory === true || child.pid === undefined
      ? () => {}
      : watchMemory(child.pid, 2 * limits.memoryMb + interpreterMb, () =>
          kill("memory", "its processes hold too much memory")
        )

  const onPrinted = (chunk: Buffer, isResult: boolean): void => {
    printed += chunk.length
    if (isProgram && isResult) output.push(chunk)
    if (printed > (isProgram ? maxOutput : maxChatter))
      kill("output", `it printed more than ${isProgram ? maxOutput : maxChatter} bytes`)
  }
  stdout.on("data", (chunk: Buffer) => onPrinted(chunk, true))
  stderr.on("data", (chunk: Buffer) => {
    said = (said + chunk.toString("latin1")).slice(-2000)
    onPrinted(chunk, false)
  })
  channel.setEncoding("latin1").on("data", (text: string) => {
    received += text.length
    if (received > 4 * maxAnswer || partialSize > maxAnswer + 64) {
      return kill("output", "the result is larger than a sandbox hands out")
    }
    const [first = "", ...rest] = text.split("\n")
    partial.push(first)
    partialSize += first.length
    for (const next of rest) {
      lines.push(partial.join(""))
      partial = [next]
      partialSize = next.length
    }
    if (rest.length > 0) wake?.()
  })
  // it closed its end, or died while something was written to it
  for (const stream of [stdin, stdout, stderr, channel]) stream.on("error", () => {})
  channel.on("end", () => {
    if (!isProgram) setTimeout(() => kill("error", "it closed its channel"), lastWords)
  })

  const gone = new Promise<void>((resolve) => {
    child.once("error", (fault) => {
      over("lost", String(fault))
      resolve()
    })
    child.once("exit", (code, signal) => {
      const finish = (): void => {
        clearTimeout(timer)
        const memory =
          group?.ranOutOfMemory() === true || /^MemoryError|Cannot allocate memory|unable to allocate/m.test(said)
        group?.remove()
        if (code === 0) over("exit", "")
        // first, because the kernel may end the whole group, the sandbox's own process with it
        else if (memory) over("memory", "out of memory")
        // inside bubblewrap a signal becomes a code; a signal to it comes from outside
        else if (signal !== null && isolation === "bubblewrap") over("lost", `its sandbox was ended by ${signal}`)
        else if (code === 128 + SIGXCPU || signal === "SIGXCPU") over("timeout", "out of CPU time")
        else over("error", `it ended with ${signal ?? `code ${code}`}: ${lastLine(said)}`)
        for (const stream of [stdin, stdout, stderr, channel]) stream.destroy()
        resolve()
      }
      const timer = setTimeout(finish, lastWords)
      child.once("close", finish)
    })
  })

  let program: number | undefined
  let starved = 0
  const wait = async (milliseconds: number, done: () => boolean, late: string): Promise<void> => {
    if (done()) return
    const before = program === undefined ? 0 : starvedFor(program)
    const most = patience * milliseconds
    const lost = (): number => (program === undefined ? 0 : Math.min(most, Math.max(0, starvedFor(program) - before)))
    let granted = 0
    await new Promise<void>((resolve) => {
      let timer: NodeJS.Timeout
      // an answer that is already here counts, however late this thread comes to look
      const look = (): void => {
        if (done()) return resolve()
        const more = lost() - granted
        if (more < 1) return kill("timeout", late)
        granted += more
        arm(more)
      }
      const arm = (rest: number): void => {
        timer = setTimeout(() => setImmediate(look), Math.max(1, Math.ceil(rest)))
      }
      wake = () => {
        if (!done()) return
        clearTimeout(timer)
        resolve()
      }
      arm(milliseconds)
    })
    wake = undefined
    starved += Math.max(granted, lost())
  }

  const next = (nonce: string): Line | undefined => {
    while (lines.length > 0) {
      const text = lines.shift()!
      // all else was written by the candidate, or is late
      if (text.startsWith(nonce))
        return { kind: text.slice(nonce.length, nonce.length + 1), payload: text.slice(nonce.length + 1) }
    }
    return undefined
  }
  const line: PythonProcess["line"] = async (nonce, milliseconds) => {
    let found: Line | undefined
    await wait(milliseconds, () => (found ??= next(nonce)) !== undefined || end !== undefined, "out of time")
    return found ?? end!
  }
  const ready = line("ready", startDeadline).then((first) => {
    if (child.pid !== undefined && process.platform === "linux") program = programOf(child.pid)
    return "kind" in first
  })

  return {
    ready,
    gone,
    kill,
    line,
    alive: () => end === undefined,
    starved: () => starved,
    send: (frame, kind) => {
      received = 0
      if (kind === "program") {
        isProgram = true
        printed = 0
      }
      const bytes = Buffer.from(frame)
      channel.write(bytes.length.toString(16).padStart(8, "0"))
      channel.write(bytes)
    },
    input: (text) => stdin.end(text),
    finished: async (milliseconds) => {
      await wait(milliseconds, () => end !== undefined, "out of time")
      return { end: end!, output: Buffer.concat(output).toString("utf8") }
    },
    keepAlive: (on) => {
      const handles = [child, stdin, stdout, stderr, channel] as unknown as ReadonlyArray<ChildProcess>
      for (const handle of handles) {
        if (on) handle.ref()
        else handle.unref()
      }
    }
  }
}

const lastLine = (text: string): string => text.trimEnd().split("\n").at(-1)?.slice(0, 400) ?? ""
