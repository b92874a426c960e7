/**
 * The host process of one worker of the verifier pool. A worker thread cannot contain every way of exhausting memory.
 * An array that grows by `push` aborts the whole process, with any flag and any resource limit, and array buffers have
 * no limit at all. So the thread has a process of its own, where `--no-concurrent-osr` also makes every loop
 * interruptible.
 */
import type { HostRequest, HostResponse, CallAnswer, WorkerCall } from "./verifierProtocol.ts"
import * as VerifierThread from "./verifierThread.ts"

/** Bytes that the process may hold beyond the thread's heap: node itself, the code, buffers. */
const allowance = 384 * 2 ** 20
const pollEvery = 25

let thread: VerifierThread.Worker | undefined
let limit = Infinity

const answered = (response: HostResponse): Promise<void> =>
  new Promise((resolve) => process.send!(response, undefined, {}, () => resolve()))

const answer = async (id: number, call: WorkerCall, deadline: number): Promise<void> => {
  const answer = await thread!.run(call, deadline)
  process.send!({ id, answer, stuck: thread!.stuck() } satisfies HostResponse)
}

const die = (): void => {
  process.kill(process.pid, "SIGKILL")
}

process.on("message", (request: HostRequest) => {
  if ("options" in request) {
    thread = VerifierThread.make(request.options)
    limit = request.options.memoryMb * 2 ** 20 + allowance
    return
  }
  const { id, call, deadline } = request
  const poll = setInterval(() => {
    const resident = process.memoryUsage.rss()
    if (resident <= limit) return
    const detail = `${Math.round(resident / 2 ** 20)} MB resident`
    const answer: CallAnswer = { _tag: "Crash", detail, memory: true }
    void answered({ id, answer, stuck: true }).then(die)
  }, pollEvery)
  void answer(id, call, deadline).finally(() => clearInterval(poll))
})

// The pool has ended or died: a thread in an endless loop must not keep this process alive.
process.on("disconnect", die)
// Ctrl-C reaches the whole terminal group; the pool decides when its hosts end.
process.on("SIGINT", () => {})
