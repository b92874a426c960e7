/**
 * An adapter that is trained here, saved, and opened by PEFT; the model with it merged, opened by transformers: the same
 * log-probabilities. Needs Python with the packages of tests/fixtures/checkpoints/requirements.txt.
 *
 *     npm run bench -- peft python=<python> [model=<Hugging Face folder>]
 */
import * as Effect from "effect/Effect"
import { spawnSync } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { fileURLToPath } from "node:url"
import { Policy, PolicyNative } from "quintain"

const settings: Readonly<Record<string, string | undefined>> = Object.fromEntries(
  process.argv.slice(2).map((part) => part.split("=", 2))
)
const fixtures = fileURLToPath(new URL("../fixtures/checkpoints/", import.meta.url))
const adapters: Readonly<Record<string, NonNullable<PolicyNative.NativeOptions["lora"]>>> = {
  llama: { rank: 4 },
  llama3: { rank: 3, alpha: 5, targets: ["q_proj", "k_proj", "down_proj"] },
  mistral: { rank: 2, alpha: 8, targets: "model\\.layers\\.0\\..*(o|up)_proj" },
  qwen2: { rank: 4, alpha: 8, rsLora: true },
  qwen3: { rank: 2, alpha: 7, rsLora: true, targets: ["v_proj", "layers.1.mlp.gate_proj"] }
}

/** Trains a little, so that no factor is zero, and saves; the log-probabilities of a sequence. */
const train = (model: string, lora: (typeof adapters)[string], folder: string) =>
  Effect.gen(function* () {
    const policy = yield* Policy.Policy
    const tokens = Uint32Array.from({ length: 40 }, (_, t) => (t * 7919 + 13) % policy.info.vocabularySize)
    const forest: Policy.Forest = {
      tokens,
      segmentStart: Uint32Array.of(0),
      segmentLength: Uint32Array.of(tokens.length),
      segmentParent: Int32Array.of(-1),
      targetPosition: Uint32Array.from({ length: tokens.length - 1 }, (_, t) => t),
      targetToken: tokens.slice(1)
    }
    const { logprobs: before } = yield* policy.forward(forest)
    for (let step = 0; step < 5; step++) {
      const { id } = yield* policy.forward(forest, { keep: true })
      yield* policy.backward(id, { logprobs: new Float32Array(tokens.length - 1).fill(-1) })
      yield* policy.step({ learningRate: 0.02 })
    }
    yield* policy.save(join(folder, "adapter"))
    yield* policy.exportModel(join(folder, "merged"))
    const { logprobs } = yield* policy.forward(forest)
    return { tokens, before, logprobs }
  }).pipe(Effect.provide(PolicyNative.layer({ model, lora })), Effect.runPromise)

const largest = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  Array.from(a).reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), 0)

const python = settings["python"]
if (python === undefined) {
  console.log("give python=<a Python with torch, transformers and peft>")
  process.exit(0)
}
const models =
  settings["model"] === undefined
    ? Object.entries(adapters).map(([name, lora]) => [join(fixtures, name), name, lora] as const)
    : [[resolve(settings["model"]), settings["model"], { rank: 8 }] as const]
const rows = []
for (const [model, name, lora] of models) {
  const folder = mkdtempSync(join(tmpdir(), "quintain-peft-"))
  try {
    const { before, logprobs, tokens } = await train(model, lora, folder)
    const args = [join(fixtures, "check.py"), model, join(folder, "adapter"), join(folder, "merged"), tokens.join()]
    const child = spawnSync(python, args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] })
    if (child.status !== 0) throw new Error(`check.py ended with ${child.status}: ${child.stderr.slice(-2000)}`)
    const theirs = JSON.parse(child.stdout.trim().split("\n").at(-1)!) as Record<"adapter" | "merged", Array<number>>
    rows.push({
      model: name,
      "training moved logprobs by": largest(logprobs, before).toExponential(1),
      "PEFT, the saved adapter": largest(logprobs, theirs.adapter).toExponential(1),
      "transformers, merged": largest(logprobs, theirs.merged).toExponential(1)
    })
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
console.log("largest difference of log-probabilities, f32")
console.table(rows)
