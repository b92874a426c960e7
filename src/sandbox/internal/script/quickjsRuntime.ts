/**
 * QuickJS as a runtime of the sandbox's child process: it runs on a thread of that process, so that the clocks and the
 * channel to the host stay free. Ending the thread is the second clock.
 */
import { readFileSync } from "node:fs"
import { Worker } from "node:worker_threads"
import { Ended, type ScriptRuntime } from "./runtime.ts"
import { compile, type ThreadRequest, type ThreadResponse, type ThreadSetup } from "./quickjsProtocol.ts"

type Distribute<A> = A extends unknown ? Omit<A, "serial"> : never

const threadModule = `./quickjsThread${import.meta.url.endsWith(".ts") ? ".ts" : ".js"}`

export const make = async (core: string, variant: string, wasmFile: string): Promise<ScriptRuntime> => {
  const wasm = await compile(readFileSync(wasmFile))
  const signal = new Int32Array(new SharedArrayBuffer(4))
  let serial = 0
  let ask: ((text: string) => Promise<string>) | undefined
  let worker: Worker | undefined
  /** The present thread has answered before. */
  let answering = false
  const waiting = new Map<number, { resolve: (text: string) => void; reject: (fault: Error) => void }>()

  const settle = (fault: Ended): void => {
    for (const { reject } of waiting.values()) reject(fault)
    waiting.clear()
  }

  const reply = async (own: Worker, question: string): Promise<void> => {
    own.postMessage((await ask?.(question)) ?? "")
    Atomics.store(signal, 0, 1)
    Atomics.notify(signal, 0)
  }

  const start = (): Worker => {
    const setup: ThreadSetup = { core, variant, wasm, signal }
    const own = new Worker(new URL(threadModule, import.meta.url), {
      workerData: setup,
      env: {},
      stdin: false,
      // an interpreter that runs on WebAssembly recurses on the thread's own stack
      resourceLimits: { stackSizeMb: 8 }
    })
    own.on("message", (response: ThreadResponse) => {
      if (worker !== own) return
      if ("ask" in response) {
        void reply(own, response.ask)
        return
      }
      answering = true
      const { reject, resolve } = waiting.get(response.serial) ?? {}
      waiting.delete(response.serial)
      if ("status" in response) reject?.(new Ended(response.status, response.detail))
      else resolve?.(response.text)
    })
    const over = (fault: Ended): void => {
      if (worker !== own) return
      worker = undefined
      answering = false
      settle(fault)
    }
    own.on("error", (fault) =>
      over(new Ended(/memory/i.test(String(fault)) ? "memory" : "error", String(fault).slice(0, 200)))
    )
    own.on("exit", () => over(new Ended("error", "it ended its thread")))
    return own
  }

  const request = (work: Distribute<ThreadRequest>): Promise<string> =>
    new Promise((resolve, reject) => {
      waiting.set(++serial, { resolve, reject })
      worker ??= start()
      worker.postMessage({ ...work, serial })
    })

  const dispose = (): void => {
    const old = worker
    worker = undefined
    answering = false
    settle(new Ended("timeout", "its time was over"))
    void old?.terminate()
  }

  const runtime: ScriptRuntime = {
    realm: async (realm, memoryMb, questions) => {
      ask = questions
      await request({ kind: "realm", realm, memoryMb })
      return {
        invoke: (timeout, ...texts) => request({ kind: "invoke", timeout, texts }),
        module: async (timeout, source, imports) => {
          await request({ kind: "module", timeout, source, imports })
        }
      }
    },
    ready: async () => {
      if (!answering) await request({ kind: "rest" })
    },
    // the interpreter stopped by itself, and the next realm has a runtime of its own
    abandon: () => {},
    dispose,
    rest: () => void request({ kind: "rest" }).catch(() => {})
  }
  // loaded before it is needed
  await request({ kind: "realm", realm: "call", memoryMb: 64 })
  return runtime
}
