/**
 * A child process of the JavaScript sandbox: evaluates one candidate at a time, in realms of its own. It knows the
 * source and the input, never an expected value. Three clocks: the runtime's timeout, disposing the runtime's state, and
 * the end of this process, which also ends when it holds too much memory.
 */
import { writeFileSync } from "node:fs"
import { stripTypeScriptTypes } from "node:module"
import { answered, failed, result } from "./caseResult.ts"
import { lackOf, waitedUntilNow, type Share } from "./processShare.ts"
import type { ScriptRuntime, RuntimeEvents, Realm } from "./runtime.ts"
import { load, program } from "./candidate.ts"
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

const plain = ({ language, source }: Source): string =>
  language === "typescript" ? stripTypeScriptTypes(source, { mode: "transform" }) : source

/** The candidate of a test file: it stays as it is from call to call, and is loaded again after it had to be ended. */
interface Open {
  readonly request: Work<"open">
  readonly source: string
  realm: Realm | undefined
  ended: number
}

/** A child process at work: one evaluation at a time. */
class Child {
  #id = -1
  #over = true
  #runtime!: ScriptRuntime
  #poll: NodeJS.Timeout | undefined
  #results: Array<CaseResult> = []
  /** Milliseconds of the present evaluation that were not the candidate's. */
  #paused = 0
  /** Time waited until it began, or was last tried again: to ask for every case would cost more than a case. */
  #waited: number | undefined
  #open: Open | undefined
  /** Takes the answer that the tests wait for. */
  answer: ((text: string) => void) | undefined

  async begin(start: (events: RuntimeEvents) => Promise<ScriptRuntime>): Promise<void> {
    this.#runtime = await start({ onFatal: (status) => this.give(status) })
    process.send!("ready")
  }

