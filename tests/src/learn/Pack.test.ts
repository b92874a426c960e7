import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import * as Batch from "../../../src/learn/Batch.ts"
import * as Pack from "../../../src/learn/Pack.ts"
import { Producer, type Trajectory } from "../../../src/rollout/Trajectory.ts"
import { type Made, scoredGroup, split, trajectory } from "../../fixtures/groups.ts"
import { contextOf } from "../../fixtures/forests.ts"

const token = fc.integer({ min: 0, max: 30 })
const sequence = fc.array(fc.tuple(token, fc.boolean()), { minLength: 1, maxLength: 6 }).chain((tokens) => {
  const n = tokens.filter(([, target]) => target).length
  const numbers = (min: number, max: number) =>
    fc.array(fc.double({ min, max, noNaN: true }), { minLength: n, maxLength: n })
  return fc
    .record({ advantage: numbers(-2, 2), sampled: numbers(-3, 0) })
    .map(({ advantage, sampled }): Pack.PackSequence & { readonly target: ReadonlyArray<boolean> } => ({
      tokens: Uint32Array.from(tokens, ([id]) => id),
      target: tokens.map(([, target]) => target),
      advantage: Float64Array.from(advantage),
      samplerLogprobs: Float32Array.from(sampled)
    }))
})
const groups = fc.array(
  fc.record({
    prompt: fc.array(token, { minLength: 1, maxLength: 5 }).map((tokens) => Uint32Array.from(tokens)),
    sequences: fc.array(sequence, { maxLength: 4 })
  }),
  { minLength: 1, maxLength: 4 }
)
const aggregates: ReadonlyArray<Pack.Aggregate> = ["token", "sequence", "sum", { constant: 6 }]

describe("every target", () => {
  it("is predicted from exactly what came before it, in order, whatever the packs", () => {
    fc.assert(
      fc.property(groups, fc.option(fc.integer({ min: 1, max: 20 }), { nil: undefined }), (input, maxTokens) => {
        const packs = Pack.pack(input, { aggregate: "token", ...(maxTokens === undefined ? {} : { maxTokens }) })
        const expected = input.flatMap(({ prompt, sequences }, group) =>
          sequences.flatMap(({ advantage, samplerLogprobs, target, tokens }, sequence) => {
            let n = 0
            return Array.from(tokens).flatMap((id, i) => {
              if (!target[i]) return []
              const numbers = { advantage: (advantage as Float64Array)[n], sampled: samplerLogprobs![n] }
              n++
              return [{ group, index: sequence, context: [...prompt, ...tokens.subarray(0, i)], id, ...numbers }]
            })
          })
        )
        const actual = packs.flatMap((pack) =>
          pack.sequences.flatMap(({ group, index }, q) =>
            Array.from({ length: pack.sequenceStart[q + 1]! - pack.sequenceStart[q]! }, (_, i) => {
              const n = pack.sequenceStart[q]! + i
              return {
                group,
                index,
                context: contextOf(pack.forest, pack.forest.targetPosition[n]!),
                id: pack.forest.targetToken[n],
                advantage: pack.advantages[n],
                sampled: pack.samplerLogprobs[n]
              }
            })
          )
        )
        assert.deepStrictEqual(actual, expected)
      }),
      { seed: 1 }
    )
  })
})

