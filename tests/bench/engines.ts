/**
 * The quickstart's GRPO run on each engine from the same warmed-up model: held-out accuracy as it learns, how far the sampler
 * was from the policy, seconds. A GPU's software stand-in shows that it learns there, and says nothing of speed.
 *
 *     npm run bench -- engines [engines=native,cpu] [seeds=3] [steps=60] [groups=16] [size=8] [heldout=64]
 *     npm run bench -- engines engines=native,webgpu steps=10 groups=8 size=4 heldout=32
 */
import * as Effect from "effect/Effect"
import { spawnSync } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { Grpo, LearningRate, Policy, PolicyNative, PolicyOnnx, Sft, WorkerPool } from "quintain"
import { toolCaller } from "quintain/envs"

const settings: Readonly<Record<string, string | undefined>> = Object.fromEntries(
  process.argv.slice(2).map((part) => part.split("=", 2))
)
const engines = (settings["engines"] ?? "native,cpu").split(",")
const seeds = Number(settings["seeds"] ?? 3)
const steps = Number(settings["steps"] ?? 60)
const [groups, size] = [Number(settings["groups"] ?? 16), Number(settings["size"] ?? 8)]
const every = steps < 20 ? 5 : 10

/** Figures of a run; its last metrics have the held-out accuracy after the last step. */
interface Figures {
  readonly device: string
  readonly before: number
  readonly rows: ReadonlyArray<Readonly<Record<string, number>>>
  readonly seconds: number
}

const task = toolCaller({ seed: 1 })
const { tokenizer } = task

/** The quickstart's model after its supervised steps, by the native engine. */
const warmUp = (directory: string, seed: number) => {
  const model = {
    vocab_size: tokenizer.vocabularySize,
    hidden_size: 128,
    num_hidden_layers: 4,
    num_attention_heads: 4,
    intermediate_size: 344,
    initializer_range: 0.08
  }
  return Effect.gen(function* () {
    const demonstrations = task.demonstrations({ count: 8000 })
    const update = { learningRate: LearningRate.warmup(2e-3, 20) }
    yield* Sft.train({ demonstrations, tokenizer, steps: 100, update })
    yield* Policy.Policy.use((policy) => policy.save(directory))
  }).pipe(Effect.provide(PolicyNative.layer({ model, seed, tokenizer })))
}

const train = (engine: string, model: string, seed: number, directory: string) => {
  const layer =
    engine === "native"
      ? PolicyNative.layer({ model, tokenizer })
      : PolicyOnnx.layer({ model, tokenizer, executionProviders: [engine as PolicyOnnx.ExecutionProvider] })
  return Effect.gen(function* () {
    const rows: Array<Readonly<Record<string, number>>> = []
    const { device } = (yield* Policy.Policy).info
    const begun = performance.now()
    const { before } = yield* Grpo.train({
      ...task,
      reward: task.pooledReward,
      steps,
      groups,
      size,
      evaluateCount: Number(settings["heldout"] ?? 64),
      seed,
      update: { learningRate: 5e-4 },
      directory,
      evaluateEvery: every,
      onStep: ({ metrics }) => void rows.push(metrics)
    })
    return { device, before: before ?? Number.NaN, rows, seconds: (performance.now() - begun) / 1000 } satisfies Figures
  }).pipe(Effect.provide(layer), Effect.provide(WorkerPool.layer()))
}

const [part, engine, model, seed, directory] = process.argv.slice(2).filter((argument) => !argument.includes("="))
if (part === "sft") await Effect.runPromise(warmUp(engine!, Number(model)))
else if (part === "grpo") {
  console.log(JSON.stringify(await Effect.runPromise(train(engine!, model!, Number(seed), directory!))))
} else {
  const folder = mkdtempSync(join(tmpdir(), "quintain-engines-"))
  const run = (...args: ReadonlyArray<string>): string => {
    const script = ["--conditions=quintain-source", fileURLToPath(import.meta.url), ...args, ...process.argv.slice(2)]
    const { status, stdout } = spawnSync(process.execPath, script, {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "inherit"],
      maxBuffer: 2 ** 28
    })
    if (status !== 0) throw new Error(`${args.join(" ")} ended with ${status}`)
    return stdout
  }
  const percent = (value: number | undefined) => (value === undefined ? "" : `${(100 * value).toFixed(1)} %`)
  for (let seed = 1; seed <= seeds; seed++) {
    const warm = join(folder, `warm-${seed}`)
    run("sft", warm, String(seed))
    for (const engine of engines) {
      const { before, device, rows, seconds } = JSON.parse(
        run("grpo", engine, warm, String(seed), join(folder, `${engine}-${seed}`))
          .trim()
          .split("\n")
          .at(-1)!
      ) as Figures
      const at = (step: number) => percent(rows[step - 1]?.["eval_accuracy"])
      const worst = (name: string) => Math.max(...rows.map((row) => row[name] ?? 0))
      const curve = Array.from({ length: Math.floor(steps / every) }, (_, i) => at((i + 1) * every))
      const mismatch = worst("sampling/sampling_logp_difference/max")
      console.log(`seed ${seed}, ${engine} (${device.split("\n")[0]}): ${[percent(before), ...curve].join(", ")}`)
      const phase = (name: string) => rows.reduce((sum, row) => sum + (row[`timing_s/${name}`] ?? 0), 0).toFixed(0)
      console.log(
        `  sampler - policy, log-probability: at most ${mismatch.toExponential(1)}; ${seconds.toFixed(0)} s, ` +
          `rollouts ${phase("rollout_and_reward")}, forward ${phase("forward")}, backward ${phase("backward")}, step ${phase("step")}`
      )
    }
  }
  rmSync(folder, { recursive: true })
}
