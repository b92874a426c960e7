/**
 * The thread of a SandboxQuickJs child that the runtime runs on: QuickJS in WebAssembly, a runtime and a context per realm.
 * Its deadline is looked at by the interpreter itself; its memory is bounded twice, by the runtime's limit and by the
 * WebAssembly memory, which cannot grow beyond its maximum. After a native stack overflow, or any other end of the
 * WebAssembly code itself, the whole module is discarded.
 */
import type * as Core from "quickjs-emscripten-core"
import { pathToFileURL } from "node:url"
import { parentPort, receiveMessageOnPort, workerData } from "node:worker_threads"
import { prelude, type RealmKind } from "./prelude.ts"
import { Memory, type ThreadRequest, type ThreadResponse, type ThreadSetup } from "./quickjsProtocol.ts"
import { importsOf } from "./modules.ts"

const { core, signal, variant, wasm } = workerData as ThreadSetup
const { newQuickJSWASMModuleFromVariant, newVariant } = (await import(pathToFileURL(core).href)) as typeof Core
const loaded = (await import(pathToFileURL(variant).href)) as { default: Core.QuickJSSyncVariant }
const port = parentPort!

const page = 65_536
/** Bytes of the WebAssembly memory that QuickJS itself and its stack take. */
const overhead = 32 * 2 ** 20
const stack = 512 * 1024
/** Jobs that run between two looks at the clock. */
const batch = 256

interface Present {
  readonly runtime: Core.QuickJSRuntime
  readonly context: Core.QuickJSContext
  readonly run: Core.QuickJSHandle
}

let quickjs: { readonly module: Core.QuickJSWASMModule; readonly memoryMb: number } | undefined
let present: Present | undefined
/** Kind of the present realm, while nothing has run in it. */
let fresh: { readonly kind: RealmKind; readonly memoryMb: number } | undefined
/** Kind of the last realm. */
let last: typeof fresh
let deadline = 0
/** The interpreter was stopped at its deadline; what the candidate makes of that does not matter. */
let interrupted = false
const allow = (milliseconds: number): void => {
  deadline = performance.now() + milliseconds
  interrupted = false
}
const isLate = (): boolean => interrupted || performance.now() > deadline

class Fault extends Error {
  readonly status: "load" | "error" | "timeout" | "memory"
  constructor(status: Fault["status"], detail: string) {
    super(detail)
    this.status = status
  }
}

const quickjsModule = async (memoryMb: number): Promise<Core.QuickJSWASMModule> => {
  if (quickjs?.memoryMb !== memoryMb) {
    const memory = new Memory({ initial: 256, maximum: Math.ceil((memoryMb * 2 ** 20 + overhead) / page) })
    const own = newVariant(loaded.default, { wasmModule: wasm, wasmMemory: memory })
    quickjs = { module: await newQuickJSWASMModuleFromVariant(own), memoryMb }
  }
  return quickjs.module
}

const discard = (): void => {
  quickjs = undefined
  present = undefined
}

const endRealm = (): void => {
  const old = present
  fresh = undefined
  present = undefined
  try {
    old?.run.dispose()
    old?.context.dispose()
    old?.runtime.dispose()
  } catch {
    discard()
  }
}

const ask = (text: string): string => {
  Atomics.store(signal, 0, 0)
  port.postMessage({ ask: text } satisfies ThreadResponse)
  Atomics.wait(signal, 0, 0)
  return String(receiveMessageOnPort(port)?.message ?? "")
}

const open = async (kind: RealmKind, memoryMb: number): Promise<void> => {
  last = { kind, memoryMb }
  if (present !== undefined && fresh?.kind === kind && fresh.memoryMb === memoryMb) {
    fresh = undefined
    return
  }
  endRealm()
  const runtime = (await quickjsModule(memoryMb)).newRuntime()
  runtime.setMemoryLimit(memoryMb * 2 ** 20)
  runtime.setMaxStackSize(stack)
  runtime.setInterruptHandler(() => (interrupted ||= performance.now() > deadline))
  const context = runtime.newContext()
  if (kind === "test") {
    const answer = context.newFunction("ask", (text) => context.newString(ask(context.getString(text))))
    context.setProp(context.global, "__quintainAsk", answer)
    answer.dispose()
  }
  allow(1000)
  const run = context.unwrapResult(context.evalCode(prelude(kind), "prelude"))
  present = { runtime, context, run }
}

