/** Asks the library, in a child process with a deadline: a lane of the verifier pool's own kind. */
import { availableParallelism } from "node:os"
import * as VerifierProcess from "../../src/internal/VerifierProcess.ts"
import { sibling, type LaneAnswer } from "../../src/internal/verifierProtocol.ts"
import type { Trajectory } from "../../src/Trajectory.ts"
import type { Digits } from "./mathNumeric.ts"
import type { Work } from "./mathWorker.ts"

/** What the library said, or why it did not: `limit` is the text's doing, `fault` is not. */
export type Evaluated =
  | { readonly _tag: "Values"; readonly values: ReadonlyArray<Digits | null> }
  | { readonly _tag: "Limit"; readonly reason: "timeout" | "memory" }
  | { readonly _tag: "Fault"; readonly detail: string }

type Lane = ReturnType<typeof VerifierProcess.make>

const module = String(sibling("mathWorker", import.meta.url))
const lanes = Math.min(2, availableParallelism())
const free: Array<Lane> = []
const waiting: Array<(lane: Lane) => void> = []
let made = 0

const take = (): Promise<Lane> => {
  const lane = free.pop()
  if (lane !== undefined) return Promise.resolve(lane)
  if (made < lanes) {
    made++
    return Promise.resolve(VerifierProcess.make({ memoryMb: 512, startDeadline: 60_000 }))
  }
  return new Promise((resolve) => waiting.push(resolve))
}

const give = (lane: Lane): void => {
  const next = waiting.shift()
  if (next === undefined) free.push(lane)
  else next(lane)
}

const nobody: Trajectory = {
  taskId: "",
  index: 0,
  tokens: new Uint32Array(0),
  producer: new Uint8Array(0),
  logprobs: new Float32Array(0),
  promptLength: 0,
  stopReason: "stop",
  text: "",
  turns: [],
  info: {},
  metrics: {},
  seconds: { sample: 0, environment: 0 },
  policyVersion: 0
}

/** `deadline`: milliseconds of the evaluation itself, counted from when it begins. */
export const evaluate = async (work: Work, deadline: number, signal?: AbortSignal): Promise<Evaluated> => {
  const lane = await take()
  try {
    const call = {
      key: module,
      module,
      export: "evaluate",
      task: { id: "", prompt: "", data: work },
      trajectory: nobody
    }
    for (let attempt = 1; ; attempt++) {
      if (signal?.aborted) return { _tag: "Fault", detail: "interrupted" }
      const answer = await lane.run(call, deadline, signal)
      const evaluated = meaning(answer, work.constants.length)
      // a process that died or did not start gets one more chance
      if (evaluated._tag !== "Fault" || answer._tag === "LoadError" || attempt > 1) return evaluated
    }
  } finally {
    give(lane)
  }
}

const meaning = (answer: LaneAnswer, count: number): Evaluated => {
  switch (answer._tag) {
    case "Verdict":
      return Array.isArray(answer.verdict) && answer.verdict.length === count
        ? { _tag: "Values", values: answer.verdict as ReadonlyArray<Digits | null> }
        : { _tag: "Fault", detail: "the library's process answered with something else" }
    case "Timeout":
      return answer.phase === "call"
        ? { _tag: "Limit", reason: "timeout" }
        : { _tag: "Fault", detail: "the library did not load in time" }
    case "Crash":
      return answer.memory ? { _tag: "Limit", reason: "memory" } : { _tag: "Fault", detail: answer.detail }
    case "Fault":
      // it threw on this text: it has no value that it knows of
      return { _tag: "Values", values: Array.from({ length: count }, () => null) }
    case "LoadError":
      return { _tag: "Fault", detail: answer.detail }
  }
}

/** Ends the library's processes; the next question starts one again. */
export const close = async (): Promise<void> => {
  await Promise.all(free.map((lane) => lane.close()))
}
