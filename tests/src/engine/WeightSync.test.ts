import { assert, describe, it } from "@effect/vitest"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as fs from "node:fs/promises"
import * as os from "node:os"
import * as path from "node:path"
import { Policy, PolicyNative, Sampler, SamplerServer, WeightSync, EngineError } from "quintain"
import { serveInference } from "../../fixtures/inferenceServer.ts"
import { nativeReplica } from "../../fixtures/nativeReplica.ts"
import { tabular } from "../../fixtures/tabularPolicy.ts"
import { versionOf } from "../../fixtures/versions.ts"

const model = { vocab_size: 24, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64 }
const prompt = Uint32Array.of(1, 2, 3)
const request: Sampler.SampleRequest = { prompt, count: 2, maxTokens: 6, key: { seed: 1, stream: "t", index: 0 } }

const scratch = Effect.acquireRelease(
  Effect.promise(() => fs.mkdtemp(path.join(os.tmpdir(), "quintain-sync-"))),
  (directory) => Effect.promise(() => fs.rm(directory, { recursive: true, force: true }))
)
const entries = (directory: string) => Effect.promise(() => fs.readdir(directory))

/** A second native engine that opens what it is told, as a server would: whole models afresh, adapters beside its base. */
const replica = Layer.effect(
  Sampler.Sampler,
  Effect.gen(function* () {
    const scope = yield* Effect.scope
    const open = (options: PolicyNative.NativeOptions) =>
      Layer.buildWithScope(PolicyNative.layer({ ...options, threads: 2 }), scope)
    let engine = yield* open({ model, seed: 3, adapters: {} })
    let adapter: string | undefined
    let held = -1
    return {
      name: "replica",
      engine: "replica",
      sample: (request) =>
        Context.get(engine, Sampler.Sampler)
          .sample({ ...request, ...(adapter === undefined ? {} : { adapter }) })
          .pipe(
            Effect.map((completions) =>
              completions.map((completion) => ({
                ...completion,
                versions: new Uint32Array(completion.tokens.length).fill(held)
              }))
            )
          ),
      weights: {
        _tag: "Updatable",
        update: Effect.fnUntraced(
          function* ({ directory, kind, version }: Sampler.WeightUpdate) {
            if (kind === "model") engine = yield* open({ model: directory })
            else yield* Context.get(engine, Policy.Policy).adapters.add((adapter = `v${version}`), directory)
            held = version
          },
          Effect.mapError(({ reason }) => new EngineError.EngineError({ operation: "update", reason }))
        )
      }
    }
  })
)

/** The policy's own log-probabilities of a completion. */
const logprobsOf = Effect.fnUntraced(function* (completion: Sampler.Completion) {
  const policy = yield* Policy.Policy
  const tokens = Uint32Array.of(...prompt, ...completion.tokens)
  const { logprobs } = yield* policy.forward({
    tokens,
    segmentStart: Uint32Array.of(0),
    segmentLength: Uint32Array.of(tokens.length),
    segmentParent: Int32Array.of(-1),
    targetPosition: Uint32Array.from(completion.tokens, (_, t) => prompt.length - 1 + t),
    targetToken: completion.tokens
  })
  return logprobs
})

/** A gradient from somewhere, and a step. */
const train = Effect.gen(function* () {
  const policy = yield* Policy.Policy
  const tokens = Uint32Array.of(4, 5, 6)
  const { id } = yield* policy.forward(
    {
      tokens,
      segmentStart: Uint32Array.of(0),
      segmentLength: Uint32Array.of(3),
      segmentParent: Int32Array.of(-1),
      targetPosition: Uint32Array.of(0, 1),
      targetToken: Uint32Array.of(5, 6)
    },
    { keep: true }
  )
  yield* policy.backward(id, { logprobs: Float32Array.of(-1, -1) })
  return (yield* policy.step({ learningRate: 0.05 })).version
})

