import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as fs from "node:fs/promises"
import * as os from "node:os"
import * as path from "node:path"
import { lookup } from "quintain/envs"
import { Adapter, Grpo, Policy, PolicyNative, Progress, Sampler, WorkerPool, type EngineError } from "quintain"
import { resolveTargets } from "../../../src/model/adapterConfig.ts"

const task = lookup({ seed: 2 })
const model = {
  vocab_size: task.tokenizer.vocabularySize,
  hidden_size: 32,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  intermediate_size: 64
}
const engine = (options: Partial<PolicyNative.NativeOptions> = {}) =>
  PolicyNative.layer({ model, seed: 3, tokenizer: task.tokenizer, adapters: {}, threads: 2, ...options })

const scratch = Effect.acquireRelease(
  Effect.promise(() => fs.mkdtemp(path.join(os.tmpdir(), "quintain-adapter-"))),
  (directory) => Effect.promise(() => fs.rm(directory, { recursive: true, force: true }))
)

const tokens = Uint32Array.from(task.tokenizer.encode("#1=123"))
const forest: Policy.Forest = {
  tokens,
  segmentStart: Uint32Array.of(0),
  segmentLength: Uint32Array.of(tokens.length),
  segmentParent: Int32Array.of(-1),
  targetPosition: Uint32Array.from(tokens.subarray(1), (_, i) => i),
  targetToken: tokens.subarray(1)
}
const logprobs = (adapter?: string) =>
  Policy.Policy.use((policy) => policy.forward(forest, adapter === undefined ? {} : { adapter })).pipe(
    Effect.map((forward) => Array.from(forward.logprobs))
  )

const train = (directory: string, learningRate: number) =>
  Grpo.train({
    ...task,
    directory,
    steps: 3,
    groups: 4,
    size: 4,
    dropConstant: false,
    update: { learningRate },
    progress: Progress.silent
  })

/** Trains adapters of their own names, at the same time, on one base; the weights that each ends with. */
const trained = (root: string, names: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    const policy = yield* Policy.Policy
    for (const name of names) {
      yield* policy.adapters.add(
        name,
        name === "a" ? { kind: "lora", rank: 4 } : { kind: "lora", rank: 2, targets: ["q_proj", "down_proj"] }
      )
    }
    yield* Effect.forEach(
      names,
      (name) =>
        train(path.join(root, names.join(""), name), name === "a" ? 1e-2 : 2e-2).pipe(
          Effect.provide(Adapter.layer(name))
        ),
      { concurrency: "unbounded", discard: true }
    )
    return yield* Effect.forEach(names, logprobs)
  }).pipe(Effect.provide(engine()), Effect.provide(WorkerPool.layer()))

