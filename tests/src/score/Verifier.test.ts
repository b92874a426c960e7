import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { TestClock } from "effect/testing"
import * as Verifier from "../../../src/score/Verifier.ts"
import { trajectory } from "../../fixtures/trajectories.ts"

const input = { task: { id: "task", prompt: "", data: undefined }, trajectory: trajectory("text") }

const judged = <R = never>(verifier: Verifier.VerifierFunction<any, R>, deadline = 1000) =>
  Verifier.run(verifier, input, deadline)

class Threshold extends Context.Service<Threshold, number>()("test/Threshold") {}

describe("Verifier.run", () => {
  it.effect("takes a verdict as a value, a promise or an Effect with services", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* judged(() => 0.5), { _tag: "Scored", score: 0.5 })
      assert.deepStrictEqual(yield* judged(async () => ({ score: 1, reason: "right" })), {
        _tag: "Scored",
        score: 1,
        reason: "right"
      })
      const outcome = yield* judged<Threshold>(() => Threshold.use((threshold) => Effect.succeed(threshold))).pipe(
        Effect.provideService(Threshold, 0.25)
      )
      assert.deepStrictEqual(outcome, { _tag: "Scored", score: 0.25 })
    })
  )

  it.effect("makes throws, rejections and failures unscorable, with their text", () =>
    Effect.gen(function* () {
      const faults: ReadonlyArray<Verifier.VerifierFunction> = [
        () => {
          throw new Error("broken")
        },
        () => Promise.reject(new Error("broken")),
        () => Effect.fail(new Error("broken")),
        () => Effect.die(new Error("broken"))
      ]
      for (const fault of faults) {
        const outcome = yield* judged(fault)
        assert.deepInclude(outcome, { _tag: "Unscorable", kind: "error" })
        assert.include(outcome._tag === "Unscorable" ? outcome.reason : "", "broken")
      }
    })
  )

  it.effect("ends at its deadline and aborts the verifier's signal", () =>
    Effect.gen(function* () {
      let aborted = false
      const fiber = yield* Effect.forkChild(
        judged(({ signal }) => {
          signal.addEventListener("abort", () => (aborted = true))
          return Effect.never
        }, 500)
      )
      yield* TestClock.adjust(499)
      assert.isFalse(aborted)
      yield* TestClock.adjust(1)
      const outcome = yield* Fiber.join(fiber)
      assert.deepInclude(outcome, { _tag: "Unscorable", kind: "timeout", reason: "no verdict within 500 ms" })
      assert.isTrue(aborted)
    })
  )

  it.effect("stays interrupted, and aborts the verifier's signal", () =>
    Effect.gen(function* () {
      const began = yield* Deferred.make<AbortSignal>()
      const fiber = yield* Effect.forkChild(
        judged(({ signal }) => Effect.andThen(Deferred.succeed(began, signal), Effect.never))
      )
      const signal = yield* Deferred.await(began)
      yield* Fiber.interrupt(fiber)
      assert.isTrue(signal.aborted)
    })
  )
})

describe("Verifier.outcome", () => {
  const of = (verdict: unknown) => Verifier.outcome(verdict, input.trajectory)

  it("never makes a score of what is not one", () => {
    for (const verdict of [NaN, Infinity, "1", true, null, undefined, {}, { score: NaN }, { score: "1" }, [1]]) {
      assert.deepInclude(of(verdict), { _tag: "Unscorable", kind: "verdict" }, String(verdict))
    }
  })

  it("takes undefined optional fields as absent", () => {
    assert.deepStrictEqual(of({ score: 1, reason: undefined }), { _tag: "Scored", score: 1 })
  })

  it("keeps a declared reason", () => {
    assert.deepStrictEqual(of(Verifier.unscorable("away")), { _tag: "Unscorable", reason: "away", kind: "declared" })
  })

  it("checks token scores against the policy's tokens and the score", () => {
    assert.deepStrictEqual(of({ score: 1, tokenScores: [0, 0.5, 0.5] }), {
      _tag: "Scored",
      score: 1,
      tokenScores: [0, 0.5, 0.5]
    })
    assert.deepInclude(of({ score: 1, tokenScores: [1] }), { reason: "1 token scores for 3 policy tokens" })
    assert.deepInclude(of({ score: 1, tokenScores: [1, 1, 1] }), { reason: "token scores sum to 3, the score is 1" })
  })
})

describe("Verifier.worker", () => {
  it("names a module, an export and only what was given", () => {
    assert.deepStrictEqual(Verifier.worker({ module: "file:///a.js" }), {
      _tag: "WorkerVerifier",
      module: "file:///a.js",
      export: "default"
    })
    const url = new URL("file:///b.js")
    assert.deepStrictEqual(Verifier.worker({ module: url, export: "proof", options: { strict: true }, deadline: 5 }), {
      _tag: "WorkerVerifier",
      module: "file:///b.js",
      export: "proof",
      options: { strict: true },
      deadline: 5
    })
  })
})

describe("Verifier.withDeadline", () => {
  it("states a deadline on the function itself", () => {
    assert.strictEqual(Verifier.withDeadline(60_000, () => 1).deadline, 60_000)
  })
})
