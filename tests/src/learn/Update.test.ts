import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Stream from "effect/Stream"
import * as Advantage from "../../../src/learn/Advantage.ts"
import * as Batch from "../../../src/learn/Batch.ts"
import * as Environment from "../../../src/rollout/Environment.ts"
import * as LearningRate from "../../../src/learn/LearningRate.ts"
import * as Loss from "../../../src/learn/Loss.ts"
import * as Pack from "../../../src/learn/Pack.ts"
import { Policy } from "../../../src/engine/Policy.ts"
import type { ScoredGroup } from "../../../src/score/Reward.ts"
import * as Rollout from "../../../src/rollout/Rollout.ts"
import * as Task from "../../../src/data/Task.ts"
import * as Tokenizer from "../../../src/text/Tokenizer.ts"
import * as Update from "../../../src/learn/Update.ts"
import { scoredGroup } from "../../fixtures/groups.ts"
import { tabular } from "../../fixtures/tabularPolicy.ts"

const vocabulary = 6

const batchOf = (groups: ReadonlyArray<ScoredGroup>): Batch.Batch => ({
  groups: Advantage.groupRelative()(groups),
  unused: [],
  drawn: groups.length,
  dropped: { allGood: 0, allBad: 0, unscorable: 0, unscorableTrajectories: 0, failedTrajectories: 0 },
  constant: 0
})

const batch = batchOf([
  scoredGroup(
    [
      { reward: 1, tokens: [1, 2] },
      { reward: 0, tokens: [3, 4, 5] }
    ],
    { prompt: [0, 2] }
  ),
  scoredGroup(
    [
      { reward: 0.2, tokens: [2] },
      { reward: 0.9, tokens: [4] },
      { reward: 0, tokens: [1, 1] }
    ],
    { prompt: [3] }
  )
])

/** Random weights, the same for the same seed, so that no gradient is 0 by symmetry. */
const model = () => {
  const made = tabular(vocabulary)
  for (let i = 0; i < made.weights.length; i++) made.weights[i] = Math.sin(i * 1.7)
  return made
}

const plain = { loss: Loss.clipped(), learningRate: 0.5, maxGradNorm: 0 }

const close = (actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance: number) => {
  assert.strictEqual(actual.length, expected.length)
  for (let i = 0; i < expected.length; i++) assert.closeTo(actual[i]!, expected[i]!, tolerance)
}

describe("gradient", () => {
  it.effect.each(["token", "sequence", "sum", { constant: 4 }] as const)(
    "does not depend on how a batch is cut into packs: %s",
    (aggregate) =>
      Effect.gen(function* () {
        const loss = Loss.withEntropy(Loss.withKl(Loss.clipped(), { coefficient: 0.2 }), 0.1)
        const after = Effect.fnUntraced(function* (maxTokens: number) {
          const own = model()
          const report = yield* Update.make({ ...plain, loss, aggregate, maxTokens })
            .batch(batch, 0)
            .pipe(Effect.provide(own.layer))
          return { weights: own.weights, report, packs: own.calls.filter((call) => call === "backward").length }
        })
        const whole = yield* after(1000)
        assert.strictEqual(whole.packs, 1)
        assert.notDeepEqual(whole.weights, model().weights)
        for (const maxTokens of [1, 4, 6]) {
          const cut = yield* after(maxTokens)
          assert.isAbove(cut.packs, 1)
          // dLogprobs travel as f32, each target's own number in either cut: only the order of sums differs.
          close(cut.weights, whole.weights, 1e-12)
          for (const name of ["loss", "gradNorm", "entropy"] as const) {
            assert.closeTo(cut.report[name], whole.report[name], 1e-6)
          }
          for (const [name, value] of Object.entries(whole.report.metrics)) {
            assert.closeTo(cut.report.metrics[name]!, value, 1e-6, name)
          }
        }
      })
  )

  it.effect("is that of the loss: a step of descent is what differences of the loss predict", () =>
    Effect.gen(function* () {
      const own = model()
      const [pack] = Batch.pack(batch, { aggregate: "token" })
      const loss = Loss.withEntropy(Loss.reinforce, 0.3)
      const valueAt = Effect.gen(function* () {
        const { entropy = new Float32Array(), logprobs } = yield* own.policy.forward(pack!.forest, {
          entropy: true,
          temperature: 0.8
        })
        return loss({ ...pack!, logprobs, oldLogprobs: logprobs, entropy, constants: {} }).loss
      })
      const differences = yield* Effect.forEach(Array.from(own.weights.keys()), (i) =>
        Effect.gen(function* () {
          const step = 1e-2
          const kept = own.weights[i]!
          own.weights[i] = kept + step
          const up = yield* valueAt
          own.weights[i] = kept - step
          const down = yield* valueAt
          own.weights[i] = kept
          return (up - down) / (2 * step)
        })
      )
      const before = Float64Array.from(own.weights)
      yield* Update.make({ ...plain, loss, temperature: 0.8, learningRate: 1 })
        .batch(batch, 0)
        .pipe(Effect.provide(own.layer))
      close(
        own.weights.map((weight, i) => before[i]! - weight),
        differences,
        1e-4
      )
    })
  )
})

