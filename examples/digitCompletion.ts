/**
 * Learns to continue arithmetic sequences modulo 20 with token-level advantages, where plain GRPO stalls. It starts from
 * random weights and has no demonstrations. Prints reward and held-out accuracy every 25 steps.
 *
 *     npm run example -- digitCompletion [seeds] [steps]
 */
import * as Effect from "effect/Effect"
import * as fs from "node:fs/promises"
import * as os from "node:os"
import * as path from "node:path"
import { Advantage, Grpo, Loss, PolicyNative, Progress, WorkerPool } from "quintain"
import { digitCompletion } from "quintain/envs"

const [seeds = "3", steps = "500"] = process.argv.slice(2)

const train = (seed: number, directory: string) => {
  const task = digitCompletion({ seed })
  const begun = performance.now()
  return Grpo.train({
    ...task,
    directory,
    steps: Number(steps),
    seed,
    groups: 32,
    size: 16,
    dropConstant: false,
    // Each character gets its own reward (gamma 0). It is compared with the samples that agree up to it. Scaling as in
    // MaxRL prevents the policy from settling on the most frequent digit.
    advantage: Advantage.tokenLevel({ gamma: 0, baseline: "prefix", scale: "mean" }),
    loss: Loss.withEntropy(Loss.clipped(), 0.01),
    update: { learningRate: 1e-3 },
    evaluateEvery: 25,
    recordEvery: 0,
    progress: Progress.silent,
    onStep: ({ step, metrics: { reward, entropy, eval_accuracy, eval_reward } }) => {
      if (step! % 25 === 0)
        console.log(
          `seed ${seed}  step ${step}  ${((performance.now() - begun) / 1000).toFixed(0)} s  reward ${reward!.toFixed(3)} entropy ${entropy!.toFixed(3)} held-out reward ${eval_reward?.toFixed(3)}  exact ${eval_accuracy?.toFixed(3)}`
        )
    }
  }).pipe(
    Effect.provide(
      PolicyNative.layer({
        seed,
        tokenizer: task.tokenizer,
        model: {
          vocab_size: task.tokenizer.vocabularySize,
          hidden_size: 128,
          num_hidden_layers: 4,
          num_attention_heads: 4,
          intermediate_size: 344,
          initializer_range: 0.08
        }
      })
    )
  )
}

const program = Effect.gen(function* () {
  const root = yield* Effect.promise(() => fs.mkdtemp(path.join(os.tmpdir(), "quintain-digits-")))
  for (let seed = 0; seed < Number(seeds); seed++) yield* train(seed, path.join(root, String(seed)))
  yield* Effect.promise(() => fs.rm(root, { recursive: true }))
})

await Effect.runPromise(program.pipe(Effect.provide(WorkerPool.layer())))
