import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import * as Advantage from "../../../src/learn/Advantage.ts"
import * as Batch from "../../../src/learn/Batch.ts"
import type { ScoredGroup } from "../../../src/score/Reward.ts"
import * as Task from "../../../src/data/Task.ts"
import { rewarded, scoredGroup } from "../../fixtures/groups.ts"

const mixed = () => rewarded(0, 1)
const allGood = () => rewarded(1, 1)
const allBad = () => rewarded(0, 0)
const unscorable = () => rewarded(undefined, undefined)

const collect = (groups: ReadonlyArray<ScoredGroup>, options: Batch.CollectOptions) =>
  Stream.fromIterable(groups).pipe(Batch.collect(options), Stream.runCollect)

describe("collect", () => {
  it.effect("drops groups that teach nothing, and counts them by reason", () =>
    Effect.gen(function* () {
      const groups = [mixed(), allGood(), allBad(), unscorable(), rewarded(0, 1, undefined), allBad(), mixed()]
      const batches = yield* collect(groups, { groups: 2 })
      assert.deepStrictEqual(
        batches.map((batch) => batch.groups.length),
        [2, 1]
      )
      assert.strictEqual(batches[0]!.drawn, 5)
      assert.deepStrictEqual(batches[0]!.dropped, {
        allGood: 1,
        allBad: 1,
        unscorable: 1,
        unscorableTrajectories: 3,
        failedTrajectories: 0
      })
      assert.strictEqual(batches[0]!.unused.length, 3)
      assert.strictEqual(batches[1]!.drawn, 2)
    })
  )

  it.effect("is bounded: at the limit it goes on with what it has, or fills up", () =>
    Effect.gen(function* () {
      const groups = [mixed(), allGood(), allBad(), unscorable(), allBad(), mixed()]
      const [short] = yield* collect(groups, { groups: 2, maxDraws: 2 })
      assert.strictEqual(short!.groups.length, 1)
      assert.strictEqual(short!.drawn, 4)
      const [full] = yield* collect(groups, { groups: 2, maxDraws: 2, fill: true })
      assert.strictEqual(full!.groups.length, 2)
      assert.strictEqual(full!.constant, 1)
      assert.deepStrictEqual(
        full!.groups.map(({ advantages }) => advantages.some((a) => a !== 0)),
        [true, false]
      )
      assert.strictEqual(full!.dropped.allGood, 0)
      const [nothing] = yield* collect([allBad(), allGood()], { groups: 1, maxDraws: 2 })
      assert.strictEqual(nothing!.groups.length, 0)
    })
  )

  it.effect("keeps constant groups when told so, but never those without a score", () =>
    Effect.gen(function* () {
      const [batch] = yield* collect([allGood(), unscorable(), mixed()], { groups: 2, dropConstant: false })
      assert.strictEqual(batch!.groups.length, 2)
      assert.strictEqual(batch!.constant, 1)
      assert.strictEqual(batch!.dropped.unscorable, 1)
    })
  )

  it.effect("judges by the advantage: equal rewards earned at different tokens are worth keeping by token only", () =>
    Effect.gen(function* () {
      const group = scoredGroup([
        { reward: 1, tokens: [1, 2], tokenRewards: [1, 0] },
        { reward: 1, tokens: [1, 2], tokenRewards: [0, 1] }
      ])
      const [byToken] = yield* collect([group], { groups: 1, advantage: Advantage.tokenLevel() })
      assert.strictEqual(byToken!.groups.length, 1)
      const [byGroup] = yield* collect([group], { groups: 1 })
      assert.strictEqual(byGroup!.groups.length, 0)
      // Equal up to rounding is equal.
      const [rounding] = yield* collect([rewarded(0.1 + 0.2, 0.3)], { groups: 1 })
      assert.strictEqual(rounding!.groups.length, 0)
    })
  )

  it("refuses a batch of no groups, when it is made", () => {
    assert.throws(() => Batch.collect({ groups: 0 }), /groups is 0/)
    assert.throws(() => Batch.rounds({ groups: 1, maxDraws: 0.5 }, () => Stream.empty), /maxDraws 0.5/)
  })
})

