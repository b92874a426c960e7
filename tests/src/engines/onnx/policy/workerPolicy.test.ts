/**
 * The ONNX policy against the native kernel's reference implementation (`isa: "reference"`) on a checkpoint of every
 * architecture, on the processor and on WebGPU.
 */
import { missingGpu } from "../../../../fixtures/softwareGpu.ts"
import { afterAll, assert, describe, it } from "@effect/vitest"
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import type { Policy } from "quintain"
import * as Native from "../../../../../src/engines/internal/nativeModel.ts"
import { chunksOf } from "../../../../../src/engines/onnx/policy/chunks.ts"
import { Device, type Provider } from "../../../../../src/engines/onnx/worker/device.ts"
import { EngineFailure } from "../../../../../src/engines/onnx/worker/failure.ts"
import { WorkerPolicy } from "../../../../../src/engines/onnx/policy/workerPolicy.ts"
import { factsOf, Weights } from "../../../../../src/engines/onnx/worker/weights.ts"

const checkpoint = (name: string) => fileURLToPath(new URL(`../../../../fixtures/checkpoints/${name}`, import.meta.url))
const architectures = ["llama", "llama-linear", "llama3", "mistral", "qwen2", "qwen3"]
const lora = { rank: 3, alpha: 5 }

const settings = { temperature: 0.8, entropy: true, keep: true, weights: "policy" } as const
const adamW = { learningRate: 0.01, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.1, maxGradNorm: 1 }

