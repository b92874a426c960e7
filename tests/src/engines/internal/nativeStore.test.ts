import { assert, describe, it } from "@effect/vitest"
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { Forest } from "../../../../src/engine/Policy.ts"
import * as Native from "../../../../src/engines/internal/nativeModel.ts"
import * as Addon from "../../../../src/addon/addon.ts"

const checkpoints = join(import.meta.dirname, "../../../fixtures/checkpoints")
const { NativeModel } = Native.load()

const config = {
  model_type: "qwen3",
  vocab_size: 48,
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 24,
  rope_theta: 1e6,
  rope_scaling: {
    rope_type: "llama3",
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 64
  },
  max_position_embeddings: 256,
  initializer_range: 0.2
}
const create = (settings: Native.NativeSettings = {}): Promise<Native.NativeModel> =>
  NativeModel.create(JSON.stringify({ config, seed: 3, threads: 2, ...settings }))
const facts = (model: Native.NativeModel): Native.NativeInfo => JSON.parse(model.info()) as Native.NativeInfo

const codeOf = async (run: () => unknown): Promise<string> => {
  try {
    await run()
  } catch (error) {
    return Addon.describe(error).code
  }
  return "no error"
}

const tokens = Uint32Array.from({ length: 12 }, (_, i) => (i * 7) % 48)
const forest: Forest = {
  tokens,
  segmentStart: Uint32Array.of(0),
  segmentLength: Uint32Array.of(tokens.length),
  segmentParent: Int32Array.of(-1),
  targetPosition: Uint32Array.from({ length: 11 }, (_, i) => i),
  targetToken: tokens.slice(1)
}

const train = async (model: Native.NativeModel, adapter: string, steps: number) => {
  for (let step = 0; step < steps; step++) {
    const kept = { temperature: 1, entropy: false, keep: true, weights: "policy", adapter } as const
    const { id } = await model.logprobs(forest, kept)
    await model.backward(
      id,
      Float32Array.from({ length: 11 }, (_, i) => Math.sin(i + step)),
      null
    )
    await model.step({
      learningRate: 0.01,
      beta1: 0.9,
      beta2: 0.95,
      epsilon: 1e-8,
      weightDecay: 0.01,
      maxGradNorm: 1,
      adapter
    })
  }
}

const copy = async (from: Native.NativeModel, to: Native.NativeModel, adapter: string) => {
  for (const name of await from.parameterNames(adapter)) {
    await to.setParameter(name, (await from.parameter(name, adapter)).values, adapter)
    const moments = await from.moments(name, adapter)
    assert(moments !== null)
    await to.setMoments(name, moments.first, moments.second, adapter)
  }
  await to.setCounters(await from.counters(adapter), adapter)
}

const inFolder = async (use: (directory: string) => Promise<void>) => {
  const directory = mkdtempSync(join(tmpdir(), "quintain-store-"))
  try {
    await use(directory)
  } finally {
    rmSync(directory, { recursive: true })
  }
}

const assertSameFiles = (a: string, b: string) => {
  const names = readdirSync(a).toSorted()
  assert.deepStrictEqual(readdirSync(b).toSorted(), names)
  for (const name of names) assert.isTrue(readFileSync(join(a, name)).equals(readFileSync(join(b, name))), name)
  return names
}

const cases: ReadonlyArray<readonly [string, Native.NativeSettings, string]> = [
  ["a base", {}, "base"],
  ["a base in bf16", { dtype: "bf16" }, "base"],
  ["an adapter", { lora: { rank: 3 } }, "default"],
  ["an adapter with dropout in bf16", { dtype: "bf16", lora: { rank: 4, rsLora: true, dropout: 0.1 } }, "default"],
  ["an adapter by name", { lora: { rank: 3 } }, "second"]
]

