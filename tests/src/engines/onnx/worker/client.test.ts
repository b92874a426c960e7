import { afterEach, assert, describe, it } from "@effect/vitest"
import type * as Native from "../../../../../src/engines/internal/nativeModel.ts"
import { OnnxClient } from "../../../../../src/engines/onnx/worker/client.ts"
import { EngineFailure } from "../../../../../src/engines/onnx/worker/failure.ts"
import type { Forest } from "../../../../../src/engine/Policy.ts"

// Not imported: its module is a worker's.
const Fault = { hangs: 90, exits: 91, throws: 92, deviceLost: 93, fails: 94 }
const worker = new URL("../../../../fixtures/fakeOnnxWorker.ts", import.meta.url)

const clients: Array<OnnxClient> = []
afterEach(async () => {
  for (const client of clients.splice(0)) await client.close()
})

const open = async (path?: string): Promise<OnnxClient> => {
  const client = await OnnxClient.open({ store: { path, settings: {} }, providers: ["cpu"] }, worker)
  clients.push(client)
  return client
}

const forest = (tokens: Uint32Array): Forest => ({
  tokens,
  segmentStart: Uint32Array.of(0),
  segmentLength: Uint32Array.of(tokens.length),
  segmentParent: Int32Array.of(-1),
  targetPosition: new Uint32Array(),
  targetToken: new Uint32Array()
})
const settings = (temperature: number): Native.ForwardSettings => ({
  temperature,
  entropy: false,
  keep: false,
  weights: "policy"
})
const forward = (client: OnnxClient, temperature = 1, signal = new AbortController().signal) =>
  client.forward(forest(Uint32Array.of(1, 2, 3)), settings(temperature), signal)

const request = (maxTokens: number, temperature = 1): Native.SampleRequest => ({
  prompt: Uint32Array.of(1),
  count: 1,
  seed: 0n,
  stream: 0n,
  firstIndex: 0,
  maxTokens,
  temperature,
  topK: 0,
  topP: 1,
  minP: 0,
  stopTokens: new Uint32Array(),
  stopStrings: [],
  forTraining: false
})

interface Drawn {
  readonly tokens: number
  readonly version: number
}

const sample = (client: OnnxClient, maxTokens: number, temperature?: number): Promise<Drawn> =>
  new Promise((resolve, reject) => {
    let tokens = 0
    client.sample(request(maxTokens, temperature), (error, events) => {
      if (error !== null) return reject(error)
      tokens += events.token.length
      if (events.done) resolve({ tokens, version: events.version })
    })
  })

const failure = async (call: Promise<unknown>): Promise<EngineFailure> => {
  const cause: unknown = await call.then(
    (value) => assert.fail(`it gave ${JSON.stringify(value)}`),
    (cause: unknown) => cause
  )
  assert.instanceOf(cause, EngineFailure)
  return cause
}
const code = async (call: Promise<unknown>): Promise<string> => (await failure(call)).code

