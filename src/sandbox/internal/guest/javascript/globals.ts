/** Globals of a realm besides the language. */
import { define, defineProperty, evaluate, global, hidden, now } from "./intrinsics.ts"
import type { MakeExtras } from "./extras.ts"

/** The text of extras.ts, which prelude.ts puts in front. It is parsed when a candidate first uses one of the names. */
declare const extrasSource: string

// Memory that the runtime's limit does not see, and threads.
for (const name of ["WebAssembly", "SharedArrayBuffer", "Atomics"]) delete global[name]
for (const name of ["resize", "transfer", "transferToFixedLength"]) {
  delete (ArrayBuffer.prototype as unknown as Record<string, unknown>)[name]
}

export const exported = {}
global.module = { exports: exported }
global.exports = exported

type Print = (...values: ReadonlyArray<unknown>) => void
const silent: Print = () => {}
export const consoleOf = {
  log: silent,
  error: silent,
  warn: silent,
  info: silent,
  debug: silent,
  trace: silent,
  table: silent
}
global.console = consoleOf

let extra: Readonly<Record<string, unknown>> | undefined
/** Runs the next timer, once there are timers. Its answers are those of the operation `tick`. */
export let timed = (): string => "n"
const onTick = (tick: () => string): void => {
  timed = tick
}
for (const name of [
  "setTimeout",
  "setInterval",
  "setImmediate",
  "clearTimeout",
  "clearInterval",
  "clearImmediate",
  "queueMicrotask",
  "structuredClone"
]) {
  defineProperty(global, name, {
    __proto__: null,
    configurable: true,
    enumerable: false,
    get: () => (extra ??= (evaluate(extrasSource) as MakeExtras)(define, now, onTick))[name],
    set: (value: unknown) => {
      hidden(global, name, value)
    }
  })
}
