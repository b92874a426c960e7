/** A program's standard input: read whole, line by line, or through events, which come once the program has set itself up. */
import { apply, slice } from "./intrinsics.ts"
import { deliverFirst } from "./operations.ts"
import { emit } from "./programOutput.ts"
import type { Loose } from "./loose.ts"

type Listener = (...args: ReadonlyArray<unknown>) => unknown

export const stdin = { text: "", position: 0 }

export const readWhole = (): string => {
  const text = apply(slice, stdin.text, [stdin.position])
  stdin.position = stdin.text.length
  return text
}
export const nextLine = (): string | null => {
  const { position, text } = stdin
  if (position >= text.length) return null
  let stop = text.indexOf("\n", position)
  if (stop < 0) stop = text.length
  let line = text.slice(position, stop)
  if (line.endsWith("\r")) line = line.slice(0, -1)
  stdin.position = stop + 1
  return line
}

const turns: Array<() => unknown> = []
const awake = new Set<Emitter>()
const wake = (emitter: Emitter): void => {
  if (emitter.start === undefined || awake.has(emitter)) return
  awake.add(emitter)
  turns.push(() => emitter.start!())
}
deliverFirst(() => {
  const turn = turns.shift()
  if (turn === undefined) return false
  turn()
  return true
})

interface Listening {
  readonly name: unknown
  readonly listener: Listener
  readonly once: boolean
}

class Emitter {
  declare start?: () => unknown
  #listeners: Array<Listening> = []
  on(name: unknown, listener: Listener): this {
    this.#listeners.push({ name, listener, once: false })
    wake(this)
    return this
  }
  addListener(name: unknown, listener: Listener): this {
    return this.on(name, listener)
  }
  once(name: unknown, listener: Listener): this {
    this.#listeners.push({ name, listener, once: true })
    wake(this)
    return this
  }
  off(name: unknown, listener: Listener): this {
    this.#listeners = this.#listeners.filter((one) => one.name !== name || one.listener !== listener)
    return this
  }
  removeListener(name: unknown, listener: Listener): this {
    return this.off(name, listener)
  }
  removeAllListeners(): this {
    this.#listeners = []
    return this
  }
  has(name: unknown): boolean {
    return this.#listeners.some((one) => one.name === name)
  }
  emit(name: unknown, ...args: ReadonlyArray<unknown>): boolean {
    const heard = this.#listeners.filter((one) => one.name === name)
    this.#listeners = this.#listeners.filter((one) => one.name !== name || !one.once)
    for (const one of heard) one.listener.apply(this, args as Array<unknown>)
    return heard.length > 0
  }
}

/** `process.stdin`. */
export const inputStream = new Emitter()
Object.assign(inputStream, {
  fd: 0,
  isTTY: false,
  setEncoding: () => inputStream,
  resume: () => {
    wake(inputStream)
    return inputStream
  },
  pause: () => inputStream,
  unref: () => inputStream,
  ref: () => inputStream,
  read: () => (stdin.position >= stdin.text.length ? null : readWhole()),
  pipe: (target: unknown) => target,
  start: () => {
    if (inputStream.has("readable")) inputStream.emit("readable")
    if (stdin.position < stdin.text.length && inputStream.has("data")) inputStream.emit("data", readWhole())
    turns.push(() => {
      if (inputStream.has("readable")) inputStream.emit("readable")
      inputStream.emit("end")
      inputStream.emit("close")
    })
  },
  async *[Symbol.asyncIterator]() {
    if (stdin.position < stdin.text.length) yield readWhole()
  }
})

/** The part of node's `readline` that programs use. */
export const createInterface = (): Emitter => {
  const lines = new Emitter()
  const state = { closed: false }
  const asked: Array<(line: string) => unknown> = []
  const close = (): void => {
    if (state.closed) return
    state.closed = true
    lines.emit("close")
  }
  const step = (): void => {
    if (state.closed) return
    if (asked.length === 0 && !lines.has("line")) {
      if (stdin.position >= stdin.text.length) close()
      return
    }
    if (asked.length > 0) {
      const line = nextLine()
      if (line === null) return close()
      asked.shift()!(line)
      turns.push(step)
      return
    }
    // one after the other without a pause, as node does with the lines of a chunk
    for (let line = nextLine(); !state.closed; line = nextLine()) {
      if (line === null) return close()
      lines.emit("line", line)
    }
  }
  return Object.assign(lines, {
    start: () => turns.push(step),
    close,
    pause: () => lines,
    resume: () => lines,
    prompt: () => {},
    setPrompt: () => {},
    write: () => {},
    question: (query: unknown, ...rest: ReadonlyArray<Loose>) => {
      emit(query)
      const answered = rest.at(-1)
      turns.push(step)
      if (typeof answered === "function") {
        asked.push(answered)
        return undefined
      }
      return new Promise((resolve) => {
        asked.push(resolve)
      })
    },
    async *[Symbol.asyncIterator]() {
      for (let line = nextLine(); line !== null && !state.closed; line = nextLine()) yield line
      close()
    }
  })
}