describe("packs", () => {
  it("are well-formed forests: segments in order without gaps, parents earlier, none empty", () => {
    fc.assert(
      fc.property(groups, fc.integer({ min: 1, max: 20 }), (input, maxTokens) => {
        for (const { forest, sequenceStart, weights } of Pack.pack(input, { aggregate: "token", maxTokens })) {
          let next = 0
          forest.segmentStart.forEach((start, s) => {
            assert.strictEqual(start, next)
            assert.isAbove(forest.segmentLength[s]!, 0)
            assert.isBelow(forest.segmentParent[s]!, s)
            next = start + forest.segmentLength[s]!
          })
          assert.strictEqual(next, forest.tokens.length)
          assert.strictEqual(sequenceStart.at(-1), weights.length)
          assert.isAbove(weights.length, 0)
        }
      }),
      { seed: 2 }
    )
  })

  it("stay within maxTokens unless a single sequence does not fit", () => {
    fc.assert(
      fc.property(groups, fc.integer({ min: 1, max: 25 }), (input, maxTokens) => {
        for (const pack of Pack.pack(input, { aggregate: "sum", maxTokens })) {
          assert.isTrue(pack.forest.tokens.length <= maxTokens || pack.sequences.length === 1)
        }
      }),
      { seed: 3 }
    )
  })

  it.each(aggregates)("share out the weights of %s over the whole batch, however it is cut", (aggregate) => {
    fc.assert(
      fc.property(groups, fc.integer({ min: 1, max: 25 }), (input, maxTokens) => {
        const weights = (packs: ReadonlyArray<Pack.Pack>) => packs.flatMap((pack) => [...pack.weights])
        const whole = Pack.pack(input, { aggregate })
        assert.isAtMost(whole.length, 1)
        assert.deepStrictEqual(weights(Pack.pack(input, { aggregate, maxTokens })), weights(whole))

        const lengths = input.flatMap(({ sequences }) =>
          sequences.map(({ target }) => Array.from(target).filter(Boolean).length)
        )
        const nonEmpty = lengths.filter((n) => n > 0)
        const tokens = lengths.reduce((a, b) => a + b, 0)
        const total = weights(whole).reduce((a, b) => a + b, 0)
        if (tokens === 0) return assert.strictEqual(total, 0)
        if (aggregate === "token") assert.closeTo(total, 1, 1e-12)
        else if (aggregate === "sequence") assert.closeTo(total, nonEmpty.length / lengths.length, 1e-12)
        else if (aggregate === "sum") assert.strictEqual(total, tokens)
        else assert.closeTo(total, tokens / (lengths.length * aggregate.constant), 1e-12)
      }),
      { seed: 4 }
    )
  })

  it("compute a group's prompt once, and leave out what predicts nothing", () => {
    const prompt = Uint32Array.of(5, 6, 7)
    const one = (...tokens: Array<number>): Pack.PackSequence => ({
      tokens: Uint32Array.from(tokens),
      target: tokens.map(() => 1),
      advantage: 1
    })
    const [pack, ...rest] = Pack.pack([{ prompt, sequences: [one(1, 2), one(3), one(4, 8, 9)] }], { aggregate: "sum" })
    assert.strictEqual(rest.length, 0)
    assert.deepStrictEqual([...pack!.forest.tokens], [5, 6, 7, 1, 4, 8])
    assert.deepStrictEqual([...pack!.forest.segmentParent], [-1, 0, 0])
    assert.deepStrictEqual([...pack!.forest.targetPosition], [2, 3, 2, 2, 4, 5])
    assert.isTrue(pack!.samplerLogprobs.every(Number.isNaN))
  })

  it("start anew rather than repeat a prompt, when the group fits whole", () => {
    const group = (prompt: number): Pack.PackGroup => ({
      prompt: Uint32Array.of(prompt),
      sequences: [1, 2].map((id) => ({ tokens: Uint32Array.of(id, id), target: [1, 1], advantage: 0 }))
    })
    const packs = Pack.pack([group(7), group(8), group(9)], { aggregate: "token", maxTokens: 5 })
    assert.deepStrictEqual(
      packs.map(({ forest }) => [...forest.tokens]),
      [
        [7, 1, 2],
        [8, 1, 2],
        [9, 1, 2]
      ]
    )
    const larger = Pack.pack([group(7), group(8)], { aggregate: "token", maxTokens: 6 })
    assert.strictEqual(larger.length, 1)
    const cut = Pack.pack([group(7)], { aggregate: "token", maxTokens: 2 })
    assert.deepStrictEqual(
      cut.map(({ forest }) => [...forest.tokens]),
      [
        [7, 1],
        [7, 2]
      ]
    )
  })

  it("refuse what cannot be predicted or does not fit", () => {
    const tokens = Uint32Array.of(1)
    const of =
      (sequence: Partial<Pack.PackSequence>, prompt = [1]) =>
      () =>
        Pack.pack(
          [{ prompt: Uint32Array.from(prompt), sequences: [{ tokens, target: [1], advantage: 0, ...sequence }] }],
          {
            aggregate: "sum"
          }
        )
    assert.throws(of({}, []), /sequence 0 of group 0, length of the prompt is 0/)
    assert.throws(of({ advantage: new Float64Array(2) }), /sequence 0 of group 0, length of advantage is 2; expected 1/)
    assert.throws(of({ samplerLogprobs: new Float32Array() }), /samplerLogprobs/)
    assert.throws(
      () =>
        Pack.pack([{ prompt: tokens, sequences: [{ tokens, target: [1], advantage: 0 }] }], {
          aggregate: { constant: 0 }
        }),
      /aggregate.constant is 0; .*longest completion/
    )
  })
})

