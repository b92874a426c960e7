import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import { TestClock } from "effect/testing"
import fc from "fast-check"
import * as Reward from "../../../src/score/Reward.ts"
import * as Verifier from "../../../src/score/Verifier.ts"
import type { Turn } from "../../../src/rollout/Trajectory.ts"
import { group } from "../../fixtures/trajectories.ts"

const one = (reward: Reward.Part, options: Reward.ScoreOptions = {}) =>
  Effect.map(Reward.scoreGroup(reward, group(undefined, ["text"]), options), ({ trajectories }) => trajectories[0]!)

const away = () => Verifier.unscorable("away")

describe("Reward", () => {
  it.effect("adds weighted terms, multiplies gates, leaves metrics out", () =>
    Effect.gen(function* () {
      const reward = Reward.all({
        a: () => 0.5,
        b: Reward.weight(-2, () => ({ score: 0.1, reason: "why", metrics: { lines: 4 } })),
        half: Reward.gate(() => 0.5),
        seen: Reward.metric(() => 17)
      })
      const scored = yield* one(reward)
      assert.closeTo(scored.reward!, 0.5 * (0.5 - 0.2), 1e-12)
      assert.deepStrictEqual(Object.keys(scored.outcomes), ["a", "b", "half", "seen"])
      assert.deepStrictEqual(scored.outcomes["b"], { _tag: "Scored", score: 0.1, reason: "why", metrics: { lines: 4 } })
      assert.deepStrictEqual(scored.metrics, { "b/lines": 4 })
    })
  )

  it.effect("gates alone are multiplied", () =>
    Effect.gen(function* () {
      const scored = yield* one(Reward.all({ a: Reward.gate(() => 0.5), b: Reward.gate(() => 0.5) }))
      assert.strictEqual(scored.reward, 0.25)
    })
  )

  it.effect("weighs the part at its root like any other", () =>
    Effect.gen(function* () {
      const verifier = () => ({ score: 1, tokenScores: [0.5, 0.25, 0.25] })
      const scored = yield* one(Reward.weight(0.5, verifier))
      assert.strictEqual(scored.reward, 0.5)
      assert.deepStrictEqual(scored.tokenRewards, Float64Array.of(0.25, 0.125, 0.125))
      assert.strictEqual((yield* one(Reward.weight(-2, Reward.all({ a: () => 1, b: () => 0.5 })))).reward, -3)
      const [staged] = yield* Stream.make(group(undefined, ["text"])).pipe(
        Reward.score(Reward.weight(0.5, verifier)),
        Stream.runCollect
      )
      assert.strictEqual(staged!.trajectories[0]!.reward, 0.5)
    })
  )

  it.effect("nested rewards are parts like others, with joined names", () =>
    Effect.gen(function* () {
      const inner = Reward.all({ x: () => 1, ok: Reward.gate(() => 0.5) })
      const scored = yield* one(Reward.all({ plain: () => 1, quality: Reward.weight(4, inner) }))
      assert.strictEqual(scored.reward, 3)
      assert.deepStrictEqual(Object.keys(scored.outcomes), ["plain", "quality/x", "quality/ok"])
    })
  )

  it.effect("follows its formula for any tree of parts", () => {
    type Tree =
      | { readonly role: "weight" | "gate" | "metric"; readonly weight: number; readonly score: number | undefined }
      | { readonly role: "weight" | "gate" | "metric"; readonly weight: number; readonly parts: ReadonlyArray<Tree> }
    const role = fc.constantFrom("weight" as const, "gate" as const, "metric" as const)
    const value = fc.constantFrom(0, 0.5, 1, 2, -1, undefined)
    const weight = fc.constantFrom(-1, 0.5, 1, 3)
    const { tree } = fc.letrec<{ tree: Tree; leaf: Tree; node: Tree }>((tie) => ({
      leaf: fc.record({ role, weight, score: value }) as fc.Arbitrary<Tree>,
      node: fc.record({
        role,
        weight,
        parts: fc.array(tie("tree"), { minLength: 1, maxLength: 4 })
      }) as fc.Arbitrary<Tree>,
      tree: fc.oneof({ maxDepth: 3 }, tie("leaf"), tie("node"))
    }))
    const counts = (parts: ReadonlyArray<Tree>): boolean => parts.some((part) => part.role !== "metric")
    const valid = (tree: Tree): boolean => "score" in tree || (counts(tree.parts) && tree.parts.every(valid))
    const build = (tree: Tree): Reward.Part => {
      const part: Reward.Part =
        "score" in tree
          ? () => tree.score ?? Verifier.unscorable("away")
          : Reward.all(Object.fromEntries(tree.parts.map((part, index) => [`p${index}`, build(part)])))
      if (tree.role === "gate") return Reward.gate(part)
      return tree.role === "metric" ? Reward.metric(part) : Reward.weight(tree.weight, part)
    }
    const expected = (tree: Tree): number | undefined => {
      if ("score" in tree) return tree.score
      const gates = tree.parts.filter((part) => part.role === "gate").map(expected)
      if (gates.includes(0)) return 0
      const weighted = tree.parts.filter((part) => part.role === "weight")
      const terms = weighted.map((part) => {
        const value = expected(part)
        return value === undefined ? undefined : part.weight * value
      })
      if (gates.includes(undefined) || terms.includes(undefined)) return undefined
      const factor = gates.reduce<number>((product, gate) => product * gate!, 1)
      return weighted.length === 0 ? factor : factor * terms.reduce<number>((sum, term) => sum + term!, 0)
    }
    const root = fc
      .array(tree, { minLength: 1, maxLength: 4 })
      .map((parts): Tree => ({ role: "weight", weight: 1, parts }))
      .filter(valid)
    return Effect.forEach(fc.sample(root, { numRuns: 300, seed: 7 }), (tree) =>
      Effect.map(one(build(tree), { retries: 0 }), ({ reward }) => {
        const wanted = expected(tree)
        if (wanted === undefined) assert.isUndefined(reward, JSON.stringify(tree))
        else assert.closeTo(reward!, wanted, 1e-9, JSON.stringify(tree))
      })
    )
  })

  it.effect("is unscorable when a part that matters is, and only then", () =>
    Effect.gen(function* () {
      assert.isUndefined((yield* one(Reward.all({ a: () => 1, b: away }))).reward)
      assert.isUndefined((yield* one(Reward.all({ a: () => 1, b: Reward.gate(away) }))).reward)
      assert.strictEqual((yield* one(Reward.all({ a: () => 1, b: Reward.metric(away) }))).reward, 1)
      assert.strictEqual((yield* one(Reward.all({ a: () => 1, b: Reward.weight(0, away) }))).reward, 1)
      // a gate of 0 has decided already
      assert.strictEqual((yield* one(Reward.all({ a: away, b: Reward.gate(() => 0) }))).reward, 0)
    })
  )

  it.effect("takes sync, async and Effect verifiers, and their faults as unscorable", () =>
    Effect.gen(function* () {
      const scored = yield* one(
        Reward.all({
          sync: () => 1,
          async: async () => 1,
          effect: () => Effect.succeed(1),
          throws: Reward.metric(() => {
            throw new Error("broken")
          }),
          rejects: Reward.metric(async () => Promise.reject(new Error("broken"))),
          fails: Reward.metric(() => Effect.fail("broken")),
          dies: Reward.metric(() => Effect.die("broken")),
          nan: Reward.metric(() => Number.NaN),
          text: Reward.metric((() => "1") as unknown as Verifier.VerifierFunction),
          infinite: Reward.metric(() => ({ score: Infinity }))
        })
      )
      assert.strictEqual(scored.reward, 3)
      const kinds = Object.entries(scored.outcomes).flatMap(([name, outcome]) =>
        outcome._tag === "Unscorable" ? [[name, outcome.kind]] : []
      )
      assert.deepStrictEqual(kinds, [
        ["throws", "error"],
        ["rejects", "error"],
        ["fails", "error"],
        ["dies", "error"],
        ["nan", "verdict"],
        ["text", "verdict"],
        ["infinite", "verdict"]
      ])
      for (const name of ["throws", "rejects", "fails", "dies"]) {
        assert.include((scored.outcomes[name] as Verifier.Unscorable).reason, "broken")
      }
    })
  )

  it.effect("asks again for an unscorable verdict, a bounded number of times", () =>
    Effect.gen(function* () {
      let calls = 0
      const second = yield* one(() => (++calls < 2 ? Verifier.unscorable("away") : 1), { retries: 1 })
      assert.strictEqual(second.reward, 1)
      assert.strictEqual(second.timings?.["score"]?.attempts, 2)
      calls = 0
      const never = yield* one(() => (calls++, Verifier.unscorable("away")), { retries: 2 })
      assert.isUndefined(never.reward)
      assert.strictEqual(calls, 3)
    })
  )

  it.effect("ends an async verifier at its deadline and aborts its signal", () =>
    Effect.gen(function* () {
      let aborted = 0
      const fiber = yield* Effect.forkChild(
        one(
          ({ signal }) => {
            signal.addEventListener("abort", () => aborted++)
            return new Promise<number>(() => {})
          },
          { deadline: 1000, retries: 0 }
        )
      )
      yield* TestClock.adjust("1 second")
      const scored = yield* Fiber.join(fiber)
      assert.isUndefined(scored.reward)
      assert.deepInclude(scored.outcomes["score"], { _tag: "Unscorable", kind: "timeout" })
      assert.strictEqual(aborted, 1)
    })
  )

  it.effect("gives a verifier that states a deadline its own", () =>
    Effect.gen(function* () {
      const late = Effect.as(Effect.sleep(5000), 0.75)
      const fiber = yield* Effect.forkChild(
        Effect.all(
          [
            one(
              Verifier.withDeadline(6000, () => late),
              { deadline: 1000, retries: 0 }
            ),
            one(
              Verifier.withDeadline(4000, () => late),
              { deadline: 9000, retries: 0 }
            )
          ],
          { concurrency: "unbounded" }
        )
      )
      yield* TestClock.adjust("5 seconds")
      const [longer, shorter] = yield* Fiber.join(fiber)
      assert.strictEqual(longer.reward, 0.75)
      assert.deepInclude(shorter.outcomes["score"], { _tag: "Unscorable", kind: "timeout" })
    })
  )

  it.effect("combines token scores when every weighted part has them", () =>
    Effect.gen(function* () {
      const a = () => ({ score: 1, tokenScores: [1, 0, 0] })
      const b = () => ({ score: 0.5, tokenScores: [0, 0.25, 0.25] })
      const both = yield* one(Reward.all({ a, b: Reward.weight(2, b), gate: Reward.gate(() => 0.5) }))
      assert.deepStrictEqual(both.tokenRewards, Float64Array.of(0.5, 0.25, 0.25))
      assert.strictEqual(both.reward, 1)
      assert.isUndefined((yield* one(Reward.all({ a, b: () => 1 }))).tokenRewards)
      assert.deepStrictEqual(
        (yield* one(Reward.all({ a, m: Reward.metric(() => 1) }))).tokenRewards,
        Float64Array.of(1, 0, 0)
      )
      const shut = yield* one(Reward.all({ a, gate: Reward.gate(() => 0) }))
      assert.deepStrictEqual(shut.tokenRewards, new Float64Array(3))
      const length = yield* one(() => ({ score: 1, tokenScores: [1] }))
      assert.deepInclude(length.outcomes["score"], { kind: "verdict", reason: "1 token scores for 3 policy tokens" })
      const sum = yield* one(() => ({ score: 1, tokenScores: [1, 1, 0] }))
      assert.deepInclude(sum.outcomes["score"], { kind: "verdict" })
    })
  )

  it.effect("takes the environment's rewards as a verifier, and never by themselves", () =>
    Effect.gen(function* () {
      type Span = readonly [start: number, end: number, reward?: number]
      const made = group(undefined, ["a"])
      const [one] = made.trajectories
      const [turn] = one!.turns
      const turns = (spans: ReadonlyArray<Span>) => ({
        ...made,
        trajectories: [
          {
            ...one!,
            turns: spans.map(([start, end, reward]): Turn => ({
              ...turn!,
              start,
              end,
              ...(reward === undefined ? {} : { reward })
            }))
          }
        ]
      })
      const of = (...spans: ReadonlyArray<Span>) =>
        Effect.map(Reward.scoreGroup(Reward.all({ game: Reward.environment() }), turns(spans)), (scored) => {
          const { reward, tokenRewards } = scored.trajectories[0]!
          return [reward, tokenRewards === undefined ? undefined : [...tokenRewards]]
        })
      assert.deepStrictEqual(yield* of([2, 4, 0.5], [4, 5, 2]), [2.5, [0, 0.5, 2]])
      assert.deepStrictEqual(yield* of([2, 4], [4, 5, -1]), [-1, [0, 0, -1]])
      assert.deepStrictEqual(yield* of([2, 5]), [0, [0, 0, 0]])
      // A turn without tokens adds to the token before it; there may be none.
      assert.deepStrictEqual(yield* of([2, 5, 1], [5, 5, 2]), [3, [0, 0, 3]])
      assert.deepStrictEqual(yield* of([2, 2, 1], [2, 5, 2]), [3, undefined])
      const other = yield* Reward.scoreGroup(() => 0.25, turns([[2, 5, 1]]))
      assert.strictEqual(other.trajectories[0]!.reward, 0.25)
    })
  )

  it.effect("scores a group as a whole, in the order of its trajectories", () =>
    Effect.gen(function* () {
      const rank = Reward.group(({ trajectories }) => trajectories.map(({ text }) => text.length))
      const scored = yield* Reward.scoreGroup(
        Reward.all({ rank: Reward.weight(0.5, rank), own: ({ trajectory }) => trajectory.index }),
        group(undefined, ["a", "bbb", "cc"])
      )
      assert.deepStrictEqual(
        scored.trajectories.map(({ reward }) => reward),
        [0.5, 2.5, 3]
      )
      const short = yield* Reward.scoreGroup(
        Reward.all({ short: Reward.group(() => [1]) }),
        group(undefined, ["a", "b"])
      )
      assert.deepStrictEqual(
        short.trajectories.map(({ reward }) => reward),
        [undefined, undefined]
      )
    })
  )

  it.effect("keeps scores with their trajectories when groups finish out of order", () =>
    Effect.gen(function* () {
      const groups = Array.from({ length: 20 }, (_, row) => group(row, ["a", "bb", "ccc"], `task-${row}`))
      let running = 0
      let most = 0
      const fiber = yield* Stream.fromIterable(groups).pipe(
        Reward.score(
          ({ task, trajectory }) =>
            Effect.gen(function* () {
              if (trajectory.index === 0) most = Math.max(most, ++running)
              // later groups are done first
              yield* Effect.sleep((20 - task.data) * 10)
              if (trajectory.index === 0) running--
              return task.data * 10 + trajectory.text.length
            }),
          { concurrency: 5 }
        ),
        Stream.runCollect,
        Effect.forkChild
      )
      yield* TestClock.adjust("10 seconds")
      const scored = yield* Fiber.join(fiber)
      assert.strictEqual(scored.length, 20)
      assert.strictEqual(most, 5)
      assert.notDeepEqual(
        scored.map(({ task }) => task.data),
        groups.map(({ task }) => task.data)
      )
      for (const { task, trajectories } of scored) {
        assert.deepStrictEqual(
          trajectories.map(({ reward }) => reward),
          [1, 2, 3].map((length) => task.data * 10 + length)
        )
        assert.deepStrictEqual(
          trajectories.map(({ trajectory }) => trajectory.taskId),
          Array(3).fill(task.id)
        )
      }
    })
  )

  it.effect("refuses a group that holds another task's trajectory, or one twice", () =>
    Effect.gen(function* () {
      const a = group(undefined, ["a"], "a")
      const b = group(undefined, ["b"], "b")
      const mixed = yield* Effect.flip(Reward.scoreGroup(() => 1, { ...a, trajectories: b.trajectories }))
      assert.include(mixed.message, "task a: its group holds trajectory 0 of task b")
      const twice = { ...a, trajectories: [...a.trajectories, ...a.trajectories] }
      assert.include((yield* Effect.flip(Reward.scoreGroup(() => 1, twice))).message, "twice")
    })
  )

  it("refuses compositions that mean nothing", () => {
    assert.throws(() => Reward.all({}), /expected at least one weighted term or gate/)
    assert.throws(() => Reward.all({ a: Reward.metric(() => 1) }), /metrics alone are not a reward/)
    assert.throws(() => Reward.all({ "a/b": () => 1 }), /part name is "a\/b"; expected text without/)
    assert.throws(() => Reward.weight(Number.NaN, () => 1), /finite/)
  })

  it.effect("counts zero scores and unscorable ones apart", () =>
    Effect.gen(function* () {
      const reward = Reward.all({
        right: ({ trajectory }) => Number(trajectory.text === "good"),
        judge: Reward.metric(({ trajectory }) => (trajectory.index === 0 ? Verifier.unscorable("away") : 2))
      })
      const scored = [
        yield* Reward.scoreGroup(reward, group(undefined, ["good", "bad"], "a"), { retries: 0 }),
        yield* Reward.scoreGroup(reward, group(undefined, ["bad", "bad"], "b"), { retries: 0 })
      ]
      const metrics = Reward.metrics(scored)
      assert.deepInclude(metrics, {
        "verifiers/right/zeros": 3,
        "verifiers/right/unscorable": 0,
        "verifiers/judge/zeros": 0,
        "verifiers/judge/unscorable": 2,
        "verifiers/judge/timeouts": 0
      })
      assert.isAtLeast(metrics["verifiers/right/latency_p95"]!, metrics["verifiers/right/latency_p50"]!)
    })
  )
})
