/** Output of a program: `console.log` as node writes it, up to a limit. */
import { consoleOf } from "./globals.ts"
import { global, isArray, NumberOf, StringOf, stringify } from "./intrinsics.ts"
import { TooMuch } from "./writeData.ts"
import type { Loose } from "./loose.ts"

/** Characters that a program may write. */
const maxOutput = 1_000_000

export const printed = {
  text: "",
  /** It wrote more than it may. */
  full: false,
  /** The code that it left with. */
  exited: undefined as number | undefined
}

export const emit = (part: unknown): void => {
  if (printed.exited !== undefined) return
  const text = StringOf(part)
  if (printed.text.length + text.length > maxOutput) {
    printed.full = true
    throw TooMuch
  }
  printed.text += text
}

export const quoted = (text: string): string =>
  "'" + text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n").replaceAll("'", "\\'") + "'"

const inspect = (value: Loose, level: number, seen: ReadonlyArray<unknown>): string => {
  switch (typeof value) {
    case "string":
      return level === 0 ? value : quoted(value)
    case "bigint":
      return value + "n"
    case "number":
      return Object.is(value, -0) ? "-0" : StringOf(value)
    case "function":
      return "[Function: " + (value.name || "(anonymous)") + "]"
    case "symbol":
      return value.toString()
    case "object":
      return value === null ? "null" : inspectObject(value, level, seen)
    default:
      return StringOf(value)
  }
}

const inspectObject = (value: Loose, level: number, seen: ReadonlyArray<unknown>): string => {
  if (seen.includes(value)) return "[Circular *1]"
  const inner = (item: unknown): string => inspect(item, level + 1, [...seen, value])
  if (value instanceof Error) return value.stack || value.name + ": " + value.message
  if (value instanceof Date) return value.toISOString()
  if (value instanceof RegExp) return StringOf(value)
  const name = value.constructor?.name ?? ""
  const deep = level > 2
  let open = "{"
  let close = "}"
  let parts: Array<string>
  if (isArray(value)) {
    open = name === "Array" || name === "" ? "[" : name + "(" + value.length + ") ["
    close = "]"
    if (deep) return "[Array]"
    parts = value.slice(0, 100).map(inner)
    if (value.length > 100) parts.push("... " + (value.length - 100) + " more item" + (value.length > 101 ? "s" : ""))
  } else if (ArrayBuffer.isView(value) && (value as Loose).length !== undefined) {
    open = name + "(" + (value as Loose).length + ") ["
    close = "]"
    parts = Array.from((value as Loose).slice(0, 100), inner)
  } else if (value instanceof Map) {
    open = "Map(" + value.size + ") {"
    parts = [...value].map(([key, item]) => inner(key) + " => " + inner(item))
  } else if (value instanceof Set) {
    open = "Set(" + value.size + ") {"
    parts = [...value].map(inner)
  } else {
    if (deep) return "[" + (name || "Object") + "]"
    if (name !== "Object") open = (name === "" ? "[Object: null prototype]" : name) + " {"
    parts = Object.entries(value).map(
      ([key, item]) => (/^[a-zA-Z_$][\w$]*$/.test(key) ? key : quoted(key)) + ": " + inner(item)
    )
  }
  return joined(parts, open, close, level, isArray(value))
}

/** On one line if it is short, else a line for each part. */
const joined = (parts: ReadonlyArray<string>, open: string, close: string, level: number, list: boolean): string => {
  if (parts.length === 0) return open + close
  const line = open + " " + parts.join(", ") + " " + close
  if (line.length <= 72 || (parts.length <= 6 && list && line.length <= 76)) return line
  const pad = "  ".repeat(level + 1)
  return open + "\n" + parts.map((part) => pad + part).join(",\n") + "\n" + "  ".repeat(level) + close
}

const format = (args: ReadonlyArray<Loose>): string => {
  let first = 0
  let out = ""
  if (typeof args[0] === "string" && args.length > 1 && args[0].includes("%")) {
    first = 1
    out = args[0].replace(/%[sdifjoOc%]/g, (mark) => {
      if (mark === "%%") return "%"
      if (first >= args.length) return mark
      const value = args[first++]
      if (mark === "%s") return typeof value === "object" ? inspect(value, 1, []) : StringOf(value)
      if (mark === "%d") return StringOf(NumberOf(value))
      if (mark === "%i") return StringOf(parseInt(value, 10))
      if (mark === "%f") return StringOf(parseFloat(value))
      if (mark === "%j") return stringify(value)
      return mark === "%c" ? "" : inspect(value, 1, [])
    })
    if (first < args.length) out += " "
  }
  for (let index = first; index < args.length; index++) {
    out += (index > first ? " " : "") + inspect(args[index], 0, [])
  }
  return out
}

const print = (...args: ReadonlyArray<unknown>): void => emit(format(args) + "\n")
consoleOf.log = consoleOf.info = consoleOf.debug = print
global.print = print
