import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fc from "fast-check"
import { digitCompletion, matched, question } from "../../envs/DigitCompletion.ts"
import type { Source } from "../../src/data/Task.ts"
import * as Verifier from "../../src/score/Verifier.ts"
import { wrote } from "./trajectory.ts"

const { tokenizer } = digitCompletion()

const collect = <Data>(source: Source<Data>) =>
  Effect.map(source.load, (tasks) => Array.from({ length: tasks.length }, (_, index) => tasks.at(index)!))

const score = (task: ReturnType<typeof question>, text: string, end = true) => {
  const trajectory = wrote(tokenizer, task, text, { end })
  const verdict = matched({ task, trajectory, signal: new AbortController().signal })
  const outcome = Verifier.outcome(verdict, trajectory)
  if (outcome._tag !== "Scored") throw new Error(outcome.reason)
  return outcome
}

const questions = fc
  .record({
    modulus: fc.integer({ min: 4, max: 120 }),
    first: fc.nat({ max: 119 }),
    difference: fc.nat({ max: 3 }),
    terms: fc.integer({ min: 1, max: 9 })
  })
  .map(({ difference, first, modulus, terms }) => question(modulus, first % modulus, difference, terms))

describe("digitCompletion", () => {
  it("continues the sequence of the issue, and wraps at the modulus", () => {
    const task = question(20, 7, 1, 5)
    assert.strictEqual(task.prompt, "7,8:20,5")
    assert.strictEqual(task.data.answer, "9,10,11,12,13")
    assert.strictEqual(question(20, 18, 3, 3).prompt, "18,1:20,3")
    assert.strictEqual(question(20, 18, 3, 3).data.answer, "4,7,10")
  })

  it("a right answer with its end scores 1, and every token of it earns the same", () => {
    fc.assert(
      fc.property(questions, (task) => {
        const { score: reward, tokenScores } = score(task, task.data.answer)
        const parts = task.data.answer.length + 1
        assert.closeTo(reward, 1, 1e-12)
        assert.deepStrictEqual(
          tokenScores,
          Array.from({ length: parts }, () => 1 / parts)
        )
      })
    )
  })

  it("a prefix scores its share, whatever follows the first mistake", () => {
    fc.assert(
      fc.property(
        questions,
        fc.nat(),
        fc.string({ unit: fc.constantFrom(..."0123456789,:"), maxLength: 12 }),
        fc.boolean(),
        (task, cut, noise, end) => {
          const { answer } = task.data
          const kept = cut % answer.length
          const wrong = answer[kept] === "7" ? "8" : "7"
          const { score: reward, tokenScores } = score(task, answer.slice(0, kept) + wrong + noise, end)
          assert.closeTo(reward, kept / (answer.length + 1), 1e-12)
          tokenScores!.forEach((earned, at) => assert.strictEqual(earned, at < kept ? 1 / (answer.length + 1) : 0))
        }
      )
    )
  })

  it("an answer that ends too early, too late or not at all earns all but its end", () => {
    fc.assert(
      fc.property(questions, (task) => {
        const { answer } = task.data
        const all = answer.length / (answer.length + 1)
        assert.closeTo(score(task, answer, false).score, all, 1e-12)
        assert.closeTo(score(task, answer + ",1").score, all, 1e-12)
        assert.closeTo(score(task, answer.slice(0, -1)).score, (answer.length - 1) / (answer.length + 1), 1e-12)
        assert.match(score(task, answer, false).reason!, /expected/)
      })
    )
  })

  it.effect("every right answer fits the turn; held-out prompts are never trained on", () =>
    Effect.gen(function* () {
      for (const seed of [0, 1, 2]) {
        const env = digitCompletion({ seed })
        const train = yield* collect(env.tasks)
        const heldOut = yield* collect(env.heldOut)
        assert.strictEqual(train.length, 320)
        assert.strictEqual(heldOut.length, 80)
        assert.strictEqual(new Set([...train, ...heldOut].map((task) => task.id)).size, 400)
        const longest = Math.max(...[...train, ...heldOut].map((task) => task.data.answer.length + 1))
        assert.isAtMost(longest, env.environment.maxTokens)
        for (const task of [...train, ...heldOut]) assert.closeTo(score(task, task.data.answer).score, 1, 1e-12)
      }
    })
  )

  it.effect("the seed fixes the split", () =>
    Effect.gen(function* () {
      const ids = (seed: number) =>
        Effect.map(collect(digitCompletion({ seed }).heldOut), (tasks) => tasks.map((task) => task.id))
      assert.deepStrictEqual(yield* ids(5), yield* ids(5))
      assert.notDeepEqual(yield* ids(5), yield* ids(6))
    })
  )

  it.effect("minTerms and maxTerms bound what is asked for", () =>
    Effect.gen(function* () {
      const tasks = yield* collect(digitCompletion({ minTerms: 2, maxTerms: 3, heldOut: 0 }).tasks)
      assert.deepStrictEqual(new Set(tasks.map((task) => task.data.terms)), new Set([2, 3]))
      assert.strictEqual(tasks.length, 160)
    })
  )

  it("refuses settings that make no task, and says which to give", () => {
    assert.throws(() => digitCompletion({ modulus: 1 }), /modulus is 1; expected a whole number/)
    assert.throws(() => digitCompletion({ minTerms: 4, maxTerms: 3 }), /minTerms is 4/)
    assert.throws(() => digitCompletion({ maxDifference: 2.5 }), /maxDifference is 2.5/)
    assert.throws(() => digitCompletion({ heldOut: 1 }), /heldOut is 1/)
  })
})
