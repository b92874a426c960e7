/**
 * Samples on a vLLM server and trains here: a LoRA adapter of SmolLM2-135M-Instruct learns to call tools. After every step
 * the server loads the new adapter by its path, so it must share this machine's disk. Prints the reward of each step, and
 * how far the server's log-probabilities are from the policy's; the update corrects for that difference.
 *
 *     VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve HuggingFaceTB/SmolLM2-135M-Instruct --enable-lora --max-lora-rank 16
 *     npm run example -- serverRollouts http://localhost:8000 [steps] [model]
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as Effect from "effect/Effect"
import { Checkpoint, Grpo, PolicyNative, SamplerServer, WeightSync } from "quintain"
import { toolkit } from "quintain/envs"

const [url, steps = "100", model = "HuggingFaceTB/SmolLM2-135M-Instruct"] = process.argv.slice(2)
if (url === undefined) {
  console.log(
    "Give the address of a vLLM server: npm run example -- serverRollouts http://localhost:8000 [steps] [model]"
  )
  process.exit(1)
}
const kit = toolkit({ seed: 1, heldOut: 128 })
const directory = `runs/server-rollouts-${new Date().toISOString().replaceAll(":", "-").slice(0, 19)}`

const program = Effect.gen(function* () {
  const { tokenizer } = yield* Checkpoint.open(model)
  const engine = WeightSync.layer({
    policy: PolicyNative.layer({ model, tokenizer, seed: 1, dtype: "bf16", lora: { rank: 16 } }),
    sampler: SamplerServer.layer({ kind: "vllm", url, vocabularySize: tokenizer.vocabularySize })
  })
  const { after, before } = yield* Grpo.train({
    ...kit,
    tokenizer,
    steps: Number(steps),
    groups: 6,
    size: 12,
    seed: 1,
    update: { learningRate: 3e-4 },
    directory,
    onStep: ({ metrics }) => {
      const [reward, mean, max, masked] = [
        "reward",
        "sampling/sampling_logp_difference/mean",
        "sampling/sampling_logp_difference/max",
        "sampling/correction_share"
      ].map((name) => metrics[name]?.toPrecision(3) ?? "none")
      console.log(
        `step ${metrics["step"]}: reward ${reward}, logprobs apart ${mean} (at most ${max}), masked ${masked}`
      )
    }
  }).pipe(Effect.provide(engine))
  console.log(`held-out accuracy ${before} before, ${after} after; run directory: ${directory}`)
})

NodeRuntime.runMain(program)
