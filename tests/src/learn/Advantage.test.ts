import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import * as Advantage from "../../../src/learn/Advantage.ts"
import * as Overlong from "../../../src/score/Overlong.ts"
import type { ScoredGroup } from "../../../src/score/Reward.ts"
import { Producer } from "../../../src/rollout/Trajectory.ts"
import { type Made, rewarded, scoredGroup, split } from "../../fixtures/groups.ts"
import golden from "../../fixtures/policy-losses.json" with { type: "json" }

const flat = (advantage: Advantage.Advantage, groups: ReadonlyArray<ScoredGroup>): Array<number> =>
  advantage(groups).flatMap(({ advantages }) =>
    advantages.flatMap((value) => (typeof value === "number" ? [value] : [...value]))
  )

const assertClose = (actual: ReadonlyArray<number>, expected: ReadonlyArray<number>, tolerance = 1e-9) => {
  assert.strictEqual(actual.length, expected.length)
  expected.forEach((value, i) => assert.closeTo(actual[i]!, value, tolerance, `element ${i}`))
}

describe("golden vectors of the reference implementations", () => {
  const { adv } = golden
  const groups = [rewarded(...adv.rewards.slice(0, adv.G)), rewarded(...adv.rewards.slice(adv.G))]
  it.each([
    ["trl_group(eps1e-4,ddof1)", Advantage.groupRelative()],
    ["verl_group(eps1e-6,ddof1)", Advantage.groupRelative({ epsilon: 1e-6 })],
    ["trl_batch_std", Advantage.groupRelative({ scale: "batch" })],
    ["dr_grpo_none", Advantage.groupRelative({ scale: "none" })],
    ["maxrl(eps1e-6)", Advantage.maxRL()],
    ["rloo", Advantage.rloo()],
    ["rloo_verl_form", Advantage.rloo()]
  ] as const)("%s", (name, advantage) => {
    assertClose(flat(advantage, groups), adv[name])
  })

  it("GDPO, and summing before normalising", () => {
    const { r1, r2, weights, adv: expected } = golden["adv_gdpo (normalize_then_sum, one group)"]
    const [w1, w2] = weights as [number, number]
    const group = scoredGroup(
      r1.map((first, i) => ({
        reward: w1 * first + w2 * r2[i]!,
        outcomes: { r1: { _tag: "Scored", score: first }, r2: { _tag: "Scored", score: r2[i]! } }
      }))
    )
    assertClose(flat(Advantage.gdpo({ weights: { r1: w1, r2: w2 } }), [group]), expected)
    assertClose(flat(Advantage.groupRelative(), [group]), golden["adv_sum_then_normalize same inputs"])
  })

  it("pass@k pays the best one", () => {
    const { adv: expected, rewards } = golden["grpo_passk (best only, (rmax-r2nd)/(std+1e-6))"]
    assertClose(flat(Advantage.passK(), [rewarded(...rewards)]), expected)
    assertClose(flat(Advantage.passK(), [rewarded(1, 0, 1)]), [0, 0, 0])
  })

  it("REINFORCE++ whitens returns over the tokens of the batch", () => {
    const expected = golden["reinforce++ g1 (mask without tool token)"].adv.slice(0, 6)
    const groups = [
      scoredGroup([{ reward: 1, tokens: [1, 2, 3, 4] }]),
      // An unscored tool token between: the reward crosses it.
      scoredGroup([
        { reward: -0.5, tokens: [1, 9, 2], producer: [Producer.Policy, Producer.Environment, Producer.Policy] }
      ])
    ]
    assertClose(flat(Advantage.reinforcePlusPlus(), groups), expected)
  })

  it.each(Object.entries(golden["overlong L2048 C1024"]))("overlong penalty of %s tokens", (length, expected) => {
    assert.strictEqual(Overlong.penalty({ maxLength: 2048, buffer: 1024 }, Number(length)), expected)
  })
})

describe("unscorable trajectories and groups of one", () => {
  const estimators = {
    std: Advantage.groupRelative(),
    none: Advantage.groupRelative({ scale: "none" }),
    batch: Advantage.groupRelative({ scale: "batch" }),
    rloo: Advantage.rloo(),
    maxRL: Advantage.maxRL(),
    opo: Advantage.opo(),
    passK: Advantage.passK(),
    tokenLevel: Advantage.tokenLevel(),
    prefix: Advantage.tokenLevel({ baseline: "prefix", scale: "std" })
  }
  const reward = fc.option(fc.double({ min: -2, max: 2, noNaN: true }), { nil: undefined })

  it.each(Object.entries(estimators))(
    "%s leaves unscorable ones out of the baseline and gives them 0",
    (_, estimator) => {
      fc.assert(
        fc.property(fc.array(reward, { minLength: 1, maxLength: 8 }), (rewards) => {
          const [all] = estimator([rewarded(...rewards)])
          const scored = rewards.filter((value) => value !== undefined)
          const [some] = estimator([rewarded(...scored)])
          let next = 0
          rewards.forEach((value, i) => {
            if (value === undefined) assert.strictEqual(all!.advantages[i], 0)
            else assert.deepStrictEqual(all!.advantages[i], some!.advantages[next++])
          })
          for (const value of all!.advantages) {
            assert.isTrue(typeof value === "number" ? Number.isFinite(value) : value.every(Number.isFinite))
          }
        }),
        { seed: 1 }
      )
    }
  )

  it.each(Object.entries(estimators))("%s gives a lone trajectory 0", (_, estimator) => {
    assert.deepStrictEqual(estimator([rewarded(0.7, undefined)])[0]!.advantages, [0, 0])
  })
})

