/**
 * Decode and prefill of SmolLM2-135M in the sampler of ONNX Runtime beside the native kernel: tokens a second (best of
 * `runs`, engines in turn), seconds to build the graph and its session, memory.
 *
 *     npm run bench -- onnx-sampler model=<folder or file.gguf>
 *         [engines=native,inputs,f32,q8,q4,file] [runs=3] [threads=2] [batches=1,8,32,64] [provider=cpu] [profile=<prefix>]
 *
 * Each engine runs in a process of its own, so that its memory is its own.
 */
import { fork } from "node:child_process"
import { fileURLToPath } from "node:url"
import * as Native from "../../src/engines/internal/nativeModel.ts"
import { Device, type Provider } from "../../src/engines/onnx/worker/device.ts"
import { openSampler } from "../../src/engines/onnx/sampler/batchingSampler.ts"
import type { Form } from "../../src/engines/onnx/sampler/samplerWeights.ts"
import { Weights } from "../../src/engines/onnx/worker/weights.ts"

const settings: Readonly<Record<string, string | undefined>> = Object.fromEntries(
  process.argv.slice(2).map((part) => part.split("=", 2))
)
const model = settings["model"]
if (model === undefined) throw new Error("model=<a Hugging Face folder, or a GGUF file>")
const engines = (settings["engines"] ?? "native,inputs,f32,q8,q4").split(",")
const runs = Number(settings["runs"] ?? 3)
const threads = Number(settings["threads"] ?? 2)
const batches = (settings["batches"] ?? "1,8,32,64").split(",").map(Number)
const provider = (settings["provider"] ?? "cpu") as Provider
/** Tokens that a decode measurement draws for each sample after the first, of a prompt, of the prefill measurement. */
const [DECODED, PROMPT, PREFILL] = [64, 16, 256]
const megabytes = (bytes: number) => Math.round(bytes / 2 ** 20)

/** Samples `count` continuations, each of a prompt that nobody has seen. */
type Generate = (count: number, length: number, tokens: number) => Promise<void>

interface Opened {
  readonly generate: Generate
  readonly facts: Readonly<Record<string, number | string>>
}

const request = (seed: number, count: number, length: number, tokens: number): Native.SampleRequest => ({
  prompt: Uint32Array.from({ length }, (_, t) => 1000 + ((seed * 7919 + t * 31) % 20_000)),
  count,
  seed: BigInt(seed),
  stream: 0n,
  firstIndex: 0,
  maxTokens: tokens,
  temperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
  stopTokens: new Uint32Array(),
  stopStrings: [],
  forTraining: false
})

const nativeEngine = async (): Promise<Opened> => {
  const store = await Native.load().NativeModel.open(model, JSON.stringify({ threads }))
  let seed = 0
  return {
    generate: async (count, length, tokens) => {
      const one = () =>
        new Promise<void>((resolve, reject) => {
          store.sample(request(++seed, 1, length, tokens), (error, events) => {
            if (error !== null) reject(error)
            else if (events.done) resolve()
          })
        })
      await Promise.all(Array.from({ length: count }, one))
    },
    facts: {}
  }
}

const onnxEngine = async (kind: string): Promise<Opened> => {
  const store = await Native.load().NativeModel.open(
    model,
    JSON.stringify({ threads: 1, ...(kind === "file" ? { blocks: "file" } : {}) })
  )
  const profile = settings["profile"]
  const device = await Device.open({ providers: [provider], threads, ...(profile === undefined ? {} : { profile }) })
  const weights = await Weights.open(store, device)
  const accuracy = settings["accuracy"]
  const begun = performance.now()
  const sampler = await openSampler({
    weights,
    source: kind === "inputs" ? "inputs" : "constants",
    ...(kind === "inputs" ? {} : { form: kind as Form }),
    ...(accuracy === undefined ? {} : { accuracy: Number(accuracy) as 0 | 1 | 4 })
  })
  await sampler.prepare()
  const session = Math.round(performance.now() - begun)
  let seed = 0
  return {
    generate: async (count, length, tokens) => {
      const made = Array.from({ length: count }, () => {
        return new Promise<void>((resolve, reject) => {
          sampler.submit(++seed, request(seed, 1, length, tokens), (error, events) => {
            if (error !== null) reject(error)
            else if (events?.done === true) resolve()
          })
        })
      })
      while (sampler.busy()) await sampler.step()
      await Promise.all(made)
      if (profile !== undefined && length === PREFILL) await sampler.close()
    },
    facts: { "graph and session (ms)": session }
  }
}

const serve = async (kind: string): Promise<void> => {
  const opened = kind === "native" ? await nativeEngine() : await onnxEngine(kind)
  const seconds = async (count: number, length: number, tokens: number) => {
    const begun = performance.now()
    await opened.generate(count, length, tokens)
    return (performance.now() - begun) / 1000
  }
  process.on("message", async (what: number | "prefill" | "facts") => {
    if (what === "facts") {
      process.send!({ ...opened.facts, "memory (MB)": megabytes(process.memoryUsage.rss()) })
    } else if (what === "prefill") process.send!(PREFILL / (await seconds(1, PREFILL, 1)))
    else {
      const first = await seconds(what, PROMPT, 1)
      process.send!((what * DECODED) / ((await seconds(what, PROMPT, 1 + DECODED)) - first))
    }
  })
  process.send!("ready")
}

const measure = async (): Promise<void> => {
  const children = engines.map((kind) => ({
    kind,
    child: fork(fileURLToPath(import.meta.url), process.argv.slice(2), {
      env: { ...process.env, BENCH_ENGINE: kind },
      execArgv: process.execArgv
    })
  }))
  const answer = <A>(child: (typeof children)[number]["child"]) =>
    new Promise<A>((resolve, reject) => {
      const ended = (code: number | null) => reject(new Error(`an engine ended with ${code}`))
      child.once("exit", ended)
      child.once("message", (message) => {
        child.off("exit", ended)
        resolve(message as A)
      })
    })
  for (const { child } of children) await answer(child)
  const rows: Array<Record<string, number | string>> = []
  for (const what of [...batches, "prefill"] as const) {
    const best = new Map<string, number>()
    for (let run = 0; run < runs; run++) {
      for (const { child, kind } of children) {
        child.send(what)
        best.set(kind, Math.max(best.get(kind) ?? 0, await answer<number>(child)))
      }
    }
    const name = what === "prefill" ? `prefill ${PREFILL}` : `decode ${what}`
    rows.push({ "tokens/s": name, ...Object.fromEntries(Array.from(best, ([kind, rate]) => [kind, Math.round(rate)])) })
  }
  console.table(rows)
  for (const { child, kind } of children) {
    child.send("facts")
    console.log(kind, await answer<object>(child))
    child.disconnect()
  }
}

const engine = process.env["BENCH_ENGINE"]
await (engine === undefined ? measure() : serve(engine))
