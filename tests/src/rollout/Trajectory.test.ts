import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import * as Tokenizer from "../../../src/text/Tokenizer.ts"
import * as Trajectory from "../../../src/rollout/Trajectory.ts"

const task = { id: "t", prompt: "", data: undefined }
const tokenizer = Tokenizer.bytes()
const seconds = { sample: 0, environment: 0 }

/** Branches that hold together: whole strings beside them, written down by a rule of their own. */
const parts = fc
  .array(
    fc.record({
      parent: fc.option(fc.record({ branch: fc.nat(5), length: fc.nat(20) })),
      pieces: fc.array(fc.record({ given: fc.nat(3), sampled: fc.nat(3) }), { maxLength: 3 })
    }),
    { minLength: 1, maxLength: 6 }
  )
  .map((drawn) => {
    const wholes: Array<ReadonlyArray<number>> = []
    const turns: Array<Trajectory.Turn> = []
    let next = 0
    const branches = drawn.map(({ parent, pieces }, index): Trajectory.Branch => {
      const from = parent === null || index === 0 ? undefined : parent.branch % index
      const length = from === undefined ? 0 : Math.min(parent!.length, wholes[from]!.length)
      const [tokens, producer] = [[] as Array<number>, [] as Array<number>]
      for (const { given, sampled } of [{ given: 1, sampled: 0 }, ...pieces]) {
        for (let i = 0; i < given; i++) producer.push(Trajectory.Producer.Environment)
        for (let i = 0; i < sampled; i++) producer.push(Trajectory.Producer.Policy)
        while (tokens.length < producer.length) tokens.push(next++ % 256)
        const [start, end] = [tokens.length - sampled, tokens.length]
        turns.push({ branch: index, start, end, text: "", stopReason: "stop", temperature: 1, seconds })
      }
      wholes.push([...(from === undefined ? [] : wholes[from]!.slice(0, length)), ...tokens])
      return {
        ...(from === undefined ? {} : { parent: { branch: from, length } }),
        tokens: Uint32Array.from(tokens),
        producer: Uint8Array.from(producer),
        logprobs: Float32Array.from(tokens, (token) => -token),
        versions: Uint32Array.from(tokens, (token) => token + 1)
      }
    })
    const made: Omit<Trajectory.Trajectory, "text"> = {
      taskId: "t",
      index: 0,
      branches: branches as [Trajectory.Branch],
      turns,
      promptLength: 1,
      stopReason: "stop",
      info: {},
      metrics: {},
      seconds
    }
    return { made, wholes }
  })