describe("the native model as a store", () => {
  it.each(cases)("saves the copied state of %s as a native run does", (_, settings, adapter) =>
    inFolder(async (directory) => {
      const open = async () => {
        const model = await create(settings)
        if (adapter === "second") {
          await model.addAdapter(adapter, JSON.stringify({ rank: 2, targets: ["q_proj", "layers.1.mlp.down_proj"] }))
        }
        return model
      }
      const [own, copied, read] = [await open(), await open(), await open()]
      const folder = (name: string) => join(directory, name)
      const save = (model: Native.NativeModel, name: string) => model.save(folder(name), { optimizer: true, adapter })
      await train(own, adapter, 2)
      assert.strictEqual((await own.counters(adapter)).steps, 2)
      await copy(own, copied, adapter)
      await save(own, "own")
      await save(copied, "copied")
      assert.include(assertSameFiles(folder("own"), folder("copied")), "optimizer.safetensors")

      // Saved state can be read back by name, and trained further.
      await read.load(folder("copied"), adapter)
      assert.deepStrictEqual(await read.counters(adapter), await own.counters(adapter))
      for (const name of await own.parameterNames(adapter)) {
        assert.deepStrictEqual(await read.moments(name, adapter), await own.moments(name, adapter))
      }
      for (const model of [own, copied, read]) await train(model, adapter, 1)
      for (const [model, name] of [
        [own, "own"],
        [copied, "copied"],
        [read, "read"]
      ] as const) {
        await save(model, name)
      }
      assertSameFiles(folder("own"), folder("copied"))
      assertSameFiles(folder("own"), folder("read"))
      for (const model of [own, copied, read]) await model.close()
    })
  )

  it("sets only the counters given, and refuses what is none", async () => {
    const model = await create({ lora: { rank: 2, dropout: 0.5 } })
    await model.setCounters({ steps: 5 })
    await model.setCounters({ version: 7, forwards: 6 })
    assert.deepStrictEqual(await model.counters(), { steps: 5, version: 7, forwards: 6 })
    const { steps, version } = facts(model)
    assert.deepStrictEqual([steps, version], [5, 7])
    for (const steps of [-1, 0.5, NaN, 2 ** 53]) {
      assert.strictEqual(await codeOf(() => model.setCounters({ steps })), "SHAPE")
    }
    assert.strictEqual(await codeOf(() => model.setCounters({ steps: 1 }, "base")), "STATE")
    assert.strictEqual(await codeOf(() => model.counters("nobody")), "STATE")
    const name = "model.norm.weight"
    assert.strictEqual(
      await codeOf(() => model.setMoments(name, new Float32Array(64), new Float32Array(64), "base")),
      "STATE"
    )
    assert.isNull(await model.moments(name))
    assert.strictEqual((await model.parameter(name, "base")).values.length, 64)
    await model.close()
  })

  it("names the tensors of each owner, and of all", async () => {
    const model = await create({ lora: { rank: 2, targets: ["o_proj"] } })
    await model.addAdapter("other", JSON.stringify({ rank: 2, targets: ["layers.1.self_attn.o_proj"] }))
    const [base, own, other] = [
      await model.parameterNames("base"),
      await model.parameterNames("default"),
      await model.parameterNames("other")
    ]
    const path = "base_model.model.model.layers.1.self_attn.o_proj"
    assert.deepStrictEqual(other, [`${path}.lora_A.weight`, `${path}.lora_B.weight`])
    const all = await model.parameterNames()
    assert.deepStrictEqual(all, facts(model).parameterNames)
    assert.deepStrictEqual(all, [...base, ...own, `${path}.lora_A.other.weight`, `${path}.lora_B.other.weight`])
    await model.close()
  })

  const quantised = readdirSync(join(checkpoints, "gguf")).filter((name) => name.endsWith(".gguf"))

  it("takes blocks apart into what a tensor's weights are, for every kind", async () => {
    const kinds = new Set<string>()
    for (const file of quantised) {
      const model = await NativeModel.open(
        join(checkpoints, "gguf", file),
        JSON.stringify({ blocks: "file", threads: 1 })
      )
      for (const name of await model.parameterNames("base")) {
        const blocks = await model.blocks(name)
        if (blocks === null) continue
        kinds.add(blocks.kind)
        const { codes, group, offsets, scales, zero } = blocks
        const { shape, values } = await model.parameter(name)
        assert.deepStrictEqual(blocks.shape, shape)
        assert.strictEqual(codes.length, values.length)
        assert.strictEqual(scales.length, values.length / group)
        assert.strictEqual(offsets?.length ?? scales.length, scales.length)
        const wrong = values.findIndex((value, i) => {
          const at = Math.floor(i / group)
          return Math.fround((codes[i]! - zero) * scales[at]! + (offsets?.[at] ?? 0)) !== value
        })
        assert.strictEqual(wrong, -1, `${file} ${name}`)
      }
      await model.close()
    }
    assert.deepStrictEqual([...kinds].toSorted(), ["Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0"])
  })

  it("tells the shape that a configuration comes to", async () => {
    const model = await create()
    assert.deepStrictEqual(facts(model).shape, {
      hidden: 64,
      layers: 2,
      heads: 4,
      kvHeads: 2,
      headDim: 24,
      inner: 96,
      vocabulary: 48,
      context: 256,
      epsilon: 1e-6,
      tied: false,
      qkvBias: false,
      qkNorm: true
    })
    await model.close()
    const open = (name: string) => NativeModel.open(join(checkpoints, name), JSON.stringify({ threads: 1 }))
    const qwen2 = await open("qwen2")
    const { qkNorm, qkvBias } = facts(qwen2).shape
    assert.deepStrictEqual([qkvBias, qkNorm], [true, false])
    await qwen2.close()
  })

  it("tells the rotary frequencies, scaled, as numbers of f32", async () => {
    const model = await create()
    const { ropeFrequencies } = facts(model)
    assert.deepStrictEqual(ropeFrequencies, ropeFrequencies.map(Math.fround))
    // Llama 3's rule, from its definition.
    const [factor, low, high, original] = [8, 1, 4, 64]
    const expected = Array.from({ length: 12 }, (_, i) => {
      const frequency = 1e6 ** ((-2 * i) / 24)
      const turns = (original * frequency) / (2 * Math.PI)
      if (turns > high) return frequency
      if (turns < low) return frequency / factor
      const share = (turns - low) / (high - low)
      return (1 - share) * (frequency / factor) + share * frequency
    })
    assert.strictEqual(ropeFrequencies.length, expected.length)
    ropeFrequencies.forEach((frequency, i) => assert.closeTo(frequency / expected[i]!, 1, 1e-6))
    await model.close()
  })
})
