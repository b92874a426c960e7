/**
 * The code that runs in a sandbox's realm before the candidate's, as text; the same for every JavaScript engine. It shares
 * its realm with the candidate, so it uses nothing that the candidate can replace, runs no accessor and no iterator of
 * the candidate's outside the clocks, and knows nothing worth stealing: the source, one case's input, and how to write
 * down a result by its exact type. The format is that of TypedData.ts.
 *
 * Its completion value is one function `(operation, ...texts)`, which answers with text: a letter and what belongs to it.
 * `v` a value, `p` the value of a promise, `l` the source did not load, `e` it threw, `r` its promise was rejected,
 * `o` too much output.
 */
import { programs } from "./programPrelude.ts"
import { extraNames, extras } from "./realmExtras.ts"
import { tests } from "./testPrelude.ts"

/** Limits on a written result. */
export const maxCharacters = 200_000
const maxNodes = 20_000
const maxDepth = 64

/** `call`: functions are called. `stay`: the same, of a candidate that stays. `run`: whole programs. `test`: the user's tests, which never share a realm with a candidate. */
export type RealmKind = "call" | "stay" | "run" | "test"

const base = String.raw`
  const { apply, getOwnPropertyDescriptor, getPrototypeOf, ownKeys, defineProperty } = Reflect
  const { isArray } = Array
  const { isFinite } = Number
  const { stringify, parse } = JSON
  const ObjectPrototype = Object.prototype, ArrayPrototype = Array.prototype, PromisePrototype = Promise.prototype
  const DatePrototype = Date.prototype, MapPrototype = Map.prototype, SetPrototype = Set.prototype
  const dateTime = DatePrototype.getTime, mapEach = MapPrototype.forEach, setEach = SetPrototype.forEach
  const mapSet = MapPrototype.set, setAdd = SetPrototype.add
  const slice = String.prototype.slice, then = PromisePrototype.then
  const StringOf = String, BigIntOf = BigInt, NumberOf = Number, PromiseOf = Promise
  const DateOf = Date, MapOf = Map, SetOf = Set
  const now = Date.now
  const evaluate = eval
  const global = globalThis

  // Memory that the engine's limit does not see, and threads.
  for (const name of ["WebAssembly", "SharedArrayBuffer", "Atomics"]) delete global[name]
  for (const name of ["resize", "transfer", "transferToFixedLength"]) delete ArrayBuffer.prototype[name]

  const hidden = (object, key, value) =>
    defineProperty(object, key, { __proto__: null, value, writable: true, enumerable: false, configurable: true })

  const exported = {}
  const module = { exports: exported }
  global.module = module
  global.exports = exported
  const silent = () => {}
  global.console = { log: silent, error: silent, warn: silent, info: silent, debug: silent, trace: silent, table: silent }

  const define = (object, key, value) =>
    defineProperty(object, key, { __proto__: null, value, writable: true, enumerable: true, configurable: true })

  let extra, timed = () => "n"
  for (const name of ${JSON.stringify(extraNames)}) {
    defineProperty(global, name, {
      __proto__: null, configurable: true, enumerable: false,
      get: () => (extra ??= evaluate(${JSON.stringify(extras)})(define, now, (tick) => { timed = tick }))[name],
      set: (value) => { hidden(global, name, value) }
    })
  }

  const TooMuch = {}, TooDeep = {}
  let nodes = 0, characters = 0
  const text = (part) => {
    characters += part.length
    if (characters > ${maxCharacters}) throw TooMuch
    return part
  }
  const own = (object, key) => {
    const found = getOwnPropertyDescriptor(object, key)
    if (found === undefined) return '["h"]'
    const value = getOwnPropertyDescriptor(found, "value")
    return value === undefined ? '["x","accessor"]' : write(value.value)
  }
  let depth = 0
  const write = (value) => {
    if (++nodes > ${maxNodes}) throw TooMuch
    switch (typeof value) {
      case "string": {
        if (value.length > ${maxCharacters}) throw TooMuch
        return text(stringify(value))
      }
      case "boolean": return text(value ? "true" : "false")
      case "undefined": return text('["u"]')
      case "bigint": return text('["i","' + StringOf(value) + '"]')
      case "number":
        if (value === 0 && 1 / value < 0) return text('["n","-0"]')
        return text(isFinite(value) ? StringOf(value) : '["n","' + StringOf(value) + '"]')
      case "object": break
      default: return text('["x","' + typeof value + '"]')
    }
    if (value === null) return text("null")
    if (++depth > ${maxDepth}) throw TooDeep
    let out
    const prototype = getPrototypeOf(value)
    if (isArray(value)) {
      if (prototype !== ArrayPrototype) out = text('["x","array of a class"]')
      else {
        const length = getOwnPropertyDescriptor(value, "length").value
        out = text('["a"')
        for (let index = 0; index < length; index++) out += text(",") + own(value, StringOf(index))
        out += text("]")
      }
    } else if (prototype === ObjectPrototype || prototype === null) {
      out = text('["o"')
      const keys = ownKeys(value)
      const count = keys.length
      for (let index = 0; index < count; index++) {
        const key = getOwnPropertyDescriptor(keys, index).value
        if (typeof key === "symbol") { out = text('["x","symbol key"'); break }
        const found = getOwnPropertyDescriptor(value, key)
        if (found === undefined || !found.enumerable) continue
        out += text(",") + text(stringify(key)) + text(",") + own(value, key)
      }
      out += text("]")
    } else if (prototype === DatePrototype) {
      const time = apply(dateTime, value, [])
      out = isFinite(time) ? text('["d",' + StringOf(time) + "]") : text('["d","NaN"]')
    } else if (prototype === MapPrototype) {
      out = text('["m"')
      apply(mapEach, value, [(item, key) => { out += text(",") + write(key) + text(",") + write(item) }])
      out += text("]")
    } else if (prototype === SetPrototype) {
      out = text('["s"')
      apply(setEach, value, [(item) => { out += text(",") + write(item) }])
      out += text("]")
    } else out = text('["x","instance"]')
    depth--
    return out
  }

  const read = (tagged) => {
    if (typeof tagged !== "object" || tagged === null) return tagged
    const tag = tagged[0], count = tagged.length
    switch (tag) {
      case "u": return undefined
      case "n": return NumberOf(tagged[1])
      case "i": return BigIntOf(tagged[1])
      case "d": return new DateOf(tagged[1] === null ? NaN : tagged[1])
      case "a": {
        const array = []
        array.length = count - 1
        for (let index = 1; index < count; index++) {
          const item = tagged[index]
          if (typeof item === "object" && item !== null && item[0] === "h") continue
          define(array, index - 1, read(item))
        }
        return array
      }
      case "o": {
        const object = {}
        for (let index = 1; index < count; index += 2) define(object, tagged[index], read(tagged[index + 1]))
        return object
      }
      case "m": {
        const map = new MapOf()
        for (let index = 1; index < count; index += 2) apply(mapSet, map, [read(tagged[index]), read(tagged[index + 1])])
        return map
      }
      case "s": {
        const set = new SetOf()
        for (let index = 1; index < count; index++) apply(setAdd, set, [read(tagged[index])])
        return set
      }
    }
    return undefined
  }
  const written = (value) => { nodes = 0, characters = 0, depth = 0; return write(value) }

  // The text of an error without running a getter of it.
  const describe = (error) => {
    if (typeof error === "string") return "e" + apply(slice, error, [0, 200])
    if (typeof error !== "object" || error === null) return "ea thrown " + typeof error
    let name = "Error", holder = error
    for (let up = 0; up < 3 && typeof holder === "object" && holder !== null; up++) {
      const found = getOwnPropertyDescriptor(holder, "name")
      const value = found === undefined ? undefined : getOwnPropertyDescriptor(found, "value")
      if (value !== undefined && typeof value.value === "string") { name = value.value; break }
      holder = getPrototypeOf(holder)
    }
    const found = getOwnPropertyDescriptor(error, "message")
    const value = found === undefined ? undefined : getOwnPropertyDescriptor(found, "value")
    const message = value !== undefined && typeof value.value === "string" ? apply(slice, value.value, [0, 200]) : ""
    return "e" + apply(slice, name, [0, 40]) + ": " + message
  }

  const failure = (letter, error) => {
    if (error === TooMuch) return "o"
    if (error === TooDeep) return "ethe result is nested too deeply"
    return letter + apply(slice, describe(error), [1])
  }

  /** What the source calls by these names; "held" is where its lookups are: it ends with an array of them. */
  const locate = (held, names) => {
    const namespace = global.__quintainNamespace
    delete global.__quintainNamespace
    const found = { __proto__: null }
    const count = names.length
    for (let index = 0; index < count; index++) {
      const name = names[index]
      let value = held[index]
      const given = global.module
      const common = typeof given === "object" && given !== null ? given.exports : undefined
      if (value === undefined && common !== exported && typeof common === "function" && (count === 1 || name === "default")) value = common
      if (value === undefined && (typeof common === "object" || typeof common === "function") && common !== null) value = common[name]
      if (value === undefined && name === "default" && common !== exported) value = common
      if (value === undefined && namespace !== undefined) {
        value = namespace[name]
        if (value === undefined && count === 1) value = namespace.default
      }
      found[name] = value
    }
    return found
  }
  const hold = (source) => {
    if (source !== null) return evaluate(source)
    const held = global.__quintainHeld
    delete global.__quintainHeld
    return held
  }

  const operations = { __proto__: null }
  // Found by the first call of a realm: the calls of an evaluation follow one another in it.
  let candidate
  operations.call = async (source, entry, argumentsText) => {
    // The arguments are read before the candidate's code runs, with what JSON.parse still is.
    const args = read(parse(argumentsText))
    let stage = "l"
    try {
      if (candidate === undefined) {
        const found = locate(hold(source), [entry])[entry]
        if (typeof found !== "function") return "lno function named " + entry
        candidate = found
      }
      stage = "e"
      return "v" + written(await apply(candidate, undefined, args))
    } catch (error) {
      return failure(stage, error)
    }
  }

  let deliver = () => false
  operations.tick = () => {
    try {
      if (deliver()) return "t"
      return timed()
    } catch (error) {
      return failure("e", error)
    }
  }
`