describe("one update", () => {
  it.effect("takes the forward's own numbers as the old ones, and measures the sampler against them", () =>
    Effect.gen(function* () {
      const own = model()
      const report = yield* Update.make(plain).batch(batch, 3).pipe(Effect.provide(own.layer))
      assert.deepStrictEqual(own.calls, ["forward policy keep", "backward", "step"])
      assert.strictEqual(own.kept.size, 0)
      assert.strictEqual(report.metrics["clip_ratio/region_mean"], 0)
      assert.deepStrictEqual([report.step, report.updates, report.skipped, report.version], [3, 1, 0, 1])
      assert.deepStrictEqual(report.tokens, { forward: 7, trained: 9 })
      // The batch says that every token was sampled with log-probability -1.
      const logprobs = (yield* model().policy.forward(Batch.pack(batch, { aggregate: "token" })[0]!.forest)).logprobs
      const distance = Array.from(logprobs, (logprob) => Math.abs(-1 - logprob))
      const mean = (values: Array<number>) => values.reduce((a, b) => a + b, 0) / values.length
      assert.closeTo(report.metrics["sampling/sampling_logp_difference/mean"]!, mean(distance), 1e-9)
      assert.closeTo(report.metrics["sampling/sampling_logp_difference/max"]!, Math.max(...distance), 1e-9)
      const ratios = Array.from(logprobs, (logprob) => Math.exp(logprob + 1))
      assert.closeTo(report.metrics["sampling/importance_sampling_ratio/mean"]!, mean(ratios), 1e-9)
      assert.closeTo(report.metrics["sampling/importance_sampling_ratio/min"]!, Math.min(...ratios), 1e-9)
      assert.closeTo(report.metrics["sampling/importance_sampling_ratio/max"]!, Math.max(...ratios), 1e-9)
    })
  )

  it.effect("asks for the reference only when the loss needs it", () =>
    Effect.gen(function* () {
      const own = model()
      const loss = Loss.withKl(Loss.clipped(), { coefficient: 0.1, estimator: "k1" })
      const report = yield* Update.make({ ...plain, loss })
        .batch(batch, 0)
        .pipe(Effect.provide(own.layer))
      assert.deepStrictEqual(own.calls, ["forward reference", "forward policy keep", "backward", "step"])
      // The reference is uniform.
      const { logprobs } = yield* model().policy.forward(Batch.pack(batch, { aggregate: "token" })[0]!.forest)
      const kl = logprobs.reduce((sum, logprob) => sum + logprob + Math.log(vocabulary), 0) / logprobs.length
      assert.closeTo(report.metrics["kl"]!, kl, 1e-6)
    })
  )

  it.effect("of an empty batch changes nothing", () =>
    Effect.gen(function* () {
      const own = model()
      const report = yield* Update.make(plain).batch(batchOf([]), 0).pipe(Effect.provide(own.layer))
      assert.deepStrictEqual(own.calls, [])
      assert.strictEqual(report.updates, 0)
      assert.isNaN(report.loss)
    })
  )

  it.effect("follows the schedule", () =>
    Effect.gen(function* () {
      const updater = Update.make({ ...plain, learningRate: LearningRate.linear({ peak: 1, steps: 10, warmup: 4 }) })
      const rates = yield* Effect.forEach([0, 3, 4, 7, 10, 12], (step) =>
        updater.batch(batch, step).pipe(
          Effect.provide(model().layer),
          Effect.map((report) => report.learningRate)
        )
      )
      assert.deepStrictEqual(rates, [0.25, 1, 1, 0.5, 0, 0])
    })
  )
})

