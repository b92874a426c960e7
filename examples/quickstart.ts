/**
 * Teaches a new model of 0.8 million parameters to call tools: SFT on demonstrations that are mostly wrong, then GRPO. The
 * reward has a schema gate, a replay of the calls, and unit tests of the code that the model writes.
 *
 *     npm start
 *     npm start -- onnx      on ONNX Runtime: on a GPU if one opens, else on the processor
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as Effect from "effect/Effect"
import { Engine, Evaluate, Grpo, LearningRate, Progress, Sft, WorkerPool } from "quintain"
import { toolCaller } from "quintain/envs"

const [engine = "native"] = process.argv.slice(2) as Array<"native" | "onnx" | "auto">
const task = toolCaller({ seed: 1 })
const model = {
  vocab_size: task.tokenizer.vocabularySize,
  hidden_size: 128,
  num_hidden_layers: 4,
  num_attention_heads: 4,
  intermediate_size: 344,
  initializer_range: 0.08 // about 1 / sqrt(hidden_size): at this size, copying digits is learnt several times sooner than from 0.02
}
const directory = `runs/quickstart-${new Date().toISOString().replaceAll(":", "-").slice(0, 19)}`

const show = (title: string, { accuracy, groups }: Evaluate.Evaluation) => {
  console.log(`\n${title}: ${(100 * accuracy).toFixed(1)} % of ${groups.length} held-out questions right`)
  for (const {
    task,
    trajectories: [scored]
  } of groups.slice(0, 8)) {
    console.log(
      `  ${scored?.reward === 1 ? "right" : "wrong"}  ${String(task.prompt).padEnd(12)} ${scored?.trajectory.text}`
    )
  }
}

const program = Effect.gen(function* () {
  const held = Evaluate.run({ ...task, tasks: task.heldOut })
  const seconds: Record<string, number> = {}
  const timed = Effect.fnUntraced(function* <A, E, R>(name: string, effect: Effect.Effect<A, E, R>) {
    const begun = performance.now()
    const value = yield* effect
    seconds[name] = (performance.now() - begun) / 1000
    return value
  })

  yield* timed(
    "SFT",
    Sft.train({
      demonstrations: task.demonstrations({ count: 8000 }),
      tokenizer: task.tokenizer,
      steps: 100,
      update: { learningRate: LearningRate.warmup(2e-3, 20) },
      progress: Progress.make({ label: "SFT " })
    })
  )
  show("after SFT on imperfect demonstrations", yield* held)

  const phases: Record<string, number> = {}
  yield* timed(
    "GRPO",
    Grpo.train({
      ...task,
      reward: task.pooledReward,
      steps: 60,
      groups: 16,
      size: 8,
      seed: 1,
      update: { learningRate: 5e-4 },
      directory,
      evaluateEvery: 10,
      onStep: ({ metrics }) => {
        for (const [name, value] of Object.entries(metrics)) {
          if (name.startsWith("timing_s/")) phases[name.slice(9)] = (phases[name.slice(9)] ?? 0) + value
        }
      }
    })
  )
  show("after GRPO", yield* held)

  console.log(`\nseconds: ${format(seconds)}\n  of GRPO: ${format(phases)}\nrun directory: ${directory}`)
})

const format = (values: Readonly<Record<string, number>>) =>
  Object.entries(values)
    .map(([name, value]) => `${name} ${value.toFixed(1)}`)
    .join(", ")

program.pipe(
  Effect.provide(Engine.layer({ model, seed: 1, tokenizer: task.tokenizer, engine })),
  Effect.provide(WorkerPool.layer()),
  NodeRuntime.runMain
)
