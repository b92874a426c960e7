import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { exactMatch, toolCaller, type ToolCallerData } from "../../envs/ToolCaller.ts"
import * as Reward from "../../src/score/Reward.ts"
import type { Source, Task } from "../../src/data/Task.ts"
import { wrote } from "./trajectory.ts"

const env = toolCaller({ seed: 1 })

const first = <Data>(source: Source<Data>, count: number) =>
  Effect.map(source.load, (tasks) =>
    Array.from({ length: Math.min(count, tasks.length) }, (_, index) => tasks.at(index)!)
  )

/** Rewards of several answers to one question. */
const rewards = (task: Task<ToolCallerData>, texts: ReadonlyArray<string>) =>
  Effect.map(
    Reward.scoreGroup(env.reward, {
      task,
      trajectories: texts.map((text, index) => wrote(env.tokenizer, task, text, { index }))
    }),
    (group) => group.trajectories
  )

const task = (
  prompt: string,
  tool: ToolCallerData["tool"],
  answer: string,
  cases: ToolCallerData["cases"] = []
): Task<ToolCallerData> => ({ id: prompt, prompt, data: { tool, answer, calls: [JSON.parse(answer)], cases } })

const minus = task("9-5=?", "sub", `{"name":"sub","arguments":{"a":9,"b":5}}`)
const times = task("9*5=?", "mul", `{"name":"mul","arguments":{"a":9,"b":5}}`)

