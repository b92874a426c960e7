import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { answer, lookup } from "../../envs/Lookup.ts"
import * as Reward from "../../src/score/Reward.ts"
import { wrote } from "./trajectory.ts"

const judged = Effect.fnUntraced(function* (seed: number, index: number, text: string, end = false) {
  const env = lookup({ seed })
  const task = (yield* env.tasks.load).at(index)!
  const group = { task, trajectories: [wrote(env.tokenizer, task, text, { end })] }
  const scored = yield* Reward.scoreGroup(Reward.all({ matched: env.reward }), group)
  return scored.trajectories[0]!
})

describe("lookup", () => {
  it.effect("ten prompts of three tokens over a vocabulary of 16", () =>
    Effect.gen(function* () {
      const env = lookup()
      const tasks = yield* env.tasks.load
      assert.strictEqual(tasks.length, 10)
      assert.strictEqual(env.tokenizer.vocabularySize, 16)
      assert.strictEqual(env.environment.maxTokens, 3)
      const prompts = Array.from({ length: 10 }, (_, index) => tasks.at(index)!.prompt as string)
      assert.strictEqual(new Set(prompts).size, 10)
      for (const prompt of prompts) assert.strictEqual(env.tokenizer.encode(prompt).length, 3)
    })
  )

  it.effect("the seed fixes the answers, and another seed has others", () =>
    Effect.gen(function* () {
      const answers = Effect.fnUntraced(function* (seed: number) {
        const tasks = yield* lookup({ seed }).tasks.load
        return Array.from({ length: 10 }, (_, index) => tasks.at(index)!.data.answer)
      })
      const first = yield* answers(3)
      assert.deepStrictEqual(first, yield* answers(3))
      assert.notDeepEqual(first, yield* answers(4))
      for (const text of first) assert.match(text, /^\d{3}$/)
      assert.isAbove(new Set(first).size, 5)
    })
  )

  it.effect("digits are uniform over seeds", () =>
    Effect.sync(() => {
      const counts = Array.from({ length: 10 }, () => 0)
      for (let seed = 0; seed < 200; seed++) {
        for (let index = 0; index < 10; index++) for (const digit of answer(seed, index)) counts[Number(digit)]!++
      }
      // 6000 draws, 600 expected of each digit, standard deviation 23
      for (const count of counts) assert.closeTo(count, 600, 120)
    })
  )

  it.effect("the reward is the share matched from the start, earned by the digits that matched", () =>
    Effect.gen(function* () {
      for (const seed of [0, 1, 2]) {
        for (let index = 0; index < 10; index++) {
          const right = answer(seed, index)
          const other = (position: number) => String((Number(right[position]) + 1) % 10)
          for (let matched = 0; matched <= 3; matched++) {
            // right up to `matched`, one wrong digit, then right digits that earn nothing
            const text = right.slice(0, matched) + (matched < 3 ? other(matched) + right.slice(matched + 1) : "")
            const scored = yield* judged(seed, index, text)
            assert.closeTo(scored.reward!, matched / 3, 1e-12)
            assert.deepStrictEqual(
              Array.from(scored.tokenRewards!),
              [0, 1, 2].map((position) => (position < matched ? 1 / 3 : 0))
            )
          }
        }
      }
    })
  )

  it.effect("an end before the third digit ends what is earned", () =>
    Effect.gen(function* () {
      const scored = yield* judged(0, 4, answer(0, 4).slice(0, 2), true)
      assert.closeTo(scored.reward!, 2 / 3, 1e-12)
      assert.deepStrictEqual(Array.from(scored.tokenRewards!), [1 / 3, 1 / 3, 0])
    })
  )
})
