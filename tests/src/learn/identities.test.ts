import { assert, describe, it } from "@effect/vitest"
import { Advantage, Identity, LearningRate, Loss } from "quintain"

const kl = { coefficient: 0.1 }
const decay = { peak: 1, steps: 10 }

/** Each twice by other words, and once with another setting. */
const pairs: ReadonlyArray<readonly [string, () => unknown, () => unknown, () => unknown]> = [
  ["clipped", () => Loss.clipped(), () => Loss.clipped({ high: 0.2, low: 0.2 }), () => Loss.clipped({ dualClip: 3 })],
  [
    "importanceSampling",
    () => Loss.importanceSampling(),
    () => Loss.importanceSampling({ against: "sampler" }),
    () => Loss.importanceSampling({ against: "old" })
  ],
  ["gspo", () => Loss.gspo(), () => Loss.gspo({ low: 3e-4 }), () => Loss.gspo({ low: 1e-4 })],
  ["cispo", () => Loss.cispo(), () => Loss.cispo({ against: "old" }), () => Loss.cispo({ high: 4 })],
  ["sapo", () => Loss.sapo(), () => Loss.sapo({ positive: 1 }), () => Loss.sapo({ negative: 1 })],
  ["dppo", () => Loss.dppo(), () => Loss.dppo({ tau: 1e-3 }), () => Loss.dppo({ tau: 0 })],
  ["dro", () => Loss.dro(), () => Loss.dro({ beta: 0.05 }), () => Loss.dro({ beta: 0.1 })],
  [
    "withKl",
    () => Loss.withKl(Loss.clipped(), kl),
    () => Loss.withKl(Loss.clipped(), { ...kl, estimator: "k3" }),
    () => Loss.withKl(Loss.clipped({ high: 0.3 }), kl)
  ],
  [
    "withEntropy",
    () => Loss.withEntropy(Loss.reinforce, 0.1),
    () => Loss.withEntropy(Loss.reinforce, 0.1),
    () => Loss.withEntropy(Loss.crossEntropy, 0.1)
  ],
  [
    "withImportanceCorrection",
    () => Loss.withImportanceCorrection(Loss.clipped()),
    () => Loss.withImportanceCorrection(Loss.clipped(), { max: 3, level: "sequence" }),
    () => Loss.withImportanceCorrection(Loss.clipped(), { max: 2 })
  ],
  [
    "groupRelative",
    () => Advantage.groupRelative(),
    () => Advantage.groupRelative({ scale: "std" }),
    () => Advantage.groupRelative({ scale: "none" })
  ],
  ["maxRL", () => Advantage.maxRL(), () => Advantage.maxRL({}), () => Advantage.maxRL({ epsilon: 1 })],
  ["passK", () => Advantage.passK(), () => Advantage.passK({}), () => Advantage.passK({ epsilon: 1 })],
  [
    "gdpo",
    () => Advantage.gdpo({ weights: { a: 1 } }),
    () => Advantage.gdpo({ weights: { a: 1 }, epsilon: 1e-4 }),
    () => Advantage.gdpo({ weights: { a: 2 } })
  ],
  [
    "reinforcePlusPlus",
    () => Advantage.reinforcePlusPlus(),
    () => Advantage.reinforcePlusPlus({ gamma: 1 }),
    () => Advantage.reinforcePlusPlus({ baseline: true })
  ],
  [
    "tokenLevel",
    () => Advantage.tokenLevel(),
    () => Advantage.tokenLevel({ baseline: "position" }),
    () => Advantage.tokenLevel({ baseline: "prefix" })
  ],
  ["warmup", () => LearningRate.warmup(1, 4), () => LearningRate.warmup(1, 4), () => LearningRate.warmup(1, 5)],
  [
    "linear",
    () => LearningRate.linear(decay),
    () => LearningRate.linear({ ...decay, floor: 0 }),
    () => LearningRate.linear({ ...decay, warmup: 1 })
  ],
  [
    "cosine",
    () => LearningRate.cosine(decay),
    () => LearningRate.cosine({ ...decay, floor: 0 }),
    () => LearningRate.cosine({ ...decay, peak: 2 })
  ],
  ["constant", () => 1e-3, () => 0.001, () => 1e-4]
]

describe("an identity", () => {
  it.each(pairs)("of %s is equal JSON for equal settings, and other JSON for others", (name, one, same, other) => {
    const json = (value: unknown) => JSON.stringify(Identity.of(value))
    assert.strictEqual(json(same()), json(one()))
    assert.notStrictEqual(json(other()), json(one()))
    assert.deepStrictEqual(JSON.parse(json(one())), Identity.of(one()))
    assert.strictEqual(Identity.of(one()).name, name)
    assert.isUndefined(Identity.of(one()).opaque)
  })

  it("of those without settings is their name", () => {
    for (const [name, value] of Object.entries({
      reinforce: Loss.reinforce,
      crossEntropy: Loss.crossEntropy,
      rloo: Advantage.rloo(),
      opo: Advantage.opo()
    })) {
      assert.deepStrictEqual(Identity.of(value), { name, settings: {} })
    }
  })

  it("of a bare function is opaque, alone and within another", () => {
    const mine: Loss.Loss = (input) => Loss.reinforce(input)
    const opaque: Identity.Identity = { name: "mine", settings: {}, opaque: true }
    assert.deepStrictEqual(Identity.of(mine), opaque)
    assert.deepStrictEqual(Identity.of(Loss.withEntropy(mine, 0.1)).settings["loss"], { ...opaque })
    const halved = (step: number) => 1 / (step + 1)
    assert.deepStrictEqual(Identity.of(halved), { name: "halved", settings: {}, opaque: true })
    const own: Advantage.Advantage = (groups) => Advantage.rloo()(groups)
    assert.deepStrictEqual(Identity.of(own), { name: "own", settings: {}, opaque: true })
  })

  it("of a term around a term names what is inside, in either order of the correction", () => {
    const after = Loss.withImportanceCorrection(Loss.withKl(Loss.clipped(), kl))
    const before = Loss.withKl(Loss.withImportanceCorrection(Loss.clipped()), kl)
    assert.deepStrictEqual(Identity.of(after), Identity.of(before))
  })
})

describe("the scope of an advantage", () => {
  it("is the batch for estimators that look at other groups", () => {
    const batch = [
      Advantage.groupRelative({ scale: "batch" }),
      Advantage.gdpo({ weights: {} }),
      Advantage.reinforcePlusPlus()
    ]
    const group = [
      Advantage.groupRelative(),
      Advantage.rloo(),
      Advantage.maxRL(),
      Advantage.opo(),
      Advantage.passK(),
      Advantage.tokenLevel()
    ]
    for (const { identity, scope } of batch) assert.strictEqual(scope, "batch", identity?.name)
    for (const { identity, scope } of group) assert.strictEqual(scope, "group", identity?.name)
  })
})
