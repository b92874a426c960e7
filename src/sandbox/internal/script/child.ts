/**
 * A child process of the JavaScript sandbox: evaluates one candidate at a time, in realms that it makes anew. It knows the
 * source and the input, never an expected value. Three clocks: the runtime's timeout, disposing the runtime's state, and
 * the end of this process, which also ends when it holds too much memory.
 */
import { writeFileSync } from "node:fs"
import { stripTypeScriptTypes } from "node:module"
import { answered, failed, result } from "./caseResult.ts"
import { lackOf, waitedUntilNow, type Share } from "./processShare.ts"
import { Ended, type ScriptRuntime, type RuntimeEvents, type Realm } from "./runtime.ts"
import { aroundCandidate, lookups } from "./modules.ts"
import type { CaseResult, ChildRequest, ChildResponse, SandboxLimits, Source } from "./protocol.ts"

/** Milliseconds between the runtime's timeout and disposing its state, and from there to the end of the process. */
const disposeAfter = 100
const dieAfter = 250
/** How often memory is looked at, in milliseconds, and what the process may hold beyond twice the limit. */
const pollEvery = 5
const allowance = 64 * 2 ** 20
/** After this many cases that had to be ended, the rest is not tried. */
const maxEnded = 2
/** How often a case is tried again that the machine was too busy for; then this process ends without a verdict. */
const maxStarved = 3

type Work<Kind extends ChildRequest["kind"]> = Extract<ChildRequest, { readonly kind: Kind }>

const die = (): void => {
  process.kill(process.pid, "SIGKILL")
}

/** Gives up what the process was given and does not need, as far as the platform lets it. */
const drop = (): void => {
  try {
    // the kernel's first choice when memory is short
    writeFileSync("/proc/self/oom_score_adj", "1000")
  } catch {}
  if (process.getuid?.() === 0) {
    try {
      process.setgroups!([65534])
      process.setgid!(65534)
      process.setuid!(65534)
    } catch {}
  }
}

const looksLikeModule = (source: string): boolean =>
  /(^|[;}])[ \t]*(export|import)\b/m.test(source) || /\bawait\b/.test(source)

const plain = ({ language, source }: Source): string =>
  language === "typescript" ? stripTypeScriptTypes(source, { mode: "transform" }) : source

