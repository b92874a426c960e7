/** Looks at a family of processes from outside, for where no control group bounds their memory. Linux only. */
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
    const folder = `/proc/${family[index]}`
    try {
      bytes += Number(readFileSync(`${folder}/statm`, "utf8").split(" ")[1]) * pageBytes
      family.push(
        ...readFileSync(`${folder}/task/${family[index]}/children`, "utf8").split(" ").filter(Boolean).map(Number)
      )
    } catch {}
  }
  return bytes
}