describe("a batch", () => {
  const { Environment, Policy } = Producer
  const made: ReadonlyArray<Made> = [
    {
      reward: 1,
      tokens: [1, 20, 21, 2],
      producer: [Policy, Environment, Environment, Policy],
      logprobs: [-1, 0, 0, -2]
    },
    { reward: 0, tokens: [3, 4], stopReason: "length" },
    { reward: undefined, tokens: [5, 6] }
  ]
  const batch = { groups: [{ ...scoredGroup(made), advantages: [0.5, -0.5, 0] }] }

  it("trains on policy tokens only, in numerator and denominator, and not on unscorable trajectories", () => {
    const [pack] = Batch.pack(batch, { aggregate: "token" })
    assert.deepStrictEqual([...pack!.forest.targetToken], [1, 2, 3, 4])
    assert.deepStrictEqual([...pack!.samplerLogprobs], [-1, -2, -1, -1])
    assert.deepStrictEqual([...pack!.advantages], [0.5, 0.5, -0.5, -0.5])
    assert.deepStrictEqual([...pack!.weights], [0.25, 0.25, 0.25, 0.25])
    // The second policy token is predicted by the last token of the tool's answer.
    assert.strictEqual(pack!.forest.tokens[pack!.forest.targetPosition[1]!], 21)
  })

  it("leaves truncated trajectories out of the loss when asked, but counts them as sequences", () => {
    const [pack] = Batch.pack(batch, { aggregate: "sequence", maskTruncated: true })
    assert.deepStrictEqual([...pack!.forest.targetToken], [1, 2])
    assert.deepStrictEqual([...pack!.weights], [0.25, 0.25])
  })

  it("packs an episode in two branches as it packs the same in one", () => {
    const whole = trajectory({ tokens: [1, 2, 3, 4], logprobs: [-1, -2, -3, -4] }, 0, [7, 8], "task")
    const packsOf = (one: Trajectory) => {
      const group = { ...batch.groups[0]!, trajectories: [{ trajectory: one, reward: 1, outcomes: {}, metrics: {} }] }
      return Batch.pack({ groups: [group] }, { aggregate: "token" })
    }
    for (const own of [1, 2, 3]) assert.deepStrictEqual(packsOf(split(whole, own)), packsOf(whole))
  })

  it("refuses turns of several temperatures", () => {
    const [scored] = batch.groups[0]!.trajectories
    const { trajectory } = scored!
    const turns = trajectory.turns.map((turn, i) => ({ ...turn, temperature: i === 0 ? 1 : 0.5 }))
    const trajectories = [{ ...scored!, trajectory: { ...trajectory, turns } }]
    assert.throws(
      () => Batch.pack({ groups: [{ ...batch.groups[0]!, trajectories }] }, { aggregate: "token" }),
      /temperature is "1 and 0.5"; expected one/
    )
  })

  it("calls truncated what ended at a limit of length or at the model's context, and nothing else", () => {
    const ends = ["stop", "length", "context", "environment"] as const
    const every = scoredGroup(ends.map((stopReason, i) => ({ reward: i, tokens: [10 + i], stopReason })))
    const of = (maskTruncated: boolean) => {
      const [pack] = Batch.pack(
        { groups: [{ ...every, advantages: [1, 1, 1, 1] }] },
        { aggregate: "sequence", maskTruncated }
      )
      return Array.from(pack!.forest.targetToken)
    }
    assert.deepStrictEqual(of(false), [10, 11, 12, 13])
    assert.deepStrictEqual(of(true), [10, 13])
  })
})
