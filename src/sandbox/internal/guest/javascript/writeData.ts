/**
 * Writes a value down by its exact type, in the format of TypedData.ts. It runs no accessor and no iterator of the
 * candidate's.
 */
import {
  apply,
  ArrayPrototype,
  DatePrototype,
  dateTime,
  getOwnPropertyDescriptor,
  getPrototypeOf,
  isArray,
  isFinite,
  mapEach,
  MapPrototype,
  ObjectPrototype,
  ownKeys,
  setEach,
  SetPrototype,
  StringOf,
  stringify
} from "./intrinsics.ts"

const maxCharacters = 200_000
const maxNodes = 20_000
const maxDepth = 64

/** Thrown, and known by identity. */
export const TooMuch = {}
export const TooDeep = {}

let nodes = 0
let characters = 0
let depth = 0

const text = (part: string): string => {
  characters += part.length
  if (characters > maxCharacters) throw TooMuch
  return part
}

const own = (object: object, key: string): string => {
  const found = getOwnPropertyDescriptor(object, key)
  if (found === undefined) return '["h"]'
  const value = getOwnPropertyDescriptor(found, "value")
  return value === undefined ? '["x","accessor"]' : write(value.value)
}

const writeArray = (value: object): string => {
  const length = getOwnPropertyDescriptor(value, "length")!.value as number
  let out = text('["a"')
  for (let index = 0; index < length; index++) out += text(",") + own(value, StringOf(index))
  return out + text("]")
}

const writeObject = (value: object): string => {
  let out = text('["o"')
  const keys = ownKeys(value)
  const count = keys.length
  for (let index = 0; index < count; index++) {
    const key = getOwnPropertyDescriptor(keys, index)!.value as string | symbol
    if (typeof key === "symbol") {
      out = text('["x","symbol key"')
      break
    }
    const found = getOwnPropertyDescriptor(value, key)
    if (found === undefined || !found.enumerable) continue
    out += text(",") + text(stringify(key)) + text(",") + own(value, key)
  }
  return out + text("]")
}

const writeMap = (value: object): string => {
  let out = text('["m"')
  const each = (item: unknown, key: unknown): void => {
    out += text(",") + write(key) + text(",") + write(item)
  }
  apply(mapEach, value, [each])
  return out + text("]")
}

const writeSet = (value: object): string => {
  let out = text('["s"')
  const each = (item: unknown): void => {
    out += text(",") + write(item)
  }
  apply(setEach, value, [each])
  return out + text("]")
}

const writeDate = (value: object): string => {
  const time = apply(dateTime, value, []) as number
  return isFinite(time) ? text('["d",' + StringOf(time) + "]") : text('["d","NaN"]')
}

const writeCompound = (value: object): string => {
  const prototype = getPrototypeOf(value)
  if (isArray(value)) return prototype === ArrayPrototype ? writeArray(value) : text('["x","array of a class"]')
  if (prototype === ObjectPrototype || prototype === null) return writeObject(value)
  if (prototype === DatePrototype) return writeDate(value)
  if (prototype === MapPrototype) return writeMap(value)
  if (prototype === SetPrototype) return writeSet(value)
  return text('["x","instance"]')
}

const write = (value: unknown): string => {
  if (++nodes > maxNodes) throw TooMuch
  switch (typeof value) {
    case "string": {
      if (value.length > maxCharacters) throw TooMuch
      return text(stringify(value))
    }
    case "boolean":
      return text(value ? "true" : "false")
    case "undefined":
      return text('["u"]')
    case "bigint":
      return text('["i","' + StringOf(value) + '"]')
    case "number":
      if (value === 0 && 1 / value < 0) return text('["n","-0"]')
      return text(isFinite(value) ? StringOf(value) : '["n","' + StringOf(value) + '"]')
    case "object":
      break
    default:
      return text('["x","' + typeof value + '"]')
  }
  if (value === null) return text("null")
  if (++depth > maxDepth) throw TooDeep
  const out = writeCompound(value)
  depth--
  return out
}

/** @throws TooMuch, TooDeep */
export const written = (value: unknown): string => {
  nodes = 0
  characters = 0
  depth = 0
  return write(value)
}
