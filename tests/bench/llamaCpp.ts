/**
 * SmolLM2-135M-Instruct, one GGUF file, in this engine and in llama.cpp through node-llama-cpp: greedy continuations,
 * log-probabilities of a fixed text, tokens a second.
 *
 *     npm run bench -- llamacpp llama=<folder with node_modules/node-llama-cpp> [model=<file.gguf>] [runs=5] [threads=2]
 *         [forms=f32,bf16,file] [only=greedy,text,speed]
 *
 * Both get the same token ids. llama.cpp rounds the input of every product with quantised weights to 8 bits; this engine
 * computes with the weights as f32 or bf16 numbers. So neither is the other's truth: the fixtures of tests/fixtures/checkpoints
 * are.
 */
import * as Effect from "effect/Effect"
import { Checkpoint } from "quintain"
import { smollm2 } from "../../scripts/smollm2.mjs"
import type { Engine } from "./realModel/Engine.ts"
import { llamaCpp } from "./realModel/llamaCpp.ts"
import { quintain } from "./realModel/quintain.ts"
import { CHAT, PLAIN, TEXT } from "./realModel/texts.ts"

const settings: Readonly<Record<string, string | undefined>> = Object.fromEntries(
  process.argv.slice(2).map((part) => part.split("=", 2))
)
const runs = Number(settings["runs"] ?? 5)
const threads = Number(settings["threads"] ?? 2)
const forms = (settings["forms"] ?? "f32,bf16,file").split(",")
const parts = (settings["only"] ?? "greedy,text,speed").split(",")
/** Tokens of a greedy continuation, of a decode measurement. */
const [CONTINUED, DECODED] = [48, 64]
const END_OF_TURN = 2

const model = settings["model"] ?? (await smollm2())
const theirs =
  model === undefined ? undefined : await llamaCpp(model, { folder: settings["llama"], threads, sequences: 32 })
if (model === undefined || theirs === undefined) process.exit(0)
const ours = forms.map((form: string) => quintain(model, form, threads))
const { tokenizer } = await Effect.runPromise(Checkpoint.open(model))

const prompts = [
  ...CHAT.map((content) => Array.from(tokenizer.render([{ role: "user", content }]))),
  ...PLAIN.map((text) => Array.from(tokenizer.encode(text)))
]
const text = Array.from(tokenizer.encode(TEXT))

const round = (value: number, digits = 3) => Number(value.toFixed(digits))
const sum = (values: ReadonlyArray<number>) => values.reduce((total, value) => total + value, 0)
const mean = (values: ReadonlyArray<number>) => sum(values) / values.length

const greedy = async () => {
  const chat = (content: string) =>
    `<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n` +
    `<|im_start|>user\n${content}<|im_end|>\n<|im_start|>assistant\n`
  const tokenised = [...CHAT.map(chat), ...PLAIN].map((prompt) => theirs.tokenize(prompt))
  const same = prompts.filter((prompt, i) => prompt.join() === tokenised[i]!.join()).length
  console.log(`\ntokenised as llama.cpp does: ${same} of ${prompts.length} prompts`)
  const upToEnd = (tokens: ReadonlyArray<number>) => {
    const end = tokens.indexOf(END_OF_TURN)
    return end < 0 ? tokens : tokens.slice(0, end + 1)
  }
  const reference = []
  for (const prompt of prompts) reference.push(upToEnd(await theirs.greedy(prompt, CONTINUED)))
  const summary = []
  const partings = []
  for (const engine of ours) {
    const [shared, lengths]: [Array<number>, Array<number>] = [[], []]
    for (const [i, prompt] of prompts.entries()) {
      const [a, b] = [upToEnd(await engine.greedy(prompt, CONTINUED)), reference[i]!]
      const at = a.findIndex((token, t) => token !== b[t])
      lengths.push(b.length)
      shared.push(at < 0 ? b.length : at)
      if (at < 0) continue
      const prefix = [...prompt, ...a.slice(0, at)]
      partings.push({
        engine: engine.name,
        prompt: i + 1,
        at: at + 1,
        ours: tokenizer.decode(Uint32Array.of(a[at]!)),
        theirs: tokenizer.decode(Uint32Array.of(b[at]!)),
        "our gap": round(await engine.gap(prefix, a[at]!, b[at]!), 4),
        "their gap": round(await theirs.gap(prefix, b[at]!, a[at]!), 4)
      })
    }
    summary.push({
      engine: engine.name,
      "equal continuations": `${shared.filter((count, i) => count === lengths[i]).length} of ${prompts.length}`,
      "tokens before they part": `${sum(shared)} of ${sum(lengths)}`
    })
  }
  console.log(`\ngreedy continuations of ${prompts.length} prompts, ${CONTINUED} tokens, against ${theirs.name}`)
  console.table(summary)
  console.log("where they part: each engine's own logit lead of its choice over the other's")
  console.table(partings)
}

