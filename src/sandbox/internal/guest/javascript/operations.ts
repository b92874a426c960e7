/**
 * Operations that the host asks of a realm: they take texts and answer with a letter and what belongs to it. `v` a
 * value, `p` the value of a promise, `l` the source did not load, `e` it threw, `r` its promise was rejected, `o` too much
 * output. `tick` answers `t` if there may be more to run, `w` and milliseconds until there is, `n` if there is nothing.
 */
import { timed } from "./globals.ts"
import { failure } from "./failure.ts"

export const operations = Object.create(null) as Record<
  string,
  (a: never, b: never, c: never) => string | Promise<string>
>

let deliver = (): boolean => false
/** Something to run before timers are: `true` if it did run something. */
export const deliverFirst = (own: () => boolean): void => {
  deliver = own
}

export const tick = (): string => {
  try {
    if (deliver()) return "t"
    return timed()
  } catch (error) {
    return failure("e", error)
  }
}
operations.tick = tick
