import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import * as Kl from "../../../src/learn/Kl.ts"
import type { Loss, LossInput } from "../../../src/learn/Loss.ts"
import * as Losses from "../../../src/learn/Loss.ts"
import { noExtras } from "../../fixtures/lossInput.ts"
import golden from "../../fixtures/policy-losses.json" with { type: "json" }

// Ten digits were written down of the gradients, all of the losses.
const gradientTolerance = 1e-9
const lossTolerance = 1e-9

const inputs = golden.inputs
type Mask = ReadonlyArray<ReadonlyArray<number>>
type Aggregation = "token" | "sequence" | "constant" | "sum"

/** The golden batch is padded and masked; the SDK's has neither, so masked tokens are dropped and put back below. */
const select = (mask: Mask, aggregation: Aggregation, advantages: ReadonlyArray<number> = inputs.adv): LossInput => {
  const kept = mask.map((row) => row.flatMap((m, t) => (m === 1 ? [t] : [])))
  const total = kept.reduce((n, row) => n + row.length, 0)
  const pick = (rows: Mask) => Float64Array.from(kept.flatMap((row, q) => row.map((t) => rows[q]![t]!)))
  const weight = (n: number) => {
    switch (aggregation) {
      case "token":
        return 1 / total
      case "sequence":
        return 1 / (mask.length * n)
      case "constant":
        return 1 / (mask.length * inputs.max_completion_length)
      case "sum":
        return 1
    }
  }
  return {
    logprobs: pick(inputs.logp),
    oldLogprobs: pick(inputs.old_logp),
    samplerLogprobs: pick(inputs.sampler_logp),
    referenceLogprobs: pick(inputs.ref_logp),
    entropy: new Float64Array(total).fill(1),
    advantages: Float64Array.from(kept.flatMap((row, q) => row.map(() => advantages[q]!))),
    weights: Float64Array.from(kept.flatMap((row) => row.map(() => weight(row.length)))),
    sequenceStart: Uint32Array.from([0, kept[0]!.length, total]),
    ...noExtras
  }
}

const scatter = (mask: Mask, values: Float64Array): Array<number> => {
  let next = 0
  return mask.flatMap((row) => row.map((m) => (m === 1 ? values[next++]! : 0)))
}

const assertClose = (actual: ArrayLike<number>, expected: ReadonlyArray<number>, tolerance: number) => {
  assert.strictEqual(actual.length, expected.length)
  expected.forEach((value, i) => assert.closeTo(actual[i]!, value, tolerance, `element ${i}`))
}

const all = inputs.mask
const tool = inputs.mask_with_tool_token
const vectors = golden.policy_losses

type Case = readonly [name: keyof typeof vectors, Loss, Aggregation, Mask, advantages?: ReadonlyArray<number>]
const cases: ReadonlyArray<Case> = [
  ["clip.2/.2|grpo|mask", Losses.clipped(), "sequence", all],
  ["clip.2/.2|bnpo|mask", Losses.clipped(), "token", all],
  ["clip.2/.2|dr_grpo|mask", Losses.clipped(), "constant", all],
  ["clip.2/.2|sum|mask", Losses.clipped(), "sum", all],
  ["clip.2/.2|grpo|mask_with_tool_token", Losses.clipped(), "sequence", tool],
  ["clip.2/.2|bnpo|mask_with_tool_token", Losses.clipped(), "token", tool],
  ["clip.2/.2|dr_grpo|mask_with_tool_token", Losses.clipped(), "constant", tool],
  ["clip.2/.2|sum|mask_with_tool_token", Losses.clipped(), "sum", tool],
  ["dapo clip.2/.28|token-mean|mask", Losses.clipped({ high: 0.28 }), "token", all],
  ["TAPO: dapo clip.2/.28|token-mean|mask_with_tool_token", Losses.clipped({ high: 0.28 }), "token", tool],
  [
    "verl dual-clip c=1.05 (c small so that it binds)|token-mean|mask",
    Losses.clipped({ dualClip: 1.05 }),
    "token",
    all
  ],
  ["gspo eps 0.0003/0.0004", Losses.gspo(), "sequence", all],
  ["gspo eps 0.2/0.2", Losses.gspo({ low: 0.2, high: 0.2 }), "sequence", all],
  ["gspo eps 3e-4/4e-4, adv=[1.0,0.8] (seq1 clipped -> zero grad)", Losses.gspo(), "sequence", all, [1, 0.8]],
  ["trl cispo eps_high(abs)=1.5", Losses.cispo({ high: 1.5 }), "token", all],
  ["verl/minimax cispo clip[.8,1.2]", Losses.cispo({ low: 0.8, high: 1.2 }), "token", all],
  ["tinker cispo clip[0,4] (token mean here; tinker sums)", Losses.cispo({ high: 4 }), "token", all],
  ["sapo tau 1.0/1.05|grpo agg", Losses.sapo(), "sequence", all],
  ["clip.2/.2|grpo|k3 beta .04", Losses.withKl(Losses.clipped(), { coefficient: 0.04 }), "sequence", all],
  [
    "token TIS cap2|token-mean",
    Losses.withImportanceCorrection(Losses.clipped(), { level: "token", mode: "truncate", max: 2 }),
    "token",
    all
  ],
  ["sequence_mask MIS cap3 (TRL default)", Losses.withImportanceCorrection(Losses.clipped()), "token", all],
  ["prime-rl DPPO binary-TV .2/.2, kl_tau 1e-3, /N tokens (ratio vs sampler)", Losses.dppo(), "token", all],
  ["tinker importance_sampling (sum)", Losses.importanceSampling(), "sum", all]
]