describe("several updates", () => {
  it.effect("compare with the log-probabilities before the first", () =>
    Effect.gen(function* () {
      const own = model()
      const ratios: Array<ReadonlyArray<number>> = []
      const loss: Loss.Loss = (input) => {
        ratios.push(Array.from(input.logprobs, (logprob, t) => logprob - input.oldLogprobs[t]!))
        return Loss.clipped()(input)
      }
      const report = yield* Update.make({ ...plain, loss, epochs: 2, minibatches: 2 })
        .batch(batch, 0)
        .pipe(Effect.provide(own.layer))
      assert.deepStrictEqual(
        own.calls.filter((call) => call !== "backward"),
        ["forward policy", "forward policy", ...Array.from({ length: 4 }, () => ["forward policy keep", "step"]).flat()]
      )
      assert.strictEqual(report.updates, 4)
      assert.isTrue(ratios[0]!.every((d) => d === 0))
      assert.isTrue(ratios[2]!.some((d) => d !== 0))
    })
  )

  it.effect("may take the sampler's numbers instead, and save a forward", () =>
    Effect.gen(function* () {
      const own = model()
      const inputs: Array<Loss.LossInput> = []
      const loss: Loss.Loss = (input) => {
        inputs.push(input)
        return Loss.clipped()(input)
      }
      yield* Update.make({ ...plain, loss, epochs: 2, old: "sampler" })
        .batch(batch, 0)
        .pipe(Effect.provide(own.layer))
      assert.notInclude(own.calls, "forward policy")
      assert.isTrue(inputs.every(({ oldLogprobs, samplerLogprobs }) => oldLogprobs === samplerLogprobs))
    })
  )
})

describe("what a loss is given", () => {
  /** Collects the inputs of a loss. */
  const watched = (more: Partial<Pick<Loss.Loss, "unit" | "needs">> = {}) => {
    const inputs: Array<Loss.LossInput> = []
    const loss: Loss.Loss = (input) => {
      inputs.push(input)
      return Loss.clipped()(input)
    }
    return { inputs, loss: Object.assign(loss, more) }
  }

  it.effect("names every sequence by its group in the batch, and counts the whole update, however it is cut", () =>
    Effect.gen(function* () {
      for (const maxTokens of [1, 4, 1000]) {
        const { inputs, loss } = watched()
        yield* Update.make({ ...plain, loss, maxTokens })
          .batch(batch, 0)
          .pipe(Effect.provide(model().layer))
        assert.deepStrictEqual(
          inputs.flatMap(({ sequences }) => sequences),
          [
            { group: 0, index: 0 },
            { group: 0, index: 1 },
            { group: 1, index: 0 },
            { group: 1, index: 1 },
            { group: 1, index: 2 }
          ]
        )
        for (const { total } of inputs) assert.deepStrictEqual(total, { groups: 2, sequences: 5, targets: 9 })
      }
      const { inputs, loss } = watched()
      yield* Update.make({ ...plain, loss, minibatches: 2 })
        .batch(batch, 0)
        .pipe(Effect.provide(model().layer))
      assert.deepStrictEqual(
        inputs.map(({ sequences, total }) => [sequences[0]!.group, total]),
        [
          [0, { groups: 1, sequences: 2, targets: 5 }],
          [1, { groups: 1, sequences: 3, targets: 4 }]
        ]
      )
    })
  )

  it.effect("has the columns and constants of the settings, made once of the prepared batch", () =>
    Effect.gen(function* () {
      const { inputs, loss } = watched({ needs: ["reference"] })
      const seen: Array<Update.Prepared> = []
      const own = model()
      yield* Update.make({
        ...plain,
        loss,
        epochs: 2,
        maxTokens: 4,
        credit: (prepared) => {
          seen.push(prepared)
          return prepared.updates.map((packs) =>
            packs.map(({ old, pack, reference }) => ({
              distance: Float64Array.from(old!, (logprob, t) => logprob - reference![t]!),
              advantages: new Float64Array(pack.weights.length).fill(3)
            }))
          )
        },
        constants: (prepared) =>
          Effect.sync(() => {
            seen.push(prepared)
            return { packs: prepared.updates.flat().length }
          })
      })
        .batch(batch, 0)
        .pipe(Effect.provide(own.layer))
      assert.strictEqual(seen.length, 2)
      // The second hook sees what the first one made.
      assert.isDefined(seen[1]!.updates[0]![0]!.pack.columns["distance"])
      assert.strictEqual(inputs.length, 2 * seen[0]!.updates.flat().length)
      for (const { advantages, columns, constants, oldLogprobs, referenceLogprobs } of inputs) {
        assert.deepStrictEqual(constants, { packs: inputs.length / 2 })
        assert.isTrue(advantages.every((value) => value === 3))
        assert.deepStrictEqual(Object.keys(columns), ["distance"])
        assert.deepStrictEqual(
          [...columns["distance"]!],
          Array.from(oldLogprobs, (logprob, t) => logprob - referenceLogprobs![t]!)
        )
      }
    })
  )

  it.effect("keeps groups whole, and refuses a batch that must not be cut", () =>
    Effect.gen(function* () {
      const grouped = watched({ unit: "group" })
      yield* Update.make({ ...plain, loss: grouped.loss, maxTokens: 1 })
        .batch(batch, 0)
        .pipe(Effect.provide(model().layer))
      assert.deepStrictEqual(
        grouped.inputs.map(({ sequences }) => sequences.length),
        [2, 3]
      )
      const whole = watched({ unit: "batch" })
      const updater = Update.make({ ...plain, loss: whole.loss, maxTokens: 1 })
      const error = yield* updater.batch(batch, 0).pipe(Effect.provide(model().layer), Effect.flip)
      assert.strictEqual(error._tag, "OptionError")
      assert.match(error.message, /maxTokens is 1; expected at least 7/)
      assert.strictEqual(whole.inputs.length, 0)
    })
  )

  it.effect("refuses a column of another length, by name", () =>
    Effect.gen(function* () {
      const updater = Update.make({ ...plain, credit: () => [[{ returns: new Float64Array(2) }]] })
      const error = yield* updater.batch(batch, 0).pipe(Effect.provide(model().layer), Effect.flip)
      assert.match(error.message, /length of column returns is 2; expected 9/)
    })
  )
})