describe("Adapter", () => {
  it("reads targets as PEFT does", () => {
    const modules = ["model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj", "model.layers.1.self_attn.q_proj"]
    const of = (targets: Adapter.AdapterConfig["targets"]) => resolveTargets(targets, modules)
    assert.deepStrictEqual(of(undefined), Result.succeed(["all-linear"]))
    assert.deepStrictEqual(of("all-linear"), Result.succeed(["all-linear"]))
    assert.deepStrictEqual(of(["up_proj"]), Result.succeed(["up_proj"]))
    assert.deepStrictEqual(of(String.raw`.*\.1\.mlp\..*`), Result.succeed(["model.layers.1.mlp.up_proj"]))
    // A text matches whole paths: the name alone is not one.
    assert.include(Result.getFailure(of("up_proj")).valueOrUndefined, "matches no module")
    assert.include(Result.getFailure(of("(")).valueOrUndefined, "not a regular expression")
  })

  it.effect("`lora` is short for an adapter of that kind", () =>
    Effect.gen(function* () {
      const opened = (options: Partial<PolicyNative.NativeOptions>) =>
        Policy.Policy.use((policy) => policy.adapters.list).pipe(Effect.provide(engine(options)))
      const [short] = yield* opened({ lora: { rank: 4, rsLora: true } })
      const [long] = yield* opened({ adapter: { kind: "lora", rank: 4, rsLora: true } })
      assert.deepStrictEqual(short, long)
      assert.deepInclude(long!.config, { kind: "lora", rank: 4, alpha: 8, rsLora: true })
    })
  )

  it.effect("two on one base, trained and sampled at once, learn what each learns alone", () =>
    Effect.gen(function* () {
      const root = yield* scratch
      const [a] = yield* trained(root, ["a"])
      const [b] = yield* trained(root, ["b"])
      const both = yield* trained(root, ["a", "b"])
      assert.deepStrictEqual(both, [a, b])
      assert.notDeepEqual(a, b)
    }).pipe(Effect.scoped)
  )

  it.effect("the base is held once, each adapter beside it", () =>
    Effect.gen(function* () {
      const { adapters, memory } = yield* Policy.Policy
      const before = yield* memory
      assert.strictEqual(before.adapters, 0)
      yield* adapters.add("a", { kind: "lora", rank: 8 })
      yield* adapters.add("b", {
        kind: "lora",
        rank: 4,
        alpha: 2,
        rsLora: true,
        dropout: 0.1,
        targets: ["1.mlp.up_proj"]
      })
      const after = yield* memory
      const [a, b] = yield* adapters.list
      assert.strictEqual(after.weights, before.weights)
      assert.strictEqual(after.adapters, a!.bytes + b!.bytes)
      assert.deepInclude(b, { name: "b", version: 0, steps: 0, contextLength: 2048 })
      const targets = ["1.mlp.up_proj"]
      assert.deepStrictEqual(b!.config, { kind: "lora", rank: 4, alpha: 2, targets, rsLora: true, dropout: 0.1 })
      assert.strictEqual(b!.parameters, 4 * (32 + 64))
      yield* adapters.remove("a")
      assert.strictEqual((yield* memory).adapters, b!.bytes)
    }).pipe(Effect.provide(engine()))
  )

  it.effect("is found again where it was saved, and merged where it was exported", () =>
    Effect.gen(function* () {
      const root = yield* scratch
      const [saved, merged] = [path.join(root, "saved"), path.join(root, "merged")]
      const expected = yield* Effect.gen(function* () {
        yield* train(path.join(root, "run"), 2e-2)
        const policy = yield* Policy.Policy
        yield* policy.save(saved)
        yield* policy.exportModel(merged)
        return yield* logprobs()
      }).pipe(
        Effect.provide(engine({ lora: { rank: 4, targets: String.raw`model\.layers\.\d\.self_attn\.[qv]_proj` } })),
        Effect.provide(WorkerPool.layer())
      )
      const config = JSON.parse(
        yield* Effect.promise(() => fs.readFile(path.join(saved, "adapter_config.json"), "utf8"))
      )
      assert.deepStrictEqual(config.target_modules, ["q_proj", "v_proj"])
      yield* Effect.gen(function* () {
        assert.deepStrictEqual(yield* logprobs("found"), expected)
        assert.notDeepEqual(yield* logprobs(), expected)
        assert.notDeepEqual(yield* logprobs("base"), expected)
      }).pipe(Effect.provide(engine({ adapters: { found: saved } })))
      yield* Effect.gen(function* () {
        const close = yield* logprobs()
        for (const [i, value] of close.entries()) assert.closeTo(value, expected[i]!, 1e-4)
      }).pipe(Effect.provide(PolicyNative.layer({ model: merged })))
    }).pipe(Effect.scoped)
  )

  it.effect("says what is wrong with a call", () =>
    Effect.gen(function* () {
      const policy = yield* Policy.Policy
      const refused = <A, R>(
        effect: Effect.Effect<A, EngineError.EngineError, R>,
        tag: EngineError.Reason["_tag"],
        text: string
      ) =>
        effect.pipe(
          Effect.flip,
          Effect.map((error) => {
            assert.strictEqual(error.reason._tag, tag, error.message)
            assert.include(error.message, text)
          })
        )
      yield* refused(policy.step({ learningRate: 1e-3 }), "State", "the base is frozen")
      yield* refused(policy.forward(forest, { keep: true }), "State", "the base is frozen")
      yield* refused(policy.forward(forest, { adapter: "x" }), "State", "there is no adapter `x`")
      yield* refused(policy.adapters.remove("x"), "State", "there is no adapter `x`")
      yield* refused(
        policy.adapters.add("a", { kind: "lora", rank: 2, targets: ["w_proj"] }),
        "Config",
        "`w_proj` matches no module"
      )
      yield* refused(
        policy.adapters.add("a", { kind: "lora", rank: 2, targets: "w_.*" }),
        "Config",
        "`w_.*` matches no module"
      )
      yield* refused(policy.adapters.add("a", { kind: "ia3" as "lora", rank: 1 }), "Config", "kind")
      yield* refused(policy.adapters.add("a", { kind: "lora", rank: 0 }), "Config", "rank")
      yield* refused(policy.adapters.add("a", { kind: "lora", rank: 1, dropout: 1 }), "Config", "dropout")
      yield* refused(policy.adapters.add("a", "/nowhere"), "Io", "/nowhere")
      yield* refused(policy.adapters.add("../a", { kind: "lora", rank: 1 }), "Config", "letters")
      yield* refused(
        Effect.provide(
          Policy.Policy.use(({ memory }) => memory),
          Adapter.layer("x")
        ),
        "State",
        "adapter `x`"
      )
      const sampler = yield* Sampler.Sampler
      const key = { seed: 1, stream: "a", index: 0 }
      const request = { prompt: tokens, count: 1, maxTokens: 2, key, adapter: "x" }
      yield* refused(sampler.sample(request), "State", "there is no adapter `x`")
    }).pipe(Effect.provide(engine()))
  )
})
