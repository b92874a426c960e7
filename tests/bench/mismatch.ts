/**
 * SmolLM2-135M-Instruct learns to call tools from rollouts of another engine than the one that trains it: ONNX Runtime with
 * 8-bit weights samples, the native kernel updates. How far the two are apart, with and without correction, and whether
 * training is stable; beside them the native engine alone.
 *
 *     npm run bench -- mismatch [model=<file.gguf or folder>] [steps=30] [runs=native,corrected,truncated,none] [seed=1]
 *         [groups=6] [size=12] [heldout=64]
 */
import * as Effect from "effect/Effect"
import { spawnSync } from "node:child_process"
import { mkdtempSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { Checkpoint, Grpo, PolicyNative, SamplerOnnx, WeightSync } from "quintain"
import { toolkit } from "quintain/envs"
import { smollm2 } from "../../scripts/smollm2.mjs"

const settings: Readonly<Record<string, string | undefined>> = Object.fromEntries(
  process.argv.slice(2).map((part) => part.split("=", 2))
)
const steps = Number(settings["steps"] ?? 30)
const corrections: Readonly<Record<string, Exclude<Grpo.GrpoOptions<unknown>["correction"], undefined>>> = {
  corrected: { level: "sequence", mode: "mask", max: 3 },
  truncated: { level: "token", mode: "truncate", max: 2 },
  none: "none"
}

const train = Effect.fnUntraced(function* (model: string, run: string) {
  const { tokenizer } = yield* Checkpoint.open(model)
  const count = Number(settings["heldout"] ?? 64)
  const { heldOut, ...kit } = toolkit({ seed: 1, heldOut: Math.max(1, count) })
  const policy = PolicyNative.layer({ model, tokenizer, seed: 1, dtype: "f32", lora: { rank: 16 } })
  const engine =
    run === "native"
      ? policy
      : WeightSync.layer({ policy, sampler: SamplerOnnx.layer({ model, tokenizer, weights: "q8_0" }) })
  const rows: Array<Readonly<Record<string, number>>> = []
  const correction = corrections[run]
  const { after, before } = yield* Grpo.train({
    ...kit,
    ...(count === 0 ? {} : { heldOut }),
    tokenizer,
    steps,
    groups: Number(settings["groups"] ?? 6),
    size: Number(settings["size"] ?? 12),
    seed: Number(settings["seed"] ?? 1),
    update: { learningRate: 3e-4 },
    evaluateEvery: steps,
    directory: mkdtempSync(join(tmpdir(), "quintain-mismatch-")),
    onStep: ({ metrics }) => void rows.push(metrics),
    ...(correction === undefined ? {} : { correction })
  }).pipe(Effect.provide(engine))
  return { before, after, rows }
})

if (settings["part"] !== undefined) {
  console.log(JSON.stringify(await Effect.runPromise(train(settings["model"]!, settings["part"]))))
} else {
  const model = settings["model"] ?? (await smollm2())
  if (model === undefined) process.exit(0)
  const script = ["--conditions=quintain-source", fileURLToPath(import.meta.url)]
  for (const run of (settings["runs"] ?? "native,corrected,truncated,none").split(",")) {
    const args = [...script, ...process.argv.slice(2), `model=${model}`, `part=${run}`]
    const { status, stdout } = spawnSync(process.execPath, args, {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "inherit"],
      maxBuffer: 2 ** 28
    })
    if (status !== 0) throw new Error(`${run} ended with ${status}`)
    const result = JSON.parse(stdout.trim().split("\n").at(-1)!) as Effect.Success<ReturnType<typeof train>>
    const { after, before, rows } = result
    const mean = (name: string, of = rows) => of.reduce((sum, row) => sum + (row[name] ?? 0), 0) / of.length
    const most = (name: string) => Math.max(...rows.map((row) => row[name] ?? 0))
    const fifth = Math.max(1, Math.floor(rows.length / 5))
    const share = (value: number | undefined) => (value === undefined ? "" : `${(100 * value).toFixed(1)} %`)
    console.table([
      {
        run,
        "reward, first fifth": mean("reward", rows.slice(0, fifth)).toFixed(3),
        "last fifth": mean("reward", rows.slice(-fifth)).toFixed(3),
        "held out before": share(before),
        after: share(after),
        "|sampler - policy| mean": mean("sampling/sampling_logp_difference/mean").toExponential(2),
        most: most("sampling/sampling_logp_difference/max").toFixed(2),
        "ratio most": most("sampling/importance_sampling_ratio/max").toFixed(2),
        "out of bounds": share(mean("sampling/correction_share")),
        "grad norm most": most("grad_norm").toFixed(2),
        skipped: most("skipped_updates"),
        "s a step": mean("step_time").toFixed(1)
      }
    ])
  }
}
