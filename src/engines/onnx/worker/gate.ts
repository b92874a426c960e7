/**
 * What a worker thread goes through for every call of the runtime. It keeps the thread from being ended within one: the
 * binding would then abort the whole process; who wants to end the thread shuts the gate first. And it keeps threads from
 * using WebGPU at the same time: the runtime has one device for all of them, and two calls at once crash it.
 */
import { EngineFailure } from "./failure.ts"

/** What the threads of an engine share; `lock` is shared by all engines, who are told apart by `id`. */
export interface GateMemory {
  readonly state: SharedArrayBuffer
  readonly lock: SharedArrayBuffer
  readonly id: number
}

// In `state`: how many calls are under way, whether no more may begin.
const within = 0
const shut = 1
// In `lock`: the id of who has it or 0, how many wait for it, the id of who had it last.
const owner = 0
const waiting = 1
const last = 2

export class Gate {
  readonly memory: GateMemory
  readonly #state: Int32Array
  readonly #lock: Int32Array
  /** How often this thread has the lock. */
  #held = 0

  constructor(memory: GateMemory = { state: new SharedArrayBuffer(8), lock: new SharedArrayBuffer(12), id: 1 }) {
    this.memory = memory
    this.#state = new Int32Array(memory.state)
    this.#lock = new Int32Array(memory.lock)
  }

  /** A call of the runtime. `alone`: while no other engine makes such a call. */
  async through<A>(call: () => Promise<A>, alone: boolean): Promise<A> {
    this.#enter(alone)
    try {
      return await call()
    } finally {
      this.#leave(alone)
    }
  }

  /** The same for what is done at once. */
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

  /** Blocks the thread, which a call of the runtime does as well. */
  #acquire(): void {
    if (this.#held++ > 0) return
    const { id } = this.memory
    // Who had it lets others have it.
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

  /** Gives back the lock of a thread that is gone. */
  forfeit(): void {
    if (Atomics.compareExchange(this.#lock, owner, this.memory.id, 0) === this.memory.id) {
      Atomics.notify(this.#lock, owner, 1)
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
}

const nothing = new Int32Array(new SharedArrayBuffer(4))
const pause = (milliseconds: number): void => void Atomics.wait(nothing, 0, 0, milliseconds)

/** How long the end of the process waits for a call of the runtime. */
const exitMilliseconds = 20_000

const open = new Set<Gate>()
const atExit = (): void => {
  for (const gate of open) gate.shut()
  for (const gate of open) gate.waitSync(exitMilliseconds)
}

const sharedLock = new SharedArrayBuffer(12)
let gates = 0

/** The gate of a new engine. The process ends between two of its calls, until it is taken down. */
export const putUp = (): Gate => {
  const gate = new Gate({ state: new SharedArrayBuffer(8), lock: sharedLock, id: ++gates })
  if (open.size === 0) process.on("exit", atExit)
  open.add(gate)
  return gate
}

/** When the engine's thread is gone. */
export const takeDown = (gate: Gate): void => {
  gate.forfeit()
  if (open.delete(gate) && open.size === 0) process.off("exit", atExit)
}
