/** One confined interpreter, used for one evaluation: questions and answers, clocks, what it prints, and why it ended. */
import { spawn, type ChildProcess } from "node:child_process"
import type { Duplex, Readable, Writable } from "node:stream"
import type { Fault, Isolation } from "../../Sandbox.ts"
import { confine, type Confined } from "../boundary.ts"
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
/** The shell's exit code of a signal: 128 and its number. */
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

export const start = (interpreter: Interpreter, limits: Limits, isolation: Isolation): PythonProcess =>
  new Running(interpreter, limits, isolation)

const confinedAs = (interpreter: Interpreter, limits: Limits, isolation: Isolation): Confined =>
  confine(
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

class Running implements PythonProcess {
  readonly ready: Promise<boolean>
  readonly gone: Promise<void>
  readonly #isolation: Isolation
  readonly #confined: Confined
  readonly #child: ChildProcess
  readonly #group: ReturnType<Confined["started"]>
  readonly #stdin: Writable
  readonly #stdout: Readable
  readonly #stderr: Readable
  readonly #channel: Duplex
  readonly #stopWatching: () => void
  readonly #lines: Array<string> = []
  #partial: Array<string> = []
  #partialSize = 0
  #received = 0
  #printed = 0
  readonly #output: Array<Buffer> = []
  #isProgram = false
  #said = ""
  #end: End | undefined
  #wake: (() => void) | undefined
  #program: number | undefined
  #starved = 0

  constructor(interpreter: Interpreter, limits: Limits, isolation: Isolation) {
    this.#isolation = isolation
    this.#confined = confinedAs(interpreter, limits, isolation)
    const child = spawn(this.#confined.file, this.#confined.args, {
      ...this.#confined.options,
      stdio: ["pipe", "pipe", "pipe", "pipe", ...this.#confined.stdio]
    })
    this.#child = child
    this.#group = this.#confined.started(child)
    const [stdin, stdout, stderr, channel] = child.stdio as unknown as [Writable, Readable, Readable, Duplex]
    this.#stdin = stdin
    this.#stdout = stdout
    this.#stderr = stderr
    this.#channel = channel
    this.#stopWatching =
      this.#group?.limitsMemory === true || child.pid === undefined
        ? () => {}
        : watchMemory(child.pid, 2 * limits.memoryMb + interpreterMb, () =>
            this.kill("memory", "its processes hold too much memory")
          )
    this.#listen()
    this.gone = this.#exit()
    this.ready = this.line("ready", startDeadline).then((first) => {
      if (child.pid !== undefined && process.platform === "linux") this.#program = programOf(child.pid)
      return "kind" in first
    })
  }

  alive(): boolean {
    return this.#end === undefined
  }

  starved(): number {
    return this.#starved
  }

  send(frame: string, kind?: "program"): void {
    this.#received = 0
    if (kind === "program") {
      this.#isProgram = true
      this.#printed = 0
    }
    const bytes = Buffer.from(frame)
    this.#channel.write(bytes.length.toString(16).padStart(8, "0"))
    this.#channel.write(bytes)
  }

  input(text: string): void {
    this.#stdin.end(text)
  }

  async line(nonce: string, milliseconds: number): Promise<Line | End> {
    let found: Line | undefined
    await this.#wait(
      milliseconds,
      () => (found ??= this.#next(nonce)) !== undefined || this.#end !== undefined,
      "out of time"
    )
    return found ?? this.#end!
  }

  async finished(milliseconds: number): Promise<{ readonly end: End; readonly output: string }> {
    await this.#wait(milliseconds, () => this.#end !== undefined, "out of time")
    return { end: this.#end!, output: Buffer.concat(this.#output).toString("utf8") }
  }

  kill(reason: End["reason"], detail: string): void {
    this.#over(reason, detail)
    this.#confined.kill(this.#child)
  }

  keepAlive(on: boolean): void {
    const handles = [this.#child, ...this.#streams()] as unknown as ReadonlyArray<ChildProcess>
    for (const handle of handles) {
      if (on) handle.ref()
      else handle.unref()
    }
  }

  #streams(): ReadonlyArray<Readable | Writable> {
    return [this.#stdin, this.#stdout, this.#stderr, this.#channel]
  }

  #over(reason: End["reason"], detail: string): void {
    if (this.#end !== undefined) return
    this.#end = { reason, detail }
    this.#stopWatching()
    this.#wake?.()
  }

  #listen(): void {
    this.#stdout.on("data", (chunk: Buffer) => this.#onPrinted(chunk, true))
    this.#stderr.on("data", (chunk: Buffer) => {
      this.#said = (this.#said + chunk.toString("latin1")).slice(-2000)
      this.#onPrinted(chunk, false)
    })
    this.#channel.setEncoding("latin1").on("data", (text: string) => this.#onAnswered(text))
    // it closed its end, or died while something was written to it
    for (const stream of this.#streams()) stream.on("error", () => {})
    this.#channel.on("end", () => {
      if (!this.#isProgram) setTimeout(() => this.kill("error", "it closed its channel"), lastWords)
    })
  }

  #onPrinted(chunk: Buffer, isResult: boolean): void {
    this.#printed += chunk.length
    if (this.#isProgram && isResult) this.#output.push(chunk)
    if (this.#printed > (this.#isProgram ? maxOutput : maxChatter))
      this.kill("output", `it printed more than ${this.#isProgram ? maxOutput : maxChatter} bytes`)
  }

  #onAnswered(text: string): void {
    this.#received += text.length
    if (this.#received > 4 * maxAnswer || this.#partialSize > maxAnswer + 64) {
      return this.kill("output", "the result is larger than a sandbox hands out")
    }
    const [first = "", ...rest] = text.split("\n")
    this.#partial.push(first)
    this.#partialSize += first.length
    for (const next of rest) {
      this.#lines.push(this.#partial.join(""))
      this.#partial = [next]
      this.#partialSize = next.length
    }
    if (rest.length > 0) this.#wake?.()
  }

  #exit(): Promise<void> {
    const child = this.#child
    return new Promise<void>((resolve) => {
      child.once("error", (fault) => {
        this.#over("lost", String(fault))
        resolve()
      })
      child.once("exit", (code, signal) => {
        const finish = (): void => {
          clearTimeout(timer)
          this.#onExit(code, signal)
          for (const stream of this.#streams()) stream.destroy()
          resolve()
        }
        const timer = setTimeout(finish, lastWords)
        child.once("close", finish)
      })
    })
  }

  #onExit(code: number | null, signal: NodeJS.Signals | null): void {
    const said = this.#said
    const memory =
      this.#group?.ranOutOfMemory() === true || /^MemoryError|Cannot allocate memory|unable to allocate/m.test(said)
    this.#group?.remove()
    if (code === 0) this.#over("exit", "")
    // first, because the kernel may end the whole group, the sandbox's own process with it
    else if (memory) this.#over("memory", "out of memory")
    // inside bubblewrap a signal becomes a code; a signal to it comes from outside
    else if (signal !== null && this.#isolation === "bubblewrap")
      this.#over("lost", `its sandbox was ended by ${signal}`)
    else if (code === 128 + SIGXCPU || signal === "SIGXCPU") this.#over("timeout", "out of CPU time")
    else this.#over("error", `it ended with ${signal ?? `code ${code}`}: ${lastLine(said)}`)
  }

  async #wait(milliseconds: number, done: () => boolean, late: string): Promise<void> {
    if (done()) return
    const before = this.#program === undefined ? 0 : starvedFor(this.#program)
    const most = patience * milliseconds
    const lost = (): number =>
      this.#program === undefined ? 0 : Math.min(most, Math.max(0, starvedFor(this.#program) - before))
    let granted = 0
    await new Promise<void>((resolve) => {
      let timer: NodeJS.Timeout
      // an answer that is already here counts, however late this thread comes to look
      const look = (): void => {
        if (done()) return resolve()
        const more = lost() - granted
        if (more < 1) return this.kill("timeout", late)
        granted += more
        arm(more)
      }
      const arm = (rest: number): void => {
        timer = setTimeout(() => setImmediate(look), Math.max(1, Math.ceil(rest)))
      }
      this.#wake = () => {
        if (!done()) return
        clearTimeout(timer)
        resolve()
      }
      arm(milliseconds)
    })
    this.#wake = undefined
    this.#starved += Math.max(granted, lost())
  }

  #next(nonce: string): Line | undefined {
    while (this.#lines.length > 0) {
      const text = this.#lines.shift()!
      // all else was written by the candidate, or is late
      if (text.startsWith(nonce))
        return { kind: text.slice(nonce.length, nonce.length + 1), payload: text.slice(nonce.length + 1) }
    }
    return undefined
  }
}

const lastLine = (text: string): string => text.trimEnd().split("\n").at(-1)?.slice(0, 400) ?? ""
