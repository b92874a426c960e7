/**
 * What JavaScript programs expect of their surroundings besides the language: timers, microtasks, structuredClone. As
 * text of a function that is parsed in a realm only when a candidate reaches for one of the names.
 */
export const extraNames: ReadonlyArray<string> = [
  "setTimeout",
  "setInterval",
  "setImmediate",
  "clearTimeout",
  "clearInterval",
  "clearImmediate",
  "queueMicrotask",
  "structuredClone"
]

export const extras = String.raw`(define, now, onTick) => {
  // Timers run when the host finds nothing else to do here: in the order of their time, each in a turn of its own.
  let timers = null, timerCount = 0
  const addTimer = (action, wait, args, every) => {
    const id = ++timerCount
    schedule({ __proto__: null, id, due: now() + wait, action, args, every: every ? wait : undefined, next: null })
    return id
  }
  const schedule = (timer) => {
    let before = null, after = timers
    while (after !== null && after.due <= timer.due) { before = after; after = after.next }
    timer.next = after
    if (before === null) timers = timer
    else before.next = timer
  }
  const wait = (ms) => { ms = +ms; return ms > 1 && ms < 2147483648 ? ms : 1 }
  const setTimeout = (action, ms, ...args) => addTimer(action, wait(ms), args, false)
  const setInterval = (action, ms, ...args) => addTimer(action, wait(ms), args, true)
  const setImmediate = (action, ...args) => addTimer(action, 0, args, false)
  const clear = (id) => {
    let before = null, timer = timers
    while (timer !== null && timer.id !== id) { before = timer; timer = timer.next }
    if (timer === null) return
    if (before === null) timers = timer.next
    else before.next = timer.next
  }
  const clone = (value, seen) => {
    if (typeof value === "function" || typeof value === "symbol") throw new TypeError("it could not be cloned")
    if (typeof value !== "object" || value === null) return value
    const known = seen.get(value)
    if (known !== undefined) return known
    const keep = (copy) => { seen.set(value, copy); return copy }
    if (Array.isArray(value)) {
      const copy = keep([])
      copy.length = value.length
      for (const key of Reflect.ownKeys(value)) if (key !== "length" && typeof key === "string") define(copy, key, clone(value[key], seen))
      return copy
    }
    if (value instanceof Date) return keep(new Date(value.getTime()))
    if (value instanceof Map) {
      const copy = keep(new Map())
      value.forEach((item, key) => { copy.set(clone(key, seen), clone(item, seen)) })
      return copy
    }
    if (value instanceof Set) {
      const copy = keep(new Set())
      value.forEach((item) => { copy.add(clone(item, seen)) })
      return copy
    }
    if (value instanceof RegExp) return keep(new RegExp(value.source, value.flags))
    if (value instanceof Error) {
      const copy = keep(new Error(value.message))
      copy.name = value.name
      return copy
    }
    if (ArrayBuffer.isView(value)) return keep(new value.constructor(value))
    const copy = keep({})
    for (const key of Reflect.ownKeys(value)) {
      const found = Object.getOwnPropertyDescriptor(value, key)
      if (typeof key === "string" && found !== undefined && found.enumerable) define(copy, key, clone(value[key], seen))
    }
    return copy
  }

  onTick(() => {
    if (timers === null) return "n"
    const timer = timers
    const left = timer.due - now()
    if (left > 0) return "w" + left
    timers = timer.next
    if (timer.every !== undefined) {
      timer.due = now() + timer.every
      schedule(timer)
    }
    if (typeof timer.action === "function") timer.action(...timer.args)
    return "t"
  })
  return {
    __proto__: null, setTimeout, setInterval, setImmediate, clearTimeout: clear, clearInterval: clear, clearImmediate: clear,
    queueMicrotask: (action) => { Promise.resolve().then(() => action()) },
    structuredClone: (value) => clone(value, new Map())
  }
}`
