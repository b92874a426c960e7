/** The sampler service of an engine. */
import * as Effect from "effect/Effect"
import { EngineError } from "../../engine/EngineError.ts"
import type { Completion, Sampler, SampleRequest } from "../../engine/Sampler.ts"
import type { SamplingEngine } from "./engine.ts"
import { hash64 } from "../../internal/hash64.ts"
import type * as Native from "./nativeModel.ts"
import { engineFailure } from "./engineFailure.ts"

export const engineSampler = (engine: SamplingEngine): Sampler["Service"] => ({
  name: engine.name,
  engine: engine.name,
  weights: { _tag: "Fixed" },
  sample: (request) =>
    Effect.callback((resume) => {
      const gathered = new Gathered(request)
      try {
        const id = engine.sample(engineRequest(request), (error, events) => {
          if (error !== null) return resume(Effect.fail(engineFailure("sample", error)))
          gathered.add(events)
          if (events.done) resume(gathered.completions())
        })
        return Effect.sync(() => engine.cancel(id))
      } catch (cause) {
        resume(Effect.fail(engineFailure("sample", cause)))
      }
    })
})

const engineRequest = (request: SampleRequest): Native.SampleRequest => ({
  prompt: request.prompt,
  count: request.count,
  seed: BigInt.asUintN(64, BigInt(request.key.seed)),
  stream: hash64(request.key.stream),
  firstIndex: request.key.index,
  maxTokens: request.maxTokens,
  temperature: request.temperature ?? 1,
  topK: request.topK ?? 0,
  topP: request.topP ?? 1,
  minP: request.minP ?? 0,
  stopTokens: Uint32Array.from(request.stopTokens ?? []),
  stopStrings: [...(request.stop ?? [])],
  forTraining: request.forTraining ?? false,
  ...(request.adapter === undefined ? {} : { adapter: request.adapter })
})

/** Collects the events of one request, one call per decode step, into completions. */
class Gathered {
  readonly #samples: ReadonlyArray<{
    readonly tokens: Array<number>
    readonly logprobs: Array<number>
    readonly versions: Array<number>
    reason: Native.StopReason
  }>

  constructor(request: SampleRequest) {
    this.#samples = Array.from({ length: request.count }, () => ({
      tokens: [],
      logprobs: [],
      versions: [],
      reason: "abort"
    }))
  }

  add(events: Native.SampleEvents): void {
    for (let i = 0; i < events.sample.length; i++) {
      const sample = this.#samples[events.sample[i]!]!
      sample.tokens.push(events.token[i]!)
      sample.logprobs.push(events.logprob[i]!)
      sample.versions.push(events.version)
    }
    for (const { reason, sample } of events.finished) this.#samples[sample]!.reason = reason
  }

  completions(): Effect.Effect<ReadonlyArray<Completion>, EngineError> {
    const completions: Array<Completion> = []
    for (const { logprobs, reason, tokens, versions } of this.#samples) {
      if (reason === "abort") {
        const reason = { _tag: "Aborted", detail: "the model was closed" } as const
        return Effect.fail(new EngineError({ operation: "sample", reason }))
      }
      completions.push({
        tokens: Uint32Array.from(tokens),
        logprobs: Float32Array.from(logprobs),
        versions: Uint32Array.from(versions),
        stopReason: reason
      })
    }
    return Effect.succeed(completions)
  }
}
