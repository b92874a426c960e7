/** Case results from the answers of a realm and the faults of a runtime. */
import { Ended } from "./runtime.ts"
import type { CaseResult } from "./protocol.ts"

export const result = (status: CaseResult["status"], text = ""): CaseResult => ({ status, text })

const statuses: Readonly<Record<string, CaseResult["status"]>> = {
  v: "value",
  p: "value",
  l: "load",
  e: "error",
  r: "error",
  o: "output"
}

export const answered = (answer: string): CaseResult => {
  const letter = answer[0] ?? ""
  const read = result(statuses[letter] ?? "error", answer.slice(1))
  return letter === "p" || letter === "r" ? { ...read, promised: true } : read
}

export const failed = (fault: unknown): CaseResult => {
  if (fault instanceof Ended) return result(fault.status, fault.message)
  const text = fault instanceof Error ? `${fault.name}: ${fault.message}` : String(fault)
  return result(fault instanceof SyntaxError ? "load" : "error", text.slice(0, 240))
}
