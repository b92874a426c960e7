/**
 * The verifier pool on killable workers, which are replaced after a call kills them.
 *
 * Each worker is a process with a piscina of one thread. A deadline ends even a synchronous endless loop. Exhausted
 * memory ends one worker and nothing else, and the call that caused it is always known.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Semaphore from "effect/Semaphore"
import { availableParallelism } from "node:os"
import { OptionError } from "../OptionError.ts"
import type { CallAnswer, WorkerCall } from "./internal/verifierProtocol.ts"
import * as VerifierProcess from "./internal/verifierProcess.ts"
import * as VerifierThread from "./internal/verifierThread.ts"
import { outcome, unscorable } from "./outcome.ts"
import {
  type VerifierCallInput,
  VerifierCrash,
  VerifierFault,
  VerifierLoadError,
  VerifierPool,
  VerifierTimeout,
  type WorkerVerifier
} from "./VerifierPool.ts"
import { quantile } from "../internal/statistics.ts"

export interface WorkerPoolOptions {
  /** Most calls at the same time. Default: the machine's cores. */
  readonly workers?: number
  /**
   * Most calls that may wait in addition. Further calls are held back before any of their data is copied. Default 1024.
   */
  readonly queue?: number
  /** Milliseconds of one call, counted from the verifier's start. Default 10,000. */
  readonly deadline?: number
  /** Milliseconds for a worker to start and load the verifier's module. Default 30,000. */
  readonly startDeadline?: number
  /** Heap of one worker thread in MB. Default 512. */
  readonly memoryMb?: number
  /** Workers that one call may kill before it is unscorable. Default 2. */
  readonly crashes?: number
  /**
   * `process`: a worker thread in a process of its own. `thread`: a thread of this process, about 40 microseconds per
   * call faster. With `thread`, a verifier that exhausts memory in one large allocation ends this process, and a loop
   * that V8 cannot interrupt continues to run. Default `process`.
   */
  readonly isolation?: "process" | "thread"
}

/**
 * Makes a pool. It starts workers on demand and ends them with its scope.
 *
 * @example
 * ```ts
 * program.pipe(Effect.provide(WorkerPool.layer({ workers: 4, deadline: 2000, memoryMb: 256 })))
 * ```
 */
export const layer = (options: WorkerPoolOptions = {}): Layer.Layer<VerifierPool> =>
  Layer.effect(VerifierPool, make(options))

export const make = (options: WorkerPoolOptions = {}) => {
  const limits: Limits = {
    workers: positive("workers", options.workers ?? availableParallelism()),
    deadline: positive("deadline", options.deadline ?? 10_000),
    startDeadline: positive("startDeadline", options.startDeadline ?? 30_000),
    memoryMb: positive("memoryMb", options.memoryMb ?? 512),
    crashes: positive("crashes", options.crashes ?? 2)
  }
  return start(limits, options)
}

const start = Effect.fnUntraced(function* (limits: Limits, options: WorkerPoolOptions) {
  const makeWorker = options.isolation === "thread" ? VerifierThread.make : VerifierProcess.make
  const workers = yield* Effect.acquireRelease(
    Effect.sync(() => Array.from({ length: limits.workers }, () => makeWorker(limits))),
    (workers) => Effect.promise(() => Promise.all(workers.map((worker) => worker.close())))
  )
  const counts = { calls: 0, timeouts: 0, crashes: 0, errors: 0, replaced: 0, running: 0, waiting: 0 }
  const times = { latency: recent(), wait: recent() }
  const attempt = attempts(workers, counts, times)
  const admission = yield* Semaphore.make(limits.workers + (options.queue ?? 1024))
  const admitted: VerifierPool["Service"]["call"] = (verifier, input) =>
    Semaphore.withPermits(admission, 1)(call(attempt, limits, counts, verifier, input))

  return VerifierPool.of({
    call: admitted,
    verify: (verifier, input) =>
      admitted(verifier, input).pipe(
        Effect.map((verdict) => outcome(verdict, input.trajectory)),
        Effect.catchTags({
          VerifierTimeout: (fault) => Effect.succeed(unscorable(fault.message, "timeout")),
          VerifierCrash: (fault) => Effect.succeed(unscorable(fault.message, "crash")),
          VerifierFault: (fault) => Effect.succeed(unscorable(fault.message, "error"))
        })
      ),
    metrics: Effect.sync(() => ({
      ...Object.fromEntries(Object.entries(counts).map(([key, value]) => [`verifiers/pool/${key}`, value])),
      ...times.latency.summary("verifiers/pool/latency"),
      ...times.wait.summary("verifiers/pool/wait")
    }))
  })
})

type Limits = Readonly<Record<"workers" | "deadline" | "startDeadline" | "memoryMb" | "crashes", number>>
type Counts = Record<"calls" | "timeouts" | "crashes" | "errors" | "replaced" | "running" | "waiting", number>
type Attempt = (call: WorkerCall, limit: number) => Effect.Effect<CallAnswer>

