/** isolated-vm as a runtime of the sandbox's child process: an isolate per evaluation, a context per realm. */
import type ivm from "isolated-vm"
import { createRequire } from "node:module"
import { Ended, pump, type ScriptRuntime, type RuntimeEvents, type Realm } from "./runtime.ts"
import { prelude, type RealmKind } from "./prelude.ts"
import { importsOf } from "./modules.ts"

/** Milliseconds that an operation may take before its timers are looked at. */
const patience = 2
/** Contexts that are made ahead, at most: they take a little of the isolate's memory. */
const maxSpare = 8

interface Prepared {
  readonly context: ivm.Context
  readonly run: ivm.Reference
}

/** @param addon Path of the module: the folders that a search would look in are closed to this process. */
export const make = (addon: string, events: RuntimeEvents): ScriptRuntime => {
  const { Isolate, Reference } = createRequire(import.meta.url)(addon) as typeof ivm
  const compiled = new Map<RealmKind, ivm.ExternalCopy<ArrayBuffer>>()
  let isolate: ivm.Isolate | undefined
  let script: ivm.Script | undefined
  let kindNow: RealmKind = "call"
  let memoryNow = 64
  let used = 1
  const spare: Array<Prepared> = []

  const end = (): void => {
    spare.length = 0
    script = undefined
    const ending = isolate
    isolate = undefined
    try {
      ending?.dispose()
    } catch {
      // It has ended by itself: it may do so at any moment while it is short of memory, and then this throws.
    }
  }

  const begin = (): ivm.Isolate =>
    (isolate = new Isolate({ memoryLimit: memoryNow, onCatastrophicError: () => events.onFatal("memory") }))

  const compile = (present: ivm.Isolate): ivm.Script => {
    const cached = compiled.get(kindNow)
    if (cached !== undefined) return present.compileScriptSync(prelude(kindNow), { cachedData: cached })
    const own = present.compileScriptSync(prelude(kindNow), { produceCachedData: true })
    const { cachedData } = own as { cachedData?: ivm.ExternalCopy<ArrayBuffer> }
    if (cachedData !== undefined) compiled.set(kindNow, cachedData)
    return own
  }

  const realm: ScriptRuntime["realm"] = async (kind, memoryMb, ask) => {
    if (memoryMb !== memoryNow || kind !== kindNow) {
      // nothing of a candidate's has run in what is thrown away
      end()
      memoryNow = memoryMb
      kindNow = kind
    }
    if (isolate?.isDisposed) end()
    const present = isolate ?? begin()
    used++
    let prepared = ask === undefined ? spare.pop() : undefined
    if (prepared === undefined) {
      // asynchronous, because what an earlier case left behind may still run in this isolate
      const context = await present.createContext()
      if (ask !== undefined) await context.global.set("__quintainAsk", new Reference(ask))
      script ??= compile(present)
      prepared = { context, run: (await script.run(context, { reference: true })) as ivm.Reference }
    }
    return inContext(present, prepared)
  }

  const inContext = (own: ivm.Isolate, { context, run }: Prepared): Realm => {
    const apply = (texts: ReadonlyArray<string | null>, timeout: number): Promise<string> =>
      run.apply(undefined, texts as never, { timeout, result: { promise: true, copy: true } } as never).then(String)
    const settle = <A>(work: Promise<A>, timeout: number): Promise<A> =>
      pump(work, () => apply(["tick"], timeout), patience).catch((fault: unknown) => {
        throw translate(fault)
      })
    return {
      invoke: (timeout, ...texts) => settle(apply(texts, timeout), timeout),
      module: async (timeout, code, imports) => {
        try {
          const source = importsOf(imports)
          const known = new Map<string, Promise<ivm.Module>>()
          const main = await own.compileModule(code)
          await main.instantiate(context, (specifier) => {
            const text = source(specifier)
            let module = known.get(text)
            if (module === undefined) known.set(text, (module = own.compileModule(text)))
            return module
          })
          await settle(Promise.resolve(main.evaluate({ timeout, promise: true } as never)), timeout)
        } catch (fault) {
          throw translate(fault)
        }
      }
    }
  }

  const rest = (): void => {
    end()
    const ahead = Math.min(maxSpare, Math.max(1, Math.floor(memoryNow / 16)), Math.max(1, used))
    used = 0
    if (kindNow === "test") return
    try {
      const present = begin()
      script = compile(present)
      for (let index = 0; index < ahead; index++) {
        const context = present.createContextSync()
        spare.push({ context, run: script.runSync(context, { reference: true }) as ivm.Reference })
      }
    } catch {
      // who needs it makes it anew, and meets the fault where it can be told
      end()
    }
  }

  used = 1
  rest()
  return { realm, ready: async () => {}, abandon: end, dispose: end, rest }
}

/** Reads a rejection of isolated-vm; its texts are its interface. */
const translate = (fault: unknown): unknown => {
  if (fault instanceof Ended || fault instanceof SyntaxError) return fault
  const message = fault instanceof Error ? String(fault.message) : ""
  if (message.includes("memory limit")) return new Ended("memory", "")
  if (message.includes("timed out") || message.includes("disposed")) return new Ended("timeout", "its time was over")
  return fault
}
