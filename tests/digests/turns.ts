/**
 * Four turns with tool results as messages, in a context that is too short for some episodes. A turn may be cut off, whose
 * end the chat template then adds, so that an observation has two pieces.
 */
import * as Effect from "effect/Effect"
import * as path from "node:path"
import { Environment, Grpo, Task, Tokenizer, type Verifier } from "quintain"
import { engine, quiet, readTrajectories, threads } from "./api.ts"
import type { Scenario } from "./scenario.ts"

const tokenizer = Tokenizer.bytes()
const model = {
  vocab_size: tokenizer.vocabularySize,
  hidden_size: 48,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  intermediate_size: 128,
  max_position_embeddings: 46
}

const tasks = Task.fromArray(
  Array.from({ length: 12 }, (_, i): Task.Task<number> => ({
    id: `count-${i}`,
    prompt: [
      { role: "system", content: "Say." },
      { role: "user", content: `${i}?` }
    ],
    data: i
  })),
  "counts"
)

/** Answers with what was said; the longer the policy speaks, the longer the answer. Some letters end a turn, few the episode. */
const environment = Environment.multiTurn<number, number>({
  name: "echo",
  maxTokens: 6,
  maxTurns: 4,
  stop: Array.from("abcdefghijklmnopqrstuvwxyz"),
  start: () => 0,
  step: (turns, { text }) => {
    if (/[a-f]$/.test(text)) return { done: true, reason: "environment", metrics: { turns: turns + 1 } }
    if (/[g-k]$/.test(text)) return { done: true }
    const content = `${turns}`.repeat(1 + (text.length % 5))
    return { done: false, observation: [{ role: "tool", name: "echo", content }], state: turns + 1 }
  }
})

/** Share of letters and digits in what was said: dense, so that groups differ. */
const reward: Verifier.VerifierFunction<number> = ({ trajectory }) =>
  trajectory.text.length === 0 ? 0 : trajectory.text.replaceAll(/[^A-Za-z0-9]/g, "").length / trajectory.text.length

export const turns: Scenario = {
  name: "turns",
  quick: true,
  run: Effect.fnUntraced(function* ({ root }) {
    const run = (name: string, maskTruncated: boolean) => {
      const directory = path.join(root, name)
      return Grpo.train({
        ...quiet,
        tasks,
        environment,
        reward,
        tokenizer,
        steps: 10,
        groups: 8,
        size: 6,
        seed: 21,
        sampling: { temperature: 0.9, topP: 0.98 },
        update: { learningRate: 3e-3, maskTruncated },
        directory
      }).pipe(Effect.as(directory), Effect.provide(engine({ model, seed: 21, tokenizer, threads })))
    }
    const directories = yield* Effect.all([run("all", false), run("masked", true)])
    const ends = new Set<string>()
    for (const directory of directories) {
      const steps = yield* Effect.promise(() => readTrajectories(directory))
      for (const { stopReason } of steps.flat()) ends.add(stopReason)
    }
    for (const end of ["context", "length", "environment", "stop"]) {
      if (!ends.has(end)) throw new Error(`digests: no episode ended with ${end}; expected some. Change the scenario.`)
    }
    return directories
  })
}
