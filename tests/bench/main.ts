/**
 * `npm run bench`: kernels with their share of the machine's roof, one GRPO step at the shape of SmolLM2-135M in both
 * dtypes, the verifier pool, and the sandboxes. Each part runs in a process of its own, one after the other.
 *
 *     npm run bench                                  all parts but those below
 *     npm run bench -- step pool                     some of them
 *     npm run bench -- soak n=100000 runtime=python  with settings, which sandbox.ts explains
 *     npm run bench -- parity                        differences to transformers and PEFT on the fixtures
 *     npm run bench -- peft python=<python>          what is saved here, opened there
 *     npm run bench -- memory                        SmolLM2-135M in every form
 *     npm run bench -- llamacpp llama=<folder>       SmolLM2-135M beside llama.cpp
 *     npm run bench -- llamaserver llama=<folder>    llama.cpp behind a server, its log-probabilities beside the kernel's
 *     npm run bench -- engines                       the quickstart's run on the native engine and on ONNX Runtime
 *     npm run bench -- mismatch                      SmolLM2 sampled in 8 bits by ONNX Runtime, trained by the kernel
 *     npm run bench -- onnx-sampler model=<model>    its sampling beside the native kernel's
 *     npm run bench -- onnx-update                   an update on ONNX Runtime beside the native kernel
 *     npm run bench -- onnx-providers model=<model>  what each provider of ONNX Runtime can do here: for a machine with a GPU
 */
import { execFileSync, spawnSync } from "node:child_process"
import { availableParallelism, cpus } from "node:os"
import { fileURLToPath } from "node:url"

const root = fileURLToPath(new URL("../../", import.meta.url))

const node = (file: string, ...args: ReadonlyArray<string>): string =>
  execFileSync(process.execPath, ["--conditions=quintain-source", `${root}tests/bench/${file}`, ...args], {
    cwd: root,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"]
  })

/** With its lines as they come. */
const follow = (file: string, ...args: ReadonlyArray<string>): void => {
  const flags = ["--conditions=quintain-source", "--expose-gc"]
  const script = [...flags, `${root}tests/bench/${file}`, ...args]
  // it has said what is wrong; the other parts still run
  if (spawnSync(process.execPath, script, { cwd: root, stdio: "inherit" }).status !== 0) process.exitCode = 1
}

interface StepFigures {
  readonly dtype: string
  readonly prefillTokensPerSecond: number
  readonly decodeTokensPerSecond: number
  readonly updateTokensPerSecond: number
  readonly generateSeconds: number
  readonly updateSeconds: number
  readonly stepSeconds: number
  readonly mismatch: number
  readonly peakBytes: number
  readonly info: { readonly device: string }
}

const parts: Readonly<Record<string, () => void>> = {
  kernels: () => {
    execFileSync("cargo", ["run", "--release", "--quiet", "--locked", "--example", "roof"], {
      cwd: `${root}native/core`,
      stdio: ["ignore", "inherit", "inherit"]
    })
  },
  step: () => {
    console.log("one GRPO step, SmolLM2-135M shape, LoRA rank 16: 2 prompts of 128 tokens x 8 completions of 64")
    console.table(
      ["f32", "bf16"].map((dtype) => {
        const figures = JSON.parse(node("step.ts", dtype)) as StepFigures
        return {
          dtype,
          "prefill tokens/s": Math.round(figures.prefillTokensPerSecond),
          "decode tokens/s": Math.round(figures.decodeTokensPerSecond),
          "update tokens/s": Math.round(figures.updateTokensPerSecond),
          "generate s": Number(figures.generateSeconds.toFixed(2)),
          "update s": Number(figures.updateSeconds.toFixed(2)),
          "step s": Number(figures.stepSeconds.toFixed(2)),
          "peak GB": Number((figures.peakBytes / 1e9).toFixed(2)),
          "max |sampler - policy| logprob": figures.mismatch
        }
      })
    )
  },
  pool: () => {
    process.stdout.write(node("verifiers.ts"))
  },
  sandbox: () => follow("sandbox.ts", "throughput", ...settings),
  soak: () => follow("sandbox.ts", "soak", ...settings),
  fuzz: () => follow("fuzz.ts", ...settings),
  parity: () => {
    const args = ["test", "--quiet", "--locked", "--test", "parity", "--", "--nocapture", "--test-threads=1"]
    execFileSync("cargo", args, { cwd: `${root}native/core`, stdio: "inherit" })
  },
  peft: () => follow("peft.ts", ...settings),
  memory: () => follow("memory.ts", ...settings),
  llamacpp: () => follow("llamaCpp.ts", ...settings),
  llamaserver: () => follow("llamaServer.ts", ...settings),
  engines: () => follow("engines.ts", ...settings),
  mismatch: () => follow("mismatch.ts", ...settings),
  "onnx-sampler": () => follow("onnxSampler.ts", ...settings),
  "onnx-update": () => follow("onnxUpdate.ts", ...settings),
  "onnx-providers": () => follow("onnxProviders.ts", ...settings)
}
/** Only when asked for: a soak takes hours, a fuzz run is no measurement, the others need what CI has not. */
const onRequest = new Set([
  "soak",
  "fuzz",
  "parity",
  "peft",
  "memory",
  "llamacpp",
  "llamaserver",
  "engines",
  "mismatch",
  "onnx-sampler",
  "onnx-update",
  "onnx-providers"
])

const settings = process.argv.slice(2).filter((part) => part.includes("="))
const wanted = process.argv.slice(2).filter((part) => !part.includes("="))
for (const name of wanted) {
  if (!(name in parts)) throw new Error(`no part is called ${name}; there are ${Object.keys(parts).join(", ")}`)
}
console.log(`${cpus()[0]?.model ?? "unknown processor"}, ${availableParallelism()} cores, Node ${process.version}`)
for (const [name, run] of Object.entries(parts)) {
  if (wanted.length > 0 ? !wanted.includes(name) : onRequest.has(name)) continue
  console.log(`\n== ${name}`)
  run()
}
