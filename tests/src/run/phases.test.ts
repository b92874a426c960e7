import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { phases, split } from "../../../src/run/internal/phases.ts"

describe("phases", () => {
  it.effect("charge every moment once, to the innermost phase, also if it fails", () =>
    Effect.gen(function* () {
      let clock = 0
      const pass = (seconds: number) => Effect.sync(() => void (clock += seconds))
      const { lap, run } = phases(() => clock)
      yield* pass(1)
      yield* run("outer", Effect.all([pass(2), run("inner", pass(4)), pass(8)]))
      yield* Effect.exit(run("broken", Effect.andThen(pass(16), Effect.fail("no"))))
      yield* run("outer", pass(32))
      yield* pass(64)
      const first = lap()
      assert.deepStrictEqual(first, { seconds: { other: 65, outer: 42, inner: 4, broken: 16 }, total: 127 })
      yield* pass(1)
      assert.deepStrictEqual(lap(), { seconds: { other: 1 }, total: 1 })
      assert.deepStrictEqual(split(first.seconds, { forward: 5 }), {
        other: 60,
        outer: 42,
        inner: 4,
        broken: 16,
        forward: 5
      })
    })
  )
})
