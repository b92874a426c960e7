/** The contract of a runtime in a child process of the JavaScript sandbox. */
import type { Fault } from "../../Sandbox.ts"
import type { RealmKind } from "./prelude.ts"
import type { Imports } from "./modules.ts"

/** Why a realm gave no answer. */
export class Ended extends Error {
  readonly status: Fault
  constructor(status: Fault, detail: string) {
    super(detail)
    this.status = status
  }
}

/** One global scope, shared with nothing. */
export interface Realm {
  /** Runs an operation of the prelude; rejects with {@link Ended} or with what the runtime throws. */
  readonly invoke: (timeout: number, operation: string, ...texts: ReadonlyArray<string | null>) => Promise<string>
  readonly module: (timeout: number, source: string, imports: Imports) => Promise<void>
}

export interface ScriptRuntime {
  readonly realm: (kind: RealmKind, memoryMb: number, ask?: (text: string) => Promise<string>) => Promise<Realm>
  /** Settles when a realm can be made at once: a start is not on a candidate's clock. */
  readonly ready: () => Promise<void>
  /** The run had to be ended: nothing of it may continue. */
  readonly abandon: () => void
  /** Ends what runs: the second clock. The next realm is of a new runtime state. */
  readonly dispose: () => void
  /** An evaluation is over: nothing of it stays, and the next is prepared. */
  readonly rest: () => void
}

export interface RuntimeEvents {
  /** The runtime lost its state, this process may not be able to go on. */
  readonly onFatal: (status: Fault) => void
}

/** Calls `step` until the work settles: `t` there may be more, `w` and milliseconds until there is, `n` there is nothing. */
export const pump = <A>(work: Promise<A>, step: () => Promise<string>, patience: number): Promise<A> =>
  new Promise((resolve, reject) => {
    let settled = false
    let timer: NodeJS.Timeout
    const end = (): void => {
      settled = true
      clearTimeout(timer)
    }
    const turn = async (idle: number): Promise<void> => {
      try {
        const answer = await step()
        if (settled) return
        if (answer.startsWith("e") || answer.startsWith("o")) throw new Ended("error", `in a timer: ${answer.slice(1)}`)
        if (answer.startsWith("w")) timer = setTimeout(turn, Number(answer.slice(1)), 0)
        else if (answer !== "n") void turn(0)
        // what settled it may still be on its way
        else if (idle < 2) setImmediate(turn, idle + 1)
        else throw new Ended("timeout", "its promise never settles")
      } catch (fault) {
        end()
        reject(fault as Error)
      }
    }
    timer = setTimeout(turn, patience, 0)
    work.finally(end).then(resolve, reject)
  })
