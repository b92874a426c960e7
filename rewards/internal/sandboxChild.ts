/**
 * A child process of the JavaScript sandbox: evaluates one candidate at a time in isolates that it makes anew for every
 * evaluation. It knows the source and the arguments, never an expected value. Three clocks: the engine's timeout,
 * `isolate.dispose()`, and the end of this process, which also ends when it holds too much memory.
 *
 * Started with `--no-concurrent-osr`, without which V8 13.6 cannot end some loops; with `--no-concurrent-recompilation`,
 * because the first flag alone leaves hot loops unoptimised (2 million rounds: 400 ms against 10); with an empty environment;
 * and under node's permission model: should a candidate ever leave its isolate, it finds no files but this code, and
 * no processes.
 */
import type ivm from "isolated-vm"
import { writeFileSync } from "node:fs"
import { createRequire, stripTypeScriptTypes } from "node:module"
import { prelude } from "./isolatePrelude.ts"
import type { CaseResult, CaseStatus, ChildRequest, ChildResponse } from "./sandboxProtocol.ts"

// By path: the folders that a search would look in are closed to this process.
const { Isolate } = createRequire(import.meta.url)(process.argv[2]!) as typeof ivm

/** Milliseconds between the engine's timeout and disposing the isolate, and from there to the end of the process. */
const disposeAfter = 100
const dieAfter = 250
/** How often memory is looked at, in milliseconds, and what the process may hold beyond twice the isolate's limit. */
const pollEvery = 5
const allowance = 64 * 2 ** 20
/** After this many cases that had to be ended, the rest is not tried. */
const maxEnded = 2

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

const send = (response: ChildResponse, end: boolean): void => {
  process.send!(response, undefined, {}, end ? die : undefined)
}

const result = (status: CaseStatus, text = ""): CaseResult => ({ status, text })

/** What a rejection of isolated-vm says; its texts are its interface. */
const statusOf = (fault: unknown): CaseResult => {
  const message = fault instanceof Error ? fault.message : ""
  if (message.includes("memory limit")) return result("memory")
  if (message.includes("timed out") || message.includes("disposed")) return result("timeout")
  return result("error", message.slice(0, 200))
}

const responses: Readonly<Record<string, CaseStatus>> = { v: "value", l: "load", e: "error", o: "output" }

const looksLikeModule = (source: string): boolean =>
  /(^|[;}])\s*(export|import)\b/m.test(source) || /\bawait\b/.test(source)

const end = (isolate: ivm.Isolate): void => {
  try {
    isolate.dispose()
  } catch {
    // It has ended by itself: it may do so at any moment while it is short of memory, and then this throws.
  }
}

const evaluate = async (request: ChildRequest): Promise<void> => {
  const { cases, entry, id, limits } = request
  const results: Array<CaseResult> = []
  let over = false
  const finish = (last: CaseResult | undefined, recycle: boolean): void => {
    if (over) return
    over = true
    clearInterval(poll)
    if (last !== undefined) results.push(last)
    send({ id, results, recycle }, recycle)
  }
  const most = process.memoryUsage.rss() + 2 * limits.memoryMb * 2 ** 20 + allowance
  const poll = setInterval(() => {
    if (process.memoryUsage.rss() > most) finish(result("memory"), true)
  }, pollEvery)

  let source = request.source
  if (request.language === "typescript") {
    try {
      source = stripTypeScriptTypes(source, { mode: "transform" })
    } catch (fault) {
      return finish(result("load", statusOf(fault).text), false)
    }
  }

  const start = performance.now()
  let isolate: ivm.Isolate | undefined
  let script: ivm.Script | undefined
  let asModule = false
  let ended = 0
  for (const text of cases) {
    const left = limits.total - (performance.now() - start)
    if (left <= 0 || ended >= maxEnded) {
      results.push(result("timeout"))
      continue
    }
    const timeout = Math.max(1, Math.ceil(Math.min(limits.timeout, left)))
    if (isolate === undefined || isolate.isDisposed) {
      isolate = new Isolate({
        memoryLimit: limits.memoryMb,
        // the isolate's state is lost, this process may not be able to exit any other way
        onCatastrophicError: () => finish(result("memory"), true)
      })
      script = undefined
    }
    const present: ivm.Isolate = isolate
    const dispose = setTimeout(() => end(present), timeout + disposeAfter)
    const last = setTimeout(() => finish(result("timeout"), true), timeout + disposeAfter + dieAfter)
    let outcome: CaseResult
    try {
      const context = await present.createContext()
      script ??= await present.compileScript(prelude)
      const run = (await script.run(context, { reference: true, timeout })) as ivm.Reference
      const call = async (code: string | undefined, fallback?: ivm.Dereference<unknown>) =>
        String(
          await run.apply(
            undefined,
            [code, entry, text, fallback] as never,
            {
              timeout,
              result: { promise: true, copy: true }
            } as never
          )
        )
      let answer = asModule ? "l" : await call(source)
      if (answer.startsWith("l") && looksLikeModule(source)) {
        const fromModule = await loadModule(present, context, source, entry, timeout)
        asModule = true
        answer = await call(undefined, fromModule)
      }
      outcome = result(responses[answer[0] ?? ""] ?? "error", answer.slice(1))
      context.release()
    } catch (fault) {
      outcome = fault instanceof SyntaxError ? result("load", fault.message.slice(0, 200)) : statusOf(fault)
    }
    clearTimeout(dispose)
    clearTimeout(last)
    if (over) return
    results.push(outcome)
    if (outcome.status !== "value" && request.stopEarly) break
    if (outcome.status === "timeout" || outcome.status === "memory") {
      ended++
      end(present)
    }
  }
  if (isolate !== undefined) end(isolate)
  finish(undefined, false)
}

/** Modules are for `export` and top-level `await`; nothing can be imported. */
const loadModule = async (
  isolate: ivm.Isolate,
  context: ivm.Context,
  source: string,
  entry: string,
  timeout: number
): Promise<ivm.Dereference<unknown> | undefined> => {
  const holder = "__quintainEntry"
  const module = await isolate.compileModule(
    `${source}\n;globalThis.${holder} = typeof ${entry} === "undefined" ? undefined : ${entry}`
  )
  await module.instantiate(context, (specifier) => {
    throw new Error(`nothing can be imported here, not ${specifier.slice(0, 100)}`)
  })
  await module.evaluate({ timeout, promise: true } as never)
  const found = await context.global.get(holder, { reference: true })
  if (found.typeof === "function") return found.derefInto()
  const byDefault = await module.namespace.get("default", { reference: true })
  return byDefault.typeof === "function" ? byDefault.derefInto() : undefined
}

drop()
process.on("message", (request: ChildRequest) => void evaluate(request))
process.on("disconnect", die)
process.on("SIGINT", () => {})
process.send!("ready")
