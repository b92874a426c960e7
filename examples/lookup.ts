/**
 * Learns ten secret answers of three digits from the reward alone, starting from random weights. Prints the mean reward
 * over the seeds next to the curve of the same model and settings in PyTorch. About 12 seconds a seed on two cores.
 *
 *     npm run example -- lookup [seeds]
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs/promises"
import * as os from "node:os"
import * as path from "node:path"
import { Grpo, Loss, PolicyNative, Progress, WorkerPool } from "quintain"
import { lookup } from "quintain/envs"

const seeds = Number(process.argv[2] ?? 10)
/** Mean of 10 seeds, by updates done: transformers' Llama in PyTorch, +-0.05. */
const reference: ReadonlyArray<readonly [number, number]> = [
  [0, 0.02],
  [25, 0.09],
  [50, 0.19],
  [100, 0.41],
  [200, 0.82],
  [300, 0.95]
]
const steps = Number(process.env.STEPS ?? 400)

const curve = (seed: number, directory: string) => {
  const task = lookup({ seed })
  const rewards: Array<number> = []
  return Grpo.train({
    ...task,
    directory,
    steps,
    seed,
    groups: 10,
    dropConstant: false,
    loss: Loss.withEntropy(Loss.clipped(), 0.1),
    update: { learningRate: 1e-3 },
    recordEvery: 0,
    progress: Progress.silent,
    onStep: ({ metrics }) => void rewards.push(metrics["reward"]!)
  }).pipe(
    Effect.as(rewards),
    Effect.provide(
      PolicyNative.layer({
        seed,
        tokenizer: task.tokenizer,
        model: {
          vocab_size: 16,
          hidden_size: 64,
          num_hidden_layers: 2,
          num_attention_heads: 4,
          intermediate_size: 172,
          tie_word_embeddings: false
        }
      })
    )
  )
}

const program = Effect.gen(function* () {
  const root = yield* Effect.promise(() => fs.mkdtemp(path.join(os.tmpdir(), "quintain-lookup-")))
  const curves: Array<ReadonlyArray<number>> = []
  for (let seed = 0; seed < seeds; seed++) {
    const begun = performance.now()
    curves.push(yield* curve(seed, path.join(root, String(seed))))
    console.log(
      `seed ${seed}: reward ${curves.at(-1)!.at(-1)!.toFixed(3)} after ${steps} steps, ${((performance.now() - begun) / 1000).toFixed(1)} s`
    )
  }
  console.log("\nupdates   quintain   PyTorch")
  for (const [step, expected] of reference) {
    const mean = curves.reduce((sum, rewards) => sum + rewards[step]!, 0) / curves.length
    console.log(`${String(step).padStart(7)}   ${mean.toFixed(3).padStart(8)}   ${expected.toFixed(2).padStart(7)}`)
  }
  yield* Effect.promise(() => fs.rm(root, { recursive: true }))
})

await Effect.runPromise(program.pipe(Effect.provide(WorkerPool.layer())))
