/**
 * node-llama-cpp as an {@link Engine}. It is no dependency: install it somewhere (`npm i node-llama-cpp`) and say where, by
 * `llama=<folder>` or NODE_LLAMA_CPP.
 */
import { existsSync, readFileSync } from "node:fs"
import { join, resolve } from "node:path"
import { pathToFileURL } from "node:url"
import type { Engine } from "./Engine.ts"

/** The part of its version 3 that is used here. */
interface Next {
  readonly logits?: ReadonlyMap<number, number>
  readonly totalLogitWeight?: number
}
interface Sequence {
  clearHistory(): Promise<void>
  evaluate(
    tokens: ReadonlyArray<number>,
    options: { readonly temperature: number; readonly yieldEogToken: boolean }
  ): AsyncIterable<number>
  controlledEvaluate(
    input: ReadonlyArray<number | readonly [token: number, options: { readonly generateNext: object }]>
  ): Promise<ReadonlyArray<{ readonly next: Next } | undefined>>
}
interface LlamaContext {
  getSequence(): Sequence
  dispose(): Promise<void>
}
interface LlamaModel {
  tokenize(text: string, specialTokens: boolean): ReadonlyArray<number>
  createContext(options: object): Promise<LlamaContext>
  dispose(): Promise<void>
}
interface Module {
  getLlama(options: object): Promise<{ loadModel(options: object): Promise<LlamaModel>; dispose(): Promise<void> }>
}

export interface LlamaCpp extends Engine {
  readonly tokenize: (text: string) => ReadonlyArray<number>
  /** [vocabulary] after a context; one that continues the last is computed only from there. */
  readonly logits: (context: ReadonlyArray<number>) => Promise<ReadonlyArray<number>>
}

/** Undefined, with a message, where it is not installed. */
export const llamaCpp = async (
  model: string,
  options: { readonly folder: string | undefined; readonly threads: number; readonly sequences: number }
): Promise<LlamaCpp | undefined> => {
  const folder = resolve(options.folder ?? process.env["NODE_LLAMA_CPP"] ?? ".")
  const root = join(folder, "node_modules", "node-llama-cpp")
  if (!existsSync(root)) {
    console.log(`node-llama-cpp is not in ${folder}: install it anywhere, and give llama=<folder> or NODE_LLAMA_CPP`)
    return undefined
  }
  const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { readonly version: string }
  const { getLlama } = (await import(pathToFileURL(join(root, "dist/index.js")).href)) as Module
  // only errors: it warns of every token that the model calls special and its tables do not
  const llama = await getLlama({ gpu: false, build: "never", logLevel: "error", maxThreads: options.threads })
  const loaded = await llama.loadModel({ modelPath: model, gpuLayers: 0 })
  // Memory is taken for all sequences: one long one, and many short ones, are two contexts.
  const one = await loaded.createContext({ contextSize: 2048, batchSize: 512, threads: options.threads })
  const many = await loaded.createContext({
    contextSize: 256,
    sequences: options.sequences,
    batchSize: 512,
    threads: options.threads
  })
  const long = one.getSequence()
  const short = Array.from({ length: options.sequences }, () => many.getSequence())

  /** Tokens of the long sequence that {@link LlamaCpp.logits} put there. */
  let known: ReadonlyArray<number> = []
  const clear = async (sequence: Sequence): Promise<void> => {
    known = []
    await sequence.clearHistory()
  }
  const draw = async (sequence: Sequence, prompt: ReadonlyArray<number>, count: number) => {
    await clear(sequence)
    const drawn: Array<number> = []
    for await (const token of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
      if (drawn.push(token) === count) break
    }
    return drawn
  }
  // No sampling options: their filters would leave tokens out. `includeMax` gives no maximum in 3.22.1, `includeTop` does.
  const next = (token: number, tokens: ReadonlyArray<number>) =>
    [
      token,
      {
        generateNext: {
          totalLogitWeight: true,
          logits: { filter: { tokens, includeTop: 1 } }
        }
      }
    ] as const

  return {
    name: `node-llama-cpp ${version}`,
    tokenize: (text) => loaded.tokenize(text, true),
    greedy: (prompt, count) => draw(long, prompt, count),
    logprobs: async (tokens) => {
      await clear(long)
      const results = await long.controlledEvaluate(
        tokens.slice(0, -1).map((token, i) => next(token, [tokens[i + 1]!]))
      )
      return results.map((result, i) => {
        const { logits, totalLogitWeight } = result!.next
        const largest = Math.max(...logits!.values())
        return logits!.get(tokens[i + 1]!)! - largest - Math.log(totalLogitWeight!)
      })
    },
    gap: async (prefix, a, b) => {
      await clear(long)
      const last = prefix.length - 1
      const results = await long.controlledEvaluate([...prefix.slice(0, -1), next(prefix[last]!, [a, b])])
      const { logits } = results[last]!.next
      return logits!.get(a)! - logits!.get(b)!
    },
    logits: async (context) => {
      const continues = known.length < context.length && known.every((token, t) => token === context[t])
      if (!continues) await long.clearHistory()
      const fresh = continues ? context.slice(known.length) : context
      known = []
      const results = await long.controlledEvaluate([
        ...fresh.slice(0, -1),
        [fresh.at(-1)!, { generateNext: { logits: true } }]
      ])
      known = [...context]
      const { logits } = results.at(-1)!.next
      const all = Array.from({ length: logits!.size }, () => Number.NaN)
      for (const [token, logit] of logits!) all[token] = logit
      return all
    },
    decode: async (prompts, count) => {
      const sequences = prompts.length === 1 ? [long] : short
      await Promise.all(prompts.map((prompt, i) => draw(sequences[i]!, prompt, count)))
    },
    close: async () => {
      await one.dispose()
      await many.dispose()
      await loaded.dispose()
      await llama.dispose()
    }
  }
}
