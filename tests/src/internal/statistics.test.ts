import { assert, describe, it } from "@effect/vitest"
import { deviation, deviationOrZero, least, mean, most, quantile } from "../../../src/internal/statistics.ts"

describe("statistics", () => {
  it("have the sample deviation, NaN or 0 of one value by name", () => {
    assert.strictEqual(mean([1, 2, 6]), 3)
    assert.strictEqual(deviation([1, 3]), Math.SQRT2)
    assert.strictEqual(deviationOrZero([1, 3]), Math.SQRT2)
    assert.isNaN(deviation([4]))
    for (const values of [[], [4]]) assert.strictEqual(deviationOrZero(values), 0)
  })

  it("take quantiles by nearest rank", () => {
    assert.deepStrictEqual(
      [0, 0.25, 0.5, 0.75, 0.76, 1].map((share) => quantile([4, 1, 3, 2], share)),
      [1, 1, 2, 3, 4, 4]
    )
    assert.isNaN(quantile([], 0.5))
    assert.deepStrictEqual([least([]), most([]), least([2, 1]), most([2, 1])], [Infinity, -Infinity, 1, 2])
  })
})
