import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { Environment, Evaluate, SamplerScripted, Task, Tokenizer, Verifier } from "quintain"

const tokenizer = Tokenizer.bytes()
const environment = Environment.singleTurn<number>({ maxTokens: 8 })
const tasks = Task.fromArray(Array.from({ length: 5 }, (_, i) => ({ id: `t${i}`, prompt: `${i}?`, data: i })))
/** Says the number that it was asked for, apart from the last, where it says 0. */
const sampler = SamplerScripted.layer({
  tokenizer,
  reply: ({ prompt }) => tokenizer.decode(prompt)[0]!.replace("4", "0")
})

const exact: Verifier.VerifierFunction<number> = ({ task, trajectory }) =>
  trajectory.text === String(task.data) ? 1 : 0.5

describe("Evaluate.run", () => {
  it.live("means over all tasks once, in their order, whatever finishes first", () =>
    Effect.gen(function* () {
      const late: Verifier.VerifierFunction<number> = (input) =>
        Effect.as(Effect.sleep(20 - 4 * input.task.data), input.trajectory.text === String(input.task.data) ? 1 : 0.5)
      const {
        accuracy,
        groups,
        reward,
        tasks: count,
        unscorable
      } = yield* Evaluate.run({
        tasks,
        environment,
        tokenizer,
        reward: late
      })
      assert.deepStrictEqual([accuracy, reward, count, unscorable], [0.8, 0.9, 5, 0])
      assert.deepStrictEqual(
        groups.map(({ task }) => task.id),
        ["t0", "t1", "t2", "t3", "t4"]
      )
      assert.isTrue(groups.every(({ trajectories }) => trajectories.length === 1))
    }).pipe(Effect.provide(sampler))
  )

  it.live("leaves what cannot be scored out of both means, and counts it", () =>
    Effect.gen(function* () {
      const reward: Verifier.VerifierFunction<number> = (input) =>
        input.task.data < 2 ? Verifier.unscorable("away") : exact(input)
      const result = yield* Evaluate.run({ tasks, environment, tokenizer, reward })
      assert.strictEqual(result.unscorable, 2)
      assert.closeTo(result.accuracy, 2 / 3, 1e-12)
      assert.closeTo(result.reward, 2.5 / 3, 1e-12)
      const never: Verifier.VerifierFunction<number> = () => Verifier.unscorable("away")
      const none = yield* Evaluate.run({ tasks, environment, tokenizer, reward: never })
      assert.isNaN(none.accuracy)
    }).pipe(Effect.provide(sampler))
  )

  it.live("takes the first `count` tasks, and what is right from `correct`", () =>
    Effect.gen(function* () {
      const options = { tasks, environment, tokenizer, reward: exact }
      const { tasks: count } = yield* Evaluate.run({ ...options, count: 2 })
      assert.strictEqual(count, 2)
      const { accuracy } = yield* Evaluate.run({ ...options, correct: ({ reward }) => reward === 0.5 })
      assert.strictEqual(accuracy, 0.2)
    }).pipe(Effect.provide(sampler))
  )

  it.live("takes 256 tasks of an endless source", () =>
    Effect.gen(function* () {
      const endless = Task.generate("endless", (i) => ({ id: `e${i}`, prompt: `${i % 4}?`, data: i % 4 }))
      const { accuracy, tasks } = yield* Evaluate.run({ tasks: endless, environment, tokenizer, reward: exact })
      assert.deepStrictEqual([tasks, accuracy], [256, 1])
    }).pipe(Effect.provide(sampler))
  )
})
