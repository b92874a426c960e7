/** Supervised fine-tuning on conversations, through a real tokenizer and a chat template that says what is learnt. */
import * as Effect from "effect/Effect"
import * as fs from "node:fs/promises"
import * as path from "node:path"
import { LearningRate, Sft, type Task, TokenizerJson } from "quintain"
import { engine, quiet, threads } from "./api.ts"
import type { Scenario } from "./scenario.ts"

const fixtures = path.join(import.meta.dirname, "../fixtures/tokenizers")

/** A folder like one from the Hub. */
const tokenizerFolder = async (folder: string): Promise<string> => {
  const { tokenizer } = JSON.parse(await fs.readFile(path.join(fixtures, "smollm.json"), "utf8")) as {
    readonly tokenizer: unknown
  }
  await fs.mkdir(folder, { recursive: true })
  await fs.writeFile(path.join(folder, "tokenizer.json"), JSON.stringify(tokenizer))
  await fs.writeFile(path.join(folder, "tokenizer_config.json"), JSON.stringify({ eos_token: "<|im_end|>" }))
  await fs.copyFile(path.join(fixtures, "templates/generation.jinja"), path.join(folder, "chat_template.jinja"))
  return folder
}

const colors = ["red", "green", "blue", "white", "black", "amber", "violet"]
const chat = Array.from({ length: 28 }, (_, i) => {
  const color = colors[i % colors.length]!
  return {
    messages: [
      { role: "system", content: "Name the color." },
      { role: "user", content: `number ${i}` },
      { role: "assistant", content: color },
      ...(i % 3 === 0
        ? ([
            { role: "user", content: "again, with more words" },
            { role: "assistant", content: `${color}, as I said: ${color}` }
          ] as const)
        : [])
    ] satisfies ReadonlyArray<Task.Message>
  }
})

export const chatSft: Scenario = {
  name: "chat-sft",
  quick: true,
  run: Effect.fnUntraced(function* ({ root }) {
    const folder = yield* Effect.promise(() => tokenizerFolder(path.join(root, "tokenizer")))
    const tokenizer = yield* TokenizerJson.fromDirectory(folder)
    const model = {
      vocab_size: tokenizer.vocabularySize,
      hidden_size: 64,
      num_hidden_layers: 2,
      num_attention_heads: 4,
      intermediate_size: 172,
      max_position_embeddings: 256
    }
    const run = (name: string, more: { readonly lora?: { readonly rank: number } }) => {
      const directory = path.join(root, name)
      return Sft.train({
        ...quiet,
        demonstrations: chat.slice(0, 24),
        heldOut: chat.slice(24),
        tokenizer,
        epochs: 4,
        batch: 5,
        seed: 31,
        evaluateEvery: 5,
        update: {
          learningRate: LearningRate.linear({ peak: 3e-3, steps: 20, warmup: 3 }),
          maxTokens: 200,
          weightDecay: 0.01
        },
        directory
      }).pipe(Effect.as(directory), Effect.provide(engine({ model, seed: 31, tokenizer, threads, ...more })))
    }
    return yield* Effect.all([run("full", {}), run("lora", { lora: { rank: 4 } })])
  })
}
