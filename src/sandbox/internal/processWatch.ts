/** Looks at processes from outside: what memory a family holds, and how long one had to wait for a core. Linux only. */
import { readFileSync } from "node:fs"

const every = 20
const pageBytes = 4096
/** Enough for any family that the limit of processes allows. */
const most = 256

/** Calls once when a process and its descendants together hold more than this. The result stops it. */
export const watchMemory = (pid: number, megabytes: number, onTooMuch: () => void): (() => void) => {
  if (process.platform !== "linux") return () => {}
  const timer = setInterval(() => {
    if (residentBytes(pid) <= megabytes * 2 ** 20) return
    clearInterval(timer)
    onTooMuch()
  }, every)
  timer.unref()
  return () => clearInterval(timer)
}

const residentBytes = (pid: number): number => {
  let bytes = 0
  const family = [pid]
  for (let index = 0; index < family.length && index < most; index++) {
    bytes += Number(read(`/proc/${family[index]}/statm`).split(" ")[1] ?? 0) * pageBytes
    family.push(...children(family[index]!))
  }
  return bytes
}

/** The last of a chain of processes that each started one: the program behind its wrappers. */
export const programOf = (pid: number): number => {
  let last = pid
  for (let [next] = children(pid); next !== undefined; [next] = children(next)) last = next
  return last
}

/** Milliseconds that its first thread was ready to run while others ran; 0 where the kernel does not say. */
export const starvedFor = (pid: number): number => Number(read(`/proc/${pid}/schedstat`).split(" ")[1] ?? 0) / 1e6

const children = (pid: number): ReadonlyArray<number> =>
  read(`/proc/${pid}/task/${pid}/children`).split(" ").filter(Boolean).map(Number)

const read = (file: string): string => {
  try {
    return readFileSync(file, "utf8")
  } catch {
    return ""
  }
}