/** Serves requests with a runtime until the host goes away. */
export const serve = (start: (events: RuntimeEvents) => Promise<ScriptRuntime>): void => {
  let id = -1
  let over = true
  let runtime: ScriptRuntime
  let poll: NodeJS.Timeout | undefined

  const finish = (results: ReadonlyArray<CaseResult>, recycle: boolean): void => {
    if (over) return
    over = true
    clearInterval(poll)
    const response: ChildResponse = { id, kind: "done", results, recycle }
    process.send!(response, undefined, {}, recycle ? die : undefined)
  }
  let results: Array<CaseResult> = []
  /** Milliseconds of the present evaluation that were not the candidate's. */
  let paused = 0
  /** What was waited until it began, or was last tried again: to ask for every case would cost more than a case. */
  let waited: number | undefined
  const share = (): Share => ({ computed: process.cpuUsage(), waited })
  /** This process cannot go on: what is known is said first. */
  const give = (status: CaseResult["status"]): void => finish([...results, result(status)], true)

  const watch = (limits: SandboxLimits): void => {
    const most = process.memoryUsage.rss() + 2 * limits.memoryMb * 2 ** 20 + allowance
    poll = setInterval(() => {
      if (process.memoryUsage.rss() > most) give("memory")
    }, pollEvery)
  }

  /** What the work comes to, by the clocks. */
  const timed = async (timeout: number, work: () => Promise<CaseResult>): Promise<CaseResult> => {
    // without a runtime there is no verdict: the host tries again in another process
    const before = performance.now()
    await runtime.ready().catch(die)
    paused += performance.now() - before
    const got = share()
    const dispose = setTimeout(() => runtime.dispose(), timeout + disposeAfter)
    const expire = (round: number): void => {
      if (lackOf(got, timeout) !== "waited") return give("timeout")
      if (round === maxStarved) return die()
      last = setTimeout(() => expire(round + 1), timeout)
    }
    let last = setTimeout(() => expire(0), timeout + disposeAfter + dieAfter)
    try {
      return await work()
    } catch (fault) {
      return failed(fault)
    } finally {
      clearTimeout(dispose)
      clearTimeout(last)
    }
  }

  /** Loads source for an operation that takes it as its first text: as a script, and where it is none, as a module. */
  const load = async (
    realm: Realm,
    timeout: number,
    source: string,
    names: ReadonlyArray<string>,
    operation: string,
    ...rest: ReadonlyArray<string>
  ): Promise<CaseResult> => {
    const held = lookups(names)
    const answer = await realm.invoke(timeout, operation, `${source}\n;${held}`, ...rest)
    if (!answer.startsWith("lSyntaxError") || !looksLikeModule(source)) return answered(answer)
    try {
      const own = `${source}\n;globalThis.__quintainHeld = ${held}`
      await realm.module(timeout, aroundCandidate, { of: "candidate", source: own })
    } catch (fault) {
      const read = failed(fault)
      return read.status === "error" ? result("load", read.text) : read
    }
    return answered(await realm.invoke(timeout, operation, null, ...rest))
  }

  const program = async (realm: Realm, timeout: number, source: string, input: string): Promise<CaseResult> => {
    await realm.invoke(timeout, "prepare", input)
    let fault: string | null = await realm.invoke(timeout, "program", source)
    if (fault.startsWith("v")) fault = null
    else if (looksLikeModule(source)) {
      fault = null
      try {
        await realm.module(timeout, source, { of: "program" })
      } catch (thrown) {
        if (thrown instanceof Ended && thrown.status === "timeout") throw thrown
        const read = failed(thrown)
        fault = `${read.status === "load" ? "l" : "e"}${read.text}`
      }
    }
    for (let answer = "t"; answer !== "n";) {
      answer = await realm.invoke(timeout, "tick")
      if (answer.startsWith("w")) await new Promise((resolve) => setTimeout(resolve, Number(answer.slice(1))))
    }
    return answered(await realm.invoke(timeout, "finish", fault))
  }

  const cases = async (request: Work<"call"> | Work<"run">): Promise<void> => {
    const { limits } = request
    let source: string
    try {
      source = plain(request.code)
    } catch (fault) {
      const text = failed(fault).text
      return finish(request.stopEarly ? [result("load", text)] : request.cases.map(() => result("load", text)), false)
    }
    const start = performance.now()
    let ended = 0
    // calls share a realm, in which the candidate is loaded once, until something had to be ended; programs never
    let realm: Realm | undefined
    const judge = (text: string, timeout: number): Promise<CaseResult> =>
      timed(timeout, async () => {
        if (request.kind === "call" && realm !== undefined) {
          return answered(await realm.invoke(timeout, "call", null, request.entry, text))
        }
        const own = await runtime.realm(request.kind, limits.memoryMb)
        if (request.kind === "run") return program(own, timeout, source, text)
        const first = await load(own, timeout, source, [request.entry], "call", request.entry, text)
        if (first.status !== "load") realm = own
        return first
      })
    for (const text of request.cases) {
      const left = limits.total - (performance.now() - start - paused)
      if (left <= 0 || ended >= maxEnded) {
        results.push(result("timeout"))
        continue
      }
      const timeout = Math.max(1, Math.ceil(Math.min(limits.timeout, left)))
      let outcome: CaseResult
      for (let attempt = 0; ; attempt++) {
        const [began, before] = [performance.now(), share()]
        // a longer clock lets what never ends compute its time, and be told from what was kept waiting
        outcome = await judge(text, timeout << attempt)
        if (over) return
        const lack = outcome.status === "timeout" ? lackOf(before, timeout) : undefined
        if (lack === undefined || (lack === "idle" && attempt > 0)) break
        // nobody's time; the host gives the evaluation to another process, and in the end calls it unscorable
        if (attempt === maxStarved) return die()
        realm = undefined
        runtime.abandon()
        await new Promise((resolve) => setTimeout(resolve, 50 << attempt))
        waited = waitedUntilNow()
        paused += performance.now() - began
      }
      results.push(outcome)
      if (outcome.status !== "value" && request.stopEarly) break
      if (outcome.status === "timeout" || outcome.status === "memory") {
        ended++
        realm = undefined
        runtime.abandon()
      }
    }
    finish(results, false)
  }

  // The candidate of a test file: it stays as it is from call to call, and is loaded anew after it had to be ended.
  let open:
    | { readonly request: Work<"open">; readonly source: string; realm: Realm | undefined; ended: number }
    | undefined

  const reload = async (): Promise<CaseResult> => {
    const { request, source } = open!
    const { memoryMb, timeout } = request.limits
    const realm = await runtime.realm("stay", memoryMb)
    const read = await load(realm, timeout, source, request.names, "load", JSON.stringify(request.names))
    if (read.status === "value") open!.realm = realm
    return read
  }

  const openOrApply = async (request: Work<"open"> | Work<"apply">): Promise<void> => {
    if (request.kind === "open") {
      try {
        open = { request, source: plain(request.code), realm: undefined, ended: 0 }
      } catch (fault) {
        return finish([result("load", failed(fault).text)], false)
      }
    }
    const session = open!
    if (session.ended >= maxEnded) return finish([result("timeout", "it had to be ended before")], false)
    const { timeout } = session.request.limits
    const outcome = await timed(timeout, async () => {
      if (request.kind === "open") return reload()
      if (session.realm === undefined) {
        const again = await reload()
        if (again.status !== "value") return again
      }
      return answered(await session.realm!.invoke(timeout, "apply", request.entry, request.args))
    })
    if (over) return
    if (outcome.status === "timeout" || outcome.status === "memory") {
      session.ended++
      session.realm = undefined
      runtime.abandon()
    }
    finish([outcome], false)
  }

  let answer: ((text: string) => void) | undefined
  const ask = (text: string): Promise<string> => {
    process.send!({ id, kind: "ask", text } satisfies ChildResponse)
    return text.startsWith('{"call"') ? new Promise((resolve) => (answer = resolve)) : Promise.resolve("")
  }

  const tests = async (request: Work<"test">): Promise<void> => {
    const { total, memoryMb } = request.limits
    let source: string
    try {
      source = plain(request.code)
    } catch {
      // what is no TypeScript may still be JavaScript
      source = request.code.source
    }
    const outcome = await timed(total, async () => {
      const realm = await runtime.realm("test", memoryMb, ask)
      await realm.invoke(total, "prepare", request.exports, JSON.stringify(request.names))
      try {
        await realm.module(total, source, { of: "tests", names: request.names })
      } catch (fault) {
        const read = failed(fault)
        return result(read.status === "error" ? "load" : read.status, read.text)
      }
      return answered(await realm.invoke(total, "tests"))
    })
    finish([outcome], false)
  }

  const evaluate = async (request: Exclude<ChildRequest, { readonly kind: "answer" }>): Promise<void> => {
    id = request.id
    over = false
    results = []
    paused = 0
    waited = waitedUntilNow()
    if (request.kind === "close") {
      open = undefined
      finish([], false)
    } else {
      const limits = request.kind === "apply" ? open!.request.limits : request.limits
      watch(limits)
      if (request.kind === "test") await tests(request)
      else if (request.kind === "open" || request.kind === "apply") await openOrApply(request)
      else await cases(request)
    }
    if (open === undefined) runtime.rest()
  }

  drop()
  process.on("message", (request: ChildRequest) => {
    if (request.kind === "answer") {
      const resolve = answer
      answer = undefined
      resolve?.(request.text)
    } else void evaluate(request)
  })
  process.on("disconnect", die)
  process.on("SIGINT", () => {})
  const begin = async (): Promise<void> => {
    runtime = await start({ onFatal: give })
    process.send!("ready")
  }
  void begin()
}
