/** Rollouts of several branches, shared prefixes and units: what packs hold, and that gradients stay. */
import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { Pack } from "quintain"
import { contextOf } from "../../fixtures/forests.ts"
import { momentsOf, relativeDifference, vocabulary } from "../../fixtures/gradients.ts"

const token = fc.integer({ min: 0, max: vocabulary - 1 })
const advantage = fc.oneof(fc.double({ min: -2, max: -0.1, noNaN: true }), fc.double({ min: 0.1, max: 2, noNaN: true }))

/** One string after a prompt, some of its tokens targets, and where to split it. */
const rollout = fc
  .record({
    tokens: fc.array(fc.tuple(token, fc.boolean(), advantage), { minLength: 2, maxLength: 12 }),
    cuts: fc.uniqueArray(fc.integer({ min: 1, max: 11 }), { minLength: 1, maxLength: 3 })
  })
  .map(({ cuts, tokens }) => ({ tokens, cuts: cuts.filter((cut) => cut < tokens.length).toSorted((a, b) => a - b) }))
type Rollout = typeof rollout extends fc.Arbitrary<infer A> ? A : never

const groups = fc.array(
  fc.record({
    prompt: fc.array(token, { minLength: 1, maxLength: 4 }).map((tokens) => Uint32Array.from(tokens)),
    rollouts: fc.array(rollout, { minLength: 1, maxLength: 3 })
  }),
  { minLength: 1, maxLength: 3 }
)

const idsOf = ({ tokens }: Rollout) => Uint32Array.from(tokens, ([id]) => id)
const advantagesOf = ({ tokens }: Rollout) =>
  Float64Array.from(tokens.flatMap(([, target, value]) => (target ? [value] : [])))

const whole = (rollout: Rollout): Pack.PackSequence => ({
  tokens: idsOf(rollout),
  target: rollout.tokens.map(([, target]) => target),
  advantage: advantagesOf(rollout)
})

/** The same with explicit targets, in a chain of branches that begin at the cuts. */
const inBranches = (rollout: Rollout, prompt: number, cuts = rollout.cuts): Pack.PackSequence => {
  const ids = idsOf(rollout)
  const starts = [0, ...cuts]
  const parts = starts.map((start, b) => ids.subarray(start, starts[b + 1]))
  const branch: Array<number> = []
  const position: Array<number> = []
  const targets: Array<number> = []
  for (const [at, [id, target]] of rollout.tokens.entries()) {
    if (!target) continue
    const b = starts.findLastIndex((start) => start <= at)
    branch.push(b)
    position.push(at - starts[b]!)
    targets.push(id)
  }
  return {
    tokens: parts[0]!,
    forks: parts.slice(1).map((tokens, b) => ({ parent: { branch: b, length: prompt + starts[b + 1]! }, tokens })),
    target: {
      branch: Uint32Array.from(branch),
      position: Uint32Array.from(position),
      token: Uint32Array.from(targets)
    },
    advantage: advantagesOf(rollout)
  }
}

const packed = (
  input: typeof groups extends fc.Arbitrary<infer A> ? A : never,
  sequence: (rollout: Rollout, prompt: number) => Pack.PackSequence,
  options: Partial<Pack.PackOptions> = {}
) =>
  Pack.pack(
    input.map(({ prompt, rollouts }) => ({ prompt, sequences: rollouts.map((one) => sequence(one, prompt.length)) })),
    { aggregate: "token", ...options }
  )

