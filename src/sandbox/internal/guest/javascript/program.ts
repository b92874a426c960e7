/** A whole program: the little of node that programs use for standard input and output, and how one runs. */
import { apply, BigIntOf, evaluate, global, hidden, now, NumberOf, PromiseOf, StringOf, then } from "./intrinsics.ts"
import { failure } from "./failure.ts"
import { operations, tick } from "./operations.ts"
import { createInterface, inputStream, nextLine, readWhole, stdin } from "./programInput.ts"
import { emit, printed, quoted } from "./programOutput.ts"
import type { Loose } from "./loose.ts"

const Exit = {}
const exit = (code?: unknown): never => {
  printed.exited ??= code === undefined ? NumberOf(processOf.exitCode ?? 0) : NumberOf(code)
  throw Exit
}

const begun = now()
const writeOut = (text: unknown): boolean => {
  emit(text)
  return true
}
const processOf = {
  argv: ["node", "main.js"],
  env: {},
  platform: "linux",
  version: "v24.0.0",
  versions: { node: "24.0.0" },
  pid: 1,
  exitCode: undefined as unknown,
  stdin: inputStream,
  stdout: {
    write: writeOut,
    isTTY: false,
    fd: 1,
    on(): unknown {
      return this
    },
    end: (text?: unknown): void => {
      if (text !== undefined) emit(text)
    }
  },
  stderr: {
    write: () => true,
    isTTY: false,
    fd: 2,
    on(): unknown {
      return this
    }
  },
  exit,
  on: (): unknown => processOf,
  once: (): unknown => processOf,
  cwd: () => "/",
  uptime: () => (now() - begun) / 1000,
  memoryUsage: () => ({ heapUsed: 0 }),
  nextTick: (action: () => unknown, ...args: ReadonlyArray<unknown>): void => {
    void apply(then as Loose, PromiseOf.resolve(), [() => apply(action, undefined, args as [])])
  },
  hrtime: Object.assign(() => [Math.floor(now() / 1000), (now() % 1000) * 1e6], {
    bigint: () => BigIntOf(now()) * 1000000n
  })
}

const isInput = (path: unknown): boolean =>
  path === 0 || path === "/dev/stdin" || path === "/proc/self/fd/0" || path === processOf.stdin
const writeTo = (path: unknown, text: unknown): void => {
  if (path === 1 || path === "/dev/stdout" || path === "/proc/self/fd/1") emit(text)
  else if (path !== 2 && path !== "/dev/stderr") throw new Error("there is no file " + StringOf(path) + " here")
}
const fs = {
  readFileSync: (path: unknown): string => {
    if (!isInput(path)) throw new Error("there is no file " + StringOf(path) + " here")
    return readWhole()
  },
  writeSync: (path: unknown, text: unknown): number => {
    writeTo(path, text)
    return StringOf(text).length
  },
  writeFileSync: (path: unknown, text: unknown): void => writeTo(path, text),
  existsSync: isInput
}
const programModules = {
  __proto__: null,
  fs,
  readline: { createInterface, promises: { createInterface } },
  process: processOf,
  os: { EOL: "\n" }
} as unknown as Readonly<Record<string, unknown>>
const requireOf = (name: unknown): unknown => {
  const found =
    programModules[
      StringOf(name)
        .replace(/^node:/, "")
        .replace(/^readline\/promises$/, "readline")
    ]
  if (found === undefined) throw new Error("Cannot find module " + quoted(StringOf(name)))
  return found
}
hidden(global, "require", requireOf)
hidden(global, "process", processOf)
hidden(global, "readline", nextLine)
hidden(global, "prompt", () => nextLine())

let thrown: string | undefined

operations.prepare = (text: string) => {
  stdin.text = text
  return "v"
}
operations.program = (source: string) => {
  try {
    evaluate(source)
  } catch (error) {
    if (error === Exit) return "v"
    // nothing has run if it is not a script: it may be a module
    if (error instanceof SyntaxError && printed.text === "" && stdin.position === 0) return failure("l", error)
    thrown = failure("e", error)
  }
  return "v"
}
operations.tick = () => {
  if (printed.exited !== undefined || printed.full || thrown !== undefined) return "n"
  const answer = tick()
  if (answer[0] !== "e" && answer[0] !== "o") return answer
  if (printed.exited === undefined) thrown = answer
  return "n"
}
operations.finish = (fault: string | null) => {
  if (printed.full) return "o"
  if (thrown !== undefined) return thrown
  if (fault !== null && printed.exited === undefined) return fault
  const code = printed.exited ?? NumberOf(processOf.exitCode ?? 0)
  return code === 0 ? "v" + printed.text : "eexit code " + code
}
