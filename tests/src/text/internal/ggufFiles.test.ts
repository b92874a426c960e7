import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs/promises"
import * as os from "node:os"
import * as path from "node:path"
import { filesOf } from "../../../../src/text/internal/ggufFiles.ts"
import { fromMetadata, type GgufMetadata } from "../../../../src/text/internal/ggufTokenizer.ts"
import * as TokenizerJson from "../../../../src/text/TokenizerJson.ts"

const fixtures = path.join(import.meta.dirname, "../../../fixtures/tokenizers")
interface Fixture {
  readonly gguf?: GgufMetadata
}
const read = async <A>(name: string) => JSON.parse(await fs.readFile(path.join(fixtures, `${name}.json`), "utf8")) as A

const folder = Effect.acquireRelease(
  Effect.promise(() => fs.mkdtemp(path.join(os.tmpdir(), "quintain-gguf-files-"))),
  (made) => Effect.promise(() => fs.rm(made, { recursive: true, force: true }))
)

describe("a GGUF file's tokenizer as the files of a folder", () => {
  for (const name of ["gemma", "gpt2", "llama2", "llama3", "qwen2", "smollm"]) {
    it.effect(`${name}: is the same tokenizer`, () =>
      Effect.gen(function* () {
        const { gguf } = yield* Effect.promise(() => read<Fixture>(name))
        if (gguf === undefined) return
        const metadata = { ...gguf, "tokenizer.chat_template": "{{ messages[0].content }}" }
        const at = yield* folder
        const files = filesOf(fromMetadata(name, metadata))
        yield* Effect.promise(async () => {
          for (const [file, text] of Object.entries(files)) await fs.writeFile(path.join(at, file), text)
        })
        const original = yield* TokenizerJson.fromGgufMetadata(name, metadata)
        const written = yield* TokenizerJson.fromDirectory(at)
        for (const field of ["vocabularySize", "endOfText", "startOfText", "stopTokens"] as const) {
          assert.deepStrictEqual(written[field], original[field], field)
        }
        for (const text of yield* Effect.promise(() => read<ReadonlyArray<string>>("texts"))) {
          const tokens = original.encode(text, { specialTokens: true })
          assert.deepStrictEqual(written.encode(text, { specialTokens: true }), tokens)
          assert.strictEqual(written.decode(tokens), original.decode(tokens))
        }
        const messages = [{ role: "user", content: "hello" }] as const
        assert.deepStrictEqual(written.render(messages), original.render(messages))
      })
    )
  }
})
