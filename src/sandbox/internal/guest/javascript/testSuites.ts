/** `describe`, `test` and hooks: what a test file registers, and what it can import. */
import { global, hidden, isArray, parse, stringify, StringOf } from "./intrinsics.ts"
import { operations } from "./operations.ts"
import { ended, readAll, remote, show } from "./testCandidate.ts"
import { assert } from "./testAssert.ts"
import { expect } from "./testExpect.ts"
import type { Loose } from "./loose.ts"

export type Action = (...args: ReadonlyArray<Loose>) => unknown
type Mode = "skip" | "only" | undefined
type Hook = "before" | "after" | "beforeEach" | "afterEach"

export interface Test {
  readonly kind: "test"
  readonly name: string
  readonly body: Action | undefined
  readonly mode: Mode
  readonly group: Group
}
export interface Group extends Readonly<Record<Hook, Array<Action>>> {
  readonly kind: "group"
  readonly name: string
  readonly parent: Group | undefined
  readonly mode: Mode
  readonly entries: Array<Test | Group>
}

const group = (name: string, parent: Group | undefined, mode: Mode): Group => ({
  kind: "group",
  name,
  parent,
  mode,
  entries: [],
  before: [],
  after: [],
  beforeEach: [],
  afterEach: []
})
export const root = group("", undefined, undefined)
let open = root

/** A name of `test.each`, with the row's values in the place of `%s` and `$key`. */
const fill = (text: string, row: ReadonlyArray<Loose>): string => {
  let index = 0
  const next = (): string => {
    const value = row[index++]
    return typeof value === "string" ? value : show(value)
  }
  return text
    .replace(/%[sdifjop#%]/g, (mark) => (mark === "%%" ? "%" : index < row.length ? next() : mark))
    .replace(/\$(\w+)/g, (mark, key: string) =>
      typeof row[0] === "object" && row[0] !== null && key in row[0] ? show(row[0][key]) : mark
    )
}

type Define = (name: unknown, ...args: ReadonlyArray<unknown>) => void

const body = (args: ReadonlyArray<unknown>): Action | undefined =>
  args.find((one): one is Action => typeof one === "function")
const add =
  (mode: Mode): Define =>
  (name, ...args) => {
    open.entries.push({ kind: "test", name: StringOf(name), body: body(args), mode, group: open })
  }
const into =
  (mode: Mode): Define =>
  (name, ...args) => {
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
const rows =
  (register: Define) =>
  (table: Iterable<unknown>) =>
  (name: unknown, action: Action): void => {
    for (const row of table) {
      const values: ReadonlyArray<unknown> = isArray(row) ? row : [row]
      register(fill(StringOf(name), values), () => action(...values))
    }
  }
const forms = (make: (mode: Mode) => Define) => {
  const plain = make(undefined)
  const skip = make("skip")
  const only = make("only")
  return Object.assign(plain, {
    skip,
    only,
    todo: make("skip"),
    each: rows(plain),
    for: rows(plain),
    concurrent: plain,
    sequential: plain,
    skipIf: (is: unknown) => (is ? skip : plain),
    runIf: (is: unknown) => (is ? plain : skip)
  })
}
const test = forms(add)
const describe = forms(into)
const hook = (name: Hook) => (action: Action) => {
  open[name].push(action)
}
const kit = {
  describe,
  suite: describe,
  it: test,
  test,
  expect,
  assert,
  beforeEach: hook("beforeEach"),
  afterEach: hook("afterEach"),
  beforeAll: hook("before"),
  afterAll: hook("after"),
  before: hook("before"),
  after: hook("after")
}
for (const [name, value] of Object.entries(kit)) hidden(global, name, value)

const testModules = {
  __proto__: null,
  vitest: kit,
  "@jest/globals": kit,
  "bun:test": kit,
  test: Object.assign(test, kit),
  assert,
  "assert/strict": assert,
  chai: { assert, expect }
} as unknown as Record<string, unknown>

/** Exports of the candidate as its process told them: its fault, or for each name whether it is a function or data. */
type Exports = ReadonlyArray<readonly [kind: "n" | "f" | "d", data?: unknown]>
type Fault = { readonly status: string; readonly text: string }

operations.prepare = (exportsText: string, namesText: string) => {
  const given = parse(exportsText) as Exports | Fault
  const names = parse(namesText) as ReadonlyArray<string>
  const solution = { __proto__: null } as unknown as Record<string, unknown>
  const missing = (status: string, detail: string) => () => {
    throw ended(status, detail)
  }
  for (const [index, name] of names.entries()) {
    if ("status" in given) solution[name] = missing(given.status, given.text)
    else {
      const [kind, data] = given[index]!
      if (kind === "n") solution[name] = missing("load", "it defines no " + name)
      else solution[name] = kind === "f" ? remote(name) : readAll(data)
    }
  }
  testModules["./"] = solution
  hidden(global, "__quintainModule", (name: string) => testModules[name])
  hidden(global, "require", (name: string) => {
    if (/^[./]/.test(name)) return solution
    const found = testModules[StringOf(name).replace(/^node:/, "")]
    if (found === undefined) throw new Error("Cannot find module " + stringify(name))
    return found
  })
  return "v"
}
