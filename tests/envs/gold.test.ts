/** Every bundled task scores its own gold answer 1, whatever the seed; and one that is one off less. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { digitCompletion, lookup, toolCaller } from "../../envs/index.ts"
import { assertSound, check } from "../../rewards/testing/index.ts"
import * as Reward from "../../src/score/Reward.ts"
import type * as Task from "../../src/data/Task.ts"
import type { Tokenizer } from "../../src/text/Tokenizer.ts"
import * as Verifier from "../../src/score/Verifier.ts"
import type { VerifierFunction } from "../../src/score/Verifier.ts"
import { wrote } from "./trajectory.ts"

const seeds = Array.from({ length: 25 }, (_, seed) => seed * 7919)

/** The last digit, up by one. */
const offByOne = (answer: string): string => answer.replace(/\d(?=\D*$)/, (digit) => String((Number(digit) + 1) % 10))

interface Bundle<Data extends { readonly answer: string }> {
  readonly tasks: Task.Source<Data>
  readonly heldOut: Task.Source<Data>
  readonly tokenizer: Tokenizer
  readonly reward: Reward.Part<Data, never>
}

/** The first tasks of both sources. */
const some = Effect.fnUntraced(function* <Data extends { readonly answer: string }>(
  bundle: Bundle<Data>,
  count: number
) {
  const both = [yield* bundle.tasks.load, yield* bundle.heldOut.load]
  return both.flatMap((tasks) =>
    Array.from({ length: Math.min(count, tasks.length) }, (_, index) => tasks.at(index)).filter(
      (task) => task !== undefined
    )
  )
})

const scoreOf = Effect.fnUntraced(function* <Data extends { readonly answer: string }>(
  { reward, tokenizer }: Bundle<Data>,
  task: Task.Task<Data>,
  text: string,
  end: boolean
) {
  const group = { task, trajectories: [wrote(tokenizer, task, text, { end })] }
  const scored = yield* Reward.scoreGroup(Reward.all({ reward }) as Reward.Reward<any>, group)
  return scored.trajectories[0]!.reward
})

const holds = Effect.fnUntraced(function* <Data extends { readonly answer: string }>(
  make: (seed: number) => Bundle<Data>,
  options: { readonly count: number; readonly end: boolean }
) {
  for (const seed of seeds) {
    const bundle = make(seed)
    const tasks = yield* some(bundle, options.count)
    assert.isAbove(tasks.length, 0)
    for (const task of tasks) {
      const { answer } = task.data
      const other = offByOne(answer)
      assert.strictEqual(yield* scoreOf(bundle, task, answer, options.end), 1, `seed ${seed}, task ${task.id}`)
      assert.notStrictEqual(other, answer)
      assert.isBelow(
        (yield* scoreOf(bundle, task, other, options.end)) ?? 1,
        1,
        `seed ${seed}, task ${task.id}: ${other}`
      )
    }
  }
})

describe("gold answers", () => {
  it.effect("lookup", () => holds((seed) => lookup({ seed }), { count: 10, end: false }))
  it.effect("digitCompletion", () => holds((seed) => digitCompletion({ seed }), { count: 40, end: true }))
  it.live("toolCaller", () => holds((seed) => toolCaller({ seed, heldOut: 16 }), { count: 16, end: true }))
})

/** Text that a policy of these characters can write; it ends its turn. */
const written =
  (tokenizer: Tokenizer, end: boolean, longest: number) => (text: string, task: Task.Task<unknown>, index: number) => {
    if (text.length > longest) return undefined
    try {
      return wrote(tokenizer, task, text, { end, index })
    } catch {
      return undefined
    }
  }

describe("rewards of bundled tasks under the test kit", () => {
  const examplesOf = Effect.fnUntraced(function* <Data extends { readonly answer: string }>(bundle: Bundle<Data>) {
    const tasks = yield* some(bundle, 4)
    return tasks.map((task, index) => {
      const wrong = tasks.map((other) => other.data.answer).filter((answer) => answer !== task.data.answer)
      return { task, gold: [task.data.answer], wrong: wrong.slice(index % 2, (index % 2) + 2) }
    })
  })
  // the very characters count, nothing may stand around them
  const exact = { surrounded: "reject", prose: "reject" } as const

  it.effect("lookup", () =>
    Effect.gen(function* () {
      const bundle = lookup({ seed: 3 })
      const report = yield* check(
        bundle.reward as VerifierFunction<{ readonly answer: string }>,
        yield* examplesOf(bundle),
        {
          cost: false,
          expect: exact,
          trajectory: written(bundle.tokenizer, false, 3)
        }
      )
      assert.isAbove(report.judged, 50)
      assertSound(report)
    })
  )
  it.effect("digitCompletion", () =>
    Effect.gen(function* () {
      const bundle = digitCompletion({ seed: 3 })
      const report = yield* check(bundle.reward, yield* examplesOf(bundle), {
        cost: false,
        expect: exact,
        trajectory: written(bundle.tokenizer, true, 100)
      })
      assert.isAbove(report.judged, 50)
      assertSound(report)
    })
  )
  it.live("toolCaller", () =>
    Effect.gen(function* () {
      const bundle = toolCaller({ seed: 3, heldOut: 8 })
      const tasks = yield* some(bundle, 8)
      const examples = tasks.map((task) => ({ task, gold: [task.data.answer], wrong: [offByOne(task.data.answer)] }))
      // the whole reward as one verifier
      const verifier: VerifierFunction<(typeof tasks)[number]["data"]> = ({ task, trajectory }) =>
        Effect.map(Reward.scoreGroup(bundle.reward, { task, trajectories: [trajectory] }), (scored) => {
          const [{ outcomes, reward } = { outcomes: {}, reward: undefined }] = scored.trajectories
          return reward ?? Verifier.unscorable(JSON.stringify(outcomes))
        })
      // the text is the call; 12+7 is as right as 7+12, and another question may have the same result
      const expect = { prose: "reject", "other-task": "either" } as const
      assertSound(yield* check(verifier, examples, { cost: false, expect }))
    })
  )
})
