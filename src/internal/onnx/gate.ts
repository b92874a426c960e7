/**
 * Keeps a thread from being ended within a call of the runtime: its binding would then abort the whole process. The worker
 * thread goes through the gate for every call; who wants to end the thread shuts it first.
 */
import { EngineFailure } from "./engine.ts"

const within = 0
const shut = 1

export class Gate {
  /** Shared by the two threads. */
  readonly memory: SharedArrayBuffer
  readonly #state: Int32Array

  constructor(memory: SharedArrayBuffer = new SharedArrayBuffer(8)) {
    this.memory = memory
    this.#state = new Int32Array(memory)
  }

  /** Of the worker thread: a call of the runtime. */
  async through<A>(call: () => Promise<A>): Promise<A> {
    Atomics.add(this.#state, within, 1)
    try {
      if (Atomics.load(this.#state, shut) === 1) throw new EngineFailure("ENGINE_LOST", "the engine is being ended")
      return await call()
    } finally {
      Atomics.sub(this.#state, within, 1)
      Atomics.notify(this.#state, within)
    }
  }

  /** From now on no call begins. */
  shut(): void {
    Atomics.store(this.#state, shut, 1)
  }

  /** Blocks until no call is under way; false after so many milliseconds. For the moment in which a process ends. */
  waitSync(milliseconds: number): boolean {
    const end = Date.now() + milliseconds
    for (;;) {
      const calls = Atomics.load(this.#state, within)
      if (calls === 0) return true
      if (Atomics.wait(this.#state, within, calls, Math.max(0, end - Date.now())) === "timed-out") return false
    }
  }

  /** The same without blocking, and without an end. */
  async wait(): Promise<void> {
    for (;;) {
      const calls = Atomics.load(this.#state, within)
      if (calls === 0) return
      const waiting = Atomics.waitAsync(this.#state, within, calls)
      if (waiting.async) await waiting.value
    }
  }
}

/** How long the end of the process waits for a call of the runtime. */
const exitMilliseconds = 20_000

const open = new Set<Gate>()
const atExit = (): void => {
  for (const gate of open) gate.shut()
  for (const gate of open) gate.waitSync(exitMilliseconds)
}

/** Has the process end between two calls of the gate's thread; the result takes that back. */
export const guardExit = (gate: Gate): (() => void) => {
  if (open.size === 0) process.on("exit", atExit)
  open.add(gate)
  return () => {
    if (open.delete(gate) && open.size === 0) process.off("exit", atExit)
  }
}
