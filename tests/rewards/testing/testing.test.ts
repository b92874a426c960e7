import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import {
  assertSound,
  check,
  checkVerifier,
  mutations,
  render,
  UnsoundVerifier,
  type CheckOptions,
  type Report
} from "../../../rewards/testing/index.ts"
import { lastText } from "../../../src/rollout/Trajectory.ts"
import * as Verifier from "../../../src/score/Verifier.ts"
import type { Verdict, VerifierFunction } from "../../../src/score/Verifier.ts"
import * as WorkerPool from "../../../src/score/WorkerPool.ts"
import { trajectory } from "../../fixtures/trajectories.ts"

const task = { id: "sum", prompt: "12+7=?", data: { answer: "19" } }
const example = { task, gold: ["19", "The sum is 19"], wrong: ["20", "The sum is 91"] }
type Data = typeof task.data

/** The last number, whole, and nothing hidden: sound. */
const sound: VerifierFunction<Data> = ({ task, trajectory }) => {
  const text = lastText(trajectory)
    .slice(-100)
    .replace(/[\s.]+$/, "")
  const last = /(?<![\p{L}\p{N}.,+-])\d{1,12}$/u.exec(text.slice(-40))
  return last === null ? { score: 0, reason: "no number at the end" } : Number(last[0] === task.data.answer)
}
const quick: CheckOptions<Data> = { cost: false }

const names = (findings: Report["errors"]): ReadonlyArray<string> => [
  ...new Set(findings.map(({ mutation }) => mutation))
]
const clean = (report: Report): Array<number> =>
  [report.acceptedWrongly, report.rejectedWrongly, report.unscorable, report.errors].map((list) => list.length)

