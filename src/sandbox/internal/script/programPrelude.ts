/**
 * The part of the prelude that lets a whole program run: standard input, standard output, and the little of node that
 * programs use for them. It stands behind the base of isolatePrelude.ts, in the same function.
 */

/** Characters that a program may write. */
export const maxOutput = 1_000_000

/** What can be imported, by module: the names that it exports beside its default. */
export const programModules: Readonly<Record<string, ReadonlyArray<string>>> = {
  fs: ["readFileSync", "writeSync", "writeFileSync", "existsSync"],
  readline: ["createInterface"],
  process: ["stdin", "stdout", "stderr", "argv", "env", "exit", "nextTick", "hrtime"],
  os: ["EOL"]
}

export const programs = String.raw`
  let output = "", full = false, exited, stdin = ""
  const emit = (text) => {
    if (exited !== undefined) return
    text = StringOf(text)
    if (output.length + text.length > ${maxOutput}) { full = true; throw TooMuch }
    output += text
  }
  const quoted = (text) => "'" + text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n").replaceAll("'", "\\'") + "'"
  const inspect = (value, level, seen) => {
    switch (typeof value) {
      case "string": return level === 0 ? value : quoted(value)
      case "bigint": return value + "n"
      case "number": return Object.is(value, -0) ? "-0" : StringOf(value)
      case "function": return "[Function: " + (value.name || "(anonymous)") + "]"
      case "symbol": return value.toString()
      case "object": break
      default: return StringOf(value)
    }
    if (value === null) return "null"
    if (seen.includes(value)) return "[Circular *1]"
    const inner = (item) => inspect(item, level + 1, [...seen, value])
    if (value instanceof Error) return value.stack || value.name + ": " + value.message
    if (value instanceof Date) return value.toISOString()
    if (value instanceof RegExp) return StringOf(value)
    const name = value.constructor?.name ?? ""
    const deep = level > 2
    let open = "{", close = "}", parts
    if (isArray(value)) {
      open = name === "Array" || name === "" ? "[" : name + "(" + value.length + ") [", close = "]"
      if (deep) return "[Array]"
      parts = value.slice(0, 100).map(inner)
      if (value.length > 100) parts.push("... " + (value.length - 100) + " more item" + (value.length > 101 ? "s" : ""))
    } else if (ArrayBuffer.isView(value) && value.length !== undefined) {
      open = name + "(" + value.length + ") [", close = "]"
      parts = Array.from(value.slice(0, 100), inner)
    } else if (value instanceof Map) {
      open = "Map(" + value.size + ") {"
      parts = [...value].map(([key, item]) => inner(key) + " => " + inner(item))
    } else if (value instanceof Set) {
      open = "Set(" + value.size + ") {"
      parts = [...value].map(inner)
    } else {
      if (deep) return "[" + (name || "Object") + "]"
      if (name !== "Object") open = (name === "" ? "[Object: null prototype]" : name) + " {"
      parts = Object.entries(value).map(([key, item]) => (/^[a-zA-Z_$][\w$]*$/.test(key) ? key : quoted(key)) + ": " + inner(item))
    }
    if (parts.length === 0) return open + close
    const line = open + " " + parts.join(", ") + " " + close
    if (line.length <= 72 || (parts.length <= 6 && isArray(value) && line.length <= 76)) return line
    const pad = "  ".repeat(level + 1)
    return open + "\n" + parts.map((part) => pad + part).join(",\n") + "\n" + "  ".repeat(level) + close
  }
  const format = (args) => {
    let first = 0, out = ""
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
    for (let index = first; index < args.length; index++) out += (index > first ? " " : "") + inspect(args[index], 0, [])
    return out
  }
  const print = (...args) => emit(format(args) + "\n")
  global.console.log = global.console.info = global.console.debug = print
  global.print = print

  const Exit = {}
  const exit = (code) => {
    if (exited === undefined) exited = code === undefined ? NumberOf(process.exitCode ?? 0) : NumberOf(code)
    throw Exit
  }

  // Standard input: read whole, line by line, or through events, which come once the program has set itself up.
  let position = 0
  const readWhole = () => { const text = apply(slice, stdin, [position]); position = stdin.length; return text }
  const nextLine = () => {
    if (position >= stdin.length) return null
    let stop = stdin.indexOf("\n", position)
    if (stop < 0) stop = stdin.length
    let line = stdin.slice(position, stop)
    if (line.endsWith("\r")) line = line.slice(0, -1)
    position = stop + 1
    return line
  }
  const isInput = (path) => path === 0 || path === "/dev/stdin" || path === "/proc/self/fd/0" || path === process.stdin
  class Emitter {
    #listeners = []
    on(name, listener) {
      this.#listeners.push({ name, listener, once: false })
      wake(this)
      return this
    }
    addListener(name, listener) { return this.on(name, listener) }
    once(name, listener) {
      this.#listeners.push({ name, listener, once: true })
      wake(this)
      return this
    }
    off(name, listener) {
      this.#listeners = this.#listeners.filter((one) => one.name !== name || one.listener !== listener)
      return this
    }
    removeListener(name, listener) { return this.off(name, listener) }
    removeAllListeners() { this.#listeners = []; return this }
    has(name) { return this.#listeners.some((one) => one.name === name) }
    emit(name, ...args) {
      const heard = this.#listeners.filter((one) => one.name === name)
      this.#listeners = this.#listeners.filter((one) => one.name !== name || !one.once)
      for (const one of heard) one.listener.apply(this, args)
      return heard.length > 0
    }
  }
  const turns = []
  const awake = new Set()
  const wake = (emitter) => {
    if (emitter.start === undefined || awake.has(emitter)) return
    awake.add(emitter)
    turns.push(() => emitter.start())
  }
  deliver = () => {
    const turn = turns.shift()
    if (turn === undefined) return false
    turn()
    return true
  }
  const input = new Emitter()
  Object.assign(input, {
    fd: 0, isTTY: false,
    setEncoding() { return input }, resume() { wake(input); return input }, pause() { return input }, unref() { return input }, ref() { return input },
    read() { return position >= stdin.length ? null : readWhole() },
    pipe(target) { return target },
    start() {
      if (input.has("readable")) input.emit("readable")
      if (position < stdin.length && input.has("data")) input.emit("data", readWhole())
      turns.push(() => {
        if (input.has("readable")) input.emit("readable")
        input.emit("end")
        input.emit("close")
      })
    },
    async *[Symbol.asyncIterator]() { if (position < stdin.length) yield readWhole() }
  })
  const createInterface = () => {
    const lines = new Emitter()
    let closed = false
    const asked = []
    const close = () => { if (!closed) { closed = true; lines.emit("close") } }
    const step = () => {
      if (closed) return
      if (asked.length === 0 && !lines.has("line")) {
        if (position >= stdin.length) close()
        return
      }
      if (asked.length > 0) {
        const line = nextLine()
        if (line === null) return close()
        asked.shift()(line)
        turns.push(step)
        return
      }
      // one after the other without a pause, as node does with the lines of a chunk
      for (let line = nextLine(); !closed; line = nextLine()) {
        if (line === null) return close()
        lines.emit("line", line)
      }
    }
    return Object.assign(lines, {
      start: () => turns.push(step),
      close, pause: () => lines, resume: () => lines, prompt() {}, setPrompt() {}, write() {},
      question(query, ...rest) {
        emit(query)
        const then = rest.at(-1)
        turns.push(step)
        if (typeof then === "function") { asked.push(then); return undefined }
        return new Promise((resolve) => { asked.push(resolve) })
      },
      async *[Symbol.asyncIterator]() {
        for (let line = nextLine(); line !== null && !closed; line = nextLine()) yield line
        close()
      }
    })
  }
  const write = (text) => { emit(text); return true }
  const silentStream = { write: () => true, isTTY: false, fd: 2, on() { return this } }
  const process = {
    argv: ["node", "main.js"], env: {}, platform: "linux", version: "v24.0.0", versions: { node: "24.0.0" }, pid: 1, exitCode: undefined,
    stdin: input, stdout: { write, isTTY: false, fd: 1, on() { return this }, end(text) { if (text !== undefined) emit(text) } }, stderr: silentStream,
    exit, on() { return process }, once() { return process }, cwd: () => "/", uptime: () => (now() - begun) / 1000, memoryUsage: () => ({ heapUsed: 0 }),
    nextTick: (action, ...args) => { apply(then, PromiseOf.resolve(), [() => apply(action, undefined, args)]) },
    hrtime: Object.assign(() => [Math.floor(now() / 1000), (now() % 1000) * 1e6], { bigint: () => BigIntOf(now()) * 1000000n })
  }
  const begun = now()
  const target = (path, text) => {
    if (path === 1 || path === "/dev/stdout" || path === "/proc/self/fd/1") emit(text)
    else if (path !== 2 && path !== "/dev/stderr") throw new Error("there is no file " + StringOf(path) + " here")
  }
  const fs = {
    readFileSync: (path) => {
      if (!isInput(path)) throw new Error("there is no file " + StringOf(path) + " here")
      return readWhole()
    },
    writeSync: (path, text) => { target(path, text); return StringOf(text).length },
    writeFileSync: (path, text) => target(path, text),
    existsSync: isInput
  }
  const modules = { __proto__: null, fs, readline: { createInterface, promises: { createInterface } }, process, os: { EOL: "\n" } }
  const require = (name) => {
    const found = modules[StringOf(name).replace(/^node:/, "").replace(/^readline\/promises$/, "readline")]
    if (found === undefined) throw new Error("Cannot find module " + quoted(StringOf(name)))
    return found
  }
  hidden(global, "require", require)
  hidden(global, "process", process)
  hidden(global, "readline", nextLine)
  hidden(global, "prompt", (text) => nextLine())

  let thrown
  operations.prepare = (text) => { stdin = text; return "v" }
  operations.program = (source) => {
    try {
      evaluate(source)
    } catch (error) {
      if (error === Exit) return "v"
      // nothing has run where it was no script: it may be a module
      if (error instanceof SyntaxError && output === "" && position === 0) return failure("l", error)
      thrown = failure("e", error)
    }
    return "v"
  }
  const tickOnce = operations.tick
  operations.tick = () => {
    if (exited !== undefined || full || thrown !== undefined) return "n"
    const answer = tickOnce()
    if (answer[0] !== "e" && answer[0] !== "o") return answer
    if (exited === undefined) thrown = answer
    return "n"
  }
  operations.finish = (fault) => {
    if (full) return "o"
    if (thrown !== undefined) return thrown
    if (fault !== null && exited === undefined) return fault
    const code = exited ?? NumberOf(process.exitCode ?? 0)
    return code === 0 ? "v" + output : "eexit code " + code
  }
`
