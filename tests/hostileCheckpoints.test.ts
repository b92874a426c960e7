/** Files from outside are hostile until parsed: a damaged checkpoint gives an EngineError, never a crash or a giant allocation. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import fc from "fast-check"
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { basename, join } from "node:path"
import { fileURLToPath } from "node:url"
import { PolicyNative } from "quintain"

const fixtures = fileURLToPath(new URL("fixtures/checkpoints/", import.meta.url))
const REFUSED = ["Format", "Config", "Io"]

/** "opened", or the reason of the error. */
const open = (model: string): Effect.Effect<string> =>
  Layer.build(PolicyNative.layer({ model, threads: 1, cacheBytes: 1 << 20 })).pipe(
    Effect.scoped,
    Effect.result,
    Effect.map((result) => {
      if (Result.isSuccess(result)) return "opened"
      assert.strictEqual(result.failure._tag, "EngineError")
      assert.notStrictEqual(result.failure.reason.detail, "")
      return result.failure.reason._tag
    })
  )

/** Runs on a copy of a fixture (a folder or a file), which is gone afterwards. */
const withCopy = (fixture: string, use: (path: string) => Effect.Effect<void>) =>
  Effect.acquireUseRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "quintain-hostile-"))),
    (scratch) => {
      const path = join(scratch, basename(fixture))
      cpSync(join(fixtures, fixture), path, { recursive: true })
      return use(path)
    },
    (scratch) => Effect.sync(() => rmSync(scratch, { recursive: true, force: true }))
  )

/** Opens the checkpoint with `file` in other bytes. */
const withBytes = (checkpoint: string, file: string, bytes: Uint8Array | string) => {
  writeFileSync(file, bytes)
  return open(checkpoint)
}

const editJson = (file: string, edit: (json: Record<string, unknown>) => Record<string, unknown>) =>
  JSON.stringify(edit(JSON.parse(readFileSync(file, "utf8"))))

/** safetensors with another header before the same data. */
const withHeader = (file: string, edit: (header: Record<string, Record<string, unknown>>) => object): Uint8Array => {
  const bytes = readFileSync(file)
  const length = Number(bytes.readBigUInt64LE(0))
  const header = Buffer.from(JSON.stringify(edit(JSON.parse(bytes.toString("utf8", 8, 8 + length)))))
  const size = Buffer.alloc(8)
  size.writeBigUInt64LE(BigInt(header.length))
  return Buffer.concat([size, header, bytes.subarray(8 + length)])
}

