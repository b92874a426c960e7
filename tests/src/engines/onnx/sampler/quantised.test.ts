import { assert, describe, it } from "@effect/vitest"
import * as Native from "../../../../../src/engines/internal/nativeModel.ts"
import { pack, quantise } from "../../../../../src/engines/onnx/sampler/weightBlocks.ts"
import { assertNative, differenceFromStore, open, request } from "../../../../fixtures/onnxSampler.ts"

/** Rows that divide into blocks. */
const config = { vocab_size: 96, hidden_size: 64, intermediate_size: 128 }

describe("sampler with quantised weights", () => {
  it("quantises as the native kernel does, and as ggml", async () => {
    const { NativeModel } = Native.load()
    const shape = { ...config, num_hidden_layers: 1, num_attention_heads: 4, max_position_embeddings: 64 }
    const create = (blocks?: "q8_0" | "q4_0") =>
      NativeModel.create(JSON.stringify({ config: shape, seed: 3, ...(blocks === undefined ? {} : { blocks }) }))
    const whole = await create()
    const name = "model.layers.0.mlp.down_proj.weight"
    const { shape: dims, values } = await whole.parameter(name, "base")
    for (const [blocks, bits] of [
      ["q8_0", 8],
      ["q4_0", 4]
    ] as const) {
      const store = await create(blocks)
      const stored = await store.blocks(name, "base")
      assert.deepStrictEqual(quantise(values, dims, bits), pack(stored!))
      await store.close()
    }
    await whole.close()
  })

  for (const blocks of ["q8_0", "q4_0", "q4_1"] as const) {
    it(`computes with the very weights of a store in ${blocks}`, async () => {
      const opened = await open({ config, source: "constants", form: "file", accuracy: 0, settings: { blocks } })
      const asked = [request(), request({ count: 1, stream: 4n, temperature: 0 })]
      const found = await opened.driver.all(asked)
      for (const [i, one] of asked.entries()) await assertNative(opened, one, found[i]!)
      await opened.close()
    })
  }

  it("stays near the weights it rounds: each form, and rows rounded to 8 bits", async () => {
    // Bounds of what the rounding of weights and rows does to this model; a wrong scale or zero gives several whole units.
    const bounds = [
      ["f16", 0, 0.01],
      ["q8", 0, 0.15],
      ["q8", 4, 0.15],
      ["q4", 0, 2],
      ["q4", 4, 2]
    ] as const
    for (const [form, accuracy, bound] of bounds) {
      const opened = await open({ config: { ...config, initializer_range: 0.1 }, source: "constants", form, accuracy })
      const asked = request({ prompt: request().prompt.map((token) => token % 96) })
      const [found] = await opened.driver.all([asked])
      const difference = await differenceFromStore(opened.store, asked, found!)
      assert.isBelow(difference, bound, `${form}, accuracy ${accuracy}`)
      assert.isAbove(difference, 1e-6)
      await opened.close()
    }
  })

  it("takes adapters on quantised weights", async () => {
    const opened = await open({
      config,
      source: "constants",
      form: "file",
      accuracy: 0,
      settings: { blocks: "q4_0", lora: { rank: 4 } }
    })
    const { store, weights } = opened
    for (const name of await store.parameterNames("default")) {
      const { values } = await store.parameter(name, "default")
      await store.setParameter(
        name,
        values.map((_, i) => 0.1 * Math.sin(i + name.length)),
        "default"
      )
    }
    await weights.reload("default")
    const asked = [request(), request({ adapter: "base", stream: 4n })]
    const found = await opened.driver.all(asked)
    for (const [i, one] of asked.entries()) await assertNative(opened, one, found[i]!)
    await opened.close()
  })

  it("takes rows that do not divide into blocks", async () => {
    const odd = { ...config, hidden_size: 48, num_attention_heads: 3, num_key_value_heads: 3, intermediate_size: 72 }
    const opened = await open({
      config: { ...odd, initializer_range: 0.1 },
      source: "constants",
      form: "q8",
      accuracy: 0
    })
    const [found] = await opened.driver.all([request()])
    assert.isBelow(await differenceFromStore(opened.store, request(), found!), 0.15)
    await opened.close()
  })
})