describe("prepare, credit and apply", () => {
  it.effect("one after the other are what batch does", () =>
    Effect.gen(function* () {
      const settings = { ...plain, epochs: 2, loss: Loss.withKl(Loss.clipped(), { coefficient: 0.1 }) }
      const [whole, parts] = [model(), model()]
      const updater = Update.make(settings)
      const expected = yield* updater.batch(batch, 2).pipe(Effect.provide(whole.layer))
      const report = yield* Effect.gen(function* () {
        const prepared = yield* updater.prepare(batch)
        assert.deepStrictEqual(parts.calls, ["forward policy", "forward reference"])
        assert.strictEqual(prepared.passes, 2)
        return yield* updater.apply(yield* updater.credit(prepared), 2)
      }).pipe(Effect.provide(parts.layer))
      assert.deepStrictEqual(parts.weights, whole.weights)
      assert.deepStrictEqual({ ...report, seconds: 0 }, { ...expected, seconds: 0 })
    })
  )
})

describe("the engine", () => {
  it.effect("is asked for entropy only if it has it or the loss needs it", () =>
    Effect.gen(function* () {
      const own = model()
      const asked: Array<boolean | undefined> = []
      const policy: Policy["Service"] = {
        ...own.policy,
        capabilities: { ...own.policy.capabilities, outputs: [] },
        forward: (forest, options) => {
          asked.push(options?.entropy)
          return own.policy.forward(forest, options)
        }
      }
      const run = (loss: Loss.Loss) =>
        Update.make({ ...plain, loss })
          .batch(batch, 0)
          .pipe(Effect.provideService(Policy, policy))
      const report = yield* run(Loss.clipped())
      assert.isNaN(report.entropy)
      assert.isFinite((yield* run(Loss.withEntropy(Loss.clipped(), 0.1))).entropy)
      assert.deepStrictEqual(asked, [false, true])
    })
  )

  it.effect("says which forwards took the activations of sampling: the share is reported", () =>
    Effect.gen(function* () {
      const own = model()
      let calls = 0
      const policy: Policy["Service"] = {
        ...own.policy,
        forward: (forest, options) =>
          Effect.map(own.policy.forward(forest, options), (forward) => ({ ...forward, recorded: ++calls <= 1 }))
      }
      const report = yield* Update.make({ ...plain, minibatches: 2, epochs: 2, old: "sampler" })
        .batch(batch, 0)
        .pipe(Effect.provideService(Policy, policy))
      assert.strictEqual(report.recordedShare, 1 / 4)
      assert.strictEqual(report.metrics["update/recorded_share"], 1 / 4)
      const empty = yield* Update.make(plain).batch(batchOf([]), 0).pipe(Effect.provideService(Policy, policy))
      assert.isNaN(empty.recordedShare)
      assert.notProperty(empty.metrics, "update/recorded_share")
    })
  )
})

