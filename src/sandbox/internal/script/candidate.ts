/** A candidate in a realm: loaded for an operation, or run as a whole program. */
import { answered, failed, result } from "./caseResult.ts"
import { aroundCandidate, lookups } from "./modules.ts"
import { Ended, type Realm } from "./runtime.ts"
import type { CaseResult } from "./protocol.ts"

const looksLikeModule = (source: string): boolean =>
  /(^|[;}])[ \t]*(export|import)\b/m.test(source) || /\bawait\b/.test(source)

/** Loads source for an operation that takes it as its first text: as a script, and where it is none, as a module. */
export const load = async (
  realm: Realm,
  timeout: number,
  source: string,
  names: ReadonlyArray<string>,
  operation: string,
  ...rest: ReadonlyArray<string>
): Promise<CaseResult> => {
  const held = lookups(names)
  const answer = await realm.invoke(timeout, operation, `${source}\n;${held}`, ...rest)
  if (!answer.startsWith("lSyntaxError") || !looksLikeModule(source)) return answered(answer)
  try {
    const own = `${source}\n;globalThis.__quintainHeld = ${held}`
    await realm.module(timeout, aroundCandidate, { of: "candidate", source: own })
  } catch (fault) {
    const read = failed(fault)
    return read.status === "error" ? result("load", read.text) : read
  }
  return answered(await realm.invoke(timeout, operation, null, ...rest))
}

/** Runs a program to its end, its timers included. */
export const program = async (realm: Realm, timeout: number, source: string, input: string): Promise<CaseResult> => {
  await realm.invoke(timeout, "prepare", input)
  let fault: string | null = await realm.invoke(timeout, "program", source)
  if (fault.startsWith("v")) fault = null
  else if (looksLikeModule(source)) {
    fault = null
    try {
      await realm.module(timeout, source, { of: "program" })
    } catch (thrown) {
      if (thrown instanceof Ended && thrown.status === "timeout") throw thrown
      const read = failed(thrown)
      fault = `${read.status === "load" ? "l" : "e"}${read.text}`
    }
  }
  for (let answer = "t"; answer !== "n";) {
    answer = await realm.invoke(timeout, "tick")
    if (answer.startsWith("w")) await new Promise((resolve) => setTimeout(resolve, Number(answer.slice(1))))
  }
  return answered(await realm.invoke(timeout, "finish", fault))
}