describe("golden vectors of the reference implementations", () => {
  it.each(cases.map((golden) => ({ name: golden[0], golden })))("$name", ({ golden }) => {
    const [name, loss, aggregation, mask, advantages] = golden
    const expected = vectors[name] as { readonly loss: number; readonly dlogp?: ReadonlyArray<number> }
    const actual = loss(select(mask, aggregation, advantages))
    assert.closeTo(actual.loss, expected.loss, lossTolerance)
    if (expected.dlogp !== undefined) assertClose(scatter(mask, actual.dLogprobs), expected.dlogp, gradientTolerance)
  })

  it("dro", () => {
    const expected = golden["dro beta .1|token-mean"]
    const actual = Losses.dro({ beta: 0.1 })(select(all, "token"))
    assert.closeTo(actual.loss, expected.loss, lossTolerance)
    assertClose(scatter(all, actual.dLogprobs), expected.dlogp, gradientTolerance)
  })

  it.each(["k1", "abs", "k2", "k3"] as const)("KL estimator %s", (estimator) => {
    const input = select(all, "sum")
    const values = input.logprobs.map((l, t) => Kl.value(estimator, l - input.referenceLogprobs![t]!))
    assertClose(scatter(all, Float64Array.from(values)), golden.kl_per_token[estimator], gradientTolerance)
  })

  it("importance ratios by token, sequence and geometric mean, and IcePop's weights", () => {
    const input = select(all, "sum")
    const correct = (options: Losses.ImportanceCorrection) => {
      let weights: Losses.Numbers = new Float64Array()
      Losses.withImportanceCorrection((inner) => {
        weights = inner.weights
        return { loss: 0, dLogprobs: new Float64Array(inner.logprobs.length), metrics: {} }
      }, options)(input)
      return weights
    }
    const perSequence = (level: "sequence" | "geometric") => {
      const ratios = Losses.importanceRatios(input, level)
      return [ratios[0]!, ratios[4]!]
    }
    assertClose(perSequence("sequence"), vectors["sequence_mask MIS cap3 (TRL default)"].seq_ratio, 1e-9)
    assertClose(perSequence("geometric"), vectors["geo_ratio per seq"], 1e-9)
    // The golden rows give masked positions a weight of 1.
    assertClose(correct({ level: "token", min: 0.5, max: 5 }), vectors["IcePop 0.5_5.0 weights"].slice(0, 6), 1e-9)
    assertClose(
      correct({ level: "token", mode: "truncate", max: 2 }),
      vectors["token TIS cap2|token-mean"].weights.slice(0, 6),
      1e-9
    )
    const [first, second] = vectors["sequence_mask MIS cap3 (TRL default)"].weights
    assertClose(correct({}), [first!, first!, first!, first!, second!, second!], 1e-9)
    assertClose(correct({ level: "geometric", min: 0.9, max: 1.01 }), [1, 1, 1, 1, 0, 0], 0)
  })
})

