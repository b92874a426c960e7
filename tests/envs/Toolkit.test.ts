import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import type { Toolkit } from "../../envs/index.ts"
import { toolkit } from "../../envs/index.ts"
import { TRAINED, UNSEEN } from "../../envs/internal/toolkitTools.ts"
import * as Reward from "../../src/score/Reward.ts"
import type * as Task from "../../src/data/Task.ts"
import * as Tokenizer from "../../src/text/Tokenizer.ts"
import { wrote } from "./trajectory.ts"

const tokenizer = Tokenizer.bytes()
const kit = toolkit({ seed: 5, heldOut: 64 })

const tasksOf = Effect.fnUntraced(function* (source: Task.Source<Toolkit.ToolkitData>, count: number) {
  const tasks = yield* source.load
  return Array.from({ length: Math.min(count, tasks.length) }, (_, index) => tasks.at(index)!)
})

const score = Effect.fnUntraced(function* (task: Task.Task<Toolkit.ToolkitData>, text: string, end = true) {
  const group = { task, trajectories: [wrote(tokenizer, task, text, { end })] }
  const [scored] = (yield* Reward.scoreGroup(kit.reward, group)).trajectories
  return scored!
})

const textOf = (task: Task.Task<Toolkit.ToolkitData>): string =>
  (task.prompt as ReadonlyArray<Task.Message>).map(({ content }) => content).join("\n")

describe("toolkit", () => {
  it.effect("scores the right call 1, and what is less by what is right in it", () =>
    Effect.gen(function* () {
      for (const task of [...(yield* tasksOf(kit.tasks, 60)), ...(yield* tasksOf(kit.heldOut, 64))]) {
        const { call } = task.data
        const gold = JSON.stringify(call)
        const exact = yield* score(task, gold)
        assert.closeTo(exact.reward!, 1, 1e-12, gold)
        assert.deepInclude(exact.outcomes["exact"], { _tag: "Scored", score: 1 })

        const [first] = Object.keys(call.arguments)
        const { [first!]: _, ...missing } = call.arguments
        const lacking = yield* score(task, JSON.stringify({ ...call, arguments: missing }))
        const share = Object.keys(missing).length / Object.keys(call.arguments).length
        assert.closeTo(lacking.reward!, 0.3 + 0.5 * share, 1e-12, "a call that lacks an argument fits no schema")
        const chatty = yield* score(task, `Sure! ${gold}`)
        assert.closeTo(chatty.reward!, 0.8, 1e-12, "right, but not alone")
        assert.deepInclude(chatty.outcomes["exact"], { _tag: "Scored", score: 0 })
        assert.strictEqual((yield* score(task, "I cannot do that.")).reward, 0)
        const copied = (task.prompt as ReadonlyArray<Task.Message>).find(({ role }) => role === "assistant")!
        const copy = yield* score(task, copied.content!)
        assert.closeTo(copy.reward!, 0.1, 1e-12, "a worked example, copied")
        assert.deepInclude(copy.outcomes["schema"], { _tag: "Scored", score: 1 })
        assert.closeTo((yield* score(task, JSON.stringify({ ...call, name: "rm" }))).reward!, 0.1, 1e-12)
      }
    })
  )

  it.effect("holds out wordings, values and tools", () =>
    Effect.gen(function* () {
      const trained = yield* tasksOf(kit.tasks, 400)
      const heldOut = yield* tasksOf(kit.heldOut, 64)
      const seen = trained.map(textOf).join("\n")
      for (const { name } of UNSEEN) assert.notInclude(seen, name)
      const unseen = heldOut.filter(({ data }) => data.unseen)
      assert.strictEqual(unseen.length, 32)
      for (const task of unseen) assert.isTrue(UNSEEN.some(({ name }) => name === task.data.call.name))
      const questions = new Set(trained.map((task) => textOf(task).split("\n").at(-1)))
      for (const task of heldOut) assert.isFalse(questions.has(textOf(task).split("\n").at(-1)))
      assert.sameMembers(
        [...new Set(trained.map(({ data }) => data.call.name))],
        TRAINED.map(({ name }) => name)
      )
    })
  )

  it.effect("is the same for the same seed, and another for another", () =>
    Effect.gen(function* () {
      const again = toolkit({ seed: 5, heldOut: 64 })
      assert.deepStrictEqual(yield* tasksOf(again.tasks, 5), yield* tasksOf(kit.tasks, 5))
      const other = toolkit({ seed: 6, heldOut: 64 })
      assert.notDeepEqual(yield* tasksOf(other.tasks, 5), yield* tasksOf(kit.tasks, 5))
    })
  )

  it("refuses numbers that make no task", () => {
    assert.throws(() => toolkit({ offered: 0 }), /offered is 0/)
    assert.throws(() => toolkit({ offered: 99 }), /offered is 99/)
    assert.throws(() => toolkit({ heldOut: -1 }), /heldOut is -1/)
  })
})
