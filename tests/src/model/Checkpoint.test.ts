import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs/promises"
import * as os from "node:os"
import * as path from "node:path"
import { Checkpoint, Session } from "quintain"
import { serveHub } from "../../fixtures/hubServer.ts"

const folder = Effect.acquireRelease(
  Effect.promise(() => fs.mkdtemp(path.join(os.tmpdir(), "quintain-checkpoint-"))),
  (made) => Effect.promise(() => fs.rm(made, { recursive: true, force: true }))
)
const write = (at: string, files: Readonly<Record<string, string>>) =>
  Effect.promise(async () => {
    for (const [name, text] of Object.entries(files)) {
      await fs.mkdir(path.dirname(path.join(at, name)), { recursive: true })
      await fs.writeFile(path.join(at, name), text)
    }
  })

describe("Checkpoint.locate", () => {
  it.effect("takes what is on disk for what is meant", () =>
    Effect.gen(function* () {
      const root = yield* folder
      yield* write(root, { "a/config.json": '{"model_type":"llama"}', "m.gguf": "GGUF" })
      const config = { model_type: "llama" }
      assert.deepStrictEqual(yield* Checkpoint.locate(`${root}/a/`), {
        name: `${root}/a/`,
        path: path.join(root, "a"),
        format: "huggingface",
        config
      })
      const gguf = path.join(root, "m.gguf")
      assert.deepStrictEqual(yield* Checkpoint.locate(gguf), {
        name: gguf,
        path: gguf,
        format: "gguf",
        config: undefined
      })
    })
  )

  it.live("fetches a name on the Hub", () =>
    Effect.gen(function* () {
      const cache = yield* folder
      const commit = "ab".repeat(20)
      const files = { "config.json": '{"model_type":"qwen3"}', "model.safetensors": "x", "q8.gguf": "GGUF" }
      const server = yield* Effect.acquireRelease(
        Effect.promise(() => serveHub({ "org/tiny": { commit, files } })),
        (server) => Effect.promise(() => server.close())
      )
      const hub = { cache, endpoint: server.endpoint, env: {} }
      const found = yield* Checkpoint.locate("org/tiny@main", { hub })
      assert.deepStrictEqual(
        [found.format, found.commit, found.config, path.basename(found.path)],
        ["huggingface", commit, { model_type: "qwen3" }, commit]
      )
      const gguf = yield* Checkpoint.locate("org/tiny:q8.gguf", { hub })
      assert.deepStrictEqual([gguf.format, path.basename(gguf.path)], ["gguf", "q8.gguf"])
    })
  )

  it.effect("says what was tried, and what to do", () =>
    Effect.gen(function* () {
      const root = yield* folder
      yield* write(root, {
        "empty/readme": "",
        "gguf/m.gguf": "",
        "adapter/adapter_config.json": "{}",
        "broken/config.json": "[1]",
        "model.safetensors": ""
      })
      for (const [name, expected] of [
        ["none", /no such folder or file, and no name on the Hub.*tried the folder or file .*none, a name on the Hub/],
        ["empty", /no config\.json.*holds config\.json and safetensors/],
        ["gguf", /Give its GGUF file: .*m\.gguf/],
        ["adapter", /holds an adapter.*Open the base model/],
        ["broken", /config\.json is not a JSON object/],
        ["model.safetensors", /not GGUF.*the folder that holds/]
      ] as const) {
        const error = yield* Effect.flip(Checkpoint.locate(path.join(root, name)))
        assert.strictEqual(error._tag, "CheckpointError")
        assert.match(error.message, expected)
      }
      // A folder that happens to be called like a name on the Hub.
      yield* write(root, { "org/name/readme": "" })
      const here = path.relative(process.cwd(), path.join(root, "org/name"))
      assert.match((yield* Effect.flip(Checkpoint.locate(here))).message, /the folder has no config\.json/)
    })
  )
})

describe("Checkpoint.saveTokenizer", () => {
  it.effect("copies what transformers needs, through links, and no weights", () =>
    Effect.gen(function* () {
      const root = yield* folder
      yield* write(root, {
        "from/config.json": "{}",
        "from/model.safetensors": "x",
        "from/chat_template.jinja": "t",
        "from/additional_chat_templates/rag.jinja": "r",
        blob: "tokenizer"
      })
      yield* Effect.promise(() => fs.symlink("../blob", path.join(root, "from/tokenizer.json")))
      yield* Effect.promise(() => fs.mkdir(path.join(root, "to")))
      yield* Checkpoint.saveTokenizer(yield* Checkpoint.locate(path.join(root, "from")), path.join(root, "to"))
      const names = yield* Effect.promise(() => fs.readdir(path.join(root, "to"), { recursive: true }))
      assert.deepStrictEqual(names.toSorted(), [
        "additional_chat_templates",
        "additional_chat_templates/rag.jinja",
        "chat_template.jinja",
        "tokenizer.json"
      ])
      assert.isTrue((yield* Effect.promise(() => fs.lstat(path.join(root, "to/tokenizer.json")))).isFile())
    })
  )
})

const tiny = {
  vocab_size: 32,
  hidden_size: 16,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  intermediate_size: 32
}

describe("Session", () => {
  it.live("opens a name on the Hub, and saves its tokenizer beside the weights", () =>
    Effect.gen(function* () {
      const root = yield* folder
      yield* Effect.promise(async () => {
        {
          await using session = await Session.open({ model: tiny, seed: 1 })
          assert.throws(() => session.tokenizer, /give Session\.open one/)
          await session.save(path.join(root, "made"))
        }
        const files: Record<string, Uint8Array | string> = { "tokenizer.json": "{}", "chat_template.jinja": "t" }
        for (const name of await fs.readdir(path.join(root, "made"))) {
          files[name] = await fs.readFile(path.join(root, "made", name))
        }
        await using server = await serveHub({ "org/tiny": { commit: "cd".repeat(20), files } })
        const hub = { cache: path.join(root, "cache"), endpoint: server.endpoint, env: {} }
        {
          await using session = await Session.open({ model: "org/tiny", hub })
          assert.throws(() => session.tokenizer, /snapshots.cdcdcd/)
          await session.save(path.join(root, "saved"))
        }
        const names = await fs.readdir(path.join(root, "saved"))
        assert.deepStrictEqual(names.toSorted(), [
          "chat_template.jinja",
          "config.json",
          "model.safetensors",
          "tokenizer.json"
        ])
        const error = await Session.open({ model: "org/none", hub }).then(
          () => undefined,
          (error: unknown) => error
        )
        assert.include(String(error), "org/none")
      })
    })
  )
})
