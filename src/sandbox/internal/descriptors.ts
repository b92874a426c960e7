/** Keeps the descriptors that this process was started with from its children. */
import { openSync, readdirSync, readFileSync } from "node:fs"

let inherited: { readonly at: number; readonly descriptors: ReadonlyArray<number> } | undefined
let nothing: number | undefined

/**
 * So many pipes from this descriptor on, and behind them /dev/null in the place of every descriptor that this process
 * was started with and would pass on: through an open folder a candidate could walk out.
 */
export const closing = (first: number, pipes: number): ReadonlyArray<"pipe" | "ignore" | number> => {
  const stdio: Array<"pipe" | "ignore" | number> = Array.from({ length: pipes }, () => "pipe")
  if (process.platform !== "linux") return stdio
  if (inherited === undefined || performance.now() - inherited.at > 5000) {
    inherited = { at: performance.now(), descriptors: readdirSync("/proc/self/fd").map(Number).filter(passesOn) }
  }
  for (const descriptor of inherited.descriptors) {
    const index = descriptor - first
    if (index < pipes) continue
    while (stdio.length < index) stdio.push("ignore")
    stdio[index] = nothing ??= openSync("/dev/null", "r")
  }
  return stdio
}

const passesOn = (descriptor: number): boolean => {
  try {
    const flags = /^flags:\s*([0-7]+)/m.exec(readFileSync(`/proc/self/fdinfo/${descriptor}`, "utf8"))?.[1] ?? ""
    return descriptor > 2 && (Number.parseInt(flags, 8) & closeOnExec) === 0
  } catch {
    return false
  }
}

const closeOnExec = 0o2000000