describe("make", () => {
  it("takes branches of any shape, whose whole strings and policy tokens come out in order", () => {
    fc.assert(
      fc.property(parts, ({ made, wholes }) => {
        const trajectory = Trajectory.make(made, tokenizer)
        wholes.forEach((whole, branch) =>
          assert.deepStrictEqual([...Trajectory.tokensOf(trajectory, branch)], [...whole])
        )
        const ids = Trajectory.spans(trajectory).flatMap(({ branch, end, start }) => wholes[branch]!.slice(start, end))
        assert.deepStrictEqual([...Trajectory.policyIds(trajectory)], ids)
        assert.strictEqual(Trajectory.policyTokens(trajectory), ids.length)
        assert.deepStrictEqual(
          [...Trajectory.policyLogprobs(trajectory)],
          ids.map((token) => -token)
        )
        assert.deepStrictEqual(
          [...Trajectory.policyVersions(trajectory)],
          ids.map((token) => token + 1)
        )
      })
    )
  })

  const turn = (start: number, end: number, branch = 0): Trajectory.Turn => ({
    branch,
    start,
    end,
    text: "",
    stopReason: "stop",
    temperature: 1,
    seconds
  })
  const branch = (producer: ReadonlyArray<number>, parent?: Trajectory.Branch["parent"]): Trajectory.Branch => ({
    ...(parent === undefined ? {} : { parent }),
    tokens: new Uint32Array(producer.length).fill(65),
    producer: Uint8Array.from(producer),
    logprobs: new Float32Array(producer.length),
    versions: new Uint32Array(producer.length)
  })
  const whole: Omit<Trajectory.Trajectory, "text"> = {
    taskId: "t",
    index: 0,
    branches: [branch([0, 2, 2, 1, 2]), branch([2, 2], { branch: 0, length: 5 })],
    turns: [turn(1, 3), turn(4, 5), turn(0, 2, 1)],
    promptLength: 1,
    stopReason: "stop",
    info: {},
    metrics: {},
    seconds
  }
  const [first, second] = whole.branches as readonly [Trajectory.Branch, Trajectory.Branch]

  it("gives the text after the prompt of the branch that holds the last turn", () => {
    const text = (changed: Partial<typeof whole>) => Trajectory.make({ ...whole, ...changed }, tokenizer).text
    assert.strictEqual(text({}), "A".repeat(6))
    assert.strictEqual(text({ turns: [turn(1, 3)] }), "A".repeat(4))
    assert.strictEqual(text({ turns: [] }), "A".repeat(4))
    // A context of its own: its prompt is what came before its first turn.
    assert.strictEqual(text({ branches: [first, branch([1, 1, 1, 2, 1])], turns: [turn(3, 4, 1)] }), "AA")
  })

  it.each<readonly [string, Partial<typeof whole>, RegExp]>([
    [
      "spans that overlap",
      { turns: [turn(1, 3), turn(2, 3)] },
      /turns\[1\] is from 2 to 3; expected a span within 3 to 5/
    ],
    ["spans that descend", { turns: [turn(4, 5), turn(1, 3)] }, /turns\[1\] is from 1 to 3/],
    ["a span beyond its branch", { turns: [turn(4, 6)] }, /turns\[0\] is from 4 to 6/],
    ["a span in the prompt", { turns: [turn(0, 1)] }, /turns\[0\] is from 0 to 1/],
    ["a span of no branch", { turns: [turn(0, 0, 2)] }, /turns\[0\].branch is 2; expected 0 to 1/],
    ["a span that others wrote", { turns: [turn(2, 5)] }, /producer\[3\] is 1; expected that of the policy/],
    ["a parent that comes later", { branches: [first, branch([2], { branch: 1, length: 0 })] }, /parent.branch is 1/],
    ["a parent that is too short", { branches: [first, branch([2], { branch: 0, length: 6 })] }, /parent.length is 6/],
    ["a first branch with a parent", { branches: [second] }, /parent.branch is 0/],
    ["arrays of other lengths", { branches: [{ ...first, versions: new Uint32Array(4) }] }, /versions.length is 4/],
    ["a prompt that is too long", { promptLength: 6 }, /promptLength is 6; expected 0 to 5/]
  ])("refuses %s", (_, changed, message) => {
    assert.throws(() => Trajectory.make({ ...whole, ...changed }, tokenizer), message)
  })

  it("refuses a branch that is not there", () => {
    assert.throws(
      () => Trajectory.tokensOf(Trajectory.make(whole, tokenizer), 2),
      /tokensOf: branch is 2; expected an index/
    )
  })
})

describe("staleness", () => {
  it("is the mean and the greatest distance, over all turns", () => {
    const trajectory = Trajectory.ofText("a", task, { tokens: Uint32Array.of(1, 2) })
    const [branch] = trajectory.branches
    const sampled = { ...trajectory, branches: [{ ...branch, versions: Uint32Array.of(2, 5) }] as const }
    assert.deepStrictEqual(Trajectory.staleness(sampled, 6), { mean: 2.5, max: 4 })
    assert.deepStrictEqual(Trajectory.staleness({ ...sampled, turns: [] }, 6), { mean: 0, max: 0 })
  })
})

describe("ofText", () => {
  it("lets one policy token stand for the text", () => {
    const trajectory = Trajectory.ofText("a b", task)
    const { index, stopReason, taskId, text } = trajectory
    assert.deepStrictEqual([taskId, index, text, stopReason], ["t", 0, "a b", "stop"])
    assert.strictEqual(Trajectory.policyTokens(trajectory), 1)
    assert.strictEqual(Trajectory.promptOf(trajectory).length, 0)
    assert.strictEqual(Trajectory.policyText(trajectory), "a b")
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
