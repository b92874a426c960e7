/** Measures an execution provider in a separate process. */
import * as Effect from "effect/Effect"
import { fork } from "node:child_process"
import { fileURLToPath } from "node:url"
import { conditions, sibling } from "../../../worker/childModule.ts"
import type { Measured, Measurement } from "./measure.ts"

export type ProbeAnswer =
  | { readonly _tag: "Measured"; readonly measured: Measured }
  /** Reason why the provider cannot be used, in one line. */
  | { readonly _tag: "Refused"; readonly reason: string }

/** Removes the provider's name and, if there is one cause, the framing: they add nothing. */
const oneLine = (reason: string): string => {
  const lines = reason.split("\n").map((line) => line.trim())
  const named = lines[0] === "no execution provider opened" ? lines[1]?.replace(/^\w+: /, "") : lines[0]
  return (named ?? reason).slice(0, 300)
}

/** `deadline` is in milliseconds. The driver's output is discarded. Interruption ends the process. */
export const probe = (settings: Measurement, deadline: number): Effect.Effect<ProbeAnswer> =>
  Effect.callback((resume) => {
    const child = fork(fileURLToPath(sibling("probeMain", import.meta.url)), {
      execArgv: conditions(import.meta.url),
      serialization: "advanced",
      stdio: ["ignore", "ignore", "ignore", "ipc"]
    })
    const end = (answer: ProbeAnswer): void => {
      clearTimeout(timer)
      child.removeAllListeners()
      child.on("error", () => {})
      child.kill("SIGKILL")
      resume(Effect.succeed(answer))
    }
    const refuse = (reason: string) => end({ _tag: "Refused", reason: oneLine(reason) })
    const timer = setTimeout(() => refuse(`it did not answer within ${deadline / 1000} s`), deadline)
    child.on("message", (answer: ProbeAnswer) => (answer._tag === "Refused" ? refuse(answer.reason) : end(answer)))
    child.on("error", (cause) => refuse(cause.message))
    child.on("exit", (code, signal) => refuse(`its process ended (${signal ?? `exit code ${code}`})`))
    child.send(settings)
    return Effect.sync(() => end({ _tag: "Refused", reason: "interrupted" }))
  })