describe("weights by path", () => {
  for (const [name, options, kind] of [
    ["an adapter", { lora: { rank: 4 } }, undefined],
    ["an adapter merged into its base", { lora: { rank: 4 } }, "model"],
    ["all weights", {}, undefined]
  ] as const) {
    it.effect(`follows ${name}: samples are drawn from the policy's present weights`, () =>
      Effect.gen(function* () {
        const directory = yield* scratch
        const layer = WeightSync.layer({
          policy: PolicyNative.layer({ model, seed: 3, threads: 2, ...options }),
          sampler: replica,
          directory,
          ...(kind === undefined ? {} : { kind })
        })
        yield* Effect.gen(function* () {
          const sampler = yield* Sampler.Sampler
          const seen = []
          for (const steps of [0, 1, 2]) {
            let version = 0
            for (let step = 0; step < steps; step++) version = yield* train
            const completions = yield* sampler.sample(request)
            for (const completion of completions) {
              assert.strictEqual(versionOf(completion), version)
              const own = yield* logprobsOf(completion)
              // Merging rounds once more; otherwise it is the same arithmetic on the same numbers.
              completion.logprobs.forEach((value, t) =>
                assert.closeTo(value, own[t]!, kind === "model" ? 1e-5 : 0, `version ${version}, token ${t}`)
              )
            }
            seen.push(completions[0]!.logprobs[0])
            // One folder of an adapter stays, since a server may read it again; none of a model.
            assert.lengthOf(yield* entries(directory), name === "an adapter" ? 1 : 0)
          }
          assert.strictEqual(new Set(seen).size, 3, "the weights moved")
        }).pipe(Effect.provide(layer))
        assert.deepStrictEqual(yield* entries(directory), [], "nothing is left behind")
      })
    )
  }
})

/** The tabular policy with files for weights, and a sampler that is told when to take them. */
const following = (
  options: Partial<WeightSync.WeightSyncOptions> & {
    readonly update?: (weights: Sampler.WeightUpdate, call: number) => Effect.Effect<void, EngineError.EngineError>
    readonly save?: Effect.Effect<void, EngineError.EngineError>
  } = {}
) => {
  const { save = Effect.void, update = () => Effect.void, ...rest } = options
  const table = tabular(8)
  const updates: Array<Sampler.WeightUpdate> = []
  const state = { saves: 0 }
  const policy: Policy.Policy["Service"] = {
    ...table.policy,
    exportModel: (directory) =>
      Effect.andThen(
        save,
        Effect.promise(async () => {
          state.saves++
          await fs.mkdir(directory, { recursive: true })
          await fs.writeFile(path.join(directory, "weights"), String(state.saves))
        })
      ),
    load: () => Effect.void
  }
  let version = -1
  const sampler: Sampler.Sampler["Service"] = {
    name: "told",
    engine: "told",
    sample: (request) =>
      Effect.map(table.sampler.sample(request), (completions) =>
        completions.map((completion) => ({
          ...completion,
          versions: new Uint32Array(completion.tokens.length).fill(version)
        }))
      ),
    weights: {
      _tag: "Updatable",
      update: (weights) =>
        Effect.suspend(() => {
          updates.push(weights)
          return Effect.tap(update(weights, updates.length), () => Effect.sync(() => (version = weights.version)))
        })
    }
  }
  const layer = WeightSync.layer({
    policy: Layer.succeed(Policy.Policy, policy),
    sampler: Layer.succeed(Sampler.Sampler, sampler),
    ...rest
  })
  return { ...table, layer, updates, saves: state }
}

const many = <A>(count: number, value: A): ReadonlyArray<A> => Array.from({ length: count }, () => value)
const away = new EngineError.EngineError({
  operation: "update",
  reason: { _tag: "Unavailable", detail: "the server is away" }
})
const step = Policy.Policy.use((policy) => policy.step({ learningRate: 0.1 }))
const sample = Sampler.Sampler.use((sampler) => sampler.sample(request))