describe("rounds", () => {
  const tasks = Task.generate("numbers", (index) => ({ id: `t${index}`, prompt: Uint32Array.of(1), data: index }))

  /** A pipeline whose task n is worth learning from when n is not divisible by 3; finishes groups in reverse. */
  const pipeline = (log: Array<string>) => (draws: Stream.Stream<Task.Drawn<number>>) =>
    Stream.unwrap(
      Effect.map(Stream.runCollect(draws), (round) => {
        log.push(`round of ${round.length}`)
        return Stream.fromIterable(
          round.toReversed().map((drawn): ScoredGroup<number> => ({
            ...scoredGroup(drawn.task.data % 3 === 0 ? [{ reward: 0 }, { reward: 0 }] : [{ reward: 0 }, { reward: 1 }]),
            task: drawn.task,
            cursor: drawn.cursor
          }))
        )
      })
    )
  const taken = (batch: Batch.Batch<number>) => batch.groups.map(({ task }) => task.data)

  it.effect("draws what is missing round by round, in the order of the draws, and nothing between batches", () =>
    Effect.gen(function* () {
      const log: Array<string> = []
      yield* Task.stream(tasks, { seed: 1 }).pipe(
        Batch.rounds({ groups: 4 }, pipeline(log)),
        Stream.take(2),
        Stream.runForEach((batch) => Effect.sync(() => log.push(`${taken(batch)} next ${batch.next}`)))
      )
      assert.deepStrictEqual(log, [
        "round of 4",
        "round of 2",
        "1,2,4,5 next 6",
        "round of 4",
        "round of 2",
        "7,8,10,11 next 12"
      ])
    })
  )

  it.effect("resumes at `next` as if never stopped", () =>
    Effect.gen(function* () {
      const from = (cursor: number, count: number) =>
        Task.stream(tasks, { seed: 1, from: cursor }).pipe(
          Batch.rounds({ groups: 5 }, pipeline([])),
          Stream.take(count),
          Stream.runCollect
        )
      const whole = yield* from(0, 4)
      const resumed = yield* from(whole[1]!.next!, 2)
      assert.deepStrictEqual(resumed.map(taken), whole.slice(2).map(taken))
    })
  )

  it.effect("ends with the tasks, giving the last batch as it is", () =>
    Effect.gen(function* () {
      const finite = Task.fromArray(Array.from({ length: 7 }, (_, i) => ({ id: `t${i}`, prompt: "", data: i })))
      const batches = yield* Task.stream(finite, { seed: 1, epochs: 1, shuffle: false }).pipe(
        Batch.rounds({ groups: 3 }, pipeline([])),
        Stream.runCollect
      )
      assert.deepStrictEqual(batches.map(taken), [[1, 2, 4], [5]])
      assert.deepStrictEqual(
        batches.map(({ next }) => next),
        [5, 7]
      )
    })
  )

  it.effect("passes on a failure of the pipeline", () =>
    Effect.gen(function* () {
      const error = yield* Task.stream(tasks, { seed: 1 }).pipe(
        Batch.rounds({ groups: 3 }, () => Stream.fail("broken" as const)),
        Stream.runDrain,
        Effect.flip
      )
      assert.strictEqual(error, "broken")
    })
  )
})

describe("metrics", () => {
  it.effect("look at every group drawn, dropped ones too", () =>
    Effect.gen(function* () {
      const scored = scoredGroup([
        { reward: 1, tokens: [1, 2, 3], outcomes: { exact: { _tag: "Scored", score: 1 } } },
        { reward: 0, tokens: [1], stopReason: "length", outcomes: { exact: { _tag: "Scored", score: 0 } } },
        { reward: undefined, tokens: [1, 2], outcomes: { exact: { _tag: "Unscorable", reason: "gone" } } }
      ])
      const [batch] = yield* collect([allGood(), scored], { groups: 1 })
      const metrics = Batch.metrics(batch!)
      const expected = {
        reward: 0.75,
        reward_std: Math.SQRT1_2 / 2,
        frac_reward_zero_std: 0.5,
        "completions/mean_length": 12 / 5,
        "completions/min_length": 1,
        "completions/max_terminated_length": 3,
        "completions/mean_terminated_length": 11 / 4,
        "completions/clipped_ratio": 0.2,
        "rewards/exact/mean": 0.5,
        "rewards/exact/std": Math.SQRT1_2,
        "rewards/exact/unscorable": 1,
        "stop/length": 0.2,
        "batch/drawn": 2,
        "batch/used": 1,
        "batch/all_good": 1,
        "batch/unscorable_trajectories": 1
      }
      for (const [name, value] of Object.entries(expected)) assert.closeTo(metrics[name]!, value, 1e-12, name)
    })
  )

  it.effect("leaves out what has no value", () =>
    Effect.gen(function* () {
      const [batch] = yield* collect([unscorable()], { groups: 1, maxDraws: 1 })
      const metrics = Batch.metrics(batch!)
      assert.notProperty(metrics, "reward")
      assert.isTrue(Object.values(metrics).every(Number.isFinite))
    })
  )
})
