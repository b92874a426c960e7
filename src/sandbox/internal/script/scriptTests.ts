/**
 * A user's test file against a candidate, each in a process of its own. The tests' calls travel through this process as
 * typed data; the candidate's process never has a test's source, its name, or an expected value.
 */
import type { Evaluation, TestResult } from "../../Sandbox.ts"
import * as ChildPool from "../childPool.ts"
import { importedNames } from "./modules.ts"
import type { CaseResult, ChildRequest, ChildResponse, SandboxLimits, Source } from "./protocol.ts"
import { grace, maxSource, ofCandidate, type Link, type Pool } from "./children.ts"

/** `final`: trying again would not help. */
type Outcome = Evaluation<TestResult> & { readonly final?: boolean }

/** Processes of a candidate that are started for one test file. */
const maxProcesses = 3
const maxTests = 2000

const stop = (detail: string): Outcome => ({ _tag: "Infrastructure", detail, final: true })
let nextId = 0

/** The candidate's process, replaced when the candidate ended it. */
class CandidateProcess {
  #link: Link | undefined
  #processes = 0
  readonly #pool: Pool
  readonly #open: Omit<Extract<ChildRequest, { readonly kind: "open" }>, "id">
  readonly #signal: AbortSignal | undefined
  /** The sandbox failed, not the candidate. */
  failed: string | undefined

  constructor(
    pool: Pool,
    code: Source,
    names: ReadonlyArray<string>,
    limits: SandboxLimits,
    signal: AbortSignal | undefined
  ) {
    this.#pool = pool
    this.#open = { kind: "open", code, names, limits }
    this.#signal = signal
  }

  async #ask(request: ChildRequest): Promise<CaseResult> {
    const { timeout } = this.#open.limits
    const link = this.#link!
    link.send(request)
    const outcome = await link.next(2 * timeout + grace)
    if (!ChildPool.isLost(outcome) && outcome.kind === "done" && outcome.results.length > 0) {
      if (outcome.recycle) this.#release(true)
      return outcome.results.at(-1)!
    }
    this.#release(true)
    const own = ChildPool.isLost(outcome) ? ofCandidate(outcome) : undefined
    if (own !== undefined) return own
    this.failed = ChildPool.isLost(outcome) ? outcome.detail : "an answer to nothing"
    return { status: "error", text: this.failed }
  }

  #release(end: boolean): void {
    this.#link?.release(end)
    this.#link = undefined
  }

  async open(): Promise<CaseResult> {
    if (this.#processes >= maxProcesses) return { status: "timeout", text: "it ended its process too often" }
    this.#processes++
    const link = await this.#pool.take(this.#signal)
    if (ChildPool.isLost(link)) {
      this.failed = link.detail
      return { status: "error", text: link.detail }
    }
    this.#link = link
    return this.#ask({ ...this.#open, id: nextId++ })
  }

  async call(entry: string, args: string): Promise<CaseResult> {
    if (this.#link === undefined) {
      const again = await this.open()
      if (again.status !== "value") return again
    }
    return this.#link === undefined
      ? { status: "error", text: "it ended its process" }
      : this.#ask({ id: nextId++, kind: "apply", entry, args })
  }

  async end(): Promise<void> {
    const link = this.#link
    if (link === undefined) return
    link.send({ id: nextId++, kind: "close" })
    const outcome = await link.next(grace)
    this.#release(ChildPool.isLost(outcome))
  }
}