describe("when weights are pushed", () => {
  it.effect("only after they changed, once for all requests that wait", () =>
    Effect.gen(function* () {
      const { layer, saves, updates } = following()
      yield* Effect.gen(function* () {
        const versions = (yield* Effect.all(many(5, sample), { concurrency: "unbounded" })).map(([first]) =>
          versionOf(first!)
        )
        assert.deepStrictEqual(versions, [0, 0, 0, 0, 0])
        assert.lengthOf(updates, 1)
        yield* step
        yield* step
        yield* sample
        yield* sample
        assert.lengthOf(updates, 2)
        assert.deepInclude(updates[1], { kind: "model", version: 2 })
        assert.notStrictEqual(updates[0]!.directory, updates[1]!.directory)
        yield* Policy.Policy.use((policy) => policy.load("elsewhere"))
        yield* sample
        assert.strictEqual(saves.saves, 3)
      }).pipe(Effect.provide(layer))
    })
  )

  it.effect("not before the first step where the sampler began with the same weights", () =>
    Effect.gen(function* () {
      const { layer, updates } = following({ inSync: true })
      yield* Effect.gen(function* () {
        yield* sample
        assert.lengthOf(updates, 0)
        yield* step
        yield* sample
        assert.lengthOf(updates, 1)
      }).pipe(Effect.provide(layer))
    })
  )

  it.effect("not after a step that was skipped", () =>
    Effect.gen(function* () {
      const { gradient, layer, updates } = following()
      yield* Effect.gen(function* () {
        yield* sample
        gradient.fill(Number.NaN)
        assert.isTrue((yield* step).skipped)
        yield* sample
        assert.lengthOf(updates, 1)
      }).pipe(Effect.provide(layer))
    })
  )

  it.effect("a step that comes meanwhile makes them stale again", () =>
    Effect.gen(function* () {
      const [began, go] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
      const { layer, updates } = following({
        update: (_, call) =>
          call > 1 ? Effect.void : Effect.andThen(Deferred.succeed(began, undefined), Deferred.await(go))
      })
      yield* Effect.gen(function* () {
        const first = yield* Effect.forkChild(sample)
        yield* Deferred.await(began)
        yield* step
        yield* Deferred.succeed(go, undefined)
        assert.strictEqual(versionOf((yield* Fiber.join(first))[0]!), 0)
        assert.strictEqual(versionOf((yield* sample)[0]!), 1)
        assert.deepStrictEqual(
          updates.map(({ version }) => version),
          [0, 1]
        )
      }).pipe(Effect.provide(layer))
    })
  )
})

describe("when a push goes wrong", () => {
  it.effect("those who waited for it share the error, the next request tries again", () =>
    Effect.gen(function* () {
      const directory = yield* scratch
      const { layer, updates } = following({
        directory,
        update: (_, call) => (call === 1 ? Effect.andThen(Effect.yieldNow, Effect.fail(away)) : Effect.void)
      })
      yield* Effect.gen(function* () {
        const errors = yield* Effect.all(many(4, Effect.flip(sample)), { concurrency: "unbounded" })
        assert.deepStrictEqual(errors, many(4, away))
        assert.lengthOf(updates, 1)
        assert.deepStrictEqual(yield* entries(directory), [])
        assert.strictEqual(versionOf((yield* sample)[0]!), 0)
        assert.lengthOf(updates, 2)
      }).pipe(Effect.provide(layer))
    })
  )

  it.effect("weights that cannot be saved are a sampler's error", () =>
    Effect.gen(function* () {
      const full = new EngineError.EngineError({
        operation: "exportModel",
        reason: { _tag: "Io", detail: "no space left on device" }
      })
      const { layer, updates } = following({ save: Effect.fail(full) })
      const error = yield* Effect.flip(sample).pipe(Effect.provide(layer))
      assert.deepInclude(error, { _tag: "EngineError", operation: "update" })
      assert.strictEqual(error.reason._tag, "Io")
      assert.include(error.message, "no space left on device")
      assert.lengthOf(updates, 0)
    })
  )

  it.effect("an interrupted push is made again by whoever waited for it, and leaves no files", () =>
    Effect.gen(function* () {
      const directory = yield* scratch
      const began = yield* Deferred.make<void>()
      const { layer, updates } = following({
        directory,
        update: (_, call) => (call > 1 ? Effect.void : Effect.andThen(Deferred.succeed(began, undefined), Effect.never))
      })
      yield* Effect.gen(function* () {
        const first = yield* Effect.forkChild(sample)
        yield* Deferred.await(began)
        const second = yield* Effect.forkChild(sample)
        yield* Effect.yieldNow
        yield* Fiber.interrupt(first)
        assert.lengthOf(yield* Fiber.join(second), 2)
        assert.lengthOf(updates, 2)
        assert.deepStrictEqual(yield* entries(directory), [])
      }).pipe(Effect.provide(layer))
    })
  )
})

