/**
 * The service that runs verifiers off the main thread.
 *
 * A verifier in the pool is named by module and export. `WorkerPool.layer` implements the service with killable
 * processes.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { Task } from "../data/Task.ts"
import type { Trajectory } from "../rollout/Trajectory.ts"
import type { Outcome } from "./outcome.ts"

/** A verifier that runs in the {@link VerifierPool}, named by module and export. Make it with `Verifier.worker`. */
export interface WorkerVerifier<in Data = any> {
  readonly _tag: "WorkerVerifier"
  /** File URL of the module. */
  readonly module: string
  readonly export: string
  /**
   * If given, the export is a factory, called once per worker with these options. If absent, the export is the verifier
   * function.
   */
  readonly options?: unknown
  /** Milliseconds of one call. Default: the pool's deadline. */
  readonly deadline?: number
  readonly "~data"?: (data: Data) => void
}

/** A verifier that did not answer in time; its worker was replaced. */
export class VerifierTimeout extends Schema.TaggedError<VerifierTimeout>()("VerifierTimeout", {
  verifier: Schema.String,
  taskId: Schema.String,
  index: Schema.Int,
  phase: Schema.Literals(["start", "call"]),
  milliseconds: Schema.Number
}) {
  override get message(): string {
    const awaited = this.phase === "start" ? "a worker to load" : "a verdict of"
    return (
      `waited ${this.milliseconds} ms for ${awaited} ${this.verifier} (task ${this.taskId}, trajectory ${this.index}); ` +
      `raise ${this.phase === "start" ? "startDeadline" : "deadline"} if that is what it takes`
    )
  }
}

/** A call that killed as many workers as the pool allows. */
export class VerifierCrash extends Schema.TaggedError<VerifierCrash>()("VerifierCrash", {
  verifier: Schema.String,
  taskId: Schema.String,
  index: Schema.Int,
  workers: Schema.Int,
  memory: Schema.Boolean,
  detail: Schema.String
}) {
  override get message(): string {
    return (
      `${this.verifier} killed ${this.workers} workers on task ${this.taskId}, trajectory ${this.index}` +
      `${this.memory ? ": out of memory; raise memoryMb if the verifier needs more" : ""} (${this.detail})`
    )
  }
}

/** A verifier that threw, rejected or failed. */
export class VerifierFault extends Schema.TaggedError<VerifierFault>()("VerifierFault", {
  verifier: Schema.String,
  taskId: Schema.String,
  index: Schema.Int,
  detail: Schema.String
}) {
  override get message(): string {
    return `${this.verifier} failed on task ${this.taskId}, trajectory ${this.index}: ${this.detail}`
  }
}

/** A module or export that does not exist. No call of the verifier can succeed. */
export class VerifierLoadError extends Schema.TaggedError<VerifierLoadError>()("VerifierLoadError", {
  verifier: Schema.String,
  detail: Schema.String
}) {
  override get message(): string {
    return `cannot load verifier ${this.verifier}: ${this.detail}`
  }
}

export type VerifierCallError = VerifierTimeout | VerifierCrash | VerifierFault | VerifierLoadError

export interface VerifierCallInput {
  readonly task: Task<any>
  readonly trajectory: Trajectory
}

export class VerifierPool extends Context.Service<
  VerifierPool,
  {
    /** Calls a verifier and returns its answer, unchecked. Waits for a free worker; interruption ends the worker. */
    readonly call: (verifier: WorkerVerifier, input: VerifierCallInput) => Effect.Effect<unknown, VerifierCallError>
    /** Calls a verifier and returns an outcome. Fails only if the verifier cannot be loaded. */
    readonly verify: (verifier: WorkerVerifier, input: VerifierCallInput) => Effect.Effect<Outcome, VerifierLoadError>
    /**
     * Metrics of the pool. Since it was made: `verifiers/pool/{calls,timeouts,crashes,errors,replaced}`. At present:
     * `.../{running,waiting}`. Over the last 1024 calls: `.../latency_{p50,p95}` and `.../wait_{p50,p95}` in seconds.
     */
    readonly metrics: Effect.Effect<Readonly<Record<string, number>>>
  }
>()("quintain/VerifierPool") {}
