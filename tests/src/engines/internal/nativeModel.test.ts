import { assert, describe, it } from "@effect/vitest"
import { spawnSync } from "node:child_process"
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { Worker } from "node:worker_threads"
import type { Forest } from "../../../../src/engine/Policy.ts"
import * as Native from "../../../../src/engines/internal/nativeModel.ts"
import * as Addon from "../../../../src/addon/addon.ts"

const config = {
  vocab_size: 32,
  hidden_size: 64,
  intermediate_size: 172,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  max_position_embeddings: 512,
  initializer_range: 0.2
}
const { NativeAbort, NativeModel } = Native.load()
const create = (settings: Native.NativeSettings = {}): Promise<Native.NativeModel> =>
  NativeModel.create(JSON.stringify({ config, seed: 1, threads: 2, ...settings }))

const request = (options: Partial<Native.SampleRequest> = {}): Native.SampleRequest => ({
  prompt: Uint32Array.of(1, 2, 3),
  count: 4,
  seed: 7n,
  stream: 0n,
  firstIndex: 0,
  maxTokens: 20,
  temperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
  stopTokens: new Uint32Array(),
  stopStrings: [],
  forTraining: false,
  ...options
})

interface Sampled {
  readonly tokens: Array<Array<number>>
  readonly logprobs: Array<Array<number>>
  readonly reasons: Array<Native.StopReason | undefined>
  calls: number
}

const sample = (model: Native.NativeModel, options: Partial<Native.SampleRequest> = {}): Promise<Sampled> =>
  new Promise((resolve, reject) => {
    const { count, ...rest } = request(options)
    const result: Sampled = {
      tokens: Array.from({ length: count }, () => []),
      logprobs: Array.from({ length: count }, () => []),
      reasons: Array.from({ length: count }),
      calls: 0
    }
    model.sample({ count, ...rest }, (error, events) => {
      if (error !== null) return reject(error)
      result.calls += 1
      events.sample.forEach((sample, i) => {
        result.tokens[sample]!.push(events.token[i]!)
        result.logprobs[sample]!.push(events.logprob[i]!)
      })
      for (const { reason, sample } of events.finished) result.reasons[sample] = reason
      if (events.done) resolve(result)
    })
  })

const batch = (tokens: ReadonlyArray<number>): Forest => ({
  tokens: Uint32Array.from(tokens),
  segmentStart: Uint32Array.of(0),
  segmentLength: Uint32Array.of(tokens.length),
  segmentParent: Int32Array.of(-1),
  targetPosition: Uint32Array.from(tokens.slice(1), (_, i) => i),
  targetToken: Uint32Array.from(tokens.slice(1))
})
const plain: Native.ForwardSettings = { temperature: 1, entropy: false, keep: false, weights: "policy" }
const adam: Native.StepSettings = {
  learningRate: 1e-2,
  beta1: 0.9,
  beta2: 0.95,
  epsilon: 1e-8,
  weightDecay: 0,
  maxGradNorm: 1
}

const codeOf = async (run: () => unknown): Promise<string> => {
  try {
    await run()
  } catch (error) {
    assert.instanceOf(error, Error)
    assert.notStrictEqual(Addon.describe(error).detail, "")
    return Addon.describe(error).code
  }
  return "no error"
}