const staying = String.raw`
  // A candidate that stays: its functions are called one after the other.
  let present
  operations.load = (source, namesText) => {
    const names = parse(namesText)
    try {
      present = locate(hold(source), names)
      let out = ""
      for (let index = 0; index < names.length; index++) {
        const value = present[names[index]]
        out += (index === 0 ? "" : ",") + (value === undefined ? '["n"]' : typeof value === "function" ? '["f"]' : '["d",' + written(value) + "]")
      }
      return "v[" + out + "]"
    } catch (error) {
      return failure("l", error)
    }
  }
  operations.apply = (entry, argumentsText) => {
    try {
      const args = read(parse(argumentsText))
      const candidate = present[entry]
      const result = apply(candidate, undefined, args)
      if (typeof result !== "object" || result === null || getPrototypeOf(result) !== PromisePrototype) return "v" + written(result)
      return (async () => {
        try {
          return "p" + written(await result)
        } catch (error) {
          return failure("r", error)
        }
      })()
    } catch (error) {
      return failure("e", error)
    }
  }
`

const parts: Readonly<Record<RealmKind, string>> = { call: "", stay: staying, run: programs, test: tests }

/** The prelude of a realm of this kind. */
export const prelude = (kind: RealmKind): string =>
  `"use strict";(() => {${base}{${parts[kind]}}
  return (operation, a, b, c) => operations[operation](a, b, c)
})()`