/** Makes one attempt on one worker, which returns to the pool however the attempt ends. */
const attempts = (
  workers: ReadonlyArray<VerifierThread.Worker>,
  counts: Counts,
  times: { readonly latency: Recent; readonly wait: Recent }
): Attempt => {
  const idle = handOver(workers)
  const run = (worker: VerifierThread.Worker, call: WorkerCall, limit: number): Effect.Effect<CallAnswer> =>
    Effect.suspend(() => {
      counts.running++
      const start = performance.now()
      return Effect.promise((signal) => worker.run(call, limit, signal)).pipe(
        Effect.tap((answer) =>
          Effect.sync(() => {
            times.latency.add((performance.now() - start) / 1000)
            if (answer._tag === "Timeout" || answer._tag === "Crash") counts.replaced++
          })
        ),
        Effect.ensuring(Effect.sync(() => counts.running--))
      )
    })
  return (call, limit) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.gen(function* () {
        counts.waiting++
        const queued = performance.now()
        const worker = yield* Effect.ensuring(
          restore(idle.take),
          Effect.sync(() => counts.waiting--)
        )
        times.wait.add((performance.now() - queued) / 1000)
        return yield* Effect.ensuring(
          restore(run(worker, call, limit)),
          Effect.sync(() => idle.give(worker))
        )
      })
    )
}

/** Makes attempts until there is a verdict, or the call has killed as many workers as it may. */
const call = Effect.fnUntraced(function* (
  attempt: Attempt,
  limits: Limits,
  counts: Counts,
  verifier: WorkerVerifier,
  input: VerifierCallInput
) {
  const name = `${verifier.module}#${verifier.export}`
  const limit = verifier.deadline ?? limits.deadline
  const about = { verifier: name, taskId: input.task.id, index: input.trajectory.index }
  const request: WorkerCall = {
    key: keyOf(verifier),
    module: verifier.module,
    export: verifier.export,
    ...(verifier.options === undefined ? {} : { options: verifier.options }),
    task: input.task,
    trajectory: input.trajectory
  }
  counts.calls++
  for (let killed = 1; ; killed++) {
    const answer = yield* attempt(request, limit)
    switch (answer._tag) {
      case "Verdict":
        return answer.verdict
      case "LoadError":
        return yield* new VerifierLoadError({ verifier: name, detail: answer.detail })
      case "Fault":
        counts.errors++
        return yield* new VerifierFault({ ...about, detail: answer.detail })
      case "Timeout": {
        const { phase } = answer
        // A slow start is not the call's fault.
        if (phase === "start" && killed < limits.crashes) continue
        counts.timeouts++
        const milliseconds = phase === "call" ? limit : limits.startDeadline
        return yield* new VerifierTimeout({ ...about, phase, milliseconds })
      }
      case "Crash":
        if (killed < limits.crashes) continue
        counts.crashes++
        return yield* new VerifierCrash({ ...about, workers: killed, memory: answer.memory, detail: answer.detail })
    }
  }
})

/** Keyed by identity, not content: options may hold data that text cannot distinguish. */
const keys = new WeakMap<WorkerVerifier, string>()
let verifiers = 0
const keyOf = (verifier: WorkerVerifier): string => {
  let key = keys.get(verifier)
  if (key === undefined) keys.set(verifier, (key = `${verifier.module}#${verifier.export}#${verifiers++}`))
  return key
}

const positive = (name: string, value: number): number => {
  if (!(value > 0))
    throw new OptionError({
      module: "WorkerPool.make",
      option: name,
      value: value,
      expected: "a number above 0",
      remedy: "Leave it out for the default"
    })
  return value
}

/**
 * Gives free items to waiting callers, first come first served. An effect `Queue` would let a later caller overtake
 * them.
 */
const handOver = <A>(items: ReadonlyArray<A>) => {
  const free = [...items]
  const waiting = new Set<(item: A) => void>()
  const give = (item: A): void => {
    for (const first of waiting) {
      waiting.delete(first)
      return first(item)
    }
    free.push(item)
  }
  const take = Effect.callback<A>((resume) => {
    let given: { readonly item: A } | undefined
    const receive = (item: A): void => {
      given = { item }
      resume(Effect.succeed(item))
    }
    if (free.length > 0) receive(free.pop()!)
    else waiting.add(receive)
    return Effect.sync(() => {
      // Interrupted: the caller leaves the line, or returns what it was given in the meantime.
      if (given === undefined) waiting.delete(receive)
      else give(given.item)
    })
  })
  return { take, give }
}

interface Recent {
  readonly add: (value: number) => void
  readonly summary: (name: string) => Record<string, number>
}

/** Computes quantiles of the last 1024 values. */
const recent = (): Recent => {
  const values: Array<number> = []
  let next = 0
  return {
    add: (value: number): void => {
      values[next] = value
      next = (next + 1) % 1024
    },
    summary: (name: string): Record<string, number> => {
      if (values.length === 0) return {}
      return { [`${name}_p50`]: quantile(values, 0.5), [`${name}_p95`]: quantile(values, 0.95) }
    }
  }
}