describe("branches", () => {
  it("that continue each other make the packs of one string, and explicit targets those of a mask", () => {
    fc.assert(
      fc.property(groups, fc.option(fc.integer({ min: 1, max: 40 }), { nil: undefined }), (input, maxTokens) => {
        const options = maxTokens === undefined ? {} : { maxTokens }
        const expected = packed(input, whole, options)
        assert.deepStrictEqual(packed(input, inBranches, options), expected)
        assert.deepStrictEqual(
          packed(input, (one, prompt) => inBranches(one, prompt, []), options),
          expected
        )
      }),
      { seed: 1 }
    )
  })

  it("predict every target from its own branch, in the order of turns", () => {
    const prompt = Uint32Array.of(1, 2, 3)
    // A turn, a sub-agent that leaves within the prompt, the first branch again, and a context that begins by itself.
    const sequence: Pack.PackSequence = {
      tokens: Uint32Array.of(4, 5, 6, 7),
      forks: [{ parent: { branch: 0, length: 2 }, tokens: Uint32Array.of(8, 9) }, { tokens: Uint32Array.of(10, 11) }],
      target: {
        branch: Uint32Array.of(0, 1, 0, 2),
        position: Uint32Array.of(0, 1, 3, 1),
        token: Uint32Array.of(4, 9, 7, 11)
      },
      advantage: Float64Array.of(1, 2, 3, 4)
    }
    const other: Pack.PackSequence = { tokens: Uint32Array.of(4, 5, 12), target: [0, 0, 1], advantage: 5 }
    const contexts = (sharePrefixes: boolean) => {
      const [pack] = Pack.pack([{ prompt, sequences: [sequence, other] }], { aggregate: "sum", sharePrefixes })
      const { forest } = pack!
      assert.deepStrictEqual([...pack!.sequenceStart], [0, 4, 5])
      assert.deepStrictEqual([...forest.targetToken], [4, 9, 7, 11, 12])
      assert.deepStrictEqual([...pack!.advantages], [1, 2, 3, 4, 5])
      assert.deepStrictEqual(
        Array.from(forest.targetPosition, (position) => contextOf(forest, position)),
        [[1, 2, 3], [1, 2, 8], [1, 2, 3, 4, 5, 6], [10], [1, 2, 3, 4, 5]]
      )
      return forest.tokens.length
    }
    assert.strictEqual(contexts(false), 3 + 3 + 1 + 1 + 2)
    assert.strictEqual(contexts(true), 3 + 3 + 1 + 1)
  })

  it("may have several targets at a position, and tokens that are not in the string", () => {
    const target = { position: Uint32Array.of(1, 1, 2), token: Uint32Array.of(5, 6, 7) }
    const sequences = [{ tokens: Uint32Array.of(3, 4), target, advantage: 1 }]
    const [pack] = Pack.pack([{ prompt: Uint32Array.of(1), sequences }], { aggregate: "token" })
    assert.deepStrictEqual([...pack!.forest.tokens], [1, 3, 4])
    assert.deepStrictEqual([...pack!.forest.targetPosition], [1, 1, 2])
    assert.deepStrictEqual([...pack!.forest.targetToken], [5, 6, 7])
  })

  it("refuse a parent that is not earlier or too short, and a place outside its branch", () => {
    const of = (change: Partial<Pack.PackSequence>) => () =>
      Pack.pack(
        [
          {
            prompt: Uint32Array.of(1),
            sequences: [{ tokens: Uint32Array.of(2), target: [1], advantage: 0, ...change }]
          }
        ],
        { aggregate: "sum" }
      )
    const tokens = Uint32Array.of(3)
    assert.throws(of({ forks: [{ parent: { branch: 1, length: 0 }, tokens }] }), /parent of branch 1/)
    assert.throws(of({ forks: [{ parent: { branch: 0, length: 3 }, tokens }] }), /parent of branch 1/)
    assert.throws(
      of({ target: { position: Uint32Array.of(2), token: Uint32Array.of(1) } }),
      /target 0 is .*"position":2/
    )
    assert.throws(
      of({ target: { position: Uint32Array.of(1), token: new Uint32Array() } }),
      /length of its targets is 0; expected 1/
    )
  })

  it("change no gradient, bit for bit", { timeout: 60_000 }, async () => {
    await fc.assert(
      fc.asyncProperty(groups, async (input) => {
        fc.pre(packed(input, whole).length > 0)
        assert.deepStrictEqual(
          await momentsOf(packed(input, inBranches, { maxTokens: 40 })),
          await momentsOf(packed(input, whole, { maxTokens: 40 }))
        )
      }),
      { seed: 2, numRuns: 10 }
    )
  })
})

/** A group of multi-turn rollouts: all begin alike and part at some turn. */
const multiTurn = fc
  .record({
    prompt: fc.array(token, { minLength: 2, maxLength: 4 }).map((tokens) => Uint32Array.from(tokens)),
    common: fc.array(fc.tuple(token, fc.boolean(), advantage), { minLength: 6, maxLength: 12 }),
    ends: fc.array(
      fc.tuple(
        fc.integer({ min: 2, max: 12 }),
        fc.array(fc.tuple(token, fc.constant(true), advantage), { minLength: 1, maxLength: 5 })
      ),
      { minLength: 2, maxLength: 4 }
    )
  })
  .map(({ common, ends, prompt }) => [
    { prompt, rollouts: ends.map(([length, end]) => ({ tokens: [...common.slice(0, length), ...end], cuts: [] })) }
  ])

const tokensOf = (packs: ReadonlyArray<Pack.Pack>) => packs.reduce((sum, { forest }) => sum + forest.tokens.length, 0)

describe("shared prefixes", () => {
  it("save tokens of multi-turn groups and change no gradient beyond rounding", { timeout: 60_000 }, async () => {
    let apart = 0
    let shared = 0
    await fc.assert(
      fc.asyncProperty(multiTurn, async (input) => {
        const plain = packed(input, whole)
        const sharing = packed(input, whole, { sharePrefixes: true })
        apart += tokensOf(plain)
        shared += tokensOf(sharing)
        assert.isBelow(relativeDifference(await momentsOf(sharing), await momentsOf(plain)), 1e-6)
      }),
      { seed: 3, numRuns: 12 }
    )
    assert.isBelow(shared, 0.8 * apart)
  })

  it("are no part of the default: groups of one prompt stay apart after it", () => {
    const one: Pack.PackSequence = { tokens: Uint32Array.of(4, 5, 6), target: [0, 0, 1], advantage: 1 }
    const [pack] = Pack.pack([{ prompt: Uint32Array.of(1), sequences: [one, one] }], { aggregate: "sum" })
    assert.deepStrictEqual([...pack!.forest.tokens], [1, 4, 5, 4, 5])
  })

  it("of other groups are never shared", () => {
    const group = {
      prompt: Uint32Array.of(1, 2),
      sequences: [{ tokens: Uint32Array.of(3, 4), target: [1, 1], advantage: 1 }]
    }
    const [pack] = Pack.pack([group, group], { aggregate: "sum", sharePrefixes: true })
    assert.deepStrictEqual([...pack!.forest.tokens], [1, 2, 3, 1, 2, 3])
  })
})

