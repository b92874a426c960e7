/** Asks the library, in processes that a deadline ends: a verifier pool of its own. */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import { availableParallelism } from "node:os"
import { ofText } from "../../../src/rollout/Trajectory.ts"
import * as Verifier from "../../../src/score/Verifier.ts"
import type * as VerifierPool from "../../../src/score/VerifierPool.ts"
import * as WorkerPool from "../../../src/score/WorkerPool.ts"
import type { Digits } from "./numeric.ts"
import type { Work } from "./evaluatorWorker.ts"

/** The library's answer, or why there is none: `limit` is caused by the text, `fault` is not. */
export type Evaluated =
  | { readonly _tag: "Values"; readonly values: ReadonlyArray<Digits | null> }
  | { readonly _tag: "Limit"; readonly reason: "timeout" | "memory" }
  | { readonly _tag: "Fault"; readonly detail: string }

const module = new URL(`./evaluatorWorker${import.meta.url.endsWith(".ts") ? ".ts" : ".js"}`, import.meta.url)

/** By deadline: the pool tells verifiers apart by identity. */
const verifiers = new Map<number, Verifier.WorkerVerifier<Work>>()
const verifierOf = (deadline: number): Verifier.WorkerVerifier<Work> => {
  let verifier = verifiers.get(deadline)
  if (verifier === undefined)
    verifiers.set(deadline, (verifier = Verifier.worker({ module, export: "evaluate", deadline })))
  return verifier
}

interface Pool {
  readonly scope: Scope.Closeable
  readonly service: VerifierPool.VerifierPool["Service"]
}
let pool: Promise<Pool> | undefined

/** Started when the first answer needs it. Its processes do not keep this one alive. */
const started = (): Promise<Pool> =>
  (pool ??= Effect.runPromise(
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const workers = Math.min(2, availableParallelism())
      const service = yield* Scope.provide(WorkerPool.make({ workers, startDeadline: 60_000, crashes: 1 }), scope)
      return { scope, service }
    })
  ))

/** The library reads the task alone. */
const nobody = ofText("", { id: "", prompt: "", data: undefined })

/** `deadline`: milliseconds of the evaluation itself, counted from when it begins. Rejects when `signal` aborts. */
export const evaluate = async (work: Work, deadline: number, signal?: AbortSignal): Promise<Evaluated> => {
  const { service } = await started()
  const none = work.constants.map(() => null)
  return Effect.runPromise(
    service.call(verifierOf(deadline), { task: { id: "", prompt: "", data: work }, trajectory: nobody }).pipe(
      Effect.map((answer): Evaluated =>
        Array.isArray(answer) && answer.length === none.length
          ? { _tag: "Values", values: answer as ReadonlyArray<Digits | null> }
          : { _tag: "Fault", detail: "the library's process answered with something else" }
      ),
      Effect.catchTags({
        VerifierTimeout: (fault): Effect.Effect<Evaluated> =>
          Effect.succeed(
            fault.phase === "call" ? { _tag: "Limit", reason: "timeout" } : { _tag: "Fault", detail: fault.message }
          ),
        VerifierCrash: (fault): Effect.Effect<Evaluated> =>
          Effect.succeed(fault.memory ? { _tag: "Limit", reason: "memory" } : { _tag: "Fault", detail: fault.message }),
        // it threw on this text: it knows of no value
        VerifierFault: (): Effect.Effect<Evaluated> => Effect.succeed({ _tag: "Values", values: none }),
        VerifierLoadError: (fault): Effect.Effect<Evaluated> => Effect.succeed({ _tag: "Fault", detail: fault.message })
      })
    ),
    signal === undefined ? {} : { signal }
  )
}

/** Ends the library's processes; the next question starts them again. */
export const close = async (): Promise<void> => {
  const own = pool
  pool = undefined
  if (own !== undefined) await Effect.runPromise(Scope.close((await own).scope, Exit.void))
}