describe("client of the ONNX worker", () => {
  it("answers calls in their order, and leaves the callers' arrays alone", async () => {
    const client = await open()
    const buffer = Uint32Array.from({ length: 1000 }, (_, i) => i)
    const view = buffer.subarray(5, 8)
    const calls = await Promise.all([
      forward(client),
      client.forward(forest(view), settings(1), new AbortController().signal),
      forward(client)
    ])
    assert.deepStrictEqual(
      calls.map(({ id }) => id),
      [1, 2, 3]
    )
    assert.deepStrictEqual([...calls[1].logprobs], [5, 6, 7])
    // The part that was meant went over, not the buffer it is part of.
    assert.deepStrictEqual([...calls[1].entropy], [12])
    assert.strictEqual(buffer.length, 1000)
  })

  it("ends a call that is aborted, and one that waits before it began", async () => {
    const client = await open()
    const [running, waiting] = [new AbortController(), new AbortController()]
    const first = code(forward(client, Fault.hangs, running.signal))
    const second = code(forward(client, 1, waiting.signal))
    const third = forward(client)
    waiting.abort()
    assert.strictEqual(await second, "ABORTED")
    running.abort()
    assert.strictEqual(await first, "ABORTED")
    assert.strictEqual((await third).id, 1)
    const aborted = AbortSignal.abort()
    assert.strictEqual(await code(forward(client, 1, aborted)), "ABORTED")
  })

  it("samples between calls; a request that is cancelled ends, others go on", async () => {
    const client = await open()
    let events = 0
    const id = client.sample(request(1e9), () => {
      events += 1
      if (events === 3) client.cancel(id)
    })
    const [drawn, computed] = await Promise.all([sample(client, 20), forward(client)])
    assert.strictEqual(drawn.tokens, 20)
    assert.strictEqual(computed.id, 1)
    assert.strictEqual(events, 3)
    assert.strictEqual(await code(sample(client, 5, Fault.fails)), "OUT_OF_MEMORY")
    assert.strictEqual((await sample(client, 2)).tokens, 2)
  })

  it("takes other weights when the samples under way have ended, and before those asked for later", async () => {
    const client = await open()
    const before = sample(client, 50)
    const weights = { directory: "somewhere", kind: "adapter", version: 4 } as const
    const update = client.update(weights, new AbortController().signal)
    const after = sample(client, 3)
    await update
    assert.deepStrictEqual(await before, { tokens: 50, version: 0 })
    assert.deepStrictEqual(await after, { tokens: 3, version: 4 })
  })

  it("refuses a verb that the worker does not have", async () => {
    const client = await open()
    const { code, message } = await failure(client.freezeReference())
    assert.strictEqual(code, "STATE")
    assert.include(message, "freezeReference")
  })

  for (const [how, temperature, reason] of [
    ["exits", Fault.exits, /exit code 7/],
    ["throws", Fault.throws, /a bug in the worker/]
  ] as const) {
    it(`fails every call of a worker that ${how}, and every later one`, async () => {
      const client = await open()
      const calls = [forward(client, temperature), forward(client), sample(client, 1e9)]
      for (const { code, message } of await Promise.all(calls.map(failure))) {
        assert.strictEqual(code, "ENGINE_LOST")
        assert.match(message, reason)
        assert.match(message, /open the layer again and resume from the checkpoint/)
      }
      assert.strictEqual(await code(forward(client)), "ENGINE_LOST")
      assert.strictEqual(await code(client.facts()), "ENGINE_LOST")
      assert.throws(() => client.sample(request(1), () => {}), /ended/)
      client.setVocabulary(new Uint8Array(), Uint32Array.of(0))
    })
  }

  it("stays lost when the device is", async () => {
    for (const lose of [
      (client: OnnxClient) => forward(client, Fault.deviceLost),
      (client: OnnxClient) => sample(client, 1, Fault.deviceLost)
    ]) {
      const client = await open()
      const underWay = await Promise.all([sample(client, 1e9), lose(client)].map(failure))
      const later = await Promise.all([forward(client), sample(client, 1)].map(failure))
      for (const { code, message } of [...underWay, ...later]) {
        assert.strictEqual(code, "DEVICE_LOST")
        assert.include(message, "resume from the checkpoint")
      }
      await client.close()
    }
  })

  it("is not opened by a worker that refuses or dies", async () => {
    const refused = await failure(open("refuses"))
    assert.deepStrictEqual([refused.code, refused.message], ["CONFIG", "the store says no"])
    const died = await failure(open("exits"))
    assert.strictEqual(died.code, "ENGINE_LOST")
    assert.include(died.message, "exit code 3")
  })

  it("ends what is under way when it is closed", async () => {
    const client = await open()
    const calls = [forward(client, Fault.hangs), forward(client), sample(client, 1e9)]
    const codes = Promise.all(calls.map(code))
    await client.close()
    assert.deepStrictEqual(await codes, ["ABORTED", "ABORTED", "ABORTED"])
    assert.strictEqual(await code(forward(client)), "STATE")
    await client.close()
  })
})