describe("cutting", () => {
  it("into packs changes no gradient beyond rounding", { timeout: 60_000 }, async () => {
    await fc.assert(
      fc.asyncProperty(groups, fc.integer({ min: 1, max: 15 }), async (input, maxTokens) => {
        const all = packed(input, whole)
        fc.pre(all.length > 0)
        const cut = packed(input, whole, { maxTokens })
        assert.isBelow(relativeDifference(await momentsOf(cut), await momentsOf(all)), 1e-6)
      }),
      { seed: 4, numRuns: 10 }
    )
  })

  it("leaves the total that of the update", () => {
    fc.assert(
      fc.property(groups, fc.integer({ min: 1, max: 30 }), (input, maxTokens) => {
        const packs = packed(input, whole, { maxTokens })
        const total = {
          groups: input.length,
          sequences: input.reduce((sum, { rollouts }) => sum + rollouts.length, 0),
          targets: packs.reduce((sum, { weights }) => sum + weights.length, 0)
        }
        for (const pack of packs) assert.deepStrictEqual(pack.total, total)
      }),
      { seed: 5 }
    )
  })

  const pair = (prompt: number, rejected: ReadonlyArray<number>): Pack.PackGroup => ({
    prompt: Uint32Array.of(prompt),
    sequences: [
      { tokens: Uint32Array.of(2, 3), target: [1, 1], advantage: 1, label: "chosen", numbers: { margin: 2 } },
      { tokens: Uint32Array.of(4, 5), target: rejected, advantage: -1, label: "rejected" }
    ]
  })

  it("keeps a group whole under unit group, and shows a partner without targets", () => {
    const input = [pair(7, [0, 0]), pair(8, [1, 1]), pair(9, [0, 0])]
    const packs = Pack.pack(input, { aggregate: "token", unit: "group", maxTokens: 2 })
    assert.strictEqual(packs.length, 3)
    assert.deepStrictEqual(
      packs.map(({ sequenceStart }) => [...sequenceStart]),
      [
        [0, 2, 2],
        [0, 2, 4],
        [0, 2, 2]
      ]
    )
    assert.deepStrictEqual(packs[0]!.sequences, [
      { group: 0, index: 0, label: "chosen", numbers: { margin: 2 } },
      { group: 0, index: 1, label: "rejected" }
    ])
    // Under unit sequence the partner is left out.
    assert.deepStrictEqual([...Pack.pack(input.slice(0, 1), { aggregate: "token" })[0]!.sequenceStart], [0, 2])
    assert.deepStrictEqual(Pack.pack([{ ...pair(7, [0, 0]), sequences: [] }], { aggregate: "sum", unit: "group" }), [])
  })

  it("is refused under unit batch, which names maxTokens", () => {
    const input = [pair(7, [0, 0]), pair(8, [1, 1])]
    const [pack, ...rest] = Pack.pack(input, { aggregate: "token", unit: "batch", maxTokens: 5 })
    assert.strictEqual(rest.length, 0)
    assert.deepStrictEqual([...pack!.sequenceStart], [0, 2, 2, 4, 6])
    assert.throws(
      () => Pack.pack(input, { aggregate: "token", unit: "batch", maxTokens: 4 }),
      /maxTokens is 4; expected at least 5/
    )
  })
})

describe("columns", () => {
  const sequence = (columns: Pack.PackSequence["columns"], target = [1, 1]): Pack.PackSequence => ({
    tokens: Uint32Array.of(2, 3),
    target,
    advantage: 1,
    ...(columns === undefined ? {} : { columns })
  })
  const pack = (...sequences: ReadonlyArray<Pack.PackSequence>) =>
    Pack.pack([{ prompt: Uint32Array.of(1), sequences }], { aggregate: "sum" })

  it("reach the pack target by target", () => {
    const [made] = pack(
      sequence({ teacher: Float64Array.of(0.1, 0.2) }),
      sequence(undefined, [0, 0]),
      sequence({ teacher: Float32Array.of(0.5, 0.25) })
    )
    assert.deepStrictEqual([...made!.columns["teacher"]!], [0.1, 0.2, 0.5, 0.25])
  })

  it("are the same for all sequences and one number per target, or refused by name", () => {
    const first = sequence({ teacher: Float64Array.of(1, 2) })
    assert.throws(() => pack(first, sequence({})), /sequence 1 of group 0, columns is \[\]; expected \[teacher\]/)
    assert.throws(() => pack(sequence({ teacher: Float64Array.of(1) })), /length of columns.teacher is 1; expected 2/)
  })
})