describe("what is not finite", () => {
  const broken =
    (bad: Partial<Loss.LossOutput>): Loss.Loss =>
    (input) => ({ ...Loss.clipped()(input), ...bad })
  it.effect.each([
    ["loss", broken({ loss: NaN })],
    ["gradient", broken({ dLogprobs: new Float64Array(9).fill(Infinity) })],
    ["gradient in f32", broken({ dLogprobs: new Float64Array(9).fill(1e300) })],
    ["entropy's gradient", broken({ dEntropy: new Float64Array(9).fill(NaN) })]
  ] as const)("skips the update: %s", ([, loss]) =>
    Effect.gen(function* () {
      const own = model()
      const dumps: Array<Update.Dump> = []
      const dump = (one: Update.Dump) => Effect.sync(() => void dumps.push(one))
      const report = yield* Update.make({ ...plain, loss, dump })
        .batch(batch, 7)
        .pipe(Effect.provide(own.layer))
      assert.deepStrictEqual([report.skipped, report.updates], [1, 1])
      assert.deepStrictEqual(own.weights, model().weights)
      assert.isTrue(own.gradient.every((value) => value === 0))
      assert.strictEqual(own.kept.size, 0)
      assert.strictEqual(dumps.length, 1)
      assert.deepStrictEqual([dumps[0]!.step, dumps[0]!.batch, dumps[0]!.packs.length], [7, batch, 1])
    })
  )

  it.effect("drops what earlier packs of the same update had added", () =>
    Effect.gen(function* () {
      const own = model()
      let pack = 0
      const loss: Loss.Loss = (input) => ({ ...Loss.clipped()(input), ...(++pack === 2 ? { loss: NaN } : {}) })
      const report = yield* Update.make({ ...plain, loss, maxTokens: 4 })
        .batch(batch, 0)
        .pipe(Effect.provide(own.layer))
      assert.strictEqual(report.skipped, 1)
      assert.isTrue(own.gradient.every((value) => value === 0))
    })
  )

  it.effect("is counted and dumped when the engine finds it in the weights' gradient", () =>
    Effect.gen(function* () {
      const own = model()
      const dumps: Array<Update.Dump> = []
      const policy = { ...own.policy, step: () => Effect.succeed({ gradNorm: NaN, skipped: true, version: 0 }) }
      const report = yield* Update.make({ ...plain, dump: (one) => Effect.sync(() => void dumps.push(one)) })
        .batch(batch, 0)
        .pipe(Effect.provideService(Policy, policy))
      assert.strictEqual(report.skipped, 1)
      assert.include(dumps[0]!.reason, "gradient of the weights")
    })
  )
})

