/**
 * The part of the prelude that runs a user's test file: what vitest, jest and node's own test runner and assertions have
 * in common. It stands behind the base of isolatePrelude.ts, in the same function. The realm is the tests' own: the
 * candidate's functions are stand-ins, which ask the host and get data.
 */

export const tests = String.raw`
  const asked = global.__quintainAsk
  delete global.__quintainAsk
  const ask = typeof asked === "function" ? asked : (text) => asked.applySyncPromise(undefined, [text])

  class Opaque { constructor(kind) { this.kind = kind } }
  const readOpaque = (tagged) => (isArray(tagged) && tagged[0] === "x" ? new Opaque(tagged[1]) : undefined)
  const readAll = (tagged) => {
    if (!isArray(tagged)) return tagged
    const opaque = readOpaque(tagged)
    if (opaque !== undefined) return opaque
    switch (tagged[0]) {
      case "a": {
        const array = []
        array.length = tagged.length - 1
        for (let index = 1; index < tagged.length; index++) if (!isArray(tagged[index]) || tagged[index][0] !== "h") array[index - 1] = readAll(tagged[index])
        return array
      }
      case "o": {
        const object = {}
        for (let index = 1; index < tagged.length; index += 2) define(object, tagged[index], readAll(tagged[index + 1]))
        return object
      }
      case "m": return new Map(Array.from({ length: (tagged.length - 1) >> 1 }, (_, index) => [readAll(tagged[2 * index + 1]), readAll(tagged[2 * index + 2])]))
      case "s": return new Set(tagged.slice(1).map(readAll))
      default: return read(tagged)
    }
  }
  const received = (text) => readAll(parse(text))

  // What became of the candidate during the present test, whatever the test makes of it.
  let fault
  const kinds = { TypeError, RangeError, SyntaxError, ReferenceError, EvalError, URIError }
  const candidateErrors = new WeakSet()
  const thrownBy = (text) => {
    const [, name = "Error", message = text] = /^([A-Za-z_$][\w$]*): ([^]*)$/.exec(text) ?? []
    const error = new (kinds[name] ?? Error)(message)
    if (!(name in kinds) && name !== "Error") error.name = name
    candidateErrors.add(error)
    return error
  }
  const ended = (status, detail) => {
    fault ??= { status, detail }
    const error = new Error("the candidate: " + status + (detail === "" ? "" : ", " + detail))
    candidateErrors.add(error)
    return error
  }
  const unsupported = (detail) => {
    ask(stringify({ unsupported: detail }))
    throw new TypeError(detail)
  }
  const remote = (name) => function (...args) {
    if (new.target !== undefined) unsupported("new " + name + "() makes an instance, which stays in the candidate's process: test it through a function that returns data")
    let data
    try {
      data = written(args)
    } catch {
      data = '["x"'
    }
    if (data.includes('["x"')) unsupported("the arguments of " + name + "() have to be data: functions and instances stay in the tests' process")
    const answer = parse(ask(stringify({ call: name, args: data })))
    if (answer.status === "value") {
      const value = received(answer.text)
      return answer.promised ? Promise.resolve(value) : value
    }
    if (answer.status !== "error") throw ended(answer.status, answer.text)
    const error = thrownBy(answer.text)
    if (answer.promised) return Promise.reject(error)
    throw error
  }

  const show = (value) => {
    let text
    try {
      text = typeof value === "function" ? "a function" : typeof value === "string" ? stringify(value) : written(value)
    } catch {
      text = StringOf(value)
    }
    return text.slice(0, 80)
  }
  class Matcher { constructor(text, accepts) { this.text = text; this.accepts = accepts } }
  // "strict" tells a missing key from one that is undefined, and minds classes
  const same = (left, right, strict, seen = []) => {
    if (right instanceof Matcher) return right.accepts(left)
    if (Object.is(left, right)) return true
    if (typeof left !== "object" || typeof right !== "object" || left === null || right === null) return false
    if (left instanceof Opaque || right instanceof Opaque) return false
    if (seen.some(([a, b]) => a === left && b === right)) return true
    seen = [...seen, [left, right]]
    const inner = (a, b) => same(a, b, strict, seen)
    if (isArray(left) !== isArray(right)) return false
    if (strict && getPrototypeOf(left) !== getPrototypeOf(right)) return false
    for (const kind of [Date, RegExp, Map, Set, Error]) if (left instanceof kind !== right instanceof kind) return false
    if (left instanceof Date) return Object.is(left.getTime(), right.getTime())
    if (left instanceof RegExp) return StringOf(left) === StringOf(right)
    if (left instanceof Error) return left.message === right.message && left.name === right.name
    if (left instanceof Set || left instanceof Map) {
      if (left.size !== right.size) return false
      const rest = [...right]
      return [...left].every((item) => {
        const index = rest.findIndex((other) => inner(item, other))
        if (index >= 0) rest.splice(index, 1)
        return index >= 0
      })
    }
    if (isArray(left)) {
      if (left.length !== right.length) return false
      for (let index = 0; index < left.length; index++) {
        if (strict && index in left !== index in right) return false
        if (!inner(left[index], right[index])) return false
      }
      return true
    }
    const keys = (object) => Object.keys(object).filter((key) => strict || object[key] !== undefined)
    const names = keys(left)
    return names.length === keys(right).length && names.every((key) => Object.hasOwn(right, key) && inner(left[key], right[key]))
  }
  const contains = (whole, part) => {
    if (part instanceof Matcher || typeof part !== "object" || part === null || isArray(part) || typeof whole !== "object" || whole === null) {
      if (isArray(part) && isArray(whole)) return part.length === whole.length && part.every((item, index) => contains(whole[index], item))
      return same(whole, part, false)
    }
    return Object.keys(part).every((key) => key in whole && contains(whole[key], part[key]))
  }
  const at = (value, path) => {
    const keys = isArray(path) ? path : StringOf(path).replaceAll("[", ".").replaceAll("]", "").split(".")
    for (const key of keys) {
      if (value === null || value === undefined || !(key in Object(value))) return { found: false }
      value = value[key]
    }
    return { found: true, value }
  }
  const caught = (error, wanted) => {
    if (wanted === undefined) return true
    if (typeof wanted === "string") return StringOf(error?.message ?? error).includes(wanted)
    if (wanted instanceof RegExp) return wanted.test(StringOf(error?.message ?? error))
    if (wanted instanceof Matcher) return wanted.accepts(error)
    if (typeof wanted === "function") return error instanceof wanted || error?.name === wanted.name
    return StringOf(error?.message ?? error) === wanted.message
  }
  const isClose = (a, b, digits = 2) => a === b || Math.abs(a - b) < 10 ** -digits / 2

  const matchers = {
    toBe: (a, b) => Object.is(a, b),
    toEqual: (a, b) => same(a, b, false),
    toStrictEqual: (a, b) => same(a, b, true),
    toBeCloseTo: (a, b, digits) => typeof a === "number" && isClose(a, b, digits),
    toBeTruthy: (a) => Boolean(a),
    toBeFalsy: (a) => !a,
    toBeNull: (a) => a === null,
    toBeUndefined: (a) => a === undefined,
    toBeDefined: (a) => a !== undefined,
    toBeNullable: (a) => a === null || a === undefined,
    toBeNaN: (a) => Number.isNaN(a),
    toBeGreaterThan: (a, b) => a > b,
    toBeGreaterThanOrEqual: (a, b) => a >= b,
    toBeLessThan: (a, b) => a < b,
    toBeLessThanOrEqual: (a, b) => a <= b,
    toBeTypeOf: (a, b) => typeof a === b,
    toBeInstanceOf: (a, b) => a instanceof b,
    toBeOneOf: (a, b) => [...b].some((item) => same(a, item, false)),
    toContain: (a, b) => (typeof a === "string" ? a.includes(b) : [...a].includes(b)),
    toContainEqual: (a, b) => [...a].some((item) => same(item, b, false)),
    toHaveLength: (a, b) => a?.length === b,
    toHaveProperty: (a, path, ...value) => { const got = at(a, path); return got.found && (value.length === 0 || same(got.value, value[0], false)) },
    toMatch: (a, b) => typeof a === "string" && (typeof b === "string" ? a.includes(b) : b.test(a)),
    toMatchObject: contains,
    toSatisfy: (a, b) => Boolean(b(a)),
    toThrow: (a, wanted, _, from) => {
      if (from !== undefined) return caught(a, wanted)
      try {
        a()
      } catch (error) {
        return caught(error, wanted)
      }
      return false
    }
  }
  matchers.toThrowError = matchers.toThrow
  class AssertionError extends Error { name = "AssertionError" }
  const check = (holds, message) => { if (!holds) throw new AssertionError(message) }
  const expectation = (value, negated, from) => {
    const made = {}
    for (const [name, matches] of Object.entries(matchers)) {
      made[name] = (...args) => {
        const holds = Boolean(matches(value, args[0], args[1], from))
        check(holds !== negated, (negated ? "not " : "") + name + (args.length > 0 ? " " + show(args[0]) : "") + ", got " + show(value))
      }
    }
    return made
  }
  const later = (promise, negated, side) => new Proxy({}, {
    get: (_, name) => name === "not" ? later(promise, !negated, side) : async (...args) => {
      let value, ok
      try {
        value = await (typeof promise === "function" ? promise() : promise)
        ok = true
      } catch (error) {
        value = error
        ok = false
      }
      check(ok === (side === "resolves"), side === "resolves" ? "it was rejected: " + show(value?.message ?? value) : "it was not rejected but " + show(value))
      return expectation(value, negated, side === "rejects" ? side : undefined)[name](...args)
    }
  })
  const expect = (value) => Object.assign(expectation(value, false), {
    not: expectation(value, true), resolves: later(value, false, "resolves"), rejects: later(value, false, "rejects")
  })
  const primitives = new Map([[Number, "number"], [String, "string"], [Boolean, "boolean"], [BigInt, "bigint"], [Symbol, "symbol"], [Function, "function"]])
  Object.assign(expect, {
    anything: () => new Matcher("anything", (value) => value !== null && value !== undefined),
    any: (kind) => new Matcher("any", (value) => typeof value === primitives.get(kind) || (kind === Object ? typeof value === "object" && value !== null : value instanceof kind)),
    closeTo: (wanted, digits) => new Matcher("close", (value) => typeof value === "number" && isClose(value, wanted, digits)),
    objectContaining: (part) => new Matcher("object", (value) => typeof value === "object" && value !== null && Object.keys(part).every((key) => key in value && same(value[key], part[key], false))),
    arrayContaining: (part) => new Matcher("array", (value) => isArray(value) && part.every((item) => value.some((other) => same(other, item, false)))),
    stringContaining: (part) => new Matcher("string", (value) => typeof value === "string" && value.includes(part)),
    stringMatching: (part) => new Matcher("string", (value) => typeof value === "string" && new RegExp(part).test(value)),
    fail: (message) => check(false, message ?? "fail")
  })

  const throwing = (text, a, rest) => {
    const wanted = typeof rest[0] === "string" ? undefined : rest[0]
    try {
      a()
    } catch (error) {
      return check(typeof wanted === "object" && !(wanted instanceof RegExp) ? contains(error, wanted) : caught(error, wanted), "another error was thrown: " + show(error?.message))
    }
    check(false, text)
  }
  const assert = (value, message) => check(value, message ?? show(value) + " is not true")
  const pair = (matches, text) => (a, b, message) => check(matches(a, b), message ?? show(a) + " " + text + " " + show(b))
  const rejected = async (work) => {
    try {
      await (typeof work === "function" ? work() : work)
    } catch (error) {
      return { error }
    }
    return undefined
  }
  Object.assign(assert, {
    assert, strict: assert, ok: assert, isOk: assert,
    isTrue: (value, message) => check(value === true, message ?? show(value) + " is not true"),
    isFalse: (value, message) => check(value === false, message ?? show(value) + " is not false"),
    equal: pair((a, b) => a == b || Object.is(a, b), "is not"), notEqual: pair((a, b) => a != b, "is"),
    strictEqual: pair(Object.is, "is not"), notStrictEqual: pair((a, b) => !Object.is(a, b), "is"),
    deepEqual: pair((a, b) => same(a, b, true), "is not"), deepStrictEqual: pair((a, b) => same(a, b, true), "is not"),
    notDeepEqual: pair((a, b) => !same(a, b, true), "is"), notDeepStrictEqual: pair((a, b) => !same(a, b, true), "is"),
    closeTo: (a, b, delta, message) => check(Math.abs(a - b) <= delta, message ?? show(a) + " is not near " + show(b)),
    include: pair((a, b) => (typeof a === "string" ? a.includes(b) : isArray(a) ? a.includes(b) : contains(a, b)), "does not include"),
    lengthOf: pair((a, b) => a?.length === b, "is not of length"),
    isNull: (value) => check(value === null, show(value) + " is not null"), isUndefined: (value) => check(value === undefined, show(value) + " is not undefined"),
    match: (a, b, message) => check(b.test(a), message ?? show(a) + " does not match"), doesNotMatch: (a, b, message) => check(!b.test(a), message ?? show(a) + " matches"),
    throws: (a, ...rest) => throwing("nothing was thrown", a, rest), doesNotThrow: (a) => { a() },
    rejects: async (work, wanted) => {
      const got = await rejected(work)
      check(got !== undefined, "it was not rejected")
      check(typeof wanted === "object" && !(wanted instanceof RegExp) ? contains(got.error, wanted) : caught(got.error, wanted), "it was rejected with another error")
    },
    doesNotReject: async (work) => check((await rejected(work)) === undefined, "it was rejected"),
    fail: (message) => check(false, message ?? "fail")
  })

  const group = (name, parent, mode) => ({ name, parent, mode, entries: [], before: [], after: [], beforeEach: [], afterEach: [] })
  const root = group("", undefined, undefined)
  let open = root
  const fill = (text, row) => {
    let index = 0
    return text.replace(/%[sdifjop#%]/g, (mark) => (mark === "%%" ? "%" : index < row.length ? (typeof row[index] === "string" ? row[index++] : show(row[index++])) : mark))
      .replace(/\$(\w+)/g, (mark, key) => (typeof row[0] === "object" && row[0] !== null && key in row[0] ? show(row[0][key]) : mark))
  }
  const body = (args) => args.find((one) => typeof one === "function")
  const add = (mode) => (name, ...args) => { open.entries.push({ name: StringOf(name), body: body(args), mode, group: open }) }
  const into = (mode) => (name, ...args) => {
    const own = group(StringOf(name), open, mode)
    open.entries.push(own)
    const outer = open
    open = own
    try {
      body(args)?.()
    } finally {
      open = outer
    }
  }
  const rows = (define) => (table) => (name, action) => {
    for (const row of table) define(fill(StringOf(name), isArray(row) ? row : [row]), isArray(row) ? () => action(...row) : () => action(row))
  }
  const forms = (make) => {
    const plain = make(undefined)
    const skip = make("skip"), only = make("only")
    return Object.assign(plain, {
      skip, only, todo: make("skip"), each: rows(plain), for: rows(plain), concurrent: plain, sequential: plain,
      skipIf: (is) => (is ? skip : plain), runIf: (is) => (is ? plain : skip)
    })
  }
  const test = forms(add), describe = forms(into)
  const hook = (name) => (action) => { open[name].push(action) }
  const kit = {
    describe, suite: describe, it: test, test, expect, assert,
    beforeEach: hook("beforeEach"), afterEach: hook("afterEach"), beforeAll: hook("before"), afterAll: hook("after"), before: hook("before"), after: hook("after")
  }
  for (const name of Object.keys(kit)) hidden(global, name, kit[name])
  const modules = { __proto__: null, vitest: kit, "@jest/globals": kit, "bun:test": kit, test: Object.assign(test, kit), assert, "assert/strict": assert, chai: { assert, expect } }

  operations.prepare = (exportsText, namesText) => {
    const given = parse(exportsText), names = parse(namesText)
    const solution = { __proto__: null }
    for (let index = 0; index < names.length; index++) {
      const name = names[index]
      if (!isArray(given)) solution[name] = () => { throw ended(given.status, given.text) }
      else if (given[index][0] === "n") solution[name] = () => { throw ended("load", "it defines no " + name) }
      else solution[name] = given[index][0] === "f" ? remote(name) : readAll(given[index][1])
    }
    modules["./"] = solution
    hidden(global, "__quintainModule", (name) => modules[name])
    hidden(global, "require", (name) => {
      if (/^[./]/.test(name)) return solution
      const found = modules[StringOf(name).replace(/^node:/, "")]
      if (found === undefined) throw new Error("Cannot find module " + stringify(name))
      return found
    })
    return "v"
  }

  const running = (whole, focused, skipped, prefix) => {
    const list = []
    for (const entry of whole.entries) {
      const skip = skipped || entry.mode === "skip"
      const focus = focused || entry.mode === "only"
      const name = prefix === "" ? entry.name : prefix + " > " + entry.name
      if (entry.entries !== undefined) list.push(...running(entry, focus, skip, name))
      else if (!skip && entry.body !== undefined) list.push({ ...entry, name, focus })
    }
    return list
  }
  const lineage = (own) => (own === undefined ? [] : [...lineage(own.parent), own])
  const call = (action) => (action.length === 0 ? action() : new Promise((resolve, reject) => {
    const returned = action(Object.assign((error) => (error ? reject(error) : resolve()), { expect }))
    if (returned !== undefined) Promise.resolve(returned).then(resolve, reject)
  }))
  operations.tests = async () => {
    let list = running(root, false, false, "")
    if (list.some((one) => one.focus)) list = list.filter((one) => one.focus)
    ask(stringify({ tests: list.map((one) => one.name.slice(0, 200)) }))
    const begun = new Map()
    const finish = async (groups) => {
      for (const own of groups) for (const action of own.after) await call(action)
    }
    for (let index = 0; index < list.length; index++) {
      const one = list[index], groups = lineage(one.group)
      fault = undefined
      let failed
      const attempt = async (action) => {
        try {
          await action()
        } catch (error) {
          failed ??= { error }
        }
      }
      await attempt(async () => {
        for (const own of groups) {
          if (!begun.has(own)) begun.set(own, rejected(async () => { for (const action of own.before) await call(action) }))
          const broken = await begun.get(own)
          if (broken !== undefined) throw broken.error
        }
        for (const own of groups) for (const action of own.beforeEach) await call(action)
        await call(one.body)
      })
      for (const own of groups.toReversed()) for (const action of own.afterEach) await attempt(() => call(action))
      const error = failed?.error
      const status = fault !== undefined ? fault.status : failed === undefined ? "pass" : candidateErrors.has(error) ? "error" : "fail"
      const detail = fault !== undefined ? fault.detail : failed === undefined ? "" : (error?.name ?? "Error") + ": " + StringOf(error?.message ?? error)
      ask(stringify({ result: index, status, detail: detail.slice(0, 300) }))
    }
    await rejected(() => finish([...begun.keys()].toReversed()))
    return "v"
  }
`
