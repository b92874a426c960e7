/** Counts of the outcomes of a file of completions, and their report. */
import * as Progress from "../../src/run/Progress.ts"
import type { Row } from "./results.ts"

const count = (value: number): string => value.toLocaleString("en-US")

/** The first words of a reason, without what differs from one completion to the next. */
export const reasonClass = (reason: string | undefined): string => {
  if (reason === undefined || reason.trim() === "") return "no reason given"
  return reason
    .slice(0, 200)
    .replaceAll(/"[^"]*(?:"|$)/g, '"..."')
    .split(/[,;:(\n]/, 1)[0]!
    .replaceAll(/\d+/g, "#")
    .trim()
    .slice(0, 40)
}

const maxClasses = 1000

export class Tally {
  rows = 0
  scored = 0
  sum = 0
  unscorable = 0
  invalid = 0
  /** Results that an earlier run had written. */
  resumed = 0
  readonly zeros = new Map<string, number>()
  readonly kinds = new Map<string, number>()
  readonly #start = performance.now()

  add(row: Row): void {
    this.rows++
    if (row.outcome === "scored") {
      this.scored++
      this.sum += row.score ?? 0
      if (row.score === 0) raise(this.zeros, reasonClass(row.reason))
    } else if (row.outcome === "unscorable") {
      this.unscorable++
      raise(this.kinds, row.kind ?? "declared")
    } else this.invalid++
  }

  get seconds(): number {
    return (performance.now() - this.#start) / 1000
  }

  /** One line; `from`, `done` and `total` are bytes of the input: where this run began, how far it is, all. */
  progress(from: number, done: number, total: number): string {
    const own = this.rows - this.resumed
    const rate = own / Math.max(this.seconds, 1e-3)
    const share = total === 0 ? 1 : done / total
    const left = done === from ? Infinity : (this.seconds * (total - done)) / (done - from)
    return [
      `${count(this.rows)} completions (${Math.floor(100 * share)} %)`,
      `mean ${this.scored === 0 ? "-" : (this.sum / this.scored).toFixed(3)}`,
      ...(this.unscorable === 0 ? [] : [`${count(this.unscorable)} unscorable`]),
      ...(this.invalid === 0 ? [] : [`${count(this.invalid)} invalid`]),
      `${rate.toFixed(rate < 10 ? 1 : 0)}/s`,
      `${Progress.duration(left)} left`
    ].join("  ")
  }

  summary(output: string): string {
    const own = this.rows - this.resumed
    const zeros = [...this.zeros.values()].reduce((sum, value) => sum + value, 0)
    const rate = own / Math.max(this.seconds, 1e-3)
    return [
      `${output}: ${count(this.rows)} completions${this.resumed === 0 ? "" : `, ${count(this.resumed)} of them by an earlier run`}`,
      `  mean score   ${this.scored === 0 ? "-" : (this.sum / this.scored).toFixed(4)}`,
      `  scored       ${count(this.scored)}`,
      `  zero         ${count(zeros)}${classes(this.zeros)}`,
      `  unscorable   ${count(this.unscorable)}${classes(this.kinds)}`,
      `  bad lines    ${count(this.invalid)}`,
      `  ${Progress.duration(this.seconds)}, ${own === 0 ? "nothing left to do" : `${rate.toFixed(1)} evaluations/s`}`
    ].join("\n")
  }
}

const raise = (counts: Map<string, number>, key: string): void => {
  const known = counts.has(key) || counts.size < maxClasses
  const own = known ? key : "other"
  counts.set(own, (counts.get(own) ?? 0) + 1)
}

const classes = (counts: ReadonlyMap<string, number>): string => {
  const sorted = [...counts].toSorted(([a, one], [b, other]) => other - one || (a < b ? -1 : 1))
  const shown = sorted.slice(0, 10).map(([name, value]) => `${count(value)} ${name}`)
  const rest = sorted.length - shown.length
  return shown.length === 0 ? "" : ` (${shown.join(", ")}${rest > 0 ? `, and ${rest} other reasons` : ""})`
}
