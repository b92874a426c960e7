/** Tells a candidate that takes long from a machine that was busy. */
import { readdirSync, readFileSync } from "node:fs"

/** Processor time that this process had until now, in milliseconds. */
export interface Share {
  readonly computed: NodeJS.CpuUsage
  /** That its threads were ready to run while others ran; undefined where the system does not say. */
  readonly waited: number | undefined
}

export const waitedUntilNow = (): number | undefined => {
  try {
    let waited = 0
    for (const thread of readdirSync("/proc/self/task")) {
      waited += Number(readFileSync(`/proc/self/task/${thread}/schedstat`, "utf8").split(" ")[1]) / 1e6
    }
    return waited
  } catch {
    // no Linux, or a thread that just ended
    return undefined
  }
}

/**
 * Why a candidate may not have had the time it was given: its process waited for a processor, or it neither computed nor
 * waited, which is what sleep looks like, and a machine that stood still. Undefined: it computed for half of it and more.
 */
export const lackOf = (before: Share, timeout: number): "waited" | "idle" | undefined => {
  const { system, user } = process.cpuUsage(before.computed)
  if ((system + user) / 1000 >= timeout / 2) return undefined
  const waited = waitedUntilNow()
  if (before.waited === undefined || waited === undefined) return "idle"
  return waited - before.waited > timeout / 4 ? "waited" : "idle"
}
