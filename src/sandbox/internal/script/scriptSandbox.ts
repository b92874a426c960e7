/**
 * The host's side of the JavaScript runtimes: how an evaluation travels to a child process, and what comes back. What a
 * candidate does is a status of the candidate. Only a failure of the sandbox itself is `Infrastructure`.
 */
import { availableParallelism } from "node:os"
import { isMainThread } from "node:worker_threads"
import type { CallResult, Candidate, Evaluation, Sandbox, SandboxOptions } from "../../Sandbox.ts"
import * as TypedData from "../../TypedData.ts"
import * as ChildPool from "../childPool.ts"
import {
  grace,
  maxSource,
  ofCandidate,
  startChildren,
  type Children,
  type Pool,
  type RuntimeParts
} from "./children.ts"
import { isName } from "./modules.ts"
import type { CaseResult, ChildRequest, SandboxLimits, Source } from "./protocol.ts"
import * as scriptTests from "./scriptTests.ts"

/** How often an evaluation is tried when its child died without a word. */
const attempts = 2

/** Slots for evaluations, handed on first come, first served. */
const slotsOf = (size: number) => {
  const waiting = new Set<() => void>()
  let running = 0
  /** Waits for a slot; `false` if the caller gave up before. */
  const queued = (signal: AbortSignal | undefined): Promise<boolean> =>
    new Promise((resolve) => {
      const settle = (given: boolean): void => {
        waiting.delete(take)
        signal?.removeEventListener("abort", leave)
        resolve(given)
      }
      const take = (): void => settle(true)
      const leave = (): void => settle(false)
      if (signal?.aborted) return resolve(false)
      waiting.add(take)
      signal?.addEventListener("abort", leave, { once: true })
    })
  return {
    /** `false` if the caller gave up before. */
    take: (signal: AbortSignal | undefined): Promise<boolean> => {
      if (running >= size) return queued(signal)
      running++
      return Promise.resolve(true)
    },
    give: (): void => {
      const [next] = waiting
      if (next === undefined) running--
      else next()
    }
  }
}

/** One try in one child. */
const attempt = async (pool: Pool, request: ChildRequest, limits: SandboxLimits, signal?: AbortSignal) => {
  const link = await pool.take(signal)
  if (ChildPool.isLost(link)) return link
  link.send(request)
  const outcome = await link.next(limits.total + limits.timeout + grace)
  const done = !ChildPool.isLost(outcome) && outcome.kind === "done" && outcome.id === request.id ? outcome : undefined
  link.release(done?.recycle ?? true)
  return done ?? (ChildPool.isLost(outcome) ? outcome : { lost: "outside" as const, detail: "an answer to nothing" })
}

export const make = (parts: RuntimeParts, options: SandboxOptions): Sandbox => {
  const limits: SandboxLimits = {
    timeout: options.timeout ?? 1000,
    total: options.total ?? 5000,
    memoryMb: Math.max(8, options.memoryMb ?? 64)
  }
  const size = options.children ?? (isMainThread ? availableParallelism() : 1)
  const slots = slotsOf(size)
  let nextId = 0
  let ready: Promise<Children> | undefined

  const started = (): NonNullable<typeof ready> => {
    if (ready === undefined) {
      const own = (ready = startChildren(parts, options, limits, size))
      // a start that failed is tried again by the next evaluation
      own.catch(() => {
        if (ready === own) ready = undefined
      })
    }
    return ready
  }

  /** One evaluation at a time per child. */
  const inSlot = async <Result>(
    signal: AbortSignal | undefined,
    work: (pool: Pool) => Promise<Evaluation<Result>>
  ): Promise<Evaluation<Result>> => {
    const { pool } = await started()
    if (!(await slots.take(signal))) return infrastructure("interrupted")
    try {
      return await work(pool)
    } finally {
      slots.give()
    }
  }

  const evaluate = <Value>(
    request: Extract<ChildRequest, { readonly kind: "call" | "run" }>,
    read: (result: CaseResult) => CallResult<Value>,
    signal: AbortSignal | undefined
  ): Promise<Evaluation<CallResult<Value>>> =>
    inSlot(signal, async (pool) => {
      if (request.code.source.length > maxSource) {
        return every(request, { status: "load", text: `the source is longer than ${maxSource} characters` }, read)
      }
      for (let tried = 1; ; tried++) {
        if (signal?.aborted) return infrastructure("interrupted")
        const outcome = await attempt(pool, request, limits, signal)
        if (!ChildPool.isLost(outcome)) {
          return { _tag: "Evaluated", results: outcome.results.slice(0, request.cases.length).map(read) }
        }
        if (signal?.aborted) return infrastructure("interrupted")
        if (tried < attempts) continue
        const own = ofCandidate(outcome)
        return own === undefined ? infrastructure(outcome.detail) : every(request, own, read)
      }
    })

  const call: Sandbox["call"] = async (candidate, work, signal) => {
    if (!isName(work.entry)) return infrastructure(`${JSON.stringify(work.entry)} is not the name of a function`)
    const cases = work.calls.map((one) => TypedData.encode(one, "script"))
    const { entry, stopEarly = false } = work
    const code = codeOf(candidate)
    return evaluate({ id: nextId++, kind: "call", code, entry, cases, limits, stopEarly }, readValue, signal)
  }

  const run: Sandbox["run"] = async (candidate, work, signal) => {
    const { inputs: cases, stopEarly = false } = work
    const code = codeOf(candidate)
    return evaluate({ id: nextId++, kind: "run", code, cases, limits, stopEarly }, readText, signal)
  }

  const test: Sandbox["test"] = (candidate, work, signal) =>
    inSlot(signal, async (pool) => {
      const code = codeOf(candidate)
      for (let tried = 1; ; tried++) {
        const outcome = await scriptTests.evaluate(pool, code, work.tests, limits, signal)
        if (outcome._tag === "Evaluated" || tried >= attempts || signal?.aborted || outcome.final === true)
          return outcome
      }
    })

  const close = async (): Promise<void> => {
    const present = ready
    ready = undefined
    await present?.then(
      ({ pool }) => pool.close(),
      () => {}
    )
  }

  return { boundary: async () => (await started()).boundary, call, run, test, close }
}

const infrastructure = (detail: string) => ({ _tag: "Infrastructure" as const, detail })

const codeOf = ({ language, source }: Candidate): Source => {
  if (language === "python")
    throw new TypeError("a JavaScript runtime does not run python: make the sandbox for that language")
  return { source, language }
}

const every = <Value>(
  { cases, stopEarly }: { readonly cases: ReadonlyArray<string>; readonly stopEarly: boolean },
  result: CaseResult,
  read: (result: CaseResult) => CallResult<Value>
): Evaluation<CallResult<Value>> => ({
  _tag: "Evaluated",
  results: (stopEarly ? cases.slice(0, 1) : cases).map(() => read(result))
})

/** The child is not trusted either: what it says is text until it has been read here. */
const readValue = (result: CaseResult): CallResult => {
  if (result.status !== "value") return { status: result.status, detail: String(result.text) }
  try {
    return { status: "value", value: TypedData.decode(result.text) }
  } catch {
    return { status: "error", detail: "it returned something that is no data" }
  }
}

const readText = (result: CaseResult): CallResult<string> =>
  result.status === "value"
    ? { status: "value", value: String(result.text) }
    : { status: result.status, detail: String(result.text) }