/** Repeats itself, as a test should; good enough to be unlike anything else. */
const numbers = (seed: number) => {
  let state = seed
  return (below: number) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

/**
 * Two trees, one of three levels; a token with several targets, twice the same one; and (last) the whole distribution of
 * one position, which the logits are but for a constant.
 */
const batch = (vocabulary: number) => {
  const next = numbers(7)
  const lengths = [9, 7, 14, 6, 10]
  const segmentStart = Uint32Array.from(lengths, (_, i) => lengths.slice(0, i).reduce((a, b) => a + b, 0))
  const positions = [8, 8, 8, 10, 14, 15, 16, 21, 29, 30, 33, 35, 36, 40, 45, ...Array<number>(vocabulary).fill(44)]
  const targets = Uint32Array.from(positions, (_, i) => (i < 15 ? next(vocabulary) : i - 15))
  targets[1] = targets[0]!
  const forest: Policy.Forest = {
    tokens: Uint32Array.from({ length: 46 }, () => next(vocabulary)),
    segmentStart,
    segmentLength: Uint32Array.from(lengths),
    segmentParent: Int32Array.of(-1, 0, 0, 2, -1),
    targetPosition: Uint32Array.from(positions),
    targetToken: targets
  }
  const slope = () => Float32Array.from(positions, () => next(2000) / 1000 - 1)
  return { forest, dLogprobs: slope(), dEntropy: slope() }
}

/** Norm of the difference over the norm. */
const relative = (actual: Float32Array, expected: Float32Array): number => {
  assert.strictEqual(actual.length, expected.length)
  let [difference, size] = [0, 0]
  for (let i = 0; i < expected.length; i++) {
    difference += (actual[i]! - expected[i]!) ** 2
    size += expected[i]! ** 2
  }
  return Math.sqrt(difference / size)
}

const open = async (
  provider: Provider,
  path: string,
  options: object,
  engine: { chunkTokens?: number; activationBytes?: number } = {}
) => {
  const store = await Native.load().NativeModel.open(path, JSON.stringify({ seed: 5, ...options }))
  const device = await Device.open({ providers: [provider] })
  return { store, device, policy: await WorkerPolicy.open(await Weights.open(store, device), engine) }
}
const reference = (path: string, options: object) =>
  Native.load().NativeModel.open(path, JSON.stringify({ seed: 5, isa: "reference", ...options }))

/** Promised relative tolerance of f32; sums in another order reach about 1e-5. */
const tolerance = 1e-4

for (const provider of ["cpu", "webgpu"] as const) {
  describe.skipIf(provider === "webgpu" && missingGpu !== undefined)(`ONNX policy on ${provider}`, () => {
    for (const architecture of architectures) {
      for (const [kind, options] of [
        ["all weights", {}],
        ["an adapter", { lora }]
      ] as const) {
        it(`${architecture}, ${kind}: log-probabilities, entropies and every gradient, then a step`, async () => {
          const path = checkpoint(architecture)
          const native = await reference(path, options)
          // 20 tokens at once: the trees are cut, the shared prompt is computed again.
          const { policy } = await open(provider, path, options, { chunkTokens: 20 })
          const owner = "lora" in options ? "default" : "base"
          if ("lora" in options) {
            // B starts as zeros: nothing of A's gradient would be seen.
            const next = numbers(11)
            for (const name of await native.parameterNames(owner)) {
              const { values } = await native.parameter(name, owner)
              await native.setParameter(
                name,
                values.map(() => next(2000) / 10_000 - 0.1),
                owner
              )
            }
            const directory = mkdtempSync(join(tmpdir(), "quintain-onnx-"))
            await native.save(directory, { optimizer: false })
            await policy.load(directory)
            rmSync(directory, { recursive: true })
          }
          const { dEntropy, dLogprobs, forest } = batch(factsOf(native).vocabularySize)
          const expected = await native.logprobs(forest, settings)
          const actual = await policy.forward(forest, settings)
          assert.isBelow(relative(actual.logprobs, expected.logprobs), tolerance)
          assert.isBelow(relative(actual.entropy, expected.entropy), tolerance)
          await native.backward(expected.id, dLogprobs, dEntropy)
          await policy.backward(actual.id, dLogprobs, dEntropy)
          for (const name of await native.parameterNames(owner)) {
            const gradient = await native.gradient(name, owner)
            assert.isBelow(relative(await policy.gradient(name, owner), gradient), tolerance, name)
          }
          const [left, right] = [await native.step(adamW), await policy.step(adamW)]
          assert.closeTo(right.gradNorm, left.gradNorm, tolerance * left.gradNorm)
          assert.deepStrictEqual([right.skipped, right.clipped], [left.skipped, left.clipped])
          await policy.close()
        })
      }
    }
  })
}

describe("ONNX policy", () => {
  const directory = mkdtempSync(join(tmpdir(), "quintain-onnx-"))
  afterAll(() => rmSync(directory, { recursive: true, force: true }))
  const path = checkpoint("llama")

  const update = async (policy: WorkerPolicy, adapter?: string) => {
    const { dEntropy, dLogprobs, forest } = batch(67)
    const { id, logprobs } = await policy.forward(forest, {
      ...settings,
      ...(adapter === undefined ? {} : { adapter })
    })
    await policy.backward(id, dLogprobs, dEntropy)
    await policy.step({ ...adamW, ...(adapter === undefined ? {} : { adapter }) })
    return logprobs
  }

  it("goes on from a checkpoint bit for bit", async () => {
    for (const options of [{}, { lora }]) {
      const whole = await open("cpu", path, options)
      for (let i = 0; i < 2; i++) await update(whole.policy)
      const saved = join(directory, Object.keys(options).join() || "full")
      await whole.policy.save(saved, { optimizer: true })
      const expected = [await update(whole.policy), await update(whole.policy)]
      const { policy } = await open("cpu", path, options)
      await policy.load(saved)
      assert.deepStrictEqual([await update(policy), await update(policy)], expected)
      assert.strictEqual(policy.info().version, whole.policy.info().version)
    }
  })

  it("writes what the native engine reads, and the other way round", async () => {
    const { policy } = await open("cpu", path, { lora })
    const native = await reference(path, { lora })
    const { dEntropy, dLogprobs, forest } = batch(67)
    await update(policy)
    await policy.save(join(directory, "a"), { optimizer: true })
    await native.load(join(directory, "a"))
    // One more step on both sides: weights, moments and counters have arrived.
    const { id } = await native.logprobs(forest, settings)
    await native.backward(id, dLogprobs, dEntropy)
    await native.step(adamW)
    await update(policy)
    const after = await policy.forward(forest, { ...settings, keep: false })
    assert.isBelow(
      relative(after.logprobs, (await native.logprobs(forest, { ...settings, keep: false })).logprobs),
      1e-3
    )
    await native.save(join(directory, "b"), { optimizer: true })
    await policy.load(join(directory, "b"))
    const back = await policy.forward(forest, { ...settings, keep: false })
    assert.isBelow(
      relative(back.logprobs, (await native.logprobs(forest, { ...settings, keep: false })).logprobs),
      tolerance
    )
    await policy.exportModel(join(directory, "merged"), { dtype: "f32" })
    assert.include(readdirSync(join(directory, "merged")), "config.json")
    assert.include(readFileSync(join(directory, "merged", "config.json"), "utf8"), "LlamaForCausalLM")
    const merged = await reference(join(directory, "merged"), {})
    const through = await merged.logprobs(forest, { ...settings, keep: false })
    assert.isBelow(relative(through.logprobs, back.logprobs), tolerance)
  })

  it("gives the same gradient however a batch is cut and however little is kept", async () => {
    const { dEntropy, dLogprobs, forest } = batch(67)
    const gradients = []
    for (const engine of [
      {},
      { chunkTokens: 16 },
      { chunkTokens: 20, activationBytes: 0 },
      { activationBytes: 20_000 }
    ]) {
      const { policy } = await open("cpu", path, {}, engine)
      const { id } = await policy.forward(forest, settings)
      await policy.backward(id, dLogprobs, dEntropy)
      gradients.push(await policy.gradient("model.layers.0.mlp.up_proj.weight", "base"))
    }
    for (const gradient of gradients.slice(1)) assert.isBelow(relative(gradient, gradients[0]!), 1e-5)
  })

  it("keeps adapters apart, and a reference policy as it was", async () => {
    const { policy } = await open("cpu", path, { lora })
    await policy.addAdapter("other", JSON.stringify({ rank: 2, targets: ["q_proj", "down_proj"] }))
    const { forest } = batch(67)
    const ask = async (more: object) => (await policy.forward(forest, { ...settings, keep: false, ...more })).logprobs
    const base = await ask({ adapter: "base" })
    assert.deepStrictEqual(await ask({}), base)
    await update(policy, "other")
    assert.deepStrictEqual(await ask({}), base)
    assert.isAbove(relative(await ask({ adapter: "other" }), base), 1e-3)
    assert.deepStrictEqual(await ask({ weights: "reference" }), base)
    assert.deepStrictEqual(
      policy.info().adapters.map(({ name, steps, version }) => ({ name, steps, version })),
      [
        { name: "default", steps: 0, version: 0 },
        { name: "other", steps: 1, version: 1 }
      ]
    )
    await policy.removeAdapter("other")
    await refused(ask({ adapter: "other" }), "STATE", "there is no adapter `other`")

    const full = await open("cpu", path, {})
    const asked = (more: object) => full.policy.forward(forest, { ...settings, keep: false, ...more })
    await refused(asked({ weights: "reference" }), "STATE", "freezeReference")
    await full.policy.freezeReference()
    const before = (await asked({})).logprobs
    await update(full.policy)
    assert.deepStrictEqual((await asked({ weights: "reference" })).logprobs, before)
    assert.isAbove(full.policy.info().memory.reference, 0)
    assert.isAbove(relative((await asked({})).logprobs, before), 1e-3)
  })

  it("skips a step whose gradient is not finite, and drops the gradient", async () => {
    const { policy, store } = await open("cpu", path, {})
    const { dEntropy, forest } = batch(67)
    const { id } = await policy.forward(forest, settings)
    await policy.backward(id, new Float32Array(dEntropy.length).fill(3e38), null)
    const report = await policy.step(adamW)
    assert.isTrue(report.skipped)
    assert.strictEqual(report.version, 0)
    await refused(policy.step(adamW), "STATE", "no gradients")
    assert.isTrue((await store.parameter("model.norm.weight", "base")).values.every(Number.isFinite))
  })

  it("is of no use after a step that broke off amid the weights, until a checkpoint is loaded", async () => {
    const { device, policy } = await open("cpu", path, {})
    const saved = join(directory, "whole")
    await update(policy)
    await policy.save(saved, { optimizer: true })
    const { dLogprobs, forest } = batch(67)
    const backward = async () => policy.backward((await policy.forward(forest, settings)).id, dLogprobs, null)
    await backward()
    // The device is full when the first tensors of the step are there, or (before) when none is.
    const make = device.session.bind(device)
    let room = 0
    device.session = async (...made) => {
      const session = await make(...made)
      if (!session.model.outputs.some(({ name }) => name === "w0.next")) return session
      const run: typeof session.run = (...feeds) =>
        room-- > 0 ? session.run(...feeds) : Promise.reject(new EngineFailure("OUT_OF_MEMORY", "the device is full"))
      return { ...session, run }
    }
    const store = await Native.load().NativeModel.open(saved, "{}")
    const other = await WorkerPolicy.open(await Weights.open(store, device))
    await other.load(saved)
    await other.backward((await other.forward(forest, settings)).id, dLogprobs, null)
    await refused(other.step(adamW), "OUT_OF_MEMORY", "full")
    // Nothing was replaced: it goes on.
    room = 1
    await refused(other.step(adamW), "OUT_OF_MEMORY", "full")
    await refused(other.forward(forest, settings), "STATE", "broke off in the middle")
    await refused(other.save(join(directory, "torn"), { optimizer: false }), "STATE", "load a checkpoint")
    await other.load(saved)
    room = Infinity
    await other.backward((await other.forward(forest, settings)).id, dLogprobs, null)
    await policy.step(adamW)
    await other.step(adamW)
    const ask = async (of: WorkerPolicy) => (await of.forward(forest, { ...settings, keep: false })).logprobs
    assert.deepStrictEqual(await ask(other), await ask(policy))
  })

  it("keeps a forward of each adapter", async () => {
    const { policy } = await open("cpu", path, { lora })
    const { dLogprobs, forest } = batch(67)
    const { id } = await policy.forward(forest, settings)
    await policy.forward(forest, { ...settings, adapter: "base" })
    await policy.backward(id, dLogprobs, null)
    const first = await policy.forward(forest, settings)
    await policy.forward(forest, settings)
    await refused(policy.backward(first.id, dLogprobs, null), "STATE", "no forward")
  })

  it("refuses what is no forest, and what is not to be trained, by name", async () => {
    const { policy } = await open("cpu", path, {})
    const { dLogprobs, forest } = batch(67)
    const ask = (change: Partial<Policy.Forest>) => policy.forward({ ...forest, ...change }, settings)
    await refused(ask({ tokens: forest.tokens.with(3, 67) }), "SHAPE", "token 67 at 3")
    await refused(ask({ targetPosition: forest.targetPosition.with(0, 46) }), "SHAPE", "target position 46 at 0")
    await refused(ask({ segmentParent: forest.segmentParent.with(1, 1) }), "SHAPE", "segment 1 has parent 1")
    await refused(ask({ tokens: forest.tokens.subarray(1) }), "SHAPE", "the segments cover 46")
    await refused(policy.forward(forest, { ...settings, temperature: 0 }), "CONFIG", "temperature is 0")
    await refused(policy.backward(99, dLogprobs, null), "STATE", "no forward 99")
    const { id } = await policy.forward(forest, settings)
    await refused(policy.backward(id, dLogprobs.subarray(1), null), "SHAPE", "dLogprobs has")
    await refused(policy.backward(id, dLogprobs.with(4, Number.NaN), null), "NON_FINITE", "dLogprobs[4] is NaN")
    await policy.backward(id, dLogprobs, null)
    await refused(policy.backward(id, dLogprobs, null), "STATE", "consumed")
    const frozen = await open("cpu", path, { frozen: true })
    const kept = await frozen.policy.forward(forest, settings)
    await refused(frozen.policy.backward(kept.id, dLogprobs, null), "STATE", "the base is frozen")
    await refused(policy.addAdapter("a", JSON.stringify({ rank: 2, dropout: 0.1 })), "CONFIG", "dropout")
  })

  it("ends between two runs when it is aborted, and leaves no half of a gradient", async () => {
    const { policy } = await open("cpu", path, {})
    const { dLogprobs, forest } = batch(67)
    await refused(policy.forward(forest, settings, { aborted: true }), "ABORTED", "forward was aborted")
    const { id } = await policy.forward(forest, settings)
    let asked = 0
    const late = {
      get aborted() {
        return ++asked > 2
      }
    }
    await refused(policy.backward(id, dLogprobs, null, late), "ABORTED", "backward was aborted")
    await refused(policy.step(adamW), "STATE", "no gradients")
    assert.isTrue((await policy.gradient("model.norm.weight", "base")).every((value) => value === 0))
  })
})

describe("chunks", () => {
  const shape = { vocabulary: 67, context: 1000 } as Weights["shape"]

  it("hold whole paths, every target once, and what a row may see", () => {
    const { forest } = batch(67)
    const counts = [1, 16, 24, 1000].map((limit) => chunksOf(forest, shape, limit).length)
    assert.deepStrictEqual(counts, [5, 4, 4, 1])
    // Whole trees apart: 36 and 10 tokens.
    assert.deepStrictEqual(
      chunksOf(forest, shape, 1000, 20).map(({ tokens }) => tokens.length),
      [48, 16]
    )
    for (const limit of [1, 16, 24, 1000]) {
      const chunks = chunksOf(forest, shape, limit)
      const members = chunks.flatMap((chunk) => [...chunk.members])
      assert.deepStrictEqual(
        members.toSorted((a, b) => a - b),
        Array.from(forest.targetToken.keys())
      )
      for (const { mask, members, pair, row, rows, positions, targets, tokens } of chunks) {
        for (const [i, n] of members.entries()) {
          const at = Number(rows[row[i]!])
          // The tokens seen by the row, in the order of their positions, are the path to the target's position.
          const seen = tokens.keys().filter((other) => mask[at * tokens.length + other] === 0)
          const path = [...seen].toSorted((a, b) => positions[a]! - positions[b]!).map((other) => Number(tokens[other]))
          assert.deepStrictEqual(path, pathTo(forest, forest.targetPosition[n]!))
          assert.deepStrictEqual(
            [Number(targets[2 * pair[i]!]), Number(targets[2 * pair[i]! + 1])],
            [row[i]!, forest.targetToken[n]!]
          )
        }
      }
    }
  })
})

const pathTo = (forest: Policy.Forest, position: number): ReadonlyArray<number> => {
  const segment = forest.segmentStart.findLastIndex((start) => start <= position)
  const start = forest.segmentStart[segment]!
  const parent = forest.segmentParent[segment]!
  const before = parent === -1 ? [] : pathTo(forest, forest.segmentStart[parent]! + forest.segmentLength[parent]! - 1)
  return [...before, ...forest.tokens.subarray(start, position + 1)]
}

const refused = async (promise: Promise<unknown>, code: string, words: string) => {
  const error = await promise.then(
    () => undefined,
    (cause: unknown) => cause
  )
  assert.instanceOf(error, EngineFailure)
  assert.strictEqual(error.code, code)
  assert.include(error.message, words)
}