const step = 1e-6
// No derivative exists at the borders of the clips and at |d| = 0, and shrinking looks for such places.
const kinks = [0, Math.log(0.8), Math.log(1.2), Math.log(1.28), Math.log(1.5)]
const logprob = fc.double({ min: -6, max: -0.01, noNaN: true })
const batch = fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 1, maxLength: 4 }).chain((lengths) => {
  const n = lengths.reduce((a, b) => a + b, 0)
  const numbers = (arbitrary: fc.Arbitrary<number>) =>
    fc.array(arbitrary, { minLength: n, maxLength: n }).map((values) => Float64Array.from(values))
  const near = fc
    .double({ min: -0.6, max: 0.6, noNaN: true })
    .filter((d) => kinks.every((kink) => Math.abs(Math.abs(d) - Math.abs(kink)) > 100 * step))
  return fc
    .record({
      logprobs: numbers(logprob),
      toOld: numbers(near),
      toSampler: numbers(near),
      toReference: numbers(near),
      entropy: numbers(fc.double({ min: 0, max: 3, noNaN: true })),
      advantages: numbers(fc.double({ min: -2, max: 2, noNaN: true })),
      weights: numbers(fc.double({ min: 0.05, max: 1, noNaN: true }))
    })
    .map(({ toOld, toReference, toSampler, ...rest }): LossInput => {
      const sequenceStart = new Uint32Array(lengths.length + 1)
      lengths.forEach((length, q) => (sequenceStart[q + 1] = sequenceStart[q]! + length))
      return {
        ...rest,
        oldLogprobs: rest.logprobs.map((l, t) => l + toOld[t]!),
        samplerLogprobs: rest.logprobs.map((l, t) => l + toSampler[t]!),
        referenceLogprobs: rest.logprobs.map((l, t) => l + toReference[t]!),
        sequenceStart,
        ...noExtras
      }
    })
})

const differentiable: ReadonlyArray<readonly [string, Loss]> = [
  ["clipped", Losses.clipped({ high: 0.28 })],
  ["clipped, dual clip", Losses.clipped({ dualClip: 1.2 })],
  ["clipped, delta", Losses.clipped({ delta: 1.5 })],
  ["reinforce", Losses.reinforce],
  ["importance sampling", Losses.importanceSampling()],
  ["gspo", Losses.gspo({ low: 0.2, high: 0.2 })],
  ["sapo", Losses.sapo()],
  ["dppo", Losses.dppo()],
  ["dro", Losses.dro()],
  ["cross entropy", Losses.crossEntropy],
  ["k1", Losses.withKl(Losses.reinforce, { coefficient: 0.3, estimator: "k1" })],
  ["abs", Losses.withKl(Losses.reinforce, { coefficient: 0.3, estimator: "abs" })],
  ["k2", Losses.withKl(Losses.reinforce, { coefficient: 0.3, estimator: "k2" })],
  ["k3", Losses.withKl(Losses.reinforce, { coefficient: 0.3 })],
  ["k3, bias correction", Losses.withKl(Losses.reinforce, { coefficient: 0.3, biasCorrection: true })],
  [
    "truncated importance sampling",
    Losses.withImportanceCorrection(Losses.clipped(), { level: "token", mode: "truncate" })
  ],
  ["masked importance sampling", Losses.withImportanceCorrection(Losses.gspo(), { min: 0.5 })],
  ["entropy and KL", Losses.withEntropy(Losses.withKl(Losses.clipped(), { coefficient: 0.1 }), 0.2)]
]