describe("checkVerifier", () => {
  it("finds nothing in a sound verifier, and has tried every mutation", async () => {
    const other = { task: { ...task, id: "other", data: { answer: "23" } }, gold: ["23"], wrong: ["24"] }
    const report = await checkVerifier(sound, [example, other], quick)
    assert.deepStrictEqual(clean(report), [0, 0, 0, 0], render(report))
    assertSound(report)
    const without = mutations.map(({ name }) => name).filter((name) => report.mutations[name] === undefined)
    // no JSON, no line ends in these golds
    assert.deepStrictEqual(without, ["line-ends", "emptied-values"])
    assert.isAbove(report.judged, 200)
  })

  const holes: ReadonlyArray<readonly [string, VerifierFunction<Data>, ReadonlyArray<string>]> = [
    ["everything is right", () => 1, ["empty", "wrong", "injection", "off-by-one", "two-blocks", "huge-wrong"]],
    [
      "the answer anywhere",
      ({ task, trajectory }) => Number(trajectory.text.includes(task.data.answer)),
      ["thought-gold", "commented-gold", "candidates-by-line", "candidates-by-or", "two-blocks", "negated"]
    ],
    [
      "a prefix of the answer",
      ({ task, trajectory }) => Number(task.data.answer.startsWith(trajectory.text.trim())),
      ["empty", "whitespace", "truncated"]
    ],
    [
      "a judge that obeys",
      (input) => (/full marks|"score": 1/.test(input.trajectory.text) ? 1 : sound(input)),
      ["injection", "injection-wrong"]
    ],
    [
      "not a number is near enough",
      ({ task, trajectory }) => Number(!(Math.abs(Number(trajectory.text) - Number(task.data.answer)) > 0.5)),
      ["non-values", "injection", "whitespace"].slice(0, 2)
    ],
    [
      "a tolerance of one",
      ({ task, trajectory }) => Number(Math.abs(Number(trajectory.text.trim()) - Number(task.data.answer)) <= 1),
      ["wrong", "off-by-one"]
    ],
    ["only the length", ({ trajectory }) => Number(trajectory.text.length > 500_000), ["huge-wrong"]]
  ]
  for (const [name, verifier, expected] of holes) {
    it(`finds the hole: ${name}`, async () => {
      const report = await checkVerifier(verifier, example, quick)
      assert.includeMembers([...names(report.acceptedWrongly)], [...expected])
      assert.throws(() => assertSound(report), UnsoundVerifier, /wrongly accepted/)
    })
  }

  it("tells what is wrongly rejected", async () => {
    const report = await checkVerifier<Data>(
      ({ task, trajectory }) => Number(trajectory.text === task.data.answer),
      example,
      quick
    )
    assert.deepStrictEqual(names(report.rejectedWrongly), ["gold", "surrounded"])
    assert.lengthOf(report.acceptedWrongly, 0)
  })

  const faults: ReadonlyArray<readonly [string, () => VerifierFunction<Data>, RegExp]> = [
    [
      "NaN",
      () =>
        ({ trajectory }) =>
          Number(trajectory.text),
      /no verdict: NaN/
    ],
    ["a score out of range", () => (input) => 2 * (sound(input) as number) || 0, /score 2 is out of \[0, 1\]/],
    [
      "a throw",
      () => (input) => {
        JSON.parse(`"${input.trajectory.text}"`)
        return sound(input)
      },
      /the verifier failed: SyntaxError/
    ],
    [
      "a verdict that depends on what was judged before",
      () => {
        const seen = new Set<string>()
        return ({ trajectory }) => Number(seen.size !== seen.add(trajectory.text).size)
      },
      /judged twice: score 1, then score 0/
    ],
    [
      "a changed input",
      () => (input) => {
        const { info } = input.trajectory as { info: Record<string, unknown> }
        info["seen"] = true
        return sound(input)
      },
      /it changed its task or trajectory/
    ]
  ]
  for (const [name, verifier, detail] of faults) {
    it(`reports ${name}`, async () => {
      const report = await checkVerifier(verifier(), example, quick)
      assert.isTrue(
        report.errors.some((finding) => detail.test(finding.detail)),
        render(report)
      )
      assert.throws(() => assertSound(report), UnsoundVerifier)
    })
  }

  it("reports what is unscorable, which no text of a policy is", async () => {
    const report = await checkVerifier<Data>(
      (input) => (input.trajectory.text === "" ? Verifier.unscorable("nothing to judge") : sound(input)),
      example,
      quick
    )
    assert.deepStrictEqual(clean(report), [0, 0, 1, 0])
    assert.deepInclude(report.unscorable[0], { mutation: "empty", taskId: "sum", text: "" })
  })

  it("takes an Effect verifier and a verifier of the pool", async () => {
    const report = await checkVerifier<Data>((input) => Effect.sync(() => sound(input) as Verdict), example, quick)
    assert.deepStrictEqual(clean(report), [0, 0, 0, 0], render(report))
    const pooled = Verifier.worker<Data>({
      module: new URL("../../fixtures/verifiers.ts", import.meta.url),
      export: "lastNumber"
    })
    assert.deepStrictEqual(
      clean(await checkVerifier(pooled, example, { ...quick, pool: { workers: 2 } })),
      [0, 0, 0, 0]
    )
  })

  it.live("fails for a pooled verifier that cannot be loaded", () =>
    Effect.gen(function* () {
      const missing = Verifier.worker<Data>({
        module: new URL("../../fixtures/verifiers.ts", import.meta.url),
        export: "none"
      })
      const fault = yield* Effect.flip(check(missing, example, quick))
      assert.strictEqual(fault._tag, "VerifierLoadError")
    }).pipe(Effect.provide(WorkerPool.layer({ workers: 1 })))
  )

  it("is the same in every run of a seed", async () => {
    const texts = async (seed: number) => {
      const seen: Array<string> = []
      await checkVerifier<Data>(({ trajectory }) => seen.push(trajectory.text) && 0, example, {
        cost: false,
        seed,
        concurrency: 1
      })
      return seen
    }
    const first = await texts(1)
    assert.deepStrictEqual(await texts(1), first)
    assert.notDeepEqual(await texts(2), first)
  })

  it("lets expectations, mutations, the threshold and the trajectory be chosen", async () => {
    const long: VerifierFunction<Data> = ({ trajectory }) => Math.min(1, trajectory.text.length / 4)
    const own = {
      name: "shout",
      why: "capitals are no reason",
      of: "gold",
      expect: "reject",
      make: ({ gold = "" }) => [`${gold}!!!!`]
    } as const
    const pick = mutations.filter(({ name }) => ["gold", "empty", "wrong"].includes(name))
    const report = await checkVerifier(long, example, {
      cost: false,
      mutations: [...pick, own],
      accept: 0.5,
      expect: { wrong: "either", empty: "skip" },
      trajectory: (text) => (text.startsWith("The") ? undefined : trajectory(text))
    })
    assert.deepStrictEqual(report.mutations, {
      gold: { expect: "accept", judged: 1, accepted: 1, highest: 0.5 },
      wrong: { expect: "either", judged: 1, accepted: 1, highest: 0.5 },
      shout: { expect: "reject", judged: 1, accepted: 1, highest: 1 }
    })
    assert.match(render(report), /shout[^]*"19!!!!": score 1/)
  })

  it("refuses examples that prove nothing, and names that there are not", async () => {
    const rejects = async (promise: () => Promise<Report>, message: RegExp) => {
      let fault: unknown
      await promise().catch((error: unknown) => (fault = error))
      assert.match(String(fault), message)
    }
    await rejects(() => checkVerifier(sound, []), /examples is \[\]; expected at least one/)
    await rejects(() => checkVerifier(sound, { task, gold: [], wrong: ["1"] }), /gold of task sum is \[\]/)
    await rejects(() => checkVerifier(sound, { task, gold: ["19"], wrong: [] }), /wrong of task sum is \[\]/)
    await rejects(
      () => checkVerifier(sound, example, { expect: { offByOne: "either" } }),
      /expect is "offByOne"; expected the name of a mutation. Use one of gold/
    )
  })

  it("measures how time grows with length, and does not wait for what would take minutes", async () => {
    const linear = await checkVerifier(sound, example)
    assert.isUndefined(linear.cost!.stopped)
    assert.strictEqual(linear.cost!.slowest.milliseconds >= 0, true)
    // time that is counted, not spent: the curve is what is looked at
    const cubic: VerifierFunction<Data> = async (input) => {
      const units = input.trajectory.text.includes('{"a":') ? (input.trajectory.text.length / 2 ** 14) ** 3 : 0
      await new Promise((resolve) => setTimeout(resolve, Math.min(20 * units, 2000)))
      return sound(input) as Verdict
    }
    const slow = await checkVerifier(cubic, example, { mutations: mutations.slice(0, 2) })
    assert.match(slow.cost!.stopped ?? "", /not tried beyond 65536 characters/)
    assert.isAbove(slow.cost!.growth!, 1.5)
    assert.throws(() => assertSound(slow, { growth: 1.5 }), UnsoundVerifier, /time grows as length\^/)
    assertSound(slow)
  })
})
