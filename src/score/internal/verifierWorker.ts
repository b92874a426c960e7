/**
 * The module inside a worker thread of the verifier pool. It loads a verifier by module and export, calls it, and
 * answers with plain data. It answers even if the verifier throws or returns an invalid verdict; only a dead thread
 * does not.
 */
import type { Effect as EffectValue } from "effect/Effect"
import type { VerifierFunction } from "../Verifier.ts"
import type { WorkerAnswer, WorkerCall } from "./verifierProtocol.ts"

/** Keyed by module, export and options: a factory is called once per worker. */
const loaded = new Map<string, Promise<VerifierFunction>>()

const load = async ({ module, export: name, options }: WorkerCall): Promise<VerifierFunction> => {
  const exports: Readonly<Record<string, unknown>> = await import(module)
  const exported = Object.hasOwn(exports, name) ? exports[name] : undefined
  if (typeof exported !== "function") throw new Error(`${module} exports no function named ${name}`)
  if (options === undefined) return exported as VerifierFunction
  const made: unknown = await exported(options)
  if (typeof made !== "function")
    throw new Error(`${name} of ${module} did not return a verifier function for its options`)
  return made as VerifierFunction
}

export default async (call: WorkerCall): Promise<WorkerAnswer> => {
  let verifier: VerifierFunction
  try {
    let pending = loaded.get(call.key)
    if (pending === undefined) loaded.set(call.key, (pending = load(call)))
    verifier = await pending
  } catch (fault) {
    return { _tag: "LoadError", detail: text(fault) }
  }
  // The deadline counts from here: the caller reads when the verifier began.
  if (call.began !== undefined) call.began[0] = performance.timeOrigin + performance.now()
  const controller = new AbortController()
  try {
    let verdict: unknown = await verifier({
      task: call.task,
      trajectory: call.trajectory,
      signal: controller.signal
    })
    if (typeof verdict === "object" && verdict !== null && "~effect/Effect" in verdict) {
      const Effect = await import("effect/Effect")
      verdict = await Effect.runPromise(verdict as unknown as EffectValue<unknown>, {
        signal: controller.signal
      })
    }
    return { _tag: "Verdict", verdict: plain(verdict) }
  } catch (fault) {
    return { _tag: "Fault", detail: text(fault) }
  } finally {
    controller.abort()
  }
}

/** Only data crosses back. A value that cannot be cloned is described, and then judged an invalid verdict. */
const plain = (verdict: unknown): unknown => {
  if (typeof verdict !== "object" || verdict === null) return typeof verdict === "number" ? verdict : String(verdict)
  try {
    return structuredClone(verdict)
  } catch {
    return `something that cannot be cloned (${text(verdict)})`
  }
}

const text = (fault: unknown): string => {
  try {
    return String(fault instanceof Error ? (fault.stack ?? fault) : fault).slice(0, 2000)
  } catch {
    return "it threw something that has no text"
  }
}