describe("a failure in the middle", () => {
  it.effect("leaves no gradient and no activations behind", () =>
    Effect.gen(function* () {
      const own = model()
      let calls = 0
      const policy: Policy["Service"] = {
        ...own.policy,
        backward: (id, dLogprobs) =>
          Effect.suspend(() => {
            own.state.failBackward = ++calls === 2
            return own.policy.backward(id, dLogprobs)
          })
      }
      const error = yield* Update.make({ ...plain, maxTokens: 4 })
        .batch(batch, 0)
        .pipe(Effect.provideService(Policy, policy), Effect.flip)
      assert.strictEqual(error._tag, "EngineError")
      assert.isTrue(own.gradient.every((value) => value === 0))
      assert.strictEqual(own.kept.size, 0)
    })
  )

  it.effect("of the loss itself does so too, and says what a loss must return", () =>
    Effect.gen(function* () {
      const own = model()
      const loss: Loss.Loss = (input) => ({ ...Loss.clipped()(input), dLogprobs: new Float64Array(1) })
      const exit = yield* Update.make({ ...plain, loss })
        .batch(batch, 0)
        .pipe(Effect.provide(own.layer), Effect.exit)
      assert.isTrue(Exit.isFailure(exit))
      assert.include(String(exit), "1 numbers as dLogprobs for 9 targets")
      assert.strictEqual(own.kept.size, 0)
    })
  )

  it.effect("such as an interruption does so too", () =>
    Effect.gen(function* () {
      const own = model()
      const reached = yield* Deferred.make<void>()
      let calls = 0
      const policy: Policy["Service"] = {
        ...own.policy,
        backward: (id, dLogprobs) =>
          ++calls === 1
            ? own.policy.backward(id, dLogprobs)
            : Deferred.succeed(reached, undefined).pipe(Effect.andThen(Effect.never))
      }
      const fiber = yield* Update.make({ ...plain, maxTokens: 4 })
        .batch(batch, 0)
        .pipe(Effect.provideService(Policy, policy), Effect.forkChild)
      yield* Deferred.await(reached)
      assert.isTrue(own.gradient.some((value) => value !== 0))
      yield* Fiber.interrupt(fiber)
      assert.isTrue(own.gradient.every((value) => value === 0))
      assert.strictEqual(own.kept.size, 0)
    })
  )
})

describe("learning", () => {
  it.effect("supervised: the loss falls to what the data leave open", () =>
    Effect.gen(function* () {
      const own = model()
      const examples = [
        [1, 2, 3],
        [1, 2, 4]
      ].map((tokens): Pack.PackGroup => ({
        prompt: Uint32Array.of(0),
        sequences: [{ tokens: Uint32Array.from(tokens), target: [1, 1, 1], advantage: 0 }]
      }))
      const packs = Pack.pack(examples, { aggregate: "token" })
      const updater = Update.make({ ...plain, loss: Loss.crossEntropy, learningRate: 5 })
      const losses = yield* Effect.forEach(Array(300).keys().toArray(), (step) =>
        Effect.map(updater.packs(packs, step), (report) => report.loss)
      ).pipe(Effect.provide(own.layer))
      // One token of three is a coin toss.
      assert.closeTo(losses.at(-1)!, Math.LN2 / 3, 0.01)
      assert.isAbove(losses[0]!, 1)
    })
  )

  it.effect("by reward: the whole path takes a policy from chance to the answer, and resumes on the way", () =>
    Effect.gen(function* () {
      const tokenizer = Tokenizer.characters("abcde")
      const tasks = Task.fromArray([
        { id: "a", prompt: "a", data: "bc" },
        { id: "d", prompt: "d", data: "ea" }
      ])
      const own = tabular(tokenizer.vocabularySize)
      const steps = Effect.fnUntraced(function* (from: number, count: number, step: number) {
        return yield* Task.stream(tasks, { seed: 1, from }).pipe(
          Batch.rounds({ groups: 2, maxDraws: 4 }, (draws) =>
            draws.pipe(
              Rollout.groups({ environment: Environment.singleTurn({ maxTokens: 2 }), tokenizer, size: 16, seed: 1 }),
              Stream.map((group): ScoredGroup<string> => ({
                ...group,
                trajectories: group.trajectories.map((trajectory) => ({
                  trajectory,
                  reward: [...trajectory.text].filter((c, i) => c === group.task.data[i]).length / 2,
                  outcomes: {},
                  metrics: {}
                }))
              }))
            )
          ),
          Update.stage({ ...plain, learningRate: 2 }, { from: step }),
          Stream.take(count),
          Stream.runCollect,
          Effect.provide(own.layer)
        )
      })
      const reports = yield* steps(0, 60, 0)
      const rewards = reports.map(({ batch }) => Batch.metrics(batch)["reward"]!)
      assert.isBelow(rewards[0]!, 0.35)
      assert.isAbove(rewards.at(-1)!, 0.9)
      // Sampler and policy share their weights: they agree to the last bit of f32.
      const differences = reports.map(({ report }) => report.metrics["sampling/sampling_logp_difference/max"] ?? 0)
      assert.isTrue(differences.every((difference) => difference === 0))

      const learned = Float64Array.from(own.weights)
      own.weights.fill(0)
      const first = yield* steps(0, 25, 0)
      yield* steps(first.at(-1)!.batch.next!, 35, 25)
      assert.deepStrictEqual(own.weights, learned)
    })
  )
})