const fixedText = async () => {
  const reference = await theirs.logprobs(text)
  const rows = [{ engine: theirs.name, perplexity: round(Math.exp(-mean(reference))) } as Record<string, unknown>]
  for (const engine of ours) {
    const found = await engine.logprobs(text)
    const differences = found.map((value, i) => Math.abs(value - reference[i]!))
    rows.push({
      engine: engine.name,
      perplexity: round(Math.exp(-mean(found))),
      "mean |difference| of logprobs": round(mean(differences), 4),
      "mean difference": round(mean(found) - mean(reference), 4),
      largest: round(Math.max(...differences), 4)
    })
  }
  console.log(`\na fixed text of ${text.length} tokens`)
  console.table(rows)
}

const speed = async () => {
  // Never the same prompt twice: neither engine may find one in its cache.
  let fresh = 0
  const prompt = (length: number) => {
    fresh += 1
    return Array.from({ length }, (_, t) => (t === 0 ? 1000 + fresh : text[(t + fresh) % text.length]!))
  }
  const seconds = async (engine: Engine, count: number, length: number, tokens: number) => {
    const asked = Array.from({ length: count }, () => prompt(length))
    const begun = performance.now()
    await engine.decode(asked, tokens)
    return (performance.now() - begun) / 1000
  }
  const measures: Array<readonly [name: string, (engine: Engine) => Promise<number>]> = [
    ...[1, 8, 32].map(
      (batch) =>
        [
          `decode ${batch}`,
          // what the prompts and the first token cost is not decode
          async (engine: Engine) => {
            const first = await seconds(engine, batch, 16, 1)
            return (batch * DECODED) / ((await seconds(engine, batch, 16, 1 + DECODED)) - first)
          }
        ] as const
    ),
    ...[256, 1024].map(
      (length) =>
        [`prefill ${length}`, async (engine: Engine) => length / (await seconds(engine, 1, length, 1))] as const
    )
  ]
  const engines = [theirs, ...ours]
  const rows = []
  for (const [name, measure] of measures) {
    const found = engines.map((): Array<number> => [])
    for (let run = -1; run < runs; run++) {
      for (const [i, engine] of engines.entries()) {
        const value = await measure(engine)
        // the first round warms up
        if (run >= 0) found[i]!.push(value)
      }
    }
    rows.push(
      Object.fromEntries([
        ["tokens/s", name],
        ...engines.map((engine, i) => {
          const sorted = found[i]!.toSorted((a, b) => a - b)
          return [engine.name, `${Math.round(sorted.at(-1)!)} (${Math.round(sorted[sorted.length >> 1]!)})`]
        })
      ])
    )
  }
  console.log(`\ntokens/s, ${threads} threads each, engines alternating, best (median) of ${runs}`)
  console.table(rows)
}

if (parts.includes("greedy")) await greedy()
if (parts.includes("text")) await fixedText()
if (parts.includes("speed")) await speed()
for (const engine of [theirs, ...ours]) await engine.close()
