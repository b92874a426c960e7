import { assert, describe, it } from "@effect/vitest"
import type * as Native from "../../../../../src/engines/internal/nativeModel.ts"
import { describe as describeFailure } from "../../../../../src/addon/addon.ts"
import {
  assertNative,
  models,
  open,
  request,
  type Sampled,
  sampleNative,
  tolerance
} from "../../../../fixtures/onnxSampler.ts"

/** Requests that differ in everything that one batch may mix. */
const mixed = (): ReadonlyArray<Native.SampleRequest> => [
  request(),
  request({ count: 1, stream: 4n, temperature: 0 }),
  request({ count: 3, prompt: Uint32Array.of(9), temperature: 0.7, stream: 5n, maxTokens: 33 }),
  request({ count: 9, firstIndex: 40, prompt: Uint32Array.from({ length: 70 }, (_, i) => (i * i) % 97), stream: 6n }),
  request({ count: 1, prompt: Uint32Array.from({ length: 37 }, (_, i) => i), temperature: 1.4, stream: 7n }),
  request({ count: 5, maxTokens: 1, stream: 8n })
]

const failureOf = async (promise: Promise<unknown>): Promise<{ readonly code: string; readonly detail: string }> =>
  promise.then(
    () => ({ code: "none", detail: "" }),
    (cause: unknown) => describeFailure(cause)
  )