describe("hostile checkpoints", () => {
  it.effect("opens the fixtures themselves", () =>
    Effect.gen(function* () {
      for (const path of ["qwen2", "qwen2-f16", "gguf/llama-mixed.gguf"]) {
        assert.strictEqual(yield* open(join(fixtures, path)), "opened")
      }
    })
  )

  it.effect("refuses truncated weights", () =>
    Effect.gen(function* () {
      yield* withCopy("qwen2", (folder) =>
        Effect.gen(function* () {
          const file = join(folder, "model.safetensors")
          const whole = readFileSync(file)
          for (const length of [0, 7, 8, 9, 500, whole.length >> 1, whole.length - 1]) {
            assert.strictEqual(yield* withBytes(folder, file, whole.subarray(0, length)), "Format", `${length} bytes`)
          }
          rmSync(file)
          assert.strictEqual(yield* open(folder), "Io")
        })
      )
    })
  )

  it.effect("refuses truncated GGUF files", () =>
    Effect.gen(function* () {
      yield* withCopy("gguf/llama-mixed.gguf", (file) =>
        Effect.gen(function* () {
          const whole = readFileSync(file)
          const lengths = Array.from({ length: 40 }, (_, i) => Math.floor((whole.length * i) / 40))
          for (const length of [...lengths, 3, 4, 8, 23, 24, whole.length - 1]) {
            assert.include(REFUSED, yield* withBytes(file, file, whole.subarray(0, length)), `${length} bytes`)
          }
        })
      )
    })
  )

  it.effect("refuses headers that lie about tensors", () =>
    Effect.gen(function* () {
      const norm = "model.norm.weight"
      const lies: Record<string, (header: Record<string, Record<string, unknown>>) => object> = {
        "beyond the file": (header) => ({ ...header, [norm]: { ...header[norm], data_offsets: [0, 2 ** 40] } }),
        "a shape that wraps around": (header) => ({
          ...header,
          [norm]: { ...header[norm], shape: [2 ** 33, 2 ** 33] }
        }),
        "an unknown dtype": (header) => ({ ...header, [norm]: { ...header[norm], dtype: "F7" } }),
        "overlapping data": (header) => ({
          ...header,
          [norm]: { ...header[norm], data_offsets: header["lm_head.weight"]!["data_offsets"] }
        }),
        "a negative offset": (header) => ({ ...header, [norm]: { ...header[norm], data_offsets: [-128, 0] } }),
        "another shape": (header) => ({ ...header, [norm]: { ...header[norm], shape: [16, 2] } }),
        "no such tensor": (header) => Object.fromEntries(Object.entries(header).filter(([name]) => name !== norm))
      }
      yield* withCopy("qwen2", (folder) =>
        Effect.gen(function* () {
          const file = join(folder, "model.safetensors")
          const whole = readFileSync(file)
          for (const [name, lie] of Object.entries(lies)) {
            writeFileSync(file, whole)
            assert.strictEqual(yield* withBytes(folder, file, withHeader(file, lie)), "Format", name)
          }
          const huge = Buffer.from(whole)
          huge.writeBigUInt64LE(2n ** 63n, 0)
          assert.strictEqual(yield* withBytes(folder, file, huge), "Format", "a header larger than memory")
        })
      )
    })
  )

  it.effect("refuses a config that cannot be, before anything is allocated", () =>
    Effect.gen(function* () {
      yield* withCopy("qwen2", (folder) =>
        Effect.gen(function* () {
          const file = join(folder, "config.json")
          const whole = readFileSync(file, "utf8")
          const fields = {
            vocab_size: [2 ** 31 - 1, 2 ** 40, -1, 0, 1.5, "many", null],
            hidden_size: [2 ** 31 - 1, 0, 31],
            num_hidden_layers: [2 ** 31 - 1, 3, 0],
            num_attention_heads: [2 ** 31 - 1, 3],
            head_dim: [2 ** 31 - 2, 7],
            max_position_embeddings: [2 ** 31 - 1],
            rms_norm_eps: [0, -1, 1e300],
            model_type: ["gpt2", 7],
            hidden_act: ["gelu"]
          }
          for (const [field, values] of Object.entries(fields)) {
            for (const value of values) {
              writeFileSync(file, whole)
              const text = editJson(file, (config) => ({ ...config, [field]: value }))
              const found = yield* withBytes(folder, file, text)
              // A context may be as long as it likes: it costs nothing until it is used.
              assert.include(
                field === "max_position_embeddings" ? [...REFUSED, "opened"] : REFUSED,
                found,
                `${field} ${value}`
              )
            }
          }
          for (const text of ["", "{", "[]", "null", "\u0000", "[".repeat(100_000)]) {
            assert.include(REFUSED, yield* withBytes(folder, file, text), text.slice(0, 20))
          }
          rmSync(file)
          assert.include(REFUSED, yield* open(folder))
        })
      )
    })
  )

  it.effect("refuses an index that leads elsewhere", () =>
    Effect.gen(function* () {
      yield* withCopy("qwen2-f16", (folder) =>
        Effect.gen(function* () {
          const file = join(folder, "model.safetensors.index.json")
          const whole = readFileSync(file, "utf8")
          const norm = "model.norm.weight"
          for (const shard of [
            "../model.safetensors",
            "/etc/passwd",
            "model.safetensors.index.json",
            "absent.safetensors",
            ""
          ]) {
            writeFileSync(file, whole)
            const text = editJson(file, ({ weight_map: map, ...index }) => ({
              ...index,
              weight_map: { ...(map as object), [norm]: shard }
            }))
            assert.include(REFUSED, yield* withBytes(folder, file, text), shard)
          }
          for (const text of ["{}", '{"weight_map": {}}', '{"weight_map": {"model.norm.weight": 3}}', "["]) {
            assert.include(REFUSED, yield* withBytes(folder, file, text), text)
          }
        })
      )
    })
  )

  it.effect("opens or refuses files with bytes changed", () =>
    Effect.gen(function* () {
      for (const [fixture, inside] of [
        ["gguf/llama-mixed.gguf", ""],
        ["qwen3", "model.safetensors"]
      ] as const) {
        yield* withCopy(fixture, (path) =>
          Effect.gen(function* () {
            const file = join(path, inside)
            const whole = readFileSync(file)
            // Where the structure is: what lies behind are numbers.
            const change = fc.tuple(fc.nat({ max: 3000 }), fc.nat({ max: 255 }))
            const changes = fc.array(change, { minLength: 1, maxLength: 4 })
            for (const made of fc.sample(changes, 150)) {
              const bytes = Buffer.from(whole)
              for (const [at, value] of made) bytes[at] = value
              assert.include([...REFUSED, "opened"], yield* withBytes(path, file, bytes), JSON.stringify(made))
            }
          })
        )
      }
    })
  )
})
