/** Messages between the pool, the host process of a worker and its thread. Plain, cloneable data only. */
import type { Trajectory } from "../../rollout/Trajectory.ts"
import type { Task } from "../../data/Task.ts"

export interface WorkerCall {
  /** Names the verifier: module, export and options. */
  readonly key: string
  readonly module: string
  readonly export: string
  readonly options?: unknown
  readonly task: Task
  readonly trajectory: Trajectory
  /** Shared with the thread: milliseconds since the epoch at which the verifier began, 0 before. */
  readonly began?: Float64Array
}

export type WorkerAnswer =
  | { readonly _tag: "Verdict"; readonly verdict: unknown }
  | { readonly _tag: "Fault"; readonly detail: string }
  | { readonly _tag: "LoadError"; readonly detail: string }

/** The answer of a worker to one call. After `Timeout` and `Crash` the next call has a new thread. */
export type CallAnswer =
  | WorkerAnswer
  | { readonly _tag: "Timeout"; readonly phase: "start" | "call" }
  | { readonly _tag: "Crash"; readonly detail: string; readonly memory: boolean }

export interface WorkerSettings {
  readonly memoryMb: number
  /** Milliseconds for the thread to start and load the verifier. */
  readonly startDeadline: number
}

export type HostRequest =
  | { readonly id: number; readonly call: WorkerCall; readonly deadline: number }
  | { readonly options: WorkerSettings }

export interface HostResponse {
  readonly id: number
  readonly answer: CallAnswer
  /** The thread could not be terminated: the host process has to go. */
  readonly stuck: boolean
}
