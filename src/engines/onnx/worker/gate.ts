/**
 * A gate that a worker thread passes for every call of the runtime.
 *
 * It prevents the end of the thread within a call, at which the binding would abort the whole process. To end the
 * thread, shut the gate first. It also prevents threads from using WebGPU at the same time. The runtime has one device
 * for all threads, and two calls at once crash it.
 */
import { EngineFailure } from "./failure.ts"

/** Memory that the threads of an engine share. All engines share `lock` and are distinguished by `id`. */
export interface GateMemory {
  readonly state: SharedArrayBuffer
  readonly lock: SharedArrayBuffer
  readonly id: number
}

// In `state`: the number of calls in progress, and whether the gate is shut.
const within = 0
const shut = 1
// In `lock`: the id of the holder or 0, the number of waiting threads, the id of the last holder.
const owner = 0
const waiting = 1
const last = 2

export class Gate {
  readonly memory: GateMemory
  readonly #state: Int32Array
  readonly #lock: Int32Array
  /** Number of times that this thread holds the lock. */
  #held = 0

  constructor(memory: GateMemory = { state: new SharedArrayBuffer(8), lock: new SharedArrayBuffer(12), id: 1 }) {
    this.memory = memory
    this.#state = new Int32Array(memory.state)
    this.#lock = new Int32Array(memory.lock)
  }

  /** Runs a call of the runtime; with `alone`, while no other engine makes such a call. */
  async through<A>(call: () => Promise<A>, alone: boolean): Promise<A> {
    this.#enter(alone)
    try {
      return await call()
    } finally {
      this.#leave(alone)
    }
  }

  /** Runs a synchronous call. */
  throughSync(call: () => void, alone: boolean): void {
    this.#enter(alone)
    try {
      call()
    } finally {
      this.#leave(alone)
    }
  }

  #enter(alone: boolean): void {
    if (alone) this.#acquire()
    Atomics.add(this.#state, within, 1)
    if (Atomics.load(this.#state, shut) === 0) return
    this.#leave(alone)
    throw new EngineFailure("ENGINE_LOST", "the engine is being ended")
  }

  #leave(alone: boolean): void {
    if (alone) this.#release()
    Atomics.sub(this.#state, within, 1)
    Atomics.notify(this.#state, within)
  }

  /** Blocks the thread, as a call of the runtime does. */
  #acquire(): void {
    if (this.#held++ > 0) return
    const { id } = this.memory
    // The last holder lets other threads take the lock.
    if (Atomics.load(this.#lock, last) === id && Atomics.load(this.#lock, waiting) > 0) pause(1)
    Atomics.add(this.#lock, waiting, 1)
    for (;;) {
      const holder = Atomics.compareExchange(this.#lock, owner, 0, id)
      if (holder === 0) break
      Atomics.wait(this.#lock, owner, holder)
    }
    Atomics.sub(this.#lock, waiting, 1)
    Atomics.store(this.#lock, last, id)
  }

  #release(): void {
    if (--this.#held > 0) return
    this.forfeit()
  }

  /** Releases the lock of a thread that has ended. */
  forfeit(): void {
    if (Atomics.compareExchange(this.#lock, owner, this.memory.id, 0) === this.memory.id) {
      Atomics.notify(this.#lock, owner, 1)
    }
  }

  /** Prevents further calls. */
  shut(): void {
    Atomics.store(this.#state, shut, 1)
  }

  /** Blocks until no call is in progress, for when the process ends. Returns false after so many milliseconds. */
  waitSync(milliseconds: number): boolean {
    const end = Date.now() + milliseconds
    for (;;) {
      const calls = Atomics.load(this.#state, within)
      if (calls === 0) return true
      if (Atomics.wait(this.#state, within, calls, Math.max(0, end - Date.now())) === "timed-out") return false
    }
  }
}

const nothing = new Int32Array(new SharedArrayBuffer(4))
const pause = (milliseconds: number): void => void Atomics.wait(nothing, 0, 0, milliseconds)

/** Milliseconds that the end of the process waits for a call of the runtime. */
const exitMilliseconds = 20_000

const open = new Set<Gate>()
const atExit = (): void => {
  for (const gate of open) gate.shut()
  for (const gate of open) gate.waitSync(exitMilliseconds)
}

const sharedLock = new SharedArrayBuffer(12)
let gates = 0

/** Makes the gate of a new engine. Until it is taken down, the process ends only between two of the engine's calls. */
export const putUp = (): Gate => {
  const gate = new Gate({ state: new SharedArrayBuffer(8), lock: sharedLock, id: ++gates })
  if (open.size === 0) process.on("exit", atExit)
  open.add(gate)
  return gate
}

/** Removes the gate after the engine's thread has ended. */
export const takeDown = (gate: Gate): void => {
  gate.forfeit()
  if (open.delete(gate) && open.size === 0) process.off("exit", atExit)
}
