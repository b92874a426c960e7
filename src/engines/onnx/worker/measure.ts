/**
 * Measures an execution provider on this machine: the speed of products and engines, and the nodes that it really
 * computes.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { Forest } from "../../../engine/Policy.ts"
import { load, type NativeModel, type SampleRequest } from "../../internal/nativeModel.ts"
import { Device, type DeviceOptions, type Provider } from "./device.ts"
import { EngineFailure } from "./failure.ts"
import { Graph } from "../graph/graph.ts"
import { WorkerPolicy } from "../policy/workerPolicy.ts"
import type { WorkerSettings } from "./protocol.ts"
import { openSampler, type Sampler } from "../sampler/batchingSampler.ts"
import { Weights } from "./weights.ts"

/** Placement of a graph's nodes on providers. */
export interface GraphPlacement {
  /**
   * `sampler`; for an update `embed`, `forward`, `head`, `headBackward`, `backward` (of one layer), `squares`, `adamW`,
   * ...
   */
  readonly name: string
  /** Number of nodes that each provider computed, by the runtime's names. */
  readonly nodes: Readonly<Record<string, number>>
  /** Operators that ran on the processor instead, with their counts. */
  readonly fellBack: Readonly<Record<string, number>>
  /** Copies between host and device that the runtime inserted. */
  readonly copies: number
}

/** Settings of one process that measures one provider. */
export interface Measurement {
  readonly provider: Provider
  readonly threads?: number
  readonly deviceBytes?: number
  /** If given, measures the engines too, and the placement of their nodes. */
  readonly store?: WorkerSettings["store"]
}

export interface Measured {
  /** Billions of operations a second in a product of square matrices that stay on the device. */
  readonly gflops: number
  readonly engines?: {
    readonly graphs: ReadonlyArray<GraphPlacement>
    /** 8 samples of one prompt. */
    readonly decodeTokensPerSecond: number
    /** Log-probabilities, gradient and step of 8 completions on one prompt. */
    readonly updateTokensPerSecond: number
  }
}

export const measure = async (settings: Measurement): Promise<Measured> => {
  const gflops = await products(settings)
  if (settings.store === undefined) return { gflops }
  const store = await openStore(settings.store)
  try {
    const graphs = await placements(settings, store)
    return { gflops, engines: { graphs, ...(await timed(settings, store)) } }
  } finally {
    await store.close()
  }
}

const optionsOf = ({ deviceBytes, provider, threads }: Measurement): DeviceOptions => ({
  providers: [provider],
  ...(threads === undefined ? {} : { threads }),
  ...(deviceBytes === undefined ? {} : { deviceBytes })
})

const openStore = ({ path, settings }: WorkerSettings["store"]): Promise<NativeModel> => {
  const { NativeModel } = load()
  return path === undefined
    ? NativeModel.create(JSON.stringify({ ...settings, threads: 1 }))
    : NativeModel.open(path, JSON.stringify({ ...settings, threads: 1 }))
}

/** Sizes of the matrices. Larger ones are tried as long as that is fast. */
const sides = [128, 256, 512, 1024, 2048]
const inARow = 4
const enoughSeconds = 0.1

const products = async (settings: Measurement): Promise<number> => {
  const device = await Device.open(optionsOf(settings))
  try {
    let best = 0
    for (const side of sides) {
      const seconds = await product(device, side)
      best = Math.max(best, (inARow * 2 * side ** 3) / seconds / 1e9)
      if (seconds > enoughSeconds) break
    }
    return best
  } finally {
    await device.close()
  }
}

/** Measures the seconds of products of a matrix whose square is itself, so that the result can be checked. */
const product = async (device: Device, side: number): Promise<number> => {
  const graph = new Graph()
  const x = graph.input("x", [side, side])
  let y = x
  for (let i = 0; i < inARow; i++) y = graph.matmul(y, x)
  graph.output("y", graph.reduce("ReduceMax", graph.transpose(graph.reduce("ReduceMax", y), [1, 0])))
  const session = await device.session(graph.build(), { host: ["y"] })
  const matrix = await device.upload(new Float32Array(side * side).fill(1 / side), [side, side])
  try {
    const times: Array<number> = []
    while (times.length < 4 && (times.length < 2 || times.at(-1)! < enoughSeconds)) {
      const begun = performance.now()
      const { y } = await session.run({ x: matrix })
      times.push((performance.now() - begun) / 1000)
      const value = (y!.data as Float32Array)[0]!
      if (Math.abs(value * side - 1) < 1e-3) continue
      throw new EngineFailure("PROVIDER", `its products are wrong: ${value}; expected ${1 / side}`)
    }
    return Math.min(...times.slice(1))
  } finally {
    device.free(matrix)
    await session.release()
  }
}

interface Opened {
  readonly policy: WorkerPolicy
  readonly sampler: Sampler
  readonly weights: Weights
}

const withEngines = async <A>(
  store: NativeModel,
  options: DeviceOptions,
  use: (engines: Opened) => Promise<A>
): Promise<A> => {
  const device = await Device.open(options)
  try {
    const weights = await Weights.open(store, device)
    const policy = await WorkerPolicy.open(weights)
    const sampler = await openSampler({ weights, source: "inputs" })
    return await use({ policy, sampler, weights })
  } finally {
    await device.close()
  }
}

