/** Examples of supervised fine-tuning: encoded, ordered, packed and measured. */
import * as Effect from "effect/Effect"
import { createHash } from "node:crypto"
import * as Demonstration from "../../data/Demonstration.ts"
import { shuffled } from "../../data/Task.ts"
import type { EngineError } from "../../engine/EngineError.ts"
import { Policy } from "../../engine/Policy.ts"
import * as Pack from "../../learn/Pack.ts"
import type { Tokenizer } from "../../text/Tokenizer.ts"

/** Demonstrations as examples, and their record: not the file's text, but what the tokenizer and the options make of it. */
export const encoded = Effect.fnUntraced(function* (
  data: ReadonlyArray<Demonstration.Demonstration> | Demonstration.Source,
  tokenizer: Tokenizer,
  encoding: Demonstration.EncodeOptions
) {
  const source = "load" in data ? data : Demonstration.fromArray(data)
  const result = yield* Demonstration.encode(source, tokenizer, encoding)
  const hash = createHash("sha256")
  for (const { target, tokens } of result.examples) hash.update(tokens).update(target)
  return { ...result, record: { name: source.name, count: result.examples.length, sha256: hash.digest("hex") } }
})

/** The example at a place of the endless sequence of epochs, each in an order of its own. */
export const orderOf = (examples: ReadonlyArray<Demonstration.Example>, seed: number) => {
  let epoch = -1
  let order: ReadonlyArray<number> = []
  return (cursor: number): Demonstration.Example => {
    const own = Math.floor(cursor / examples.length)
    if (own !== epoch) order = shuffled(examples.length, seed, (epoch = own))
    return examples[order[cursor % examples.length]!]!
  }
}

/** Packs without padding. What comes before an example's first target is its prompt, which is computed, not learnt. */
export const packsOf = (examples: ReadonlyArray<Demonstration.Example>, maxTokens: number): ReadonlyArray<Pack.Pack> =>
  Pack.pack(
    examples.map(({ target, tokens }) => {
      const start = target.indexOf(1)
      const sequence = { tokens: tokens.subarray(start), target: target.subarray(start), advantage: 0 }
      return { prompt: tokens.subarray(0, start), sequences: [sequence] }
    }),
    { aggregate: "token", maxTokens }
  )

/** Mean loss per target, in nats; nothing is learnt. */
export const meanLoss = Effect.fnUntraced(function* (
  examples: ReadonlyArray<Demonstration.Example>,
  maxTokens: number
): Effect.fn.Return<number, EngineError, Policy> {
  const policy = yield* Policy
  let [sum, count] = [0, 0]
  for (const { forest } of packsOf(examples, maxTokens)) {
    const { logprobs } = yield* policy.forward(forest)
    for (const logprob of logprobs) sum -= logprob
    count += logprobs.length
  }
  return sum / count
})