describe("gradients", () => {
  it.each(differentiable)("%s agrees with central differences", (_, loss) => {
    fc.assert(
      fc.property(batch, (input) => {
        const { dEntropy, dLogprobs } = loss(input)
        const difference = (field: "logprobs" | "entropy", t: number) => {
          const at = (delta: number) => {
            const moved = Float64Array.from(input[field]!)
            moved[t]! += delta
            return loss({ ...input, [field]: moved }).loss
          }
          return (at(step) - at(-step)) / (2 * step)
        }
        for (let t = 0; t < input.logprobs.length; t++) {
          const expected = difference("logprobs", t)
          assert.closeTo(dLogprobs[t]!, expected, 1e-6 * Math.max(1, Math.abs(expected)))
          if (dEntropy !== undefined) assert.closeTo(dEntropy[t]!, difference("entropy", t), 1e-6)
        }
      }),
      { numRuns: 100, seed: 1 }
    )
  })

  it.each([
    ["clipped", Losses.clipped()],
    ["gspo", Losses.gspo()],
    ["cispo", Losses.cispo()],
    ["sapo", Losses.sapo()],
    ["importance sampling", Losses.importanceSampling({ against: "old" })]
  ] as const)("%s on-policy has the gradient of REINFORCE when a sequence shares its advantage", (_, loss) => {
    fc.assert(
      fc.property(batch, (input) => {
        const advantages = Float64Array.from(input.advantages)
        const weights = Float64Array.from(input.weights)
        for (let q = 0; q + 1 < input.sequenceStart.length; q++) {
          const start = input.sequenceStart[q]!
          advantages.fill(advantages[start]!, start, input.sequenceStart[q + 1])
          weights.fill(weights[start]!, start, input.sequenceStart[q + 1])
        }
        const onPolicy = { ...input, oldLogprobs: input.logprobs, advantages, weights }
        const expected = Losses.reinforce(onPolicy).dLogprobs
        assertClose(loss(onPolicy).dLogprobs, [...expected], 1e-12)
      }),
      { numRuns: 50, seed: 2 }
    )
  })

  it("CISPO keeps the gradient of clipped tokens: the clipped ratio is a constant", () => {
    const input = select(all, "sum")
    const { dLogprobs } = Losses.cispo({ low: 0.8, high: 1.2 })(input)
    // Token 2: ratio e^0.5 above 1.2, advantage 1.
    assert.closeTo(dLogprobs[2]!, -1.2, 1e-15)
    assert.strictEqual(Losses.clipped()(input).dLogprobs[2], 0)
  })

  it("straight-through KL has the value of its estimator and the gradient of k2", () => {
    const input = select(all, "token")
    const zero: Loss = ({ logprobs }) => ({ loss: 0, dLogprobs: new Float64Array(logprobs.length), metrics: {} })
    const through = Losses.withKl(zero, { coefficient: 2, straightThrough: true })(input)
    assert.strictEqual(through.loss, Losses.withKl(zero, { coefficient: 2 })(input).loss)
    const k2 = Losses.withKl(zero, { coefficient: 2, estimator: "k2" })(input)
    assert.deepStrictEqual(through.dLogprobs, k2.dLogprobs)
  })
})

describe("metrics", () => {
  it("clip ratios count tokens on the side where the clip acts", () => {
    const { metrics } = Losses.clipped()(select(all, "token"))
    // Ratios e^.1 e^-.2 e^.5 e^-.5 at A = 1: one above 1.2. e^.2 e^-.1 at A = -.8: none below .8.
    assert.closeTo(metrics["clip_ratio/high_mean"] as number, 1 / 6, 1e-15)
    assert.strictEqual(metrics["clip_ratio/low_mean"], 0)
    assert.closeTo(metrics["clip_ratio/region_mean"] as number, 1 / 6, 1e-15)
  })

  it("an advantage of 0 is no loss, however far the ratio ran off", () => {
    const input = select(all, "token", [0, 0])
    const far = { ...input, logprobs: input.logprobs.map(() => 0), oldLogprobs: input.logprobs.map(() => -800) }
    for (const loss of [Losses.clipped(), Losses.sapo(), Losses.importanceSampling({ against: "old" })]) {
      const { dLogprobs, loss: value } = loss(far)
      assert.strictEqual(Math.abs(value), 0)
      assert.isTrue(dLogprobs.every((d) => d === 0))
    }
  })

  it("combinators pass on what the loss inside needs", () => {
    const withReference = Losses.withKl(Losses.clipped(), { coefficient: 0.1 })
    const pairwise: Loss = Object.assign((input: LossInput) => Losses.clipped()(input), { unit: "group" as const })
    assert.deepStrictEqual(Losses.withEntropy(withReference, 0.1).needs, ["reference", "entropy"])
    assert.deepStrictEqual(Losses.withImportanceCorrection(withReference).needs, ["reference"])
    assert.deepStrictEqual(Losses.withEntropy(Losses.clipped(), 0.1).needs, ["entropy"])
    for (const loss of [Losses.withEntropy(pairwise, 0.1), Losses.withImportanceCorrection(pairwise)]) {
      assert.strictEqual(loss.unit, "group")
    }
    const { referenceLogprobs: _, ...without } = select(all, "token")
    assert.throws(() => withReference(without), /referenceLogprobs/)
  })
})
