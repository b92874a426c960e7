import { assert, describe, it } from "@effect/vitest"
import * as Trajectory from "../../../src/rollout/Trajectory.ts"

const task = { id: "t", prompt: "", data: undefined }

describe("ofText", () => {
  it("lets one policy token stand for the text", () => {
    const trajectory = Trajectory.ofText("a b", task)
    assert.deepStrictEqual(
      [trajectory.taskId, trajectory.index, trajectory.text, trajectory.stopReason],
      ["t", 0, "a b", "stop"]
    )
    assert.strictEqual(Trajectory.policyTokens(trajectory), 1)
    assert.strictEqual(Trajectory.promptOf(trajectory).length, 0)
    assert.strictEqual(Trajectory.policyText(trajectory), "a b")
    assert.deepStrictEqual(Trajectory.staleness(trajectory, 3), { mean: 3, max: 3 })
  })

  it("takes tokens, turns and facts where they are known", () => {
    const trajectory = Trajectory.ofText("I say 5. Tool: 7", task, {
      index: 2,
      info: { tool: 7 },
      turns: ["I say 7", "I say 5"],
      prompt: Uint32Array.of(1, 2),
      tokens: Uint32Array.of(3, 4, 5),
      stopReason: "length"
    })
    assert.deepStrictEqual([trajectory.index, trajectory.info], [2, { tool: 7 }])
    assert.isTrue(Trajectory.isTruncated(trajectory))
    assert.deepStrictEqual([...Trajectory.tokensOf(trajectory, 0)], [1, 2, 3, 4, 5])
    assert.deepStrictEqual([...Trajectory.promptOf(trajectory)], [1, 2])
    assert.deepStrictEqual([...Trajectory.policyIds(trajectory)], [3, 4, 5])
    assert.deepStrictEqual([...Trajectory.policyLogprobs(trajectory)], [0, 0, 0])
    assert.strictEqual(Trajectory.policyText(trajectory), "I say 7\nI say 5")
    assert.strictEqual(Trajectory.lastText(trajectory), "I say 5")
  })
})
