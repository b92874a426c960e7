/**
 * Surroundings that JavaScript programs expect besides the language: timers, microtasks, structuredClone. It is
 * the candidate's own: it may break it, and harms only itself.
 */

interface Timer {
  readonly __proto__: null
  readonly id: number
  due: number
  readonly action: unknown
  readonly args: ReadonlyArray<unknown>
  readonly every: number | undefined
  next: Timer | null
}

type Arguments = ReadonlyArray<unknown>

type Define = (object: object, key: PropertyKey, value: unknown) => boolean

export type MakeExtras = (
  define: Define,
  now: () => number,
  onTick: (tick: () => string) => void
) => Readonly<Record<string, unknown>>

/** The clone of `structuredClone`; `seen` has the objects that are cloned already. */
const makeClone = (define: Define): ((value: unknown, seen: Map<object, unknown>) => unknown) => {
  const clone = (value: unknown, seen: Map<object, unknown>): unknown => {
    if (typeof value === "function" || typeof value === "symbol") throw new TypeError("it could not be cloned")
    if (typeof value !== "object" || value === null) return value
    const known = seen.get(value)
    if (known !== undefined) return known
    const keep = <A extends object>(copy: A): A => {
      seen.set(value, copy)
      return copy
    }
    if (Array.isArray(value)) {
      const copy: Array<unknown> = keep([])
      copy.length = value.length
      for (const key of Reflect.ownKeys(value)) {
        if (key !== "length" && typeof key === "string") define(copy, key, clone(Reflect.get(value, key), seen))
      }
      return copy
    }
    if (value instanceof Date) return keep(new Date(value.getTime()))
    if (value instanceof Map) {
      const copy = keep(new Map<unknown, unknown>())
      value.forEach((item: unknown, key: unknown) => {
        copy.set(clone(key, seen), clone(item, seen))
      })
      return copy
    }
    if (value instanceof Set) {
      const copy = keep(new Set<unknown>())
      value.forEach((item: unknown) => {
        copy.add(clone(item, seen))
      })
      return copy
    }
    if (value instanceof RegExp) return keep(new RegExp(value.source, value.flags))
    if (value instanceof Error) {
      const copy = keep(new Error(value.message))
      copy.name = value.name
      return copy
    }
    if (ArrayBuffer.isView(value)) return keep(new (value.constructor as new (from: unknown) => object)(value))
    const copy = keep({})
    for (const key of Reflect.ownKeys(value)) {
      const found = Object.getOwnPropertyDescriptor(value, key)
      if (typeof key === "string" && found !== undefined && found.enumerable) {
        define(copy, key, clone(Reflect.get(value, key), seen))
      }
    }
    return copy
  }
  return clone
}

export const makeExtras: MakeExtras = (define, now, onTick) => {
  // Timers run when the host finds nothing else to do here: in the order of their time, each in a turn of its own.
  let timers: Timer | null = null
  let timerCount = 0
  const addTimer = (action: unknown, wait: number, args: Arguments, every: boolean): number => {
    const id = ++timerCount
    schedule({
      __proto__: null,
      id,
      due: now() + wait,
      action,
      args,
      every: every ? wait : undefined,
      next: null
    })
    return id
  }
  const schedule = (timer: Timer): void => {
    let before: Timer | null = null
    let after = timers
    while (after !== null && after.due <= timer.due) {
      before = after
      after = after.next
    }
    timer.next = after
    if (before === null) timers = timer
    else before.next = timer
  }
  const wait = (given: unknown): number => {
    const milliseconds = +(given as number)
    return milliseconds > 1 && milliseconds < 2147483648 ? milliseconds : 1
  }
  const setTimeout = (action: unknown, milliseconds: unknown, ...args: Arguments): number =>
    addTimer(action, wait(milliseconds), args, false)
  const setInterval = (action: unknown, milliseconds: unknown, ...args: Arguments): number =>
    addTimer(action, wait(milliseconds), args, true)
  const setImmediate = (action: unknown, ...args: Arguments): number => addTimer(action, 0, args, false)
  const clear = (id: unknown): void => {
    let before: Timer | null = null
    let timer = timers
    while (timer !== null && timer.id !== id) {
      before = timer
      timer = timer.next
    }
    if (timer === null) return
    if (before === null) timers = timer.next
    else before.next = timer.next
  }

  const clone = makeClone(define)
  onTick(() => {
    if (timers === null) return "n"
    const timer = timers
    const left = timer.due - now()
    if (left > 0) return `w${left}`
    timers = timer.next
    if (timer.every !== undefined) {
      timer.due = now() + timer.every
      schedule(timer)
    }
    if (typeof timer.action === "function") timer.action(...timer.args)
    return "t"
  })
  return {
    __proto__: null,
    setTimeout,
    setInterval,
    setImmediate,
    clearTimeout: clear,
    clearInterval: clear,
    clearImmediate: clear,
    queueMicrotask: (action: () => unknown): void => {
      void Promise.resolve().then(() => action())
    },
    structuredClone: (value: unknown) => clone(value, new Map())
  }
}
