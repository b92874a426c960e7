import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import type { SamplingEngine } from "../../../../src/engines/internal/engine.ts"
import { engineSampler } from "../../../../src/engines/internal/engineSampler.ts"
import type { SampleEvents } from "../../../../src/engines/internal/nativeModel.ts"

const request = { prompt: Uint32Array.of(1), count: 2, maxTokens: 3, key: { seed: 1, stream: "s", index: 0 } }

/** An engine that answers with these events. */
const told = (...events: ReadonlyArray<Partial<SampleEvents>>): SamplingEngine => ({
  name: "told",
  setVocabulary: () => {},
  cancel: () => {},
  sample: (_, onEvents) => {
    for (const [i, part] of events.entries()) {
      const sample = part.sample ?? new Uint32Array()
      onEvents(null, {
        version: 0,
        sample,
        token: sample.map((_, n) => 10 * i + n),
        logprob: new Float32Array(sample.length).fill(-1),
        finished: [],
        done: i === events.length - 1,
        ...part
      })
    }
    return 1
  }
})

describe("engineSampler", () => {
  it.effect("gives each token the version of the weights that drew it", () =>
    Effect.gen(function* () {
      const engine = told(
        { version: 3, sample: Uint32Array.of(0, 1) },
        { version: 4, sample: Uint32Array.of(1, 0) },
        {
          version: 6,
          sample: Uint32Array.of(0),
          finished: [
            { sample: 0, reason: "length" },
            { sample: 1, reason: "stop" }
          ]
        }
      )
      const [first, second] = yield* engineSampler(engine).sample(request)
      assert.deepStrictEqual([...first!.versions], [3, 4, 6])
      assert.deepStrictEqual([...first!.tokens], [0, 11, 20])
      assert.deepStrictEqual([...second!.versions], [3, 4])
    })
  )

  it.effect("fails with Aborted if the engine is closed during a sample", () =>
    Effect.gen(function* () {
      const engine = told({ sample: Uint32Array.of(0, 1) }, { finished: [{ sample: 0, reason: "stop" }] })
      const error = yield* Effect.flip(engineSampler(engine).sample(request))
      assert.strictEqual(error.reason._tag, "Aborted")
    })
  )
})