  #finish(results: ReadonlyArray<CaseResult>, recycle: boolean): void {
    if (this.#over) return
    this.#over = true
    clearInterval(this.#poll)
    const response: ChildResponse = { id: this.#id, kind: "done", results, recycle }
    process.send!(response, undefined, {}, recycle ? die : undefined)
  }
  #share(): Share {
    return { computed: process.cpuUsage(), waited: this.#waited }
  }

  /** Ends this process, which cannot continue; known results are sent first. */
  give(status: CaseResult["status"]): void {
    this.#finish([...this.#results, result(status)], true)
  }

  #watch(limits: SandboxLimits): void {
    const most = process.memoryUsage.rss() + 2 * limits.memoryMb * 2 ** 20 + allowance
    this.#poll = setInterval(() => {
      if (process.memoryUsage.rss() > most) this.give("memory")
    }, pollEvery)
  }

  /** The result of the work, by the clocks. */
  async #timed(timeout: number, work: () => Promise<CaseResult>): Promise<CaseResult> {
    // without a runtime there is no verdict: the host tries again in another process
    const before = performance.now()
    await this.#runtime.ready().catch(die)
    this.#paused += performance.now() - before
    const got = this.#share()
    const dispose = setTimeout(() => this.#runtime.dispose(), timeout + disposeAfter)
    const expire = (round: number): void => {
      if (lackOf(got, timeout) !== "waited") return this.give("timeout")
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

  /** Judges a case again while the machine was too busy. `undefined`: this process has given its results already. */
  async #attempts(
    timeout: number,
    judge: (longest: number) => Promise<CaseResult>,
    forget: () => void
  ): Promise<CaseResult | undefined> {
    for (let attempt = 0; ; attempt++) {
      const [began, before] = [performance.now(), this.#share()]
      // a longer clock lets what never ends compute its time, and be told from what was kept waiting
      const outcome = await judge(timeout << attempt)
      if (this.#over) return undefined
      const lack = outcome.status === "timeout" ? lackOf(before, timeout) : undefined
      if (lack === undefined || (lack === "idle" && attempt > 0)) return outcome
      // nobody's time; the host gives the evaluation to another process, and in the end calls it unscorable
      if (attempt === maxStarved) {
        die()
        return undefined
      }
      forget()
      this.#runtime.abandon()
      await new Promise((resolve) => setTimeout(resolve, 50 << attempt))
      this.#waited = waitedUntilNow()
      this.#paused += performance.now() - began
    }
  }

  async #cases(request: Work<"call"> | Work<"run">): Promise<void> {
    const { limits } = request
    let source: string
    try {
      source = plain(request.code)
    } catch (fault) {
      const text = failed(fault).text
      return this.#finish(
        request.stopEarly ? [result("load", text)] : request.cases.map(() => result("load", text)),
        false
      )
    }
    const start = performance.now()
    let ended = 0
    // calls share a realm, in which the candidate is loaded once, until something had to be ended; programs never
    let realm: Realm | undefined
    const judge = (text: string, timeout: number): Promise<CaseResult> =>
      this.#timed(timeout, async () => {
        if (request.kind === "call" && realm !== undefined) {
          return answered(await realm.invoke(timeout, "call", null, request.entry, text))
        }
        const own = await this.#runtime.realm(request.kind, limits.memoryMb)
        if (request.kind === "run") return program(own, timeout, source, text)
        const first = await load(own, timeout, source, [request.entry], "call", request.entry, text)
        if (first.status !== "load") realm = own
        return first
      })
    for (const text of request.cases) {
      const left = limits.total - (performance.now() - start - this.#paused)
      if (left <= 0 || ended >= maxEnded) {
        this.#results.push(result("timeout"))
        continue
      }
      const timeout = Math.max(1, Math.ceil(Math.min(limits.timeout, left)))
      const outcome = await this.#attempts(
        timeout,
        (longest) => judge(text, longest),
        () => (realm = undefined)
      )
      if (outcome === undefined) return
      this.#results.push(outcome)
      if (outcome.status !== "value" && request.stopEarly) break
      if (outcome.status === "timeout" || outcome.status === "memory") {
        ended++
        realm = undefined
        this.#runtime.abandon()
      }
    }
    this.#finish(this.#results, false)
  }

  async #reload(): Promise<CaseResult> {
    const { request, source } = this.#open!
    const { memoryMb, timeout } = request.limits
    const realm = await this.#runtime.realm("stay", memoryMb)
    const read = await load(realm, timeout, source, request.names, "load", JSON.stringify(request.names))
    if (read.status === "value") this.#open!.realm = realm
    return read
  }

  async #openOrApply(request: Work<"open"> | Work<"apply">): Promise<void> {
    if (request.kind === "open") {
      try {
        this.#open = { request, source: plain(request.code), realm: undefined, ended: 0 }
      } catch (fault) {
        return this.#finish([result("load", failed(fault).text)], false)
      }
    }
    const session = this.#open!
    if (session.ended >= maxEnded) return this.#finish([result("timeout", "it had to be ended before")], false)
    const { timeout } = session.request.limits
    const outcome = await this.#timed(timeout, async () => {
      if (request.kind === "open") return this.#reload()
      if (session.realm === undefined) {
        const again = await this.#reload()
        if (again.status !== "value") return again
      }
      return answered(await session.realm!.invoke(timeout, "apply", request.entry, request.args))
    })
    if (this.#over) return
    if (outcome.status === "timeout" || outcome.status === "memory") {
      session.ended++
      session.realm = undefined
      this.#runtime.abandon()
    }
    this.#finish([outcome], false)
  }

  #ask(text: string): Promise<string> {
    process.send!({ id: this.#id, kind: "ask", text } satisfies ChildResponse)
    return text.startsWith('{"call"') ? new Promise((resolve) => (this.answer = resolve)) : Promise.resolve("")
  }

  async #tests(request: Work<"test">): Promise<void> {
    const { total, memoryMb } = request.limits
    let source: string
    try {
      source = plain(request.code)
    } catch {
      // what is no TypeScript may still be JavaScript
      source = request.code.source
    }
    const outcome = await this.#timed(total, async () => {
      const realm = await this.#runtime.realm("test", memoryMb, (text) => this.#ask(text))
      await realm.invoke(total, "prepare", request.exports, JSON.stringify(request.names))
      try {
        await realm.module(total, source, { of: "tests", names: request.names })
      } catch (fault) {
        const read = failed(fault)
        return result(read.status === "error" ? "load" : read.status, read.text)
      }
      return answered(await realm.invoke(total, "tests"))
    })
    this.#finish([outcome], false)
  }

  async evaluate(request: Exclude<ChildRequest, { readonly kind: "answer" }>): Promise<void> {
    this.#id = request.id
    this.#over = false
    this.#results = []
    this.#paused = 0
    this.#waited = waitedUntilNow()
    if (request.kind === "close") {
      this.#open = undefined
      this.#finish([], false)
    } else {
      const limits = request.kind === "apply" ? this.#open!.request.limits : request.limits
      this.#watch(limits)
      if (request.kind === "test") await this.#tests(request)
      else if (request.kind === "open" || request.kind === "apply") await this.#openOrApply(request)
      else await this.#cases(request)
    }
    if (this.#open === undefined) this.#runtime.rest()
  }
}

/** Serves requests with a runtime until the host goes away. */
export const serve = (start: (events: RuntimeEvents) => Promise<ScriptRuntime>): void => {
  const child = new Child()
  drop()
  process.on("message", (request: ChildRequest) => {
    if (request.kind === "answer") {
      const resolve = child.answer
      child.answer = undefined
      resolve?.(request.text)
    } else void child.evaluate(request)
  })
  process.on("disconnect", die)
  process.on("SIGINT", () => {})
  void child.begin(start)
}