describe("what it refuses", () => {
  it.effect("a sampler that cannot take weights, an adapter that it does not follow", () =>
    Effect.gen(function* () {
      const { layer: own } = tabular(4)
      const error = yield* Effect.flip(Layer.build(WeightSync.layer({ policy: own, sampler: own })))
      assert.strictEqual(error.reason._tag, "Unsupported")
      const { layer, updates } = following()
      const other = Sampler.Sampler.use((sampler) => sampler.sample({ ...request, adapter: "tools" }))
      assert.strictEqual((yield* Effect.flip(other).pipe(Effect.provide(layer))).reason._tag, "Config")
      const none = following({ adapter: "tools" })
      const { reason } = yield* Effect.flip(other).pipe(Effect.provide(none.layer))
      assert.deepStrictEqual(reason, { _tag: "State", detail: "the policy has no adapter `tools`; add it first" })
      const lora = following({ kind: "adapter" })
      assert.strictEqual((yield* Effect.flip(sample).pipe(Effect.provide(lora.layer))).reason._tag, "Config")
      assert.lengthOf([...updates, ...none.updates, ...lora.updates], 0)
    })
  )
})

describe("through a server", () => {
  for (const [kind, options] of [
    ["vllm", { lora: { rank: 4 } }],
    ["sglang", { lora: { rank: 4 } }],
    ["sglang", {}]
  ] as const) {
    it.live(
      `${kind} ${"lora" in options ? "with an adapter" : "with all weights"} draws from the policy's present weights`,
      () =>
        Effect.gen(function* () {
          const replica = yield* nativeReplica(model, 3)
          const server = yield* Effect.acquireRelease(
            Effect.promise(() => serveInference({ kind, ...replica, eos: 0 })),
            (server) => Effect.promise(() => server.close())
          )
          const layer = WeightSync.layer({
            policy: PolicyNative.layer({ model, seed: 3, threads: 1, ...options }),
            sampler: SamplerServer.layer({ kind, url: server.url, vocabularySize: model.vocab_size })
          })
          yield* Effect.gen(function* () {
            const sampler = yield* Sampler.Sampler
            for (const version of [0, 1, 2]) {
              if (version > 0) yield* train
              for (const completion of yield* sampler.sample({ ...request, stopTokens: [0] })) {
                assert.strictEqual(versionOf(completion), version)
                const own = yield* logprobsOf(completion)
                completion.logprobs.forEach((value, t) => assert.closeTo(value, own[t]!, 1e-5))
              }
            }
          }).pipe(Effect.provide(layer))
          const pushes = server.log.filter(({ path }) => /\/(load_lora_adapter|update_weights_from_disk)$/.test(path))
          assert.lengthOf(pushes, 3)
          assert.strictEqual(server.adapters.size, 0)
        })
    )
  }
})