describe("sampler on ONNX Runtime", () => {
  for (const [name, config] of Object.entries(models)) {
    for (const source of ["inputs", "constants"] as const) {
      it(`draws as the native sampler does: ${name}, weights as ${source}`, async () => {
        const opened = await open({ config, source })
        const asked = mixed()
        const found = await opened.driver.all(asked)
        for (const [i, one] of asked.entries()) await assertNative(opened, one, found[i]!)
        await opened.close()
      })
    }
  }

  it("draws filtered, each filter and all of them, beside others in the batch", async () => {
    const opened = await open()
    const asked = [
      request({ topK: 7 }),
      request({ topP: 0.6, stream: 4n }),
      request({ minP: 0.2, stream: 5n }),
      request({ topK: 20, topP: 0.9, minP: 0.05, temperature: 1.5, stream: 6n }),
      request({ topK: 3, temperature: 0, stream: 7n }),
      request({ stream: 8n })
    ]
    const found = await opened.driver.all(asked)
    for (const [i, one] of asked.entries()) await assertNative(opened, one, found[i]!)
    await opened.close()
  })

  for (const vocab_size of [1024, 3072, 4099]) {
    it(`draws from vocabularies of one block, many, and a last one that is not full: ${vocab_size} tokens`, async () => {
      const opened = await open({ config: { vocab_size } })
      const asked = [
        request({ count: 8, temperature: 1.3, maxTokens: 60 }),
        request({ count: 1, temperature: 0, stream: 4n }),
        request({ count: 2, topK: 50, topP: 0.95, stream: 5n })
      ]
      const found = await opened.driver.all(asked)
      for (const [i, one] of asked.entries()) await assertNative(opened, one, found[i]!)
      await opened.close()
    })
  }

  it("draws the same alone and in any company", async () => {
    const opened = await open()
    const asked = mixed()
    const together = await opened.driver.all(asked)
    for (const [i, one] of asked.entries()) {
      const [alone] = await opened.driver.all([one])
      for (const [j, { logprobs, tokens }] of alone!.entries()) {
        assert.deepStrictEqual(tokens, together[i]![j]!.tokens)
        for (const [t, value] of logprobs.entries()) {
          assert.closeTo(value, together[i]![j]!.logprobs[t]!, tolerance)
        }
      }
    }
    await opened.close()
  })

  it("computes long prompts in parts", async () => {
    const opened = await open({ prefillRows: 16 })
    const prompt = Uint32Array.from({ length: 100 }, (_, i) => (11 * i) % 97)
    const asked = [request({ prompt }), request({ prompt: prompt.subarray(0, 45), count: 1, stream: 9n })]
    const found = await opened.driver.all(asked)
    for (const [i, one] of asked.entries()) await assertNative(opened, one, found[i]!)
    await opened.close()
  })

  it("takes requests at any time: slots are reused, grow, and give way when the cache is full", async () => {
    // Room for 3 samples of the longest kind.
    const position = 2 * 2 * 2 * 16 * 4
    const opened = await open({ cacheBytes: 420 * position, maxSequences: 7 })
    const asked = Array.from({ length: 12 }, (_, i) =>
      request({
        prompt: Uint32Array.from({ length: 5 + ((i * 17) % 60) }, (_, t) => (i + t) % 97),
        stream: BigInt(i),
        count: 1 + ((i * 5) % 4),
        maxTokens: 8 + ((i * 29) % 90)
      })
    )
    const made = []
    for (const one of asked) {
      made.push(opened.driver.submit(one))
      await opened.driver.step(4)
    }
    await opened.driver.finish()
    for (const [i, one] of asked.entries()) await assertNative(opened, one, await made[i]!.done)
    await opened.close()
  })

  it("takes slots from the youngest when samples get longer than those before, and gives them back", async () => {
    const position = 2 * 2 * 2 * 16 * 4
    const opened = await open({ cacheBytes: 200 * position })
    const short = request({ count: 80, maxTokens: 2, stream: 50n })
    const [first] = await opened.driver.all([short])
    await assertNative(opened, short, first!)
    const long = Array.from({ length: 3 }, (_, i) => request({ count: 1, stream: BigInt(i), maxTokens: 120 }))
    const before = opened.driver.steps
    const found = await opened.driver.all(long)
    for (const [i, one] of long.entries()) await assertNative(opened, one, found[i]!)
    // Two begin at once, one of them twice.
    assert.isAbove(opened.driver.steps - before, 240)
    await opened.close()
  })

  it("continues a conversation: the next turn's prompt holds the last one's tokens", async () => {
    const opened = await open()
    const first = request({ count: 1 })
    const [[answer]] = (await opened.driver.all([first])) as [[Sampled]]
    const next = request({ count: 1, prompt: Uint32Array.from([...first.prompt, ...answer.tokens, 3, 1, 4]) })
    const [found] = await opened.driver.all([next])
    await assertNative(opened, next, found!)
    await opened.close()
  })

  it("ends at stop tokens, stop strings and the end of the context", async () => {
    const opened = await open()
    const { driver, store } = opened
    const letters = new TextEncoder().encode(
      Array.from({ length: 97 }, (_, i) => String.fromCharCode(97 + (i % 26))).join("")
    )
    const offsets = Uint32Array.from({ length: 98 }, (_, i) => i)
    store.setVocabulary(letters, offsets)
    driver.sampler.setVocabulary(letters, offsets)
    const asked = [
      request({ stopTokens: Uint32Array.from({ length: 12 }, (_, i) => 8 * i), maxTokens: 100 }),
      request({ stopStrings: ["ab", "q", "é"], maxTokens: 100 }),
      request({ maxTokens: 1000 })
    ]
    const found = await driver.all(asked)
    for (const [i, one] of asked.entries()) await assertNative(opened, one, found[i]!)
    assert.deepStrictEqual(new Set(found[2]!.map(({ reason }) => reason)), new Set(["context"] as const))
    assert.include(
      found[0]!.map(({ reason }) => reason),
      "stop"
    )
    assert.include(
      found[1]!.map(({ reason }) => reason),
      "stop"
    )
    await opened.close()
  })

  it("ends what is cancelled, between steps and during one, and nothing else", async () => {
    const opened = await open()
    const { driver } = opened
    const kept = request({ stream: 4n })
    const [first, second, other] = [
      driver.submit(request({ maxTokens: 90 })),
      driver.submit(request({ stream: 5n, maxTokens: 90 })),
      driver.submit(kept)
    ]
    await driver.step(5)
    driver.sampler.cancel(first.id)
    assert.deepStrictEqual(
      (await first.done).map(({ reason }) => reason),
      ["abort", "abort", "abort", "abort"]
    )
    const under = driver.step()
    driver.sampler.cancel(second.id)
    await under
    assert.isTrue((await second.done).every(({ reason }) => reason === "abort"))
    driver.sampler.cancel(second.id)
    driver.sampler.cancel(999)
    await driver.finish()
    await assertNative(opened, kept, await other.done)
    await opened.close()
  })

  for (const source of ["inputs", "constants"] as const) {
    it(`draws with adapters, several in one batch and the base, weights as ${source}`, async () => {
      const opened = await open({
        source,
        settings: { lora: { rank: 4, targets: ["q_proj", "v_proj", "down_proj"] } },
        config: models["qwen2 (biases)"]
      })
      const { store, weights } = opened
      await store.addAdapter("other", JSON.stringify({ rank: 3, alpha: 9, targets: ["k_proj", "o_proj", "up_proj"] }))
      for (const adapter of ["default", "other"]) {
        for (const name of await store.parameterNames(adapter)) {
          const { values } = await store.parameter(name, adapter)
          await store.setParameter(
            name,
            values.map((_, i) => 0.2 * Math.sin(i + name.length)),
            adapter
          )
        }
        await weights.reload(adapter)
      }
      const asked = [
        request(),
        request({ adapter: "other", stream: 4n }),
        request({ adapter: "base", count: 2, stream: 5n }),
        request({ adapter: "default", count: 1, stream: 6n })
      ]
      const found = await opened.driver.all(asked)
      for (const [i, one] of asked.entries()) await assertNative(opened, one, found[i]!)
      assert.notDeepEqual(
        found[0]![0]!.tokens,
        (await opened.driver.all([request({ adapter: "base" })]))[0]![0]!.tokens
      )
      const lost = opened.driver.submit(request({ adapter: "other" }))
      await opened.driver.step(2)
      weights.remove("other")
      await opened.driver.finish()
      assert.strictEqual((await failureOf(lost.done)).code, "STATE")
      await opened.close()
    })
  }

  it("sees new weights at once, and says which version drew", async () => {
    const opened = await open()
    const { device, driver, store, weights } = opened
    const before = driver.submit(request())
    await driver.finish()
    const name = "model.layers.0.mlp.up_proj.weight"
    const { shape, values } = await store.parameter(name, "base")
    const other = values.map((value) => -value)
    await store.setParameter(name, other, "base")
    weights.replace(undefined, name, await device.upload(other, shape))
    const version = weights.changed(undefined)
    const after = driver.submit(request())
    await driver.finish()
    await assertNative(opened, request(), await after.done)
    assert.notDeepEqual((await before.done)[0]!.tokens, (await after.done)[0]!.tokens)
    assert.strictEqual(after.version(), version)
    assert.strictEqual(before.version(), version - 1)
    await opened.close()
  })

  it("refuses what cannot be, in the native sampler's words", async () => {
    const opened = await open({ cacheBytes: 40 * 2 * 2 * 2 * 16 * 4 })
    const wrong: ReadonlyArray<readonly [string, Partial<Native.SampleRequest>]> = [
      ["SHAPE", { prompt: new Uint32Array() }],
      ["SHAPE", { prompt: new Uint32Array(160) }],
      ["SHAPE", { prompt: Uint32Array.of(1, 97) }],
      ["SHAPE", { count: 0 }],
      ["SHAPE", { maxTokens: 0 }],
      ["SHAPE", { temperature: -1 }],
      ["SHAPE", { temperature: Number.NaN }],
      ["SHAPE", { topP: 0 }],
      ["SHAPE", { minP: 2 }],
      ["SHAPE", { firstIndex: 0xffffffff, count: 2 }],
      ["STATE", { stopStrings: ["x"] }],
      ["SHAPE", { stopStrings: [""] }],
      ["STATE", { adapter: "nobody" }]
    ]
    for (const [code, options] of wrong) {
      const found = await failureOf(opened.driver.submit(request(options)).done)
      assert.strictEqual(found.code, code)
      const native = await failureOf(Promise.resolve().then(() => sampleNative(opened.store, request(options))))
      assert.strictEqual(found.code, native.code)
      if (options.adapter === undefined && options.stopStrings === undefined) {
        assert.strictEqual(found.detail, native.detail)
      }
    }
    const large = await failureOf(opened.driver.submit(request({ maxTokens: 100 })).done)
    assert.strictEqual(large.code, "OUT_OF_MEMORY")
    assert.include(large.detail, `needs ${112 * 512} bytes, the limit is ${40 * 512}`)
    await assertNative(opened, request(), (await opened.driver.all([request()]))[0]!)
    await opened.close()
  })

  it("fails with weights that are not finite, and goes on with finite ones", async () => {
    const opened = await open()
    const { device, driver, store, weights } = opened
    const name = "model.layers.1.self_attn.k_proj.weight"
    const { shape, values } = await store.parameter(name, "base")
    const put = async (numbers: Float32Array) => weights.replace(undefined, name, await device.upload(numbers, shape))
    await put(values.map(() => Number.NaN))
    const bad = [driver.submit(request()), driver.submit(request({ topK: 5, count: 1 }))]
    await driver.finish()
    for (const { done } of bad) {
      const { code, detail } = await failureOf(done)
      assert.strictEqual(code, "NON_FINITE")
      assert.include(detail, "the weights have diverged")
    }
    await put(values)
    await assertNative(opened, request(), (await driver.all([request()]))[0]!)
    await opened.close()
  })

  it("fails the requests under way when the device does, and serves the next", async () => {
    const opened = await open()
    const { driver, weights } = opened
    const lost = driver.submit(request())
    await driver.step(3)
    const name = "model.norm.weight"
    const whole = weights.tensor(undefined, name)
    weights.replace(undefined, name, opened.device.host(new Float32Array(3), [3]))
    await driver.finish()
    assert.strictEqual((await failureOf(lost.done)).code, "RUNTIME")
    weights.replace(undefined, name, whole)
    await assertNative(opened, request(), (await driver.all([request()]))[0]!)
    await opened.close()
  })
})
