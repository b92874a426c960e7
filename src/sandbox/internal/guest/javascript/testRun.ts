/** Runs what a test file registered, one test after the other, and tells the host what became of each. */
import { stringify, StringOf } from "./intrinsics.ts"
import { operations } from "./operations.ts"
import { ask, candidate } from "./testCandidate.ts"
import { rejected } from "./testAssert.ts"
import { expect } from "./testExpect.ts"
import { root, type Action, type Group, type Test } from "./testSuites.ts"
import type { Loose } from "./loose.ts"

interface Planned {
  /** With the names of its groups. */
  readonly name: string
  readonly body: Action
  readonly group: Group
  readonly focus: boolean
}

const plan = (whole: Group, focused: boolean, skipped: boolean, prefix: string): ReadonlyArray<Planned> =>
  whole.entries.flatMap((entry: Test | Group) => {
    const skip = skipped || entry.mode === "skip"
    const focus = focused || entry.mode === "only"
    const name = prefix === "" ? entry.name : prefix + " > " + entry.name
    if (entry.kind === "group") return plan(entry, focus, skip, name)
    return skip || entry.body === undefined ? [] : [{ name, body: entry.body, group: entry.group, focus }]
  })

const lineage = (own: Group | undefined): ReadonlyArray<Group> =>
  own === undefined ? [] : [...lineage(own.parent), own]

/** An action that takes an argument may end by calling it. */
const perform = (action: Action): unknown =>
  action.length === 0
    ? action()
    : new Promise((resolve, reject) => {
        const done = (error?: unknown): void => (error ? reject(error as Error) : resolve(undefined))
        const returned = action(Object.assign(done, { expect }))
        if (returned !== undefined) Promise.resolve(returned).then(resolve, reject)
      })

const performAll = async (actions: ReadonlyArray<Action>): Promise<void> => {
  for (const action of actions) await perform(action)
}

/** Result of a test: the candidate's outcome counts before what the test made of it. */
const verdict = (
  failed: { readonly error: Loose } | undefined
): { readonly status: string; readonly detail: string } => {
  if (candidate.fault !== undefined) return candidate.fault
  if (failed === undefined) return { status: "pass", detail: "" }
  const { error } = failed
  return {
    status: candidate.errors.has(error) ? "error" : "fail",
    detail: (error?.name ?? "Error") + ": " + StringOf(error?.message ?? error)
  }
}

type Begun = Map<Group, Promise<{ readonly error: unknown } | undefined>>

const runOne = async ({ body, group }: Planned, begun: Begun): Promise<{ readonly error: unknown } | undefined> => {
  const groups = lineage(group)
  let failed: { readonly error: unknown } | undefined
  const attempt = async (work: () => unknown): Promise<void> => {
    const fault = await rejected(work)
    failed ??= fault
  }
  await attempt(async () => {
    for (const own of groups) {
      if (!begun.has(own))
        begun.set(
          own,
          rejected(() => performAll(own.before))
        )
      const broken = await begun.get(own)
      if (broken !== undefined) throw broken.error
    }
    for (const own of groups) await performAll(own.beforeEach)
    await perform(body)
  })
  for (const own of groups.toReversed()) for (const action of own.afterEach) await attempt(() => perform(action))
  return failed
}

operations.tests = async () => {
  let list = plan(root, false, false, "")
  if (list.some((one) => one.focus)) list = list.filter((one) => one.focus)
  ask(stringify({ tests: list.map((one) => one.name.slice(0, 200)) }))
  const begun: Begun = new Map()
  for (const [index, one] of list.entries()) {
    candidate.fault = undefined
    const { detail, status } = verdict(await runOne(one, begun))
    ask(stringify({ result: index, status, detail: detail.slice(0, 300) }))
  }
  await rejected(async () => {
    for (const own of [...begun.keys()].toReversed()) await performAll(own.after)
  })
  return "v"
}
