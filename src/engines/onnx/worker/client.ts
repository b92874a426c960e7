/**
 * The main thread's side of an ONNX engine, whose sessions live in a worker thread. If the worker has ended, every call
 * fails.
 */
import { setTimeout as sleep } from "node:timers/promises"
import { Worker } from "node:worker_threads"
import type { Capabilities } from "../../../engine/Capabilities.ts"
import type { WeightUpdate } from "../../../engine/Sampler.ts"
import type { Engine, EngineFacts } from "../../internal/engine.ts"
import type * as Native from "../../internal/nativeModel.ts"
import { conditions, sibling } from "../../../worker/childModule.ts"
import { EngineFailure } from "./failure.ts"
import { type Gate, putUp, takeDown } from "./gate.ts"
import {
  type Arguments,
  type Failure,
  type FromWorker,
  packed,
  type Result,
  type ToWorker,
  type Verb,
  type WorkerSettings
} from "./protocol.ts"

/** Milliseconds that a thread may take to end. If a driver blocks it for longer, it is abandoned. */
const closeMilliseconds = 60_000

const remedy = "open the layer again and resume from the checkpoint"

interface Call {
  readonly resolve: (value: unknown) => void
  readonly reject: (error: EngineFailure) => void
}

type OnEvents = Parameters<Engine["sample"]>[1]

export type Opened = Extract<FromWorker, { _tag: "Opened" }>

const thrown = ({ code, detail }: Failure): EngineFailure =>
  new EngineFailure(code, code === "DEVICE_LOST" ? `${detail}\n${remedy}` : detail)

export class OnnxClient implements Engine {
  readonly name: string = "onnx"
  readonly capabilities: Capabilities = {
    outputs: ["entropy"],
    gradients: ["entropy"],
    adapters: ["lora"],
    reference: true
  }
  /** The worker's report on opening. */
  readonly opened: Opened
  readonly #worker: Worker
  readonly #calls = new Map<number, Call>()
  readonly #samples = new Map<number, OnEvents>()
  #next = 1
  #lost: EngineFailure | undefined
  #closing: Promise<void> | undefined
  readonly #ended: Promise<void>
  readonly #gate: Gate

