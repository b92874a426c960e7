import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { spawnSync } from "node:child_process"
import { Engine, Policy, Sampler, Session } from "quintain"
import { choose } from "../../../src/engines/internal/choose.ts"
import type { probe } from "../../../src/engines/onnx/worker/probe.ts"
import { missingGpu } from "../../fixtures/softwareGpu.ts"

const model = {
  vocab_size: 64,
  hidden_size: 32,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  intermediate_size: 64
}
const options: Engine.EngineOptions = { model, seed: 3, threads: 1 }
const request = {
  prompt: Uint32Array.of(1, 2),
  count: 1,
  maxTokens: 4,
  key: { seed: 1, stream: "a", index: 0 }
}
const opened = (more: Partial<Engine.EngineOptions>) =>
  Effect.gen(function* () {
    const { info } = yield* Policy.Policy
    const [sample] = yield* Sampler.Sampler.use((sampler) => sampler.sample(request))
    return { info, tokens: [...sample!.tokens] }
  }).pipe(Effect.provide(Engine.layer({ ...options, ...more })))

describe("Engine.layer", () => {
  it.live("changes the engine by a word", () =>
    Effect.gen(function* () {
      const [byDefault, native, onnx] = yield* Effect.all([
        opened({}),
        opened({ engine: "native", device: "cpu" }),
        opened({ engine: "onnx", device: "cpu" })
      ])
      assert.deepStrictEqual(
        [byDefault, native, onnx].map(({ info }) => info.engine),
        ["native", "native", "onnx"]
      )
      assert.deepStrictEqual(native.tokens, byDefault.tokens)
      assert.deepStrictEqual(onnx.tokens, byDefault.tokens)
    })
  )

  it.live("refuses options that an engine does not have, and says what to do", () =>
    Effect.gen(function* () {
      const cases: ReadonlyArray<readonly [Partial<Engine.EngineOptions>, string, string]> = [
        [{ deviceBytes: 1e9 }, "deviceBytes", '"onnx"'],
        [{ engine: "native", chunkTokens: 100 }, "chunkTokens", '"onnx"'],
        [{ executionProviders: ["cpu"] }, "executionProviders", '"onnx"'],
        [{ device: ["webgpu", "cpu"] }, "device", '"onnx"'],
        [{ engine: "onnx", dtype: "bf16" }, "dtype", '"native"'],
        [{ engine: "onnx", blocks: "q8_0" }, "blocks", '"native"'],
        [{ engine: "onnx", lora: { rank: 4, dropout: 0.1 } }, "lora.dropout", '"native"'],
        [{ engine: "onnx", adapter: { kind: "lora", rank: 4, dropout: 0.1 } }, "adapter.dropout", '"native"'],
        [{ adapter: { kind: "lora", rank: 4 }, lora: { rank: 4 } }, "lora", "leave one"],
        [{ engine: "onnx", device: "cpu", executionProviders: ["cpu"] }, "device", "executionProviders"],
        [{ engine: "gpu" as "onnx" }, "engine", "auto"]
      ]
      for (const [more, option, remedy] of cases) {
        const error = yield* Effect.flip(opened(more))
        assert.strictEqual(error.reason._tag, "Config")
        assert.isTrue(error.reason.detail.startsWith(`${option}: `), error.reason.detail)
        assert.include(error.reason.detail, remedy)
      }
    })
  )

  it("does not load ONNX Runtime for the native engine", () => {
    const hooks = new URL("../../fixtures/withoutOnnxRuntime.mjs", import.meta.url).href
    const program = `
      import { Session } from "quintain"
      const session = await Session.open(${JSON.stringify(options)})
      console.log((await session.sample({ ...${JSON.stringify(request)}, prompt: Uint32Array.of(1) })).length)
      await session.close()`
    const flags = ["--conditions=quintain-source", "--input-type=module", "--eval", program]
    const env = { ...process.env, NODE_OPTIONS: `--import ${hooks}` }
    const { stderr, stdout } = spawnSync(process.execPath, flags, { encoding: "utf8", env, timeout: 60_000 })
    assert.strictEqual(stdout, "1\n", stderr)
  })

  it("has a session on another engine", async () => {
    const request = { prompt: Uint32Array.of(1), count: 2, maxTokens: 3, key: { seed: 1, stream: "a", index: 0 } }
    await using session = await Session.open({ ...options, engine: "onnx", device: "cpu" })
    assert.strictEqual((await session.sample(request)).length, 2)
  })
})

describe("auto", () => {
  /** A machine with these speeds; what is not listed does not open. */
  const machine =
    (speeds: Readonly<Record<string, number>>): typeof probe =>
    ({ provider }) => {
      const gflops = speeds[provider]
      return Effect.succeed(
        gflops === undefined ? { _tag: "Refused", reason: "no driver" } : { _tag: "Measured", measured: { gflops } }
      )
    }
  const chosen = (speeds: Readonly<Record<string, number>>, more: Partial<Engine.EngineOptions> = {}) =>
    choose({ ...options, ...more }, machine(speeds))

  it.live("takes a GPU that is faster than the processor", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* chosen({ cpu: 312, webgpu: 2140 }), {
        provider: "webgpu",
        reason: "onnx: webgpu multiplies matrices at 2100 GFLOP/s, the processor at 310"
      })
      const both = { cpu: 300, cuda: 9000, webgpu: 2000 }
      assert.strictEqual((yield* chosen(both, { device: ["cuda", "webgpu"] })).provider, "cuda")
      assert.strictEqual((yield* chosen({ cpu: 300, webgpu: 2000 }, { device: ["cuda", "webgpu"] })).provider, "webgpu")
    })
  )

  it.live("takes the native engine elsewhere, and says why", () =>
    Effect.gen(function* () {
      for (const [speeds, more, reason] of [
        [{ cpu: 300 }, {}, "webgpu does not open (no driver)"],
        [{ cpu: 300, webgpu: 310 }, {}, "webgpu multiplies matrices at 310 GFLOP/s, the processor at 300"],
        [{ cpu: 300, webgpu: 2000 }, { device: "cpu" }, "no GPU was requested"],
        [{ cpu: 300, webgpu: 2000 }, { dtype: "bf16" }, "dtype"]
      ] as const) {
        const choice = yield* chosen(speeds, more)
        assert.strictEqual(choice.provider, undefined)
        assert.isTrue(choice.reason.startsWith(`native: ${reason}`), choice.reason)
      }
    })
  )

  it.live.skipIf(missingGpu !== undefined)("is not taken in by a GPU in software", () =>
    Effect.gen(function* () {
      const { info } = yield* opened({ engine: "auto" })
      assert.strictEqual(info.engine, "native")
      assert.match(info.device, /auto took native: webgpu multiplies matrices at/)
    })
  )
})
