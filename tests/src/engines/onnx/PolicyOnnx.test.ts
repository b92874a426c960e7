import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { spawnSync } from "node:child_process"
import * as fs from "node:fs/promises"
import * as os from "node:os"
import * as path from "node:path"
import { fileURLToPath } from "node:url"
import { lookup } from "quintain/envs"
import { Policy, PolicyNative, PolicyOnnx, Progress, Sampler, Session, type EngineError } from "quintain"
import { missingGpu } from "../../../fixtures/softwareGpu.ts"
import { versionOf } from "../../../fixtures/versions.ts"

const model = {
  vocab_size: 96,
  hidden_size: 32,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  intermediate_size: 64
}
const options = { model, seed: 3, lora: { rank: 4 } }
const onnx = (provider: PolicyOnnx.ExecutionProvider, more: Partial<PolicyOnnx.OnnxOptions> = {}) =>
  PolicyOnnx.layer({ ...options, executionProviders: [provider], threads: 1, ...more })

/** A prompt and two answers. */
const forest: Policy.Forest = {
  tokens: Uint32Array.of(1, 2, 3, 4, 5, 6, 7, 8, 9),
  segmentStart: Uint32Array.of(0, 3, 6),
  segmentLength: Uint32Array.of(3, 3, 3),
  segmentParent: Int32Array.of(-1, 0, 0),
  targetPosition: Uint32Array.of(2, 3, 4, 2, 6, 7),
  targetToken: Uint32Array.of(4, 5, 6, 7, 8, 9)
}
/** One sequence of so many tokens. */
const sequence = (length: number): Policy.Forest => ({
  tokens: Uint32Array.from({ length }, (_, i) => i % 96),
  segmentStart: Uint32Array.of(0),
  segmentLength: Uint32Array.of(length),
  segmentParent: Int32Array.of(-1),
  targetPosition: Uint32Array.from({ length: length - 1 }, (_, i) => i),
  targetToken: Uint32Array.from({ length: length - 1 }, (_, i) => (i + 1) % 96)
})
const request: Sampler.SampleRequest = {
  prompt: Uint32Array.of(1, 2, 3),
  count: 3,
  maxTokens: 6,
  key: { seed: 1, stream: "a", index: 0 }
}

/** Two updates; log-probabilities before each and after, and samples. */
const train = Effect.gen(function* () {
  const policy = yield* Policy.Policy
  const sampler = yield* Sampler.Sampler
  const logprobs: Array<Float32Array> = []
  for (let step = 0; step < 2; step++) {
    const forward = yield* policy.forward(forest, { keep: true })
    logprobs.push(forward.logprobs)
    const slopes = Float32Array.from(forest.targetToken, (_, i) => (i < 3 ? -1 : 0.5))
    yield* policy.backward(forward.id, { logprobs: slopes })
    yield* policy.step({ learningRate: 1e-2 })
  }
  logprobs.push((yield* policy.forward(forest)).logprobs)
  const samples = yield* sampler.sample(request)
  return { logprobs, samples, info: policy.info, adapters: yield* policy.adapters.list }
})

const close = (a: Float32Array, b: Float32Array, tolerance: number) => {
  assert.strictEqual(a.length, b.length)
  for (const [i, value] of a.entries()) assert.closeTo(value, b[i]!, tolerance)
}

const failed = <A, R>(effect: Effect.Effect<A, EngineError.EngineError, R>) =>
  Effect.map(Effect.flip(effect), ({ message, reason }) => ({ tag: reason._tag, message }))

const scratch = Effect.acquireRelease(
  Effect.promise(() => fs.mkdtemp(path.join(os.tmpdir(), "quintain-onnx-"))),
  (directory) => Effect.promise(() => fs.rm(directory, { recursive: true, force: true }))
)