/** Runs some tokens through every verb, while the runtime records where each node ran. */
export const placements = async (settings: Measurement, store: NativeModel): Promise<ReadonlyArray<GraphPlacement>> => {
  const directory = mkdtempSync(join(tmpdir(), "quintain-profile-"))
  try {
    const options = { ...optionsOf(settings), profile: join(directory, "graph-") }
    await withEngines(store, options, async (engines) => {
      await update(engines, batch(engines, { prompt: 4, completion: 4, count: 2 }))
      await decode(engines, { prompt: 4, tokens: 4, count: 2 })
    })
    return readProfiles(directory)
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

/** Reads the runtime's profiles in a folder, `graph-<name>_<date>.json`; those of one name are added up. */
export const readProfiles = (directory: string): ReadonlyArray<GraphPlacement> => {
  const graphs = new Map<string, Map<string, { readonly provider: string; readonly op: string }>>()
  for (const file of readdirSync(directory)) {
    const name = /^graph-([a-zA-Z]+)/.exec(file)?.[1]
    if (name === undefined || name === "other") continue
    const nodes = graphs.get(name) ?? new Map<string, { readonly provider: string; readonly op: string }>()
    graphs.set(name, nodes)
    for (const event of JSON.parse(readFileSync(join(directory, file), "utf8")) as ReadonlyArray<ProfileEvent>) {
      const provider = event.args?.provider
      if (event.cat !== "Node" || provider === undefined) continue
      // A node is the same in every run of its graph.
      nodes.set(event.name, { provider, op: event.args?.op_name ?? event.name })
    }
  }
  return Array.from(graphs, ([name, nodes]) => {
    const computing = [...nodes.values()].filter(({ op }) => !op.startsWith("Memcpy"))
    const providers = count(computing.map(({ provider }) => provider))
    const onProcessor = computing.filter(({ provider }) => provider === processor).map(({ op }) => op)
    const alone = Object.keys(providers).every((provider) => provider === processor)
    return {
      name,
      nodes: providers,
      fellBack: alone ? {} : count(onProcessor),
      copies: nodes.size - computing.length
    }
  })
}

const processor = "CPUExecutionProvider"

interface ProfileEvent {
  readonly cat: string
  readonly name: string
  readonly args?: { readonly provider?: string; readonly op_name?: string }
}

const count = (names: ReadonlyArray<string>): Record<string, number> => {
  const counts: Record<string, number> = {}
  for (const name of names) counts[name] = (counts[name] ?? 0) + 1
  return counts
}

const timed = (settings: Measurement, store: NativeModel) =>
  withEngines(store, optionsOf(settings), async (engines) => {
    const drawing = { prompt: 64, tokens: 32, count: 8 }
    const forest = batch(engines, { prompt: 64, completion: 32, count: 8 })
    // The first call of each makes the graphs.
    await update(engines, forest)
    const updateSeconds = await seconds(() => update(engines, forest))
    await decode(engines, drawing)
    const decodeSeconds = await seconds(() => decode(engines, drawing))
    return {
      updateTokensPerSecond: forest.tokens.length / updateSeconds,
      decodeTokensPerSecond: (drawing.tokens * drawing.count) / decodeSeconds
    }
  })

const seconds = async (run: () => Promise<void>): Promise<number> => {
  const begun = performance.now()
  await run()
  return (performance.now() - begun) / 1000
}

interface Sizes {
  readonly prompt: number
  readonly completion: number
  readonly count: number
}

/** Completions of one prompt, every token of them a target. */
const batch = ({ weights }: Opened, { completion, count, prompt }: Sizes): Forest => {
  const { vocabulary } = weights.shape
  const total = prompt + count * completion
  const tokens = Uint32Array.from({ length: total }, (_, i) => (i * 7 + 1) % vocabulary)
  const starts = Array.from({ length: count }, (_, i) => prompt + i * completion)
  const positions = starts.flatMap((start) => [
    prompt - 1,
    ...Array.from({ length: completion - 1 }, (_, i) => start + i)
  ])
  return {
    tokens,
    segmentStart: Uint32Array.of(0, ...starts),
    segmentLength: Uint32Array.of(prompt, ...starts.map(() => completion)),
    segmentParent: Int32Array.of(-1, ...starts.map(() => 0)),
    targetPosition: Uint32Array.from(positions),
    targetToken: Uint32Array.from(starts.flatMap((start) => [...tokens.subarray(start, start + completion)]))
  }
}

const update = async ({ policy }: Opened, forest: Forest): Promise<void> => {
  const forward = await policy.forward(forest, { temperature: 1, entropy: false, keep: true, weights: "policy" })
  await policy.backward(forward.id, new Float32Array(forest.targetToken.length).fill(-1e-3), null)
  const adam = { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0, maxGradNorm: 1 }
  await policy.step({ learningRate: 1e-6, ...adam })
}

const decode = async (
  { sampler, weights }: Opened,
  sizes: { readonly prompt: number; readonly tokens: number; readonly count: number }
): Promise<void> => {
  const request: SampleRequest = {
    prompt: Uint32Array.from({ length: sizes.prompt }, (_, i) => (i + 1) % weights.shape.vocabulary),
    count: sizes.count,
    seed: 1n,
    stream: 1n,
    firstIndex: 0,
    maxTokens: sizes.tokens,
    temperature: 1,
    topK: 0,
    topP: 1,
    minP: 0,
    stopTokens: new Uint32Array(),
    stopStrings: [],
    forTraining: false
  }
  let failure: Error | undefined
  sampler.submit(1, request, (error) => {
    if (error !== null) failure = error
  })
  while (sampler.busy()) await sampler.step()
  if (failure !== undefined) throw failure
}
