/**
 * The real SmolLM2-135M-Instruct, from its GGUF file: `QUINTAIN_SMOLLM2=$(node scripts/smollm2.mjs) npx vitest run` this
 * file. Skipped where the variable is not set.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as path from "node:path"
import * as TokenizerJson from "../../../src/text/TokenizerJson.ts"

const file = process.env["QUINTAIN_SMOLLM2"]
const folder = path.join(import.meta.dirname, "../../fixtures/tokenizers")
const json = (name: string): unknown => JSON.parse(fs.readFileSync(path.join(folder, name), "utf8"))

describe.skipIf(file === undefined)("SmolLM2-135M-Instruct", () => {
  it.effect("gives the ids of Hugging Face's tokenizers for 200 texts, and their text back", () =>
    Effect.gen(function* () {
      const tokenizer = yield* TokenizerJson.fromGguf(file!)
      const texts = json("texts.json") as ReadonlyArray<string>
      const { special } = json("real/smollm2.json") as { special: ReadonlyArray<ReadonlyArray<number>> }
      assert.strictEqual(tokenizer.vocabularySize, 49152)
      assert.deepStrictEqual(tokenizer.stopTokens, [2])
      for (const [index, text] of texts.entries()) {
        const ids = tokenizer.encode(text, { specialTokens: true })
        assert.deepStrictEqual(Array.from(ids), [...special[index]!], JSON.stringify(text))
        assert.strictEqual(tokenizer.decode(tokenizer.encode(text)), text)
      }
    })
  )

  it.effect("renders its own template", () =>
    Effect.gen(function* () {
      const tokenizer = yield* TokenizerJson.fromGguf(file!)
      const asked = tokenizer.render([{ role: "user", content: "What is 2+2?" }])
      const system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
      const text = `<|im_start|>system\n${system}<|im_end|>\n<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n`
      assert.deepStrictEqual(asked, tokenizer.encode(text, { specialTokens: true }))
    })
  )
})