for (const provider of ["cpu", "webgpu"] as const) {
  describe.skipIf(provider === "webgpu" && missingGpu !== undefined)(`PolicyOnnx on ${provider}`, () => {
    it.live("trains, samples and counts as the native engine does, two engines at once", () =>
      Effect.gen(function* () {
        const native = yield* train.pipe(Effect.provide(PolicyNative.layer(options)))
        // Both are in the same process: with WebGPU they share the runtime's one device.
        const twice = [train.pipe(Effect.provide(onnx(provider))), train.pipe(Effect.provide(onnx(provider)))] as const
        const [own, other] = yield* Effect.all(twice, { concurrency: 2 })
        for (const [i, logprobs] of other.logprobs.entries()) close(logprobs, own.logprobs[i]!, 1e-6)
        for (const [i, logprobs] of own.logprobs.entries()) close(logprobs, native.logprobs[i]!, 1e-4)
        for (const [i, sample] of own.samples.entries()) {
          assert.deepStrictEqual([...sample.tokens], [...native.samples[i]!.tokens])
          assert.strictEqual(versionOf(sample), 2)
          close(sample.logprobs, native.samples[i]!.logprobs, 1e-4)
        }
        const { device, engine, ...info } = own.info
        const driver = provider === "webgpu" ? ", vk_swiftshader_icd.json" : ""
        assert.deepStrictEqual([engine, device], ["onnx", `${provider}${driver}, 1 threads`])
        const { device: _, engine: __, ...expected } = native.info
        assert.deepStrictEqual(info, expected)
        const counts = (adapters: typeof own.adapters) => adapters.map((adapter) => ({ ...adapter, bytes: 0 }))
        assert.deepStrictEqual(counts(own.adapters), counts(native.adapters))
      })
    )

    it.live("writes what the native engine goes on from", () =>
      Effect.gen(function* () {
        const directory = yield* scratch
        const here = path.join(directory, "adapter")
        yield* train.pipe(
          Effect.andThen(Policy.Policy.use((policy) => policy.save(here, { optimizer: true }))),
          Effect.provide(onnx(provider))
        )
        const next = (resume: boolean) =>
          Effect.gen(function* () {
            const policy = yield* Policy.Policy
            if (resume) yield* policy.load(here)
            else yield* train
            return (yield* train).logprobs
          })
        const resumed = yield* next(true).pipe(Effect.provide(PolicyNative.layer(options)))
        const straight = yield* next(false).pipe(Effect.provide(PolicyNative.layer(options)))
        for (const [i, logprobs] of resumed.entries()) close(logprobs, straight[i]!, 1e-4)
      })
    )

    it.live("ends calls that are interrupted, and serves later ones", () =>
      Effect.gen(function* () {
        const policy = yield* Policy.Policy
        const sampler = yield* Sampler.Sampler
        const before = (yield* policy.forward(forest)).logprobs
        const long = sequence(provider === "cpu" ? 800 : 40)
        const kept = yield* policy.forward(long, { keep: true })
        for (const call of [
          policy.forward(long),
          policy.backward(kept.id, { logprobs: new Float32Array(long.targetToken.length).fill(1) }),
          sampler.sample({ ...request, maxTokens: 500 })
        ]) {
          const fiber = yield* Effect.forkChild(call as Effect.Effect<unknown, unknown>, { startImmediately: true })
          yield* Effect.sleep("2 millis")
          yield* Fiber.interrupt(fiber)
        }
        close((yield* policy.forward(forest)).logprobs, before, 1e-6)
        // Half of a gradient is none.
        assert.strictEqual((yield* failed(policy.step({ learningRate: 0.1 }))).tag, "State")
        assert.strictEqual((yield* sampler.sample(request)).length, 3)
      }).pipe(Effect.provide(onnx(provider, { chunkTokens: 100 })))
    )

    it("does not keep the process alive, nor disturb how it ends", () => {
      const program = fileURLToPath(new URL("../../../fixtures/onnxProcess.ts", import.meta.url))
      // Graphs take the software driver seconds to make.
      const throws = provider === "cpu" ? ([["throw", 1]] as const) : []
      for (const [how, status] of [["idle", 0], ["exit", 5], ...throws] as const) {
        const child = spawnSync(process.execPath, ["--conditions=quintain-source", program, provider, how], {
          encoding: "utf8",
          timeout: 100_000
        })
        assert.match(child.stdout, /^log-probability -\d/, child.stderr)
        assert.deepStrictEqual([child.status, child.signal], [status, null], `${how}\n${child.stderr}`)
      }
    })
  })
}

describe("a run on PolicyOnnx", () => {
  it("is the native one to rounding, and goes on from its checkpoint as if nothing had been", async () => {
    const task = lookup({ seed: 2 })
    const root = await fs.mkdtemp(path.join(os.tmpdir(), "quintain-onnx-"))
    const columns = ["reward", "grad_norm", "entropy", "held_out"]
    const run = async (engine: "native" | "onnx", name: string, steps: number) => {
      const directory = path.join(root, name)
      await using session = await Session.open({
        model: { ...model, vocab_size: task.tokenizer.vocabularySize },
        seed: 3,
        tokenizer: task.tokenizer,
        engine,
        device: "cpu",
        threads: 1
      })
      await session.grpo({
        ...task,
        directory,
        steps,
        groups: 4,
        size: 4,
        dropConstant: false,
        update: { learningRate: 1e-2 },
        checkpointEvery: 2,
        progress: Progress.silent
      })
      const lines = (await fs.readFile(path.join(directory, "metrics.jsonl"), "utf8")).trimEnd().split("\n")
      return lines.map((line) => {
        const step = JSON.parse(line) as Record<string, number>
        return Object.fromEntries(columns.flatMap((name) => (name in step ? [[name, step[name]!]] : [])))
      })
    }
    try {
      const [native, straight] = [await run("native", "native", 4), await run("onnx", "straight", 4)]
      assert.strictEqual(straight.length, 4)
      for (const [i, step] of straight.entries()) {
        assert.property(step, "grad_norm")
        for (const [name, value] of Object.entries(step)) assert.closeTo(value, native[i]![name]!, 1e-3, name)
      }
      await run("onnx", "resumed", 2)
      assert.deepStrictEqual(await run("onnx", "resumed", 4), straight)
    } finally {
      await fs.rm(root, { recursive: true, force: true })
    }
  })
})