describe("properties", () => {
  const rewards = fc.array(fc.double({ min: -3, max: 3, noNaN: true }), { minLength: 2, maxLength: 8 })

  it("group-relative advantages sum to 0 and do not feel a shift of the rewards", () => {
    fc.assert(
      fc.property(rewards, fc.double({ min: -3, max: 3, noNaN: true }), (values, shift) => {
        for (const scale of ["std", "none"] as const) {
          const estimator = Advantage.groupRelative({ scale })
          const own = flat(estimator, [rewarded(...values)])
          assert.closeTo(
            own.reduce((a, b) => a + b, 0),
            0,
            1e-8
          )
          assertClose(flat(estimator, [rewarded(...values.map((value) => value + shift))]), own, 1e-6)
        }
      }),
      { seed: 2 }
    )
  })

  it("RLOO is the reward minus the mean of the others", () => {
    fc.assert(
      fc.property(rewards, (values) => {
        const expected = values.map((value, i) => {
          const others = values.filter((_, j) => j !== i)
          return value - others.reduce((a, b) => a + b, 0) / others.length
        })
        assertClose(flat(Advantage.rloo(), [rewarded(...values)]), expected)
      }),
      { seed: 3 }
    )
  })

  it("OPO's baseline weighs rewards by length", () => {
    const group = scoredGroup([
      { reward: 1, tokens: [1] },
      { reward: 0, tokens: [1, 2, 3] }
    ])
    assertClose(flat(Advantage.opo(), [group]), [0.75, -0.25])
  })

  it("REINFORCE++ discounts by token, and its advantages have mean 0 and deviation 1", () => {
    const groups = [
      scoredGroup([
        { reward: 1, tokens: [1, 2, 3] },
        { reward: 0, tokens: [1, 2] }
      ]),
      scoredGroup([{ reward: 0.5, tokens: [4] }])
    ]
    const returns = [0.25, 0.5, 1, 0, 0, 0.5]
    const center = returns.reduce((a, b) => a + b, 0) / 6
    const std = Math.sqrt(returns.reduce((sum, value) => sum + (value - center) ** 2, 0) / 5)
    const actual = flat(Advantage.reinforcePlusPlus({ gamma: 0.5 }), groups)
    assertClose(
      actual,
      returns.map((value) => (value - center) / std),
      1e-7
    )
    const baseline = flat(Advantage.reinforcePlusPlus({ baseline: true }), groups)
    assert.closeTo(
      baseline.reduce((a, b) => a + b, 0),
      0,
      1e-9
    )
    assert.isAbove(baseline[0]!, baseline[3]!)
  })
})

describe("token level", () => {
  const first: Made = { reward: 1, tokens: [1, 2], tokenRewards: [0.5, 0.5] }
  const second: Made = { reward: 0.5, tokens: [1, 3], tokenRewards: [0.5, 0] }
  const third: Made = { reward: 0, tokens: [4], tokenRewards: [0] }

  it("is reward-to-go minus the group's mean at the position, ended trajectories counting 0", () => {
    const [group] = Advantage.tokenLevel()([scoredGroup([first, second, third])])
    // To go at position 0: 1, 0.5, 0, mean 0.5; at position 1: 0.5, 0, ended, mean 1/6.
    const expected = [[0.5, 1 / 3], [0, -1 / 6], [-0.5]]
    group!.advantages.forEach((value, i) => assertClose([...(value as Float64Array)], expected[i]!))
  })

  it("compares with trajectories of the same prefix where there are any", () => {
    const [group] = Advantage.tokenLevel({ baseline: "prefix" })([scoredGroup([first, second, third])])
    // After token 1 only the first two are alike: to go 0.5 and 0.
    const expected = [[0.5, 0.25], [0, -0.25], [-0.5]]
    group!.advantages.forEach((value, i) => assertClose([...(value as Float64Array)], expected[i]!))
  })

  it("does not blame the tokens before the one that went wrong", () => {
    const right: Made = { reward: 1, tokens: [1, 2, 3, 4], tokenRewards: [0.25, 0.25, 0.25, 0.25] }
    const wrongLast: Made = { reward: 0.75, tokens: [1, 2, 3, 5], tokenRewards: [0.25, 0.25, 0.25, 0] }
    const [group] = Advantage.tokenLevel({ baseline: "prefix" })([scoredGroup([right, wrongLast])])
    assertClose([...(group!.advantages[1] as Float64Array)], [-0.125, -0.125, -0.125, -0.125])
    const [short] = Advantage.tokenLevel({ baseline: "prefix", gamma: 0 })([scoredGroup([right, wrongLast])])
    assertClose([...(short!.advantages[1] as Float64Array)], [0, 0, 0, -0.125])
  })

  it("compares prefixes across branches", () => {
    const whole = scoredGroup([first, second, third, { reward: 1, tokens: [1, 2, 9] }])
    for (const scale of ["none", "mean"] as const) {
      const advantage = Advantage.tokenLevel({ baseline: "prefix", scale })
      const expected = flat(advantage, [whole])
      for (const own of [0, 1, 2]) {
        for (const rows of [[0], [1, 3], [0, 1, 2, 3]]) {
          const trajectories = whole.trajectories.map((scored, row) =>
            rows.includes(row) ? { ...scored, trajectory: split(scored.trajectory, own) } : scored
          )
          assert.deepStrictEqual(flat(advantage, [{ ...whole, trajectories }]), expected)
        }
      }
    }
  })

  it("without token rewards is group-relative without scale, for trajectories of equal length", () => {
    fc.assert(
      fc.property(fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: 2, maxLength: 6 }), (rewards) => {
        const group = rewarded(...rewards)
        const plain = flat(Advantage.groupRelative({ scale: "none" }), [group]).flatMap((value) => [
          value,
          value,
          value
        ])
        assertClose(flat(Advantage.tokenLevel(), [group]), plain)
      }),
      { seed: 4 }
    )
  })
})
