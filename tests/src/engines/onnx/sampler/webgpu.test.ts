import { missingGpu } from "../../../../fixtures/softwareGpu.ts"
import { assert, describe, it } from "@effect/vitest"
import type { DeviceOptions } from "../../../../../src/engines/onnx/worker/device.ts"
import { assertNative, models, open, request } from "../../../../fixtures/onnxSampler.ts"

/** No node may be computed by the processor. */
const device: DeviceOptions = { providers: ["webgpu"], threads: 2, config: { disable_cpu_ep_fallback: "1" } }

describe.skipIf(missingGpu !== undefined)("sampler on WebGPU", () => {
  for (const [name, config] of Object.entries(models)) {
    it(`draws as the native sampler does, the cache on the device, no node on the processor: ${name}`, async () => {
      const opened = await open({ config: { ...config, vocab_size: 1543 }, device })
      const asked = [
        request({ maxTokens: 24 }),
        request({ count: 1, stream: 4n, temperature: 0 }),
        request({ count: 2, prompt: Uint32Array.of(9), temperature: 0.7, stream: 5n }),
        request({ topK: 20, topP: 0.9, count: 1, stream: 6n })
      ]
      const found = await opened.driver.all(asked)
      for (const [i, one] of asked.entries()) await assertNative(opened, one, found[i]!)
      await opened.close()
    })
  }

  it("takes requests at any time, long prompts in parts, slots that give way, and cancels", async () => {
    const position = 2 * 2 * 2 * 16 * 4
    const opened = await open({ device, cacheBytes: 320 * position, maxSequences: 6, prefillRows: 24 })
    const { driver } = opened
    const asked = Array.from({ length: 5 }, (_, i) =>
      request({
        prompt: Uint32Array.from({ length: 5 + ((i * 23) % 60) }, (_, t) => (i + t) % 97),
        stream: BigInt(i),
        count: 1 + ((i * 5) % 4),
        maxTokens: 8 + ((i * 29) % 40)
      })
    )
    const dropped = driver.submit(request({ stream: 99n, maxTokens: 60 }))
    const made = []
    for (const one of asked) {
      made.push(driver.submit(one))
      await driver.step(5)
    }
    driver.sampler.cancel(dropped.id)
    await driver.finish()
    for (const [i, one] of asked.entries()) await assertNative(opened, one, await made[i]!.done)
    await opened.close()
  })

  it("draws with adapters, several in one batch and the base", async () => {
    const opened = await open({ device, settings: { lora: { rank: 4, targets: ["q_proj", "up_proj"] } } })
    const { driver, store, weights } = opened
    for (const name of await store.parameterNames("default")) {
      const { values } = await store.parameter(name, "default")
      const other = values.map((_, i) => 0.2 * Math.sin(i + name.length))
      await store.setParameter(name, other, "default")
    }
    await weights.reload("default")
    const asked = [request(), request({ adapter: "base", count: 2, stream: 5n })]
    const found = await driver.all(asked)
    for (const [i, one] of asked.entries()) await assertNative(opened, one, found[i]!)
    await opened.close()
  })

  it("frees what it took of the device", async () => {
    const opened = await open({ device })
    const { driver, weights } = opened
    const before = weights.device.bytes
    await driver.all([request({ maxTokens: 24 })])
    const held = weights.device.bytes
    await driver.all([request({ maxTokens: 24, stream: 4n }), request({ stream: 5n, count: 1 })])
    assert.isAbove(held, before)
    await opened.driver.sampler.close()
    // A few zeros stay.
    assert.isBelow(weights.device.bytes - before, 32 * 1024)
    await opened.store.close()
  })

  it("fails with a typed error when the device's memory is full, and serves what fits", async () => {
    const opened = await open({ device: { ...device, deviceBytes: 700_000 } })
    const { driver } = opened
    const large = driver.submit(request({ count: 40, maxTokens: 100 }))
    await driver.finish()
    const failure = await large.done.then(
      () => undefined,
      (cause: unknown) => cause
    )
    assert.propertyVal(failure, "code", "OUT_OF_MEMORY")
    const small = request({ count: 1 })
    await assertNative(opened, small, (await driver.all([small]))[0]!)
    await opened.close()
  })
})