describe.skipIf(missingGpu !== undefined)("memory of a device", () => {
  it.live("is bounded by deviceBytes: what exceeds it fails, what fits is served", () =>
    Effect.gen(function* () {
      const small = yield* failed(Policy.Policy.pipe(Effect.provide(onnx("webgpu", { deviceBytes: 10_000 }))))
      assert.strictEqual(small.tag, "OutOfMemory")
      assert.include(small.message, "deviceBytes = 10000")
      yield* Effect.gen(function* () {
        const policy = yield* Policy.Policy
        const first = yield* policy.forward(forest, { keep: true })
        const { tag } = yield* failed(policy.forward(sequence(600), { keep: true }))
        assert.strictEqual(tag, "OutOfMemory")
        const again = yield* policy.forward(forest, { keep: true })
        close(again.logprobs, first.logprobs, 0)
        yield* policy.backward(again.id, { logprobs: new Float32Array(6).fill(-1) })
        assert.isAbove((yield* policy.step({ learningRate: 1e-3 })).gradNorm, 0)
        // The sampler's cache counts as well.
        const sampler = yield* Sampler.Sampler
        assert.strictEqual(
          (yield* failed(sampler.sample({ ...request, count: 200, maxTokens: 100 }))).tag,
          "OutOfMemory"
        )
        assert.strictEqual((yield* sampler.sample(request)).length, 3)
        assert.isAbove((yield* policy.memory).cache, 0)
      }).pipe(Effect.provide(onnx("webgpu", { deviceBytes: 1_000_000 })))
    })
  )
})

describe("opening PolicyOnnx", () => {
  const refused = (more: object) =>
    failed(Policy.Policy.pipe(Effect.provide(PolicyOnnx.layer({ ...options, ...more }))))

  it.live("names every option that cannot be", () =>
    Effect.gen(function* () {
      for (const [name, value] of [
        ["executionProviders", []],
        ["executionProviders", ["gpu"]],
        ["deviceBytes", -1],
        ["chunkTokens", 0],
        ["activationBytes", 0.5],
        ["threads", 0],
        ["model", { ...model, hidden_size: 0 }],
        ["lora", { rank: 0 }],
        ["lora", { rank: 4, dropout: 0.1 }]
      ] as const) {
        const { tag, message } = yield* refused({ [name]: value })
        assert.strictEqual(tag, "Config", message)
        assert.include(message, name)
      }
    })
  )

  it.live("says why no provider opens", () =>
    Effect.gen(function* () {
      const absent = process.platform === "win32" ? "coreml" : "dml"
      const { tag, message } = yield* refused({ executionProviders: [absent] })
      assert.strictEqual(tag, "Unavailable")
      assert.include(message, `${absent}: not in the runtime for ${process.platform}-${process.arch}`)
      assert.include(message, 'add "cpu" to executionProviders')
    })
  )

  it.live("takes the next provider, and says so", () =>
    Effect.gen(function* () {
      const absent = process.platform === "win32" ? "coreml" : "dml"
      const { info } = yield* Policy.Policy.pipe(
        Effect.provide(PolicyOnnx.layer({ ...options, executionProviders: [absent, "cpu"] }))
      )
      assert.match(info.device, new RegExp(`^cpu \\(${absent}: not in the runtime`))
    })
  )

  it.live("fails as the native engine does where there is no checkpoint", () =>
    Effect.gen(function* () {
      const { tag } = yield* refused({ model: path.join(os.tmpdir(), "no such model") })
      assert.strictEqual(tag, "Format")
    })
  )

  it("says what to install where the runtime is not", () => {
    const at = (name: string) => fileURLToPath(new URL(`../../../fixtures/${name}`, import.meta.url))
    const hooks = new URL("../../../fixtures/withoutOnnxRuntime.mjs", import.meta.url).href
    const args = ["--conditions=quintain-source", at("onnxProcess.ts"), "cpu", "idle"]
    const env = { ...process.env, NODE_OPTIONS: `--import ${hooks}` }
    const { stdout } = spawnSync(process.execPath, args, { encoding: "utf8", env, timeout: 60_000 })
    assert.match(stdout, /EngineError: open failed \(Unavailable\): onnxruntime-node cannot be loaded/)
    assert.match(stdout, /npm install onnxruntime-node@1\.30\.0/)
  })
})
