/**
 * The candidate as a test file sees it: stand-ins, which ask the host and get data. The realm is the tests' own; nothing of
 * the candidate's runs in it.
 */
import { define, global, isArray, parse, stringify, StringOf } from "./intrinsics.ts"
import { read } from "./readData.ts"
import { written } from "./writeData.ts"

type Ask = (text: string) => string
/** isolated-vm hands a function over as a reference. */
interface Reference {
  readonly applySyncPromise: (receiver: undefined, args: ReadonlyArray<string>) => string
}
const given = global.__quintainAsk as Ask | Reference
delete global.__quintainAsk
/** Says something to the host, and waits for the answer of a call. */
export const ask: Ask = typeof given === "function" ? given : (text) => given.applySyncPromise(undefined, [text])

type Tagged = ReadonlyArray<unknown>

/** A value that is not data and stayed in the candidate's process: equal to nothing. */
export class Opaque {
  readonly kind: unknown
  constructor(kind: unknown) {
    this.kind = kind
  }
}

export const readAll = (value: unknown): unknown => {
  if (!isArray(value)) return value
  const tagged: Tagged = value
  switch (tagged[0]) {
    case "x":
      return new Opaque(tagged[1])
    case "a": {
      const array: Array<unknown> = []
      array.length = tagged.length - 1
      for (let index = 1; index < tagged.length; index++) {
        const item = tagged[index]
        if (!isArray(item) || item[0] !== "h") array[index - 1] = readAll(item)
      }
      return array
    }
    case "o": {
      const object = {}
      for (let index = 1; index < tagged.length; index += 2) {
        define(object, tagged[index] as string, readAll(tagged[index + 1]))
      }
      return object
    }
    case "m":
      return new Map(
        Array.from({ length: (tagged.length - 1) >> 1 }, (_, index) => [
          readAll(tagged[2 * index + 1]),
          readAll(tagged[2 * index + 2])
        ])
      )
    case "s":
      return new Set(tagged.slice(1).map(readAll))
    default:
      return read(tagged)
  }
}

/** Outcome of the candidate during the present test, whatever the test makes of it. */
export const candidate = {
  fault: undefined as { readonly status: string; readonly detail: string } | undefined,
  /** Errors that it threw, or that stand for its end. */
  errors: new WeakSet<object>()
}

const kinds: Readonly<Record<string, new (message: string) => Error>> = {
  TypeError,
  RangeError,
  SyntaxError,
  ReferenceError,
  EvalError,
  URIError
}
const thrownBy = (text: string): Error => {
  const [, name = "Error", message = text] = /^([A-Za-z_$][\w$]*): ([^]*)$/.exec(text) ?? []
  const error = new (kinds[name] ?? Error)(message)
  if (!(name in kinds) && name !== "Error") error.name = name
  candidate.errors.add(error)
  return error
}
export const ended = (status: string, detail: string): Error => {
  candidate.fault ??= { status, detail }
  const error = new Error("the candidate: " + status + (detail === "" ? "" : ", " + detail))
  candidate.errors.add(error)
  return error
}
const unsupported = (detail: string): never => {
  ask(stringify({ unsupported: detail }))
  throw new TypeError(detail)
}

interface Answer {
  readonly status: string
  readonly text: string
  readonly promised?: boolean
}

/** A function of the candidate's. */
export const remote = (name: string): ((...args: ReadonlyArray<unknown>) => unknown) =>
  function (...args) {
    if (new.target !== undefined) {
      unsupported(
        "new " +
          name +
          "() makes an instance, which stays in the candidate's process: test it through a function that returns data"
      )
    }
    let data: string
    try {
      data = written(args)
    } catch {
      data = '["x"'
    }
    if (data.includes('["x"')) {
      unsupported("the arguments of " + name + "() have to be data: functions and instances stay in the tests' process")
    }
    const answer = parse(ask(stringify({ call: name, args: data }))) as Answer
    if (answer.status === "value") {
      const value = readAll(parse(answer.text))
      return answer.promised ? Promise.resolve(value) : value
    }
    if (answer.status !== "error") throw ended(answer.status, answer.text)
    const error = thrownBy(answer.text)
    if (answer.promised) return Promise.reject(error)
    throw error
  }

export const show = (value: unknown): string => {
  let text: string
  try {
    text = typeof value === "function" ? "a function" : typeof value === "string" ? stringify(value) : written(value)
  } catch {
    text = StringOf(value)
  }
  return text.slice(0, 80)
}