  private constructor(worker: Worker, gate: Gate, opened: Opened) {
    this.#worker = worker
    this.#gate = gate
    this.opened = opened
    this.#ended = new Promise((resolve) => worker.once("exit", () => resolve()))
    worker.on("message", (message: FromWorker) => this.#receive(message))
    worker.on("error", (cause: unknown) => this.#lose(cause instanceof Error ? cause.message : String(cause)))
    worker.on("exit", (code) => this.#lose(`exit code ${code}`))
    this.#hold()
  }

  /** Rejects if the worker could not open the engine. In tests `module` replaces the worker's own. */
  static open(settings: Omit<WorkerSettings, "gate">, module = sibling("main", import.meta.url)): Promise<OnnxClient> {
    const gate = putUp()
    const workerData: WorkerSettings = { ...settings, gate: gate.memory }
    const worker = new Worker(module, { workerData, name: "quintain-onnx", execArgv: conditions(import.meta.url) })
    return new Promise<OnnxClient>((resolve, reject) => {
      const refuse = (failure: Failure): void => {
        stop()
        void worker.terminate().finally(() => {
          takeDown(gate)
          reject(thrown(failure))
        })
      }
      const lost = (reason: string) => refuse({ code: "ENGINE_LOST", detail: `the worker thread ended: ${reason}` })
      const onError = (cause: unknown) => lost(cause instanceof Error ? cause.message : String(cause))
      const onExit = (code: number) => lost(`exit code ${code}`)
      const onMessage = (message: FromWorker) => {
        if (message._tag === "Refused") return refuse(message.failure)
        if (message._tag !== "Opened") return lost(`it said ${message._tag} first`)
        const client = new OnnxClient(worker, gate, message)
        stop()
        resolve(client)
      }
      // Listeners are removed one by one: without any listener a worker delivers no messages.
      const stop = () => {
        worker.off("message", onMessage).off("exit", onExit)
        worker.off("error", onError).on("error", () => {})
      }
      worker.on("error", onError).on("exit", onExit).on("message", onMessage)
    })
  }

  facts(): Promise<EngineFacts> {
    return this.#request((id) => this.#send({ _tag: "Facts", id })) as Promise<EngineFacts>
  }
  setVocabulary(bytes: Uint8Array, offsets: Uint32Array): void {
    if (this.#lost === undefined) this.#send({ _tag: "Vocabulary", bytes, offsets })
  }
  sample(request: Native.SampleRequest, onEvents: OnEvents): number {
    if (this.#lost !== undefined) throw this.#lost
    const id = this.#next++
    this.#send({ _tag: "Sample", id, request })
    this.#samples.set(id, onEvents)
    this.#hold()
    return id
  }
  cancel(id: number): void {
    if (!this.#samples.delete(id)) return
    this.#hold()
    if (this.#lost === undefined) this.#send({ _tag: "Cancel", id })
  }
  forward(...[forest, settings, signal]: Parameters<Engine["forward"]>) {
    return this.#call("forward", [forest, settings], signal)
  }
  backward(...[id, dLogprobs, dEntropy, signal]: Parameters<Engine["backward"]>) {
    return this.#call("backward", [id, dLogprobs, dEntropy], signal)
  }
  release(id: number) {
    return this.#call("release", [id])
  }
  step(settings: Native.StepSettings) {
    return this.#call("step", [settings])
  }
  zeroGradients(adapter?: string) {
    return this.#call("zeroGradients", [adapter])
  }
  freezeReference() {
    return this.#call("freezeReference", [])
  }
  save(...[directory, options]: Parameters<Engine["save"]>) {
    return this.#call("save", [directory, options])
  }
  load(directory: string, adapter?: string) {
    return this.#call("load", [directory, adapter])
  }
  addAdapter(name: string, settings: string | null, directory: string | null) {
    return this.#call("addAdapter", [name, settings, directory])
  }
  removeAdapter(name: string) {
    return this.#call("removeAdapter", [name])
  }
  exportModel(...[directory, options]: Parameters<Engine["exportModel"]>) {
    return this.#call("exportModel", [directory, options])
  }
  update(weights: WeightUpdate, signal: AbortSignal) {
    return this.#call("update", [weights], signal)
  }

  /** Ends calls in progress, releases the sessions, and waits until the thread has ended. */
  close(): Promise<void> {
    return (this.#closing ??= this.#close())
  }

  async #close(): Promise<void> {
    this.#worker.ref()
    if (this.#lost === undefined) this.#send({ _tag: "Close" })
    const patience = new AbortController()
    const late = sleep(closeMilliseconds, undefined, { signal: patience.signal }).then(
      () => this.#worker.unref(),
      () => {}
    )
    await Promise.race([this.#ended, late])
    patience.abort()
  }

  #call<V extends Verb>(verb: V, parameters: Arguments<V>, signal?: AbortSignal): Promise<Result<V>> {
    if (signal?.aborted === true) return Promise.reject(new EngineFailure("ABORTED", `${verb} was aborted`))
    let called = 0
    const abort = () => {
      if (this.#lost === undefined) this.#send({ _tag: "Abort", id: called })
    }
    const result = this.#request((id) => {
      called = id
      this.#send({ _tag: "Call", id, verb, arguments: parameters })
      signal?.addEventListener("abort", abort, { once: true })
    })
    return result.finally(() => signal?.removeEventListener("abort", abort)) as Promise<Result<V>>
  }

  #request(send: (id: number) => void): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.#lost !== undefined) return reject(this.#lost)
      const id = this.#next++
      send(id)
      this.#calls.set(id, { resolve, reject })
      this.#hold()
    })
  }

  #send(message: ToWorker): void {
    const [copy, buffers] = packed(message)
    this.#worker.postMessage(copy, buffers)
  }

  #receive(message: FromWorker): void {
    switch (message._tag) {
      case "Value":
        this.#take(message.id)?.resolve(message.value)
        return
      case "Failed": {
        const error = thrown(message.failure)
        this.#take(message.id)?.reject(error)
        const onEvents = this.#samples.get(message.id)
        this.#samples.delete(message.id)
        this.#hold()
        onEvents?.(error, none)
        return
      }
      case "Events": {
        const onEvents = this.#samples.get(message.id)
        if (message.events.done) this.#samples.delete(message.id)
        this.#hold()
        onEvents?.(null, message.events)
        return
      }
      case "Closed":
        this.#lose("it was closed")
        // The gate guarantees that this is between two runs.
        void this.#worker.terminate()
        return
    }
  }

  #take(id: number): Call | undefined {
    const call = this.#calls.get(id)
    this.#calls.delete(id)
    this.#hold()
    return call
  }

  #lose(reason: string): void {
    takeDown(this.#gate)
    if (this.#lost !== undefined) return
    const closed = this.#closing !== undefined
    this.#lost = closed
      ? new EngineFailure("STATE", "the engine is closed")
      : new EngineFailure("ENGINE_LOST", `the worker thread of the engine ended (${reason}): ${remedy}`)
    const calls = [...this.#calls.values()]
    const samples = [...this.#samples.values()]
    this.#calls.clear()
    this.#samples.clear()
    for (const call of calls) call.reject(this.#lost)
    for (const onEvents of samples) onEvents(this.#lost, none)
  }

  /** Only calls in progress keep the process alive. */
  #hold(): void {
    if (this.#calls.size + this.#samples.size > 0 || this.#closing !== undefined) this.#worker.ref()
    else this.#worker.unref()
  }
}

const none: Native.SampleEvents = {
  version: 0,
  sample: new Uint32Array(),
  token: new Uint32Array(),
  logprob: new Float32Array(),
  finished: [],
  done: true
}
