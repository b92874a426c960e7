/**
 * The loop of the worker thread. It runs calls in their order, with a step of the sampler between two calls. After each
 * of these it reads messages, so that aborts and cancels arrive during work.
 */
import type { MessagePort } from "node:worker_threads"
import type { EngineFacts } from "../../internal/engine.ts"
import { describe } from "../../../addon/addon.ts"
import { type Abort, EngineFailure, type WorkerSampler, throwIfAborted } from "./failure.ts"
import { type Failure, type FromWorker, packed, type ToWorker, type Verb, type Verbs } from "./protocol.ts"

/** The engines that a worker thread serves. */
export interface Engines {
  /** The verbs that the engine has; others are refused. */
  readonly verbs: Partial<Verbs>
  readonly sampler: Omit<WorkerSampler, "close">
  readonly facts: () => EngineFacts
  readonly close: () => Promise<void>
}

interface Job {
  readonly id: number
  /** Whether the call needs a sampler without requests. */
  readonly alone: boolean
  readonly run: () => Promise<void>
  readonly fail: (failure: Failure) => void
}

/** Lets pending messages arrive. */
const messages = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve))

/** Answers messages of the port until it is told to close, then closes the engines. */
export const serve = (port: MessagePort, engines: Engines): Promise<void> => new Server(port, engines).done

class Server {
  readonly done: Promise<void>
  readonly #port: MessagePort
  readonly #engines: Engines
  readonly #queue: Array<Job> = []
  readonly #aborts = new Map<number, { aborted: boolean }>()
  readonly #samples = new Set<number>()
  /** The failure that lost the device; nothing works after it. */
  #lost: Failure | undefined
  #looping = false
  #closing = false
  #end: () => void = () => {}

  constructor(port: MessagePort, engines: Engines) {
    this.#port = port
    this.#engines = engines
    this.done = new Promise((resolve) => {
      this.#end = resolve
    })
    port.on("message", (message: ToWorker) => this.#receive(message))
  }

  #send(message: FromWorker): void {
    const [copy, buffers] = packed(message)
    this.#port.postMessage(copy, buffers)
  }

  #receive(message: ToWorker): void {
    switch (message._tag) {
      case "Call":
        return this.#call(message.id, message.verb, message.arguments)
      case "Abort": {
        const abort = this.#aborts.get(message.id)
        if (abort !== undefined) abort.aborted = true
        this.#unqueue(message.id)?.fail({ code: "ABORTED", detail: "the call was aborted before it began" })
        return
      }
      case "Facts":
        return this.#answer(message.id, () => this.#engines.facts())
      case "Sample":
        return this.#sample(message)
      case "Cancel":
        return this.#cancel(message.id)
      case "Vocabulary":
        return this.#engines.sampler.setVocabulary(message.bytes, message.offsets)
      case "Close":
        this.#closing = true
        for (const abort of this.#aborts.values()) abort.aborted = true
        return this.#wake()
    }
  }

  #fail(id: number, cause: unknown): void {
    const failure = describe(cause)
    if (failure.code === "DEVICE_LOST") this.#lost ??= failure
    this.#send({ _tag: "Failed", id, failure: this.#lost ?? failure })
  }

  #answer(id: number, value: () => unknown): void {
    try {
      this.#send({ _tag: "Value", id, value: value() })
    } catch (cause) {
      this.#fail(id, cause)
    }
  }

  #enqueue(job: Job): void {
    if (this.#lost !== undefined) return job.fail(this.#lost)
    this.#queue.push(job)
    this.#wake()
  }

  #call(id: number, verb: Verb, parameters: ReadonlyArray<unknown>): void {
    const abort = { aborted: this.#closing }
    this.#aborts.set(id, abort)
    const end = (): void => void this.#aborts.delete(id)
    this.#enqueue({
      id,
      alone: verb === "update",
      fail: (failure) => {
        end()
        this.#send({ _tag: "Failed", id, failure })
      },
      run: async () => {
        try {
          throwIfAborted(abort, verb)
          const run = this.#engines.verbs[verb] as
            | ((abort: Abort, ...rest: ReadonlyArray<unknown>) => Promise<unknown>)
            | undefined
          if (run === undefined) throw new EngineFailure("STATE", `this engine has no \`${verb}\``)
          this.#send({ _tag: "Value", id, value: await run(abort, ...parameters) })
        } catch (cause) {
          this.#fail(id, cause)
        } finally {
          end()
        }
      }
    })
  }

  #sample({ id, request }: Extract<ToWorker, { _tag: "Sample" }>): void {
    const submit = async (): Promise<void> => {
      this.#samples.add(id)
      try {
        this.#engines.sampler.submit(id, request, (error, events) => {
          // The sampler may still emit events for a request that failed with the device.
          if (!this.#samples.has(id)) return
          if (error !== null || events?.done === true) this.#samples.delete(id)
          if (error !== null) return this.#fail(id, error)
          if (events !== undefined) this.#send({ _tag: "Events", id, events })
        })
      } catch (cause) {
        this.#samples.delete(id)
        this.#fail(id, cause)
      }
    }
    // Samples wait for an earlier update of the weights; otherwise they start at once, whatever calls wait.
    if (this.#queue.some(({ alone }) => alone) || this.#lost !== undefined) {
      this.#enqueue({ id, alone: false, run: submit, fail: (failure) => this.#send({ _tag: "Failed", id, failure }) })
    } else {
      void submit()
      this.#wake()
    }
  }

  #cancel(id: number): void {
    if (this.#unqueue(id) === undefined && this.#samples.has(id)) this.#engines.sampler.cancel(id)
  }

  #unqueue(id: number): Job | undefined {
    const at = this.#queue.findIndex((job) => job.id === id)
    return at < 0 ? undefined : this.#queue.splice(at, 1)[0]
  }

  #wake(): void {
    if (this.#looping) return
    this.#looping = true
    void this.#loop()
  }

  async #loop(): Promise<void> {
    const { sampler } = this.#engines
    while (!this.#closing) {
      if (this.#lost !== undefined) {
        for (const job of this.#queue.splice(0)) job.fail(this.#lost)
        this.#failSamples(this.#lost)
        break
      }
      // A failed request may remain in the sampler until others are served.
      const busy = this.#samples.size > 0 && sampler.busy()
      const job = this.#queue[0]
      if (job === undefined && !busy) break
      if (job !== undefined && !(job.alone && busy)) {
        this.#queue.shift()
        await job.run()
      }
      if (busy && this.#lost === undefined && !this.#closing) await this.#step()
      await messages()
    }
    if (this.#closing) await this.#close()
    else this.#looping = false
  }

  async #step(): Promise<void> {
    try {
      await this.#engines.sampler.step()
    } catch (cause) {
      this.#failSamples(describe(cause))
    }
  }

  #failSamples(failure: Failure): void {
    if (failure.code === "DEVICE_LOST") this.#lost ??= failure
    for (const id of this.#samples) {
      this.#samples.delete(id)
      this.#engines.sampler.cancel(id)
      this.#send({ _tag: "Failed", id, failure })
    }
  }

  async #close(): Promise<void> {
    const closed = { code: "ABORTED", detail: "the engine was closed" }
    for (const job of this.#queue.splice(0)) job.fail(closed)
    this.#failSamples(closed)
    try {
      await this.#engines.close()
    } finally {
      this.#send({ _tag: "Closed" })
      this.#port.close()
      this.#end()
    }
  }
}