describe("toolCaller", () => {
  it.effect("every question scores its own answer 1, within the turn and the vocabulary", () =>
    Effect.gen(function* () {
      const tasks = [...(yield* first(env.tasks, 40)), ...(yield* first(env.heldOut, 40))]
      for (const task of tasks) {
        const [scored] = yield* rewards(task, [task.data.answer])
        assert.strictEqual(scored!.reward, 1, `${task.id} ${JSON.stringify(scored!.outcomes)}`)
        assert.isAtMost(env.tokenizer.encode(task.data.answer).length + 1, env.environment.maxTokens)
        assert.isAtMost(env.tokenizer.encode(task.prompt as string).length, 10)
      }
    })
  )

  it.effect("every mistaken demonstration scores 0, every right one 1", () =>
    Effect.gen(function* () {
      const demonstrations = env.demonstrations({ count: 400 })
      const perfect = env.demonstrations({ count: 400, errorRate: 0 })
      let wrong = 0
      for (const [index, { completion, prompt }] of demonstrations.entries()) {
        assert.strictEqual(perfect[index]!.prompt, prompt)
        const right = perfect[index]!.completion
        const question = asked(prompt, JSON.parse(right).name, right)
        const isRight = completion === right
        const [scored] = yield* rewards(question, [completion])
        assert.strictEqual(scored!.reward, isRight ? 1 : 0, `${prompt} ${completion}`)
        if (!isRight) wrong++
      }
      // 400 draws at 0.7: standard deviation 9
      assert.closeTo(wrong, 280, 50)
    })
  )

  it.effect("the gate, the replay and the unit tests each refuse what is theirs", () =>
    Effect.gen(function* () {
      const def = asked("f(x)=3x+4", "def", `{"name":"def","arguments":{"code":"x=>3*x+4"}}`)
      const scored = yield* rewards(minus, [
        `{"name":"sub","arguments":{"a":"9","b":"5"}}`,
        `{"name":"sub","arguments":{"a":5,"b":9}}`,
        `{"name":"add","arguments":{"a":9,"b":5}}`,
        `{"name":"sub","arguments":{"a":9,"b":5}`,
        `{"name":"def","arguments":{"code":"x=>4"}}`
      ])
      assert.deepStrictEqual(
        scored.map(({ reward }) => reward),
        [0, 0, 0, 0, 0]
      )
      assert.deepStrictEqual(
        scored.map(({ outcomes }) => scoreOf(outcomes["schema"])),
        [0, 1, 1, 0, 1]
      )
      assert.deepStrictEqual(scored.map(({ outcomes }) => scoreOf(outcomes["replay"])).slice(1, 3), [0, 0])
      const code = yield* rewards(def, [
        `{"name":"def","arguments":{"code":"x=>3x+4"}}`,
        `{"name":"def","arguments":{"code":"x=>3*x-4"}}`,
        `{"name":"def","arguments":{"code":"3*x+4"}}`,
        `{"name":"def","arguments":{"code":"x=>4+x*3"}}`,
        `{"name":"mul","arguments":{"a":3,"b":4}}`
      ])
      assert.deepStrictEqual(
        code.map(({ reward }) => reward),
        [0, 0, 0, 1, 0]
      )
      assert.deepStrictEqual(
        code.map(({ outcomes }) => scoreOf(outcomes["tests"])),
        [0, 0, 0, 1, 0]
      )
    })
  )

  it.effect("a call with the right result is right in another form; the exact match asks for the form", () =>
    Effect.gen(function* () {
      const swapped = `{"name":"mul","arguments":{"a":5,"b":9}}`
      const [scored] = yield* rewards(times, [swapped])
      assert.strictEqual(scored!.reward, 1)
      assert.strictEqual(scoreOf(scored!.outcomes["exact"]), 0)
      const judge = (text: string, end: boolean) =>
        exactMatch({
          task: times,
          trajectory: wrote(env.tokenizer, times, text, { end }),
          signal: new AbortController().signal
        })
      assert.strictEqual(judge(times.data.answer, true), 1)
      assert.notStrictEqual(judge(times.data.answer, false), 1)
    })
  )

  it.effect("held-out questions occur neither in the tasks nor in the demonstrations, and all tools are in all", () =>
    Effect.gen(function* () {
      for (const seed of [0, 1, 2]) {
        const env = toolCaller({ seed, max: 20 })
        const heldOut = yield* first(env.heldOut, 1000)
        const ids = new Set(heldOut.map(({ id }) => id))
        assert.strictEqual(ids.size, 128)
        const tasks = yield* first(env.tasks, 3000)
        const demonstrations = env.demonstrations({ count: 3000 })
        for (const { id } of tasks) assert.isFalse(ids.has(id), id)
        for (const { prompt } of demonstrations) assert.isFalse(ids.has(prompt), prompt)
        for (const set of [heldOut, tasks]) {
          const shares = ["add", "sub", "mul", "def"].map((tool) => set.filter(({ data }) => data.tool === tool).length)
          assert.deepStrictEqual(
            shares,
            Array.from({ length: 4 }, () => set.length / 4)
          )
        }
      }
    })
  )

  it.effect("the seed fixes everything", () =>
    Effect.gen(function* () {
      const all = Effect.fnUntraced(function* (seed: number) {
        const env = toolCaller({ seed })
        return JSON.stringify([
          yield* first(env.tasks, 50),
          yield* first(env.heldOut, 50),
          env.demonstrations({ count: 50 })
        ])
      })
      assert.strictEqual(yield* all(5), yield* all(5))
      assert.notStrictEqual(yield* all(5), yield* all(6))
    })
  )

  it.effect("demonstrations are wrong as often as asked for", () =>
    Effect.sync(() => {
      const perfect = env.demonstrations({ count: 1000, errorRate: 0 })
      for (const errorRate of [0, 0.3, 1]) {
        const wrong = env
          .demonstrations({ count: 1000, errorRate })
          .filter(({ completion }, index) => completion !== perfect[index]!.completion).length
        assert.closeTo(wrong / 1000, errorRate, errorRate % 1 === 0 ? 0 : 0.06)
      }
    })
  )

  it("refuses settings that make no task, and says which to give", () => {
    assert.throws(() => toolCaller({ max: 5 }), /max is 5; expected a whole number from 20 to 99/)
    assert.throws(() => toolCaller({ heldOut: -1 }), /heldOut is -1/)
  })
})

const scoreOf = (outcome: { readonly _tag: string; readonly score?: number } | undefined) => outcome?.score

/** The task of a question that is given as text, with tests of its own. */
const asked = (prompt: string, tool: ToolCallerData["tool"], answer: string): Task<ToolCallerData> => {
  if (tool !== "def") return task(prompt, tool, answer)
  const [, factor, offset] = /^f\(x\)=(\d+)x([+-]\d+)$/.exec(prompt)!
  const cases = [0, 1, 5].map((x) => ({ args: [x], expect: Number(factor) * x + Number(offset) }))
  return task(prompt, tool, answer, cases)
}
