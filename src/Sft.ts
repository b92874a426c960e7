/**
 * Supervised fine-tuning: the same verbs with a cross-entropy loss. Only the completion's tokens are targets; examples
 * are packed without padding.
 */
import * as Effect from "effect/Effect"
import * as Loss from "./Loss.ts"
import * as Pack from "./Pack.ts"
import type { Policy, PolicyError } from "./Policy.ts"
import type * as Progress from "./Progress.ts"
import { shuffled } from "./Task.ts"
import type { Tokenizer } from "./Tokenizer.ts"
import * as Update from "./Update.ts"

export interface Demonstration {
  readonly prompt: string
  readonly completion: string
}

export interface SftOptions {
  readonly demonstrations: ReadonlyArray<Demonstration>
  readonly tokenizer: Tokenizer
  readonly steps: number
  /** Examples per step. Default 32. */
  readonly batch?: number
  /** Orders the examples; every epoch anew. Default 0. */
  readonly seed?: number
  readonly update: Omit<Update.UpdateSettings, "loss" | "aggregate" | "temperature" | "dump">
  readonly progress?: Progress.Progress
}

/**
 * Trains the policy in context on the demonstrations, each ended by the tokenizer's end of text; gives the mean loss per
 * token (nats) of every step.
 *
 * @example
 * ```ts
 * const losses = yield* Sft.train({ demonstrations, tokenizer, steps: 100, update: { learningRate: 1e-3 } })
 * ```
 */
export const train = Effect.fn("Sft.train")(function* (
  options: SftOptions
): Effect.fn.Return<ReadonlyArray<number>, PolicyError, Policy> {
  const batch = options.batch ?? 32
  const examples = options.demonstrations.map((demonstration) => toPack(demonstration, options.tokenizer))
  const updater = Update.make({ ...options.update, loss: Loss.crossEntropy })
  const losses: Array<number> = []
  let order: ReadonlyArray<number> = []
  let [at, epoch] = [0, 0]
  for (let step = 0; step < options.steps; step++) {
    const chosen: Array<Pack.PackGroup> = []
    while (chosen.length < Math.min(batch, examples.length)) {
      if (at === order.length) {
        order = shuffled(examples.length, options.seed ?? 0, epoch++)
        at = 0
      }
      chosen.push(examples[order[at++]!]!)
    }
    const begun = performance.now()
    const report = yield* updater.packs(
      Pack.pack(chosen, { aggregate: "token", maxTokens: options.update.maxTokens ?? 16384 }),
      step
    )
    losses.push(report.loss)
    options.progress?.step({
      step: step + 1,
      steps: options.steps,
      loss: report.loss,
      tokensPerSecond: report.tokens.forward / ((performance.now() - begun) / 1000)
    })
  }
  options.progress?.end()
  return losses
})

const toPack = (demonstration: Demonstration, tokenizer: Tokenizer): Pack.PackGroup => {
  const completion = tokenizer.encode(demonstration.completion)
  const tokens = new Uint32Array(completion.length + 1)
  tokens.set(completion)
  tokens[completion.length] = tokenizer.endOfText
  return {
    prompt: tokenizer.encode(demonstration.prompt),
    sequences: [{ tokens, target: tokens.map(() => 1), advantage: 0 }]
  }
}
