import { assert, describe, it } from "@effect/vitest"
import { OptionError, Reward, WorkerPool } from "quintain"

const error = (value: unknown) =>
  new OptionError({
    module: "toolkit",
    option: "offered",
    value,
    expected: "a whole number from 1",
    remedy: "Leave it out"
  })

const thrown = (run: () => unknown): OptionError => {
  try {
    run()
  } catch (cause) {
    assert.instanceOf(cause, OptionError)
    return cause
  }
  return assert.fail("nothing was thrown")
}

describe("OptionError", () => {
  it("says who, what, how it should be, and what to do", () => {
    assert.strictEqual(error(0).message, "toolkit: offered is 0; expected a whole number from 1. Leave it out.")
    assert.include(error(Number.NaN).message, "offered is NaN;")
    assert.include(error("a").message, 'offered is "a";')
    assert.include(error(undefined).message, "offered is undefined;")
    assert.include(error([1, 2]).message, "offered is [1,2];")
  })

  it("shows the beginning of a long value, and no circle", () => {
    assert.match(error("x".repeat(1e6)).message, /^toolkit: offered is "x{99}\.\.\.; expected/)
    const circle: Array<unknown> = []
    circle.push(circle)
    assert.include(error(circle).message, "a value that is not JSON;")
  })

  it("is thrown where the option is given, not where it is used", () => {
    assert.deepInclude(
      thrown(() => WorkerPool.layer({ workers: 0 })),
      {
        module: "WorkerPool.make",
        option: "workers",
        value: 0
      }
    )
    assert.deepInclude(
      thrown(() => Reward.weight(Number.POSITIVE_INFINITY, () => 1)),
      {
        _tag: "OptionError",
        module: "Reward.weight",
        option: "weight"
      }
    )
  })
})
