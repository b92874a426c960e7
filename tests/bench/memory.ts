/**
 * Memory of SmolLM2-135M-Instruct in each form, opened from its GGUF file in a process of its own: what the engine reports,
 * what the process grew by, and its peak while opening; then two adapters of rank 16 on all linear layers.
 *
 *     npm run bench -- memory [model=<file.gguf or folder>]
 */
import * as Effect from "effect/Effect"
import { spawnSync } from "node:child_process"
import { fileURLToPath } from "node:url"
import { Policy, PolicyNative } from "quintain"
import { smollm2 } from "../../scripts/smollm2.mjs"

const FORMS: Readonly<Record<string, Pick<PolicyNative.NativeOptions, "dtype" | "blocks">>> = {
  f32: { dtype: "f32" },
  bf16: { dtype: "bf16" },
  q8_0: { dtype: "bf16", blocks: "q8_0" },
  q4_0: { dtype: "bf16", blocks: "q4_0" },
  q4_1: { dtype: "bf16", blocks: "q4_1" },
  file: { dtype: "bf16", blocks: "file" }
}

const resident = () => {
  globalThis.gc?.()
  return process.memoryUsage.rss()
}

const measure = (model: string, form: string) => {
  const before = resident()
  const begun = performance.now()
  return Effect.gen(function* () {
    const openSeconds = (performance.now() - begun) / 1000
    const policy = yield* Policy.Policy
    const peak = process.resourceUsage().maxRSS * 1024 - before
    const after = resident()
    const { weights } = yield* policy.memory
    for (const name of ["first", "second"]) yield* policy.adapters.add(name, { kind: "lora", rank: 16 })
    const { adapters } = yield* policy.memory
    const grownByAdapters = resident() - after
    const { parameters } = policy.info
    return { parameters, weights, grown: after - before, peak, openSeconds, adapters, grownByAdapters }
  }).pipe(Effect.provide(PolicyNative.layer({ model, adapters: {}, ...FORMS[form]! })), Effect.runPromise)
}

const [form, file] = process.argv.slice(2)
if (form !== undefined && form in FORMS) {
  console.log(JSON.stringify(await measure(file!, form)))
} else {
  const model = process.argv.find((part) => part.startsWith("model="))?.slice("model=".length) ?? (await smollm2())
  if (model === undefined) process.exit(0)
  const mb = (bytes: number) => Number((bytes / 1e6).toFixed(1))
  const rows = Object.keys(FORMS).map((name) => {
    const script = fileURLToPath(import.meta.url)
    const args = ["--conditions=quintain-source", "--expose-gc", script, name, model]
    const child = spawnSync(process.execPath, args, { encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] })
    if (child.status !== 0) throw new Error(`${name}: the measuring process ended with ${child.status}`)
    const figures = JSON.parse(child.stdout) as Awaited<ReturnType<typeof measure>>
    return {
      form: name,
      "weights MB": mb(figures.weights),
      "bits a parameter": Number(((8 * figures.weights) / figures.parameters).toFixed(2)),
      "process grew MB": mb(figures.grown),
      "peak while opening MB": mb(figures.peak),
      "opened in s": Number(figures.openSeconds.toFixed(2)),
      "two adapters MB": mb(figures.adapters),
      "process grew by them MB": mb(figures.grownByAdapters)
    }
  })
  console.table(rows)
}