describe("Native", () => {
  it("batches concurrent requests without changing them", async () => {
    const model = await create()
    const prompts = Array.from({ length: 10 }, (_, i) => ({
      prompt: Uint32Array.of(1, i),
      stream: BigInt(i),
      count: 8
    }))
    const together = await Promise.all(prompts.map((prompt) => sample(model, prompt)))
    for (const [i, prompt] of prompts.entries()) {
      const alone = await sample(model, prompt)
      assert.deepStrictEqual(alone.tokens, together[i]!.tokens)
      assert.deepStrictEqual(alone.logprobs, together[i]!.logprobs)
      assert.isAtMost(together[i]!.calls, 20)
    }
    await model.close()
  })

  it("samples with the log-probabilities that training sees", async () => {
    for (const dtype of ["f32", "bf16"] as const) {
      const model = await create({ dtype })
      const { logprobs, tokens } = await sample(model, { temperature: 0.8 })
      for (const [i, drawn] of tokens.entries()) {
        const all = [1, 2, 3, ...drawn]
        const forward = await model.logprobs(batch(all), { ...plain, temperature: 0.8 })
        assert.deepStrictEqual(Array.from(forward.logprobs.subarray(2)), logprobs[i])
      }
      await model.close()
    }
  })

  it("takes adapters by kind, and LoRA without one", async () => {
    const [tagged, short] = [{ adapter: { kind: "lora", rank: 4 } } as const, { lora: { rank: 4 } }]
    const [model, other] = [await create(tagged), await create(short)]
    const [info, same] = [model, other].map((it): Native.NativeInfo => JSON.parse(it.info()))
    assert.deepStrictEqual(info, same)
    assert.deepStrictEqual(info?.adapter, {
      kind: "lora",
      rank: 4,
      alpha: 8,
      targets: ["all-linear"],
      rsLora: false,
      dropout: 0
    })
    await model.addAdapter("second", JSON.stringify({ kind: "lora", rank: 2 }), null)
    const { adapters }: Native.NativeInfo = JSON.parse(model.info())
    assert.deepStrictEqual(
      adapters.map(({ config, name }) => [name, config.kind, config.rank]),
      [
        ["default", "lora", 4],
        ["second", "lora", 2]
      ]
    )
    const unknown = await model
      .addAdapter("third", JSON.stringify({ kind: "ia3" }), null)
      .catch((error: unknown) => error)
    assert.include(String(unknown), "ia3")
    await Promise.all([model.close(), other.close()])
  })

  it("reports a forward as recorded only if sampling kept its rows under the present weights", async () => {
    const model = await create()
    const sampled = async (forTraining: boolean, seed: bigint) => {
      const { tokens } = await sample(model, { count: 1, forTraining, seed })
      const all = batch([1, 2, 3, ...tokens[0]!])
      const drawn = all.targetPosition.slice(2)
      const forest = { ...all, targetPosition: drawn, targetToken: all.targetToken.slice(2) }
      const forward = (keep: boolean) => model.logprobs(forest, { ...plain, keep })
      return { count: drawn.length, forward }
    }
    const without = await sampled(false, 7n)
    assert.isFalse((await without.forward(true)).recorded)
    const kept = await sampled(true, 8n)
    assert.isFalse((await kept.forward(false)).recorded)
    const forward = await kept.forward(true)
    assert.isTrue(forward.recorded)
    await model.backward(forward.id, new Float32Array(kept.count).fill(-1), null)
    await model.step(adam)
    assert.isFalse((await kept.forward(true)).recorded)
    await model.close()
  })

  it("learns a sequence, and finds its weights again after save and load", async () => {
    const model = await create({ lora: { rank: 4 } })
    const tokens = [1, 5, 9, 13, 17, 21]
    const targets = tokens.length - 1
    let last = -Infinity
    for (let i = 0; i < 60; i++) {
      const forward = await model.logprobs(batch(tokens), { ...plain, keep: true, entropy: true })
      assert.strictEqual(forward.entropy.length, targets)
      last = forward.logprobs.reduce((sum, value) => sum + value)
      await model.backward(forward.id, new Float32Array(targets).fill(-1), null)
      const report = await model.step(adam)
      assert.isFalse(report.skipped)
      assert.strictEqual(report.version, i + 1)
    }
    assert.isAbove(last, -2)
    const directory = mkdtempSync(join(tmpdir(), "quintain-native-"))
    try {
      await model.save(directory, { optimizer: true })
      const before = (await model.logprobs(batch(tokens), plain)).logprobs
      const reference = (await model.logprobs(batch(tokens), { ...plain, weights: "reference" })).logprobs
      assert.notDeepEqual(reference, before)
      const other = await create({ lora: { rank: 4 } })
      await other.load(directory)
      assert.deepStrictEqual((await other.logprobs(batch(tokens), plain)).logprobs, before)
      const info = JSON.parse(other.info()) as Native.NativeInfo
      assert.strictEqual(info.version, 60)
      assert.isAbove(info.memory.total, info.memory.weights)
      assert.isBelow(info.trainable, info.parameters)
      await other.close()
    } finally {
      rmSync(directory, { recursive: true })
    }
    await model.close()
  })

  it("keeps the event loop free, and runs calls in the order they were made", async () => {
    const model = await create({
      config: { ...config, hidden_size: 256, num_hidden_layers: 4 }
    } as Native.NativeSettings)
    const tokens = Array.from({ length: 500 }, (_, i) => i % 32)
    const order: Array<string> = []
    const calls = [
      model.logprobs(batch(tokens), plain).then(() => order.push("logprobs")),
      model.parameter("model.norm.weight").then(() => order.push("parameter")),
      model.release(999).then(() => order.push("release"))
    ]
    assert.deepStrictEqual(order, [])
    JSON.parse(model.info())
    await Promise.all(calls)
    assert.deepStrictEqual(order, ["logprobs", "parameter", "release"])
    await model.close()
  })

  it("aborts calls and cancels requests", async () => {
    const model = await create()
    const abort = new NativeAbort()
    const long = model.logprobs(batch(Array.from({ length: 500 }, (_, i) => i % 32)), plain, abort)
    abort.abort()
    assert.strictEqual(await codeOf(() => long), "ABORTED")
    const finished: Array<Native.StopReason> = []
    await new Promise<void>((resolve) => {
      const id = model.sample(request({ maxTokens: 500 }), (_, events) => {
        finished.push(...events.finished.map(({ reason }) => reason))
        if (events.done) resolve()
        else if (events.sample.length > 0) model.cancel(id)
      })
    })
    assert.deepStrictEqual(finished, ["abort", "abort", "abort", "abort"])
    model.cancel(12345)
    await model.close()
  })

  it("stops at tokens and at strings", async () => {
    const model = await create()
    const free = await sample(model, { count: 1 })
    const stop = free.tokens[0]![4]!
    const stopped = await sample(model, { count: 1, stopTokens: Uint32Array.of(stop) })
    assert.deepStrictEqual(stopped.tokens[0], free.tokens[0]!.slice(0, free.tokens[0]!.indexOf(stop) + 1))
    assert.deepStrictEqual(stopped.reasons, ["stop"])
    assert.strictEqual(await codeOf(() => model.sample(request({ stopStrings: ["x"] }), () => {})), "STATE")
    const letters = Uint8Array.from({ length: 32 }, (_, i) => 65 + i)
    model.setVocabulary(
      letters,
      Uint32Array.from({ length: 33 }, (_, i) => i)
    )
    const text = String.fromCharCode(...free.tokens[0]!.slice(5, 8).map((token) => 65 + token))
    const matched = await sample(model, { count: 1, stopStrings: [text] })
    assert.deepStrictEqual(matched.tokens[0], free.tokens[0]!.slice(0, 8))
    await model.close()
  })

  it("refuses bad input with a code", async () => {
    const model = await create({ cacheBytes: 1 << 18 })
    const good = batch([1, 2, 3])
    const cases: Array<readonly [string, () => unknown]> = [
      ["CONFIG", () => NativeModel.create("{")],
      ["CONFIG", () => NativeModel.create("{}")],
      ["CONFIG", () => create({ seeds: 3 } as object)],
      ["CONFIG", () => create({ dtype: "f16" } as object)],
      ["CONFIG", () => create({ isa: "vax" })],
      ["CONFIG", () => create({ threads: 0 })],
      ["CONFIG", () => create({ config: { ...config, hidden_size: 63 } })],
      ["CONFIG", () => create({ lora: { rank: 0 } })],
      ["OUT_OF_MEMORY", () => create({ cacheBytes: 2 ** 62 })],
      ["IO", () => NativeModel.open("/nowhere/at/all", "{}")],
      ["ARGUMENT", () => NativeModel.create(3 as unknown as string)],
      ["SHAPE", () => model.sample(request({ prompt: new Uint32Array() }), () => {})],
      ["SHAPE", () => model.sample(request({ prompt: Uint32Array.of(32) }), () => {})],
      ["SHAPE", () => model.sample(request({ count: 1.5 }), () => {})],
      ["SHAPE", () => model.sample(request({ count: -1 }), () => {})],
      ["SHAPE", () => model.sample(request({ maxTokens: Number.NaN }), () => {})],
      ["SHAPE", () => model.sample(request({ temperature: Number.NaN }), () => {})],
      ["SHAPE", () => model.sample(request({ seed: -1n }), () => {})],
      ["SHAPE", () => model.sample(request({ stream: 2n ** 64n }), () => {})],
      ["OUT_OF_MEMORY", () => model.sample(request({ maxTokens: 1e6 }), () => {})],
      ["ARGUMENT", () => model.sample({} as Native.SampleRequest, () => {})],
      ["ARGUMENT", () => model.sample(request(), 3 as unknown as () => void)],
      ["SHAPE", () => model.setVocabulary(new Uint8Array(3), Uint32Array.of(0, 4))],
      ["SHAPE", () => model.logprobs({ ...good, tokens: Uint32Array.of(1, 2, 32) }, plain)],
      ["SHAPE", () => model.logprobs({ ...good, segmentLength: Uint32Array.of(9) }, plain)],
      ["SHAPE", () => model.logprobs({ ...good, segmentParent: Int32Array.of(0) }, plain)],
      ["SHAPE", () => model.logprobs({ ...good, segmentStart: new Uint32Array() }, plain)],
      ["SHAPE", () => model.logprobs({ ...good, targetPosition: Uint32Array.of(0, 3) }, plain)],
      ["SHAPE", () => model.logprobs({ ...good, targetToken: Uint32Array.of(0) }, plain)],
      ["CONFIG", () => model.logprobs(good, { ...plain, temperature: Number.NaN })],
      ["CONFIG", () => model.logprobs(good, { ...plain, weights: "other" as "policy" })],
      ["STATE", () => model.logprobs(good, { ...plain, weights: "reference" })],
      ["ARGUMENT", () => model.logprobs({ ...good, tokens: [1, 2, 3] as unknown as Uint32Array }, plain)],
      ["STATE", () => model.backward(77, new Float32Array(2), null)],
      ["STATE", () => model.step(adam)],
      ["CONFIG", () => model.step({ ...adam, learningRate: Number.NaN })],
      ["IO", () => model.save("/proc/nowhere", { optimizer: false })],
      ["IO", () => model.load("/nowhere")]
    ]
    for (const [code, run] of cases) assert.strictEqual(await codeOf(run), code, String(run))
    const kept = await model.logprobs(good, { ...plain, keep: true })
    assert.strictEqual(await codeOf(() => model.backward(kept.id, new Float32Array(3), null)), "SHAPE")
    assert.strictEqual(await codeOf(() => model.backward(kept.id, Float32Array.of(1, Number.NaN), null)), "NON_FINITE")
    await model.backward(kept.id, Float32Array.of(1, 1), null)
    assert.strictEqual(await codeOf(() => model.backward(kept.id, Float32Array.of(1, 1), null)), "STATE")
    assert.strictEqual((await sample(model)).tokens.length, 4)
    await model.close()
  })

  it("closes once, and says so afterwards", async () => {
    const model = await create()
    const running = sample(model, { maxTokens: 500, count: 100 })
    const failed = codeOf(() => running)
    await model.close()
    assert.strictEqual(await failed, "STATE")
    await model.close()
    for (const call of [() => model.info(), () => model.sample(request(), () => {}), () => model.zeroGradients()]) {
      assert.strictEqual(await codeOf(call), "STATE")
    }
  })

  const addon = JSON.stringify(new URL("../../../../src/addon/addon.ts", import.meta.url).href)
  const program = `
    import { load } from ${addon}
    const model = await load().NativeModel.create(${JSON.stringify(JSON.stringify({ config, threads: 2 }))})
    const request = { prompt: Uint32Array.of(1), count: 10, seed: 1n, stream: 1n, firstIndex: 0, maxTokens: 300,
      temperature: 1, topK: 0, topP: 1, minP: 0, stopTokens: new Uint32Array(), stopStrings: [], forTraining: false }
    let done = 0
    model.sample(request, (error, events) => { if (events.done) console.log("done", ++done) })
  `
  it.each([
    ["after the last event", "", "done 1\n"],
    ["at process.exit in the middle of a request", "setTimeout(() => process.exit(0), 5)", ""],
    [
      "with a training call under way",
      "void model.logprobs({ tokens: new Uint32Array(300), segmentStart: Uint32Array.of(0), segmentLength: Uint32Array.of(300), segmentParent: Int32Array.of(-1), targetPosition: Uint32Array.of(0), targetToken: Uint32Array.of(0) }, { temperature: 1, entropy: false, keep: true, weights: 'policy' }); process.exit(0)",
      ""
    ]
  ])("lets the process end without close, %s", (_, rest, output) => {
    const child = spawnSync(process.execPath, ["--input-type=module", "-e", program + rest], {
      encoding: "utf8",
      timeout: 30_000
    })
    assert.deepStrictEqual([child.status, child.signal, child.stderr], [0, null, ""])
    assert.strictEqual(child.stdout, output)
  })

  it("says where it looked for the addon and how to build it", () => {
    const directory = mkdtempSync(join(tmpdir(), "quintain-loader-"))
    try {
      // As it lies in a package without the addon, two directories below its root.
      mkdirSync(join(directory, "dist", "src"), { recursive: true })
      writeFileSync(join(directory, "package.json"), `{ "type": "module" }`)
      const copy = join(directory, "dist", "src", "Native.ts")
      copyFileSync(new URL("../../../../src/addon/addon.ts", import.meta.url), copy)
      const script = `import { load } from ${JSON.stringify(copy)}; try { load() } catch (e) { console.log(e.message) }`
      const { stdout } = spawnSync(process.execPath, ["--input-type=module", "-e", script], { encoding: "utf8" })
      const target = `${process.platform}-${process.arch}`
      for (const part of [
        target,
        join(directory, "native", "prebuilt", `quintain.${target}.node`),
        "npm run build:native"
      ]) {
        assert.include(stdout, part)
      }
    } finally {
      rmSync(directory, { recursive: true })
    }
  })

  it("survives the end of a worker thread that was using it", async () => {
    for (let round = 0; round < 3; round++) {
      const worker = new Worker(`${program}\nsetInterval(() => {}, 1000)`, {
        eval: true,
        execArgv: ["--input-type=module"]
      })
      await sleep(60 + 40 * round)
      await worker.terminate()
    }
    const model = await create()
    assert.strictEqual((await sample(model)).tokens.length, 4)
    await model.close()
  })
})