/** Runs what the realm has left to do; `false` when the deadline passed. */
const drain = ({ runtime }: Present): boolean => {
  while (runtime.hasPendingJob()) {
    if (isLate()) return false
    const done = runtime.executePendingJobs(batch)
    if (done.error !== undefined) {
      done.error.dispose()
      if (isLate()) return false
    } else done.dispose()
  }
  return !interrupted
}

const dumped = (context: Core.QuickJSContext, error: Core.QuickJSHandle): Fault => {
  if (isLate()) return new Fault("timeout", "")
  // names of errors of QuickJS itself: a candidate's are caught by the prelude, or are a module's
  const text = (key: string): string => {
    const own = context.getProp(error, key)
    try {
      return context.typeof(own) === "string" ? context.getString(own).slice(0, 200) : ""
    } finally {
      own.dispose()
    }
  }
  const isObject = context.typeof(error) === "object"
  const name = isObject ? text("name") : ""
  const message = isObject ? text("message") : ""
  if (message === "out of memory") return new Fault("memory", "")
  return new Fault(name === "SyntaxError" ? "load" : "error", name === "" ? "it threw" : `${name}: ${message}`)
}

/** The value that it comes to, once its promise has settled. */
const settle = (
  own: Present,
  result: ReturnType<Core.QuickJSContext["evalCode"]>,
  nested: boolean
): Core.QuickJSHandle => {
  const { context } = own
  if (result.error !== undefined) {
    const fault = dumped(context, result.error)
    result.error.dispose()
    throw fault
  }
  for (;;) {
    if (!drain(own)) throw new Fault("timeout", "")
    const state = context.getPromiseState(result.value)
    if (state.type === "fulfilled") {
      if (state.notAPromise !== true) result.value.dispose()
      return state.value
    }
    if (state.type === "rejected") {
      const fault = dumped(context, state.error)
      state.error.dispose()
      result.value.dispose()
      throw fault
    }
    const answer = nested ? "n" : invoke(own, ["tick"], true)
    if (answer.startsWith("e") || answer.startsWith("o")) throw new Fault("error", `in a timer: ${answer.slice(1)}`)
    if (answer === "n") throw new Fault("timeout", "its promise never settles")
    if (answer.startsWith("w")) {
      const left = Math.min(Number(answer.slice(1)), Math.max(0, deadline - performance.now()))
      Atomics.wait(idle, 0, 0, left)
      if (isLate()) throw new Fault("timeout", "")
    }
  }
}
const idle = new Int32Array(new SharedArrayBuffer(4))

const invoke = (own: Present, texts: ReadonlyArray<string | null>, nested: boolean): string => {
  const { context, run } = own
  const handles = texts.map((text) => (text === null ? context.null : context.newString(text)))
  const result = context.callFunction(run, context.undefined, ...handles)
  for (const handle of handles) if (handle !== context.null) handle.dispose()
  const value = settle(own, result, nested)
  const text = context.typeof(value) === "string" ? context.getString(value) : "e"
  value.dispose()
  return text
}

const work = async (request: ThreadRequest): Promise<string> => {
  switch (request.kind) {
    case "realm":
      await open(request.realm, request.memoryMb)
      return ""
    case "rest":
      endRealm()
      // the next one is made before it is needed
      if (last !== undefined) {
        await open(last.kind, last.memoryMb)
        fresh = last
      }
      return ""
    case "invoke":
      allow(request.timeout)
      return invoke(present!, request.texts, request.texts[0] === "tick")
    case "module": {
      allow(request.timeout)
      const source = importsOf(request.imports)
      present!.runtime.setModuleLoader(
        (specifier) => {
          try {
            return source(specifier)
          } catch (fault) {
            return { error: fault as Error }
          }
        },
        (_, specifier) => specifier
      )
      settle(present!, present!.context.evalCode(request.source, "main", { type: "module" }), false).dispose()
      return ""
    }
  }
}

/** QuickJS's own end: its state is not to be used again. */
const broken = (fault: unknown): Fault => {
  discard()
  const text = String(fault).slice(0, 200)
  if (isLate()) return new Fault("timeout", "")
  return new Fault(/memory/i.test(text) ? "memory" : "error", text)
}

port.on("message", (request: ThreadRequest) => {
  const { serial } = request
  void work(request).then(
    (text) => port.postMessage({ serial, text } satisfies ThreadResponse),
    (thrown: unknown) => {
      const fault = thrown instanceof Fault ? thrown : broken(thrown)
      // memory that was grown is never given back
      if (fault.status === "memory") discard()
      port.postMessage({ serial, status: fault.status, detail: fault.message } satisfies ThreadResponse)
    }
  )
})
