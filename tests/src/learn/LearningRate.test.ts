import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import * as LearningRate from "../../../src/learn/LearningRate.ts"

describe("learning rate", () => {
  it("rises linearly, the first step not being wasted, and stays", () => {
    const rate = LearningRate.warmup(1, 4)
    assert.deepStrictEqual([0, 1, 3, 4, 100].map(rate), [0.25, 0.5, 1, 1, 1])
    assert.strictEqual(LearningRate.warmup(2, 0)(0), 2)
  })

  it("falls to its floor: halfway, the cosine is in the middle as the line is", () => {
    const options = { peak: 1, steps: 12, warmup: 2, floor: 0.5 }
    for (const rate of [LearningRate.linear(options), LearningRate.cosine(options)]) {
      assert.deepStrictEqual([0, 1, 2, 12, 50].map(rate), [0.5, 1, 1, 0.5, 0.5])
      assert.closeTo(rate(7), 0.75, 1e-12)
    }
    assert.closeTo(LearningRate.cosine(options)(4.5), 0.5 + 0.25 * (1 + Math.SQRT1_2), 1e-12)
  })

  it("never rises after the warm-up and stays between floor and peak", () => {
    const decay = fc.record({
      steps: fc.integer({ min: 1, max: 50 }),
      warmup: fc.integer({ min: 0, max: 60 }),
      floor: fc.double({ min: 0, max: 1, noNaN: true })
    })
    fc.assert(
      fc.property(decay, (options) => {
        for (const shape of [LearningRate.linear, LearningRate.cosine]) {
          const rates = Array.from({ length: 80 }, (_, step) => shape({ peak: 1, ...options })(step))
          rates.slice(options.warmup).forEach((rate, i, falling) => {
            assert.isTrue(rate <= (falling[i - 1] ?? 1) + 1e-12)
            assert.isTrue(rate >= options.floor - 1e-12)
          })
        }
      }),
      { seed: 1 }
    )
  })
})
