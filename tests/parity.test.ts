/**
 * The same log-probabilities as transformers on the fixtures (see their make.py), through the public interface. The
 * kernel's own test, native/core/tests/parity.rs, has the logits and the gradients.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { readFileSync, readdirSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { Policy, PolicyNative } from "quintain"

const fixtures = fileURLToPath(new URL("fixtures/checkpoints/", import.meta.url))

/** f32 and i32 tensors of a safetensors file. */
const tensors = (path: string): ReadonlyMap<string, Float32Array | Int32Array> => {
  const file = readFileSync(path)
  const start = 8 + Number(file.readBigUInt64LE(0))
  const header: Record<string, { dtype: string; data_offsets: [number, number] }> = JSON.parse(
    file.toString("utf8", 8, start)
  )
  return new Map(
    Object.entries(header)
      .filter(([name]) => name !== "__metadata__")
      .map(
        ([
          name,
          {
            data_offsets: [from, to],
            dtype
          }
        ]) => {
          const { buffer } = Uint8Array.from(file.subarray(start + from, start + to))
          return [name, dtype === "I32" ? new Int32Array(buffer) : new Float32Array(buffer)]
        }
      )
  )
}

/** log-softmax over the whole vocabulary after every token. */
const distributions = (tokens: Int32Array, vocabulary: number): Policy.Forest => ({
  tokens: Uint32Array.from(tokens),
  segmentStart: Uint32Array.of(0),
  segmentLength: Uint32Array.of(tokens.length),
  segmentParent: Int32Array.of(-1),
  targetPosition: Uint32Array.from({ length: tokens.length * vocabulary }, (_, i) => Math.floor(i / vocabulary)),
  targetToken: Uint32Array.from({ length: tokens.length * vocabulary }, (_, i) => i % vocabulary)
})

const logSoftmax = (logits: Float32Array, width: number): Float64Array =>
  Float64Array.from(logits, (logit, i) => {
    const row = logits.subarray(i - (i % width), i - (i % width) + width)
    return logit - Math.log(row.reduce((sum, other) => sum + Math.exp(other), 0))
  })

/** Largest difference over the sequences of an `expected.safetensors`. */
const difference = (options: PolicyNative.NativeOptions, expected: string) =>
  Effect.gen(function* () {
    const policy = yield* Policy.Policy
    const width = policy.info.vocabularySize
    let largest = 0
    for (const [name, tokens] of tensors(expected)) {
      if (!(tokens instanceof Int32Array)) continue
      const logits = tensors(expected).get(name.replace("tokens", "logits"))
      assert.instanceOf(logits, Float32Array)
      const theirs = logSoftmax(logits, width)
      const { logprobs } = yield* policy.forward(distributions(tokens, width))
      assert.strictEqual(logprobs.length, theirs.length)
      for (const [i, ours] of logprobs.entries()) largest = Math.max(largest, Math.abs(ours - theirs[i]!))
    }
    // NaN is larger than nothing
    assert.isAbove(largest, 0)
    return largest
  }).pipe(Effect.provide(PolicyNative.layer({ threads: 2, ...options })))

describe("parity with transformers", () => {
  it.effect("of Hugging Face folders", () =>
    Effect.gen(function* () {
      for (const name of ["llama", "llama3", "llama-linear", "mistral", "qwen2", "qwen2-bf16", "qwen2-f16", "qwen3"]) {
        const model = join(fixtures, name)
        assert.isAtMost(yield* difference({ model }, join(model, "expected.safetensors")), 1e-4, name)
      }
    })
  )

  it.effect("of GGUF files, dequantised and in their blocks", () =>
    Effect.gen(function* () {
      for (const file of readdirSync(join(fixtures, "gguf")).filter((file) => file.endsWith(".gguf"))) {
        const model = join(fixtures, "gguf", file)
        const expected = model.replace(".gguf", ".safetensors")
        assert.isAtMost(yield* difference({ model }, expected), 1e-4, file)
        assert.isAtMost(yield* difference({ model, blocks: "file" }, expected), 1e-4, `${file} in blocks`)
      }
    })
  )
})