export const evaluate = async (
  pool: Pool,
  code: Source,
  tests: string,
  limits: SandboxLimits,
  signal: AbortSignal | undefined
): Promise<Outcome> => {
  if (signal?.aborted) return stop("interrupted")
  if (tests.length > maxSource) return stop(`the test file is longer than ${maxSource} characters`)
  const names = importedNames(tests)
  if (names.length === 0) {
    return stop(
      'the test file imports nothing from the candidate: import it from a relative path, such as "./solution"'
    )
  }
  const candidate = new CandidateProcess(pool, code, names, limits, signal)
  let tester: Link | undefined
  let spent = true
  try {
    const opened: CaseResult =
      code.source.length > maxSource
        ? { status: "load", text: `the source is longer than ${maxSource} characters` }
        : await candidate.open()
    if (candidate.failed !== undefined) return { _tag: "Infrastructure", detail: candidate.failed }
    const exports = opened.status === "value" ? opened.text : JSON.stringify(opened)
    const link = await pool.take(signal)
    if (ChildPool.isLost(link)) return { _tag: "Infrastructure", detail: link.detail }
    tester = link
    const id = nextId++
    const request: ChildRequest = {
      id,
      kind: "test",
      code: { source: tests, language: "typescript" },
      exports,
      names,
      limits
    }
    link.send(request)

    const results: Array<TestResult> = []
    let listed: ReadonlyArray<string> | undefined
    const rest = (status: TestResult["status"], detail: string): Outcome => {
      if (listed === undefined) return stop(`the test file did not run: ${status}${detail === "" ? "" : `, ${detail}`}`)
      if (listed.length === 0) return stop("the test file has no tests")
      const all = listed.map((name, index) => results[index] ?? { name, status, detail })
      return { _tag: "Evaluated", results: all }
    }
    const deadline = performance.now() + limits.total + grace
    for (;;) {
      const message = await link.next(deadline - performance.now())
      if (ChildPool.isLost(message)) {
        if (message.lost === "hang") return rest("timeout", "the tests did not end")
        if (message.lost === "crash" && listed !== undefined) return rest("error", "the tests ended their process")
        return { _tag: "Infrastructure", detail: message.detail }
      }
      if (message.id !== id) continue
      if (message.kind === "done") {
        spent = message.recycle
        const last = message.results.at(-1)
        if (last?.status === "load") return stop(`the test file did not load: ${last.text}`)
        return rest(last === undefined || last.status === "value" ? "error" : last.status, last?.text ?? "")
      }
      const said = readAsk(message)
      if (said === undefined) return stop("the test file's process said what cannot be read")
      if ("call" in said) {
        const answer = names.includes(said.call)
          ? await candidate.call(said.call, said.args)
          : { status: "load" as const, text: `it exports no ${said.call}` }
        if (candidate.failed !== undefined) return { _tag: "Infrastructure", detail: candidate.failed }
        link.send({ id, kind: "answer", text: JSON.stringify(answer) })
      } else if ("unsupported" in said) return stop(said.unsupported)
      else if ("tests" in said) listed = said.tests
      else {
        const name = listed?.[said.result]
        if (name !== undefined) results[said.result] = { name, status: said.status, detail: said.detail }
      }
    }
  } finally {
    tester?.release(spent)
    await candidate.end()
  }
}

type Said =
  | { readonly call: string; readonly args: string }
  | { readonly tests: ReadonlyArray<string> }
  /** The tests need what does not travel: nobody is judged. */
  | { readonly unsupported: string }
  | { readonly result: number; readonly status: TestResult["status"]; readonly detail: string }

const statuses: ReadonlySet<unknown> = new Set(["pass", "fail", "load", "error", "timeout", "memory", "output"])

const readAsk = (message: Extract<ChildResponse, { readonly kind: "ask" }>): Said | undefined => {
  try {
    const said = JSON.parse(message.text) as Record<string, unknown>
    if (typeof said.call === "string" && typeof said.args === "string") return { call: said.call, args: said.args }
    if (typeof said.unsupported === "string") return { unsupported: said.unsupported.slice(0, 300) }
    if (Array.isArray(said.tests)) return { tests: said.tests.slice(0, maxTests).map(String) }
    if (typeof said.result !== "number" || !statuses.has(said.status)) return undefined
    return { result: said.result, status: said.status as TestResult["status"], detail: String(said.detail) }
  } catch {
    return undefined
  }
}
