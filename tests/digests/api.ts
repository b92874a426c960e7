/**
 * The calls whose names or forms may change while the numbers must not. Scenarios and digests reach them only through this
 * file, so that a change of names is a change of this file alone.
 */
import * as fs from "node:fs/promises"
import * as path from "node:path"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { Engine, PolicyNative, Progress, Record, type Sampler, type Trainer, WorkerPool } from "quintain"

/** Policy and sampler on one engine. */
export const engine = Engine.layer
export type EngineOptions = Engine.EngineOptions

/** Where pooled verifiers run. */
export const verifierPool = WorkerPool.layer

/** A completion as drawn from weights of another version. */
export const drawnFrom = (version: number, completion: Sampler.Completion): Sampler.Completion => ({
  ...completion,
  versions: new Uint32Array(completion.tokens.length).fill(version)
})

/** A native engine alone, for a second program that reads the first one's weights. */
export const nativeEngine = PolicyNative.layer

/** Threads of every scenario. Their number changes no result of the native engine. */
export const threads = 2

/** Options that every run of a scenario shares. */
export const quiet = { progress: Progress.silent } as const

/** Ends this process after a step, as an out-of-memory killer would. */
export const killedAfter = (step: number | undefined) =>
  step === undefined
    ? {}
    : {
        onStep: (event: Trainer.StepEvent): void => {
          if (event.step === step) process.kill(process.pid, "SIGKILL")
        }
      }

/** The part of a trajectory that a digest covers. */
export interface Projection {
  readonly task: string
  readonly index: number
  readonly stopReason: string
  /** Null: unscorable. */
  readonly reward: number | null
  /** Null: drawn, not trained on. An array: one number per policy token. */
  readonly advantage: number | ReadonlyArray<number> | null
  /** Version of the weights that sampled the first token. */
  readonly version: number
  /** All tokens of the episode. */
  readonly tokens: Uint32Array
  /** 1 where the policy sampled the token. */
  readonly sampled: Uint8Array
  /** Log-probabilities of the sampled tokens, in their order. */
  readonly logprobs: Float32Array
}

const POLICY = 2

/** Every episode of the scenarios has one branch. */
const project = ({ advantage, branches, ...rest }: Record.TrajectoryRecord): Projection => {
  const [{ logprobs, producer, tokens, versions }] = branches
  const sampled = Uint8Array.from(producer, (by) => Number(by === POLICY))
  return {
    task: rest.task,
    index: rest.index,
    stopReason: rest.stopReason,
    reward: rest.reward,
    advantage: typeof advantage === "object" && advantage !== null ? Array.from(advantage) : advantage,
    version: versions[sampled.indexOf(1)] ?? 0,
    tokens,
    sampled,
    logprobs: logprobs.filter((_, i) => sampled[i] === 1)
  }
}

/** The trajectories that a run recorded: for each step all of them, in the order of the record. */
export const readRecords = async (
  directory: string
): Promise<ReadonlyArray<ReadonlyArray<Record.TrajectoryRecord>>> => {
  const folder = path.join(directory, "trajectories")
  const names = (await fs.readdir(folder)).filter((name) => name.endsWith(".jsonl")).toSorted()
  return Promise.all(
    names.map((name) => Effect.runPromise(Stream.runCollect(Record.readTrajectories(path.join(folder, name)))))
  )
}

/** The same, as a digest sees them. */
export const readTrajectories = async (directory: string): Promise<ReadonlyArray<ReadonlyArray<Projection>>> =>
  (await readRecords(directory)).map((trajectories) => trajectories.map(project))

/** Names that depend on the clock. */
const CLOCK = /^step_time$|^timing_s\/|^busy_s\/|latency_p\d+$|wait_p\d+$/

/** Names that today's expected digests do not know: a metric that is added goes here, so the others stay compared. */
const ADDED: ReadonlySet<string> = new Set(["update/recorded_share"])

/** The metrics of each step, by name, without those of the clock. */
export const readMetrics = async (
  directory: string
): Promise<ReadonlyArray<ReadonlyArray<readonly [name: string, value: unknown]>>> =>
  (await fs.readFile(path.join(directory, "metrics.jsonl"), "utf8"))
    .trimEnd()
    .split("\n")
    .map((line) =>
      Object.entries(JSON.parse(line) as { readonly [name: string]: unknown })
        .filter(([name]) => !CLOCK.test(name) && !ADDED.has(name))
        .toSorted(([a], [b]) => (a < b ? -1 : 1))
    )

/** Weights and optimiser state of the newest checkpoint: its files of tensors, by name. */
export const readWeights = async (directory: string): Promise<ReadonlyArray<readonly [name: string, Uint8Array]>> => {
  const checkpoints = path.join(directory, "checkpoints")
  const newest = (await fs.readdir(checkpoints))
    .filter((name) => /^step-\d+$/.test(name))
    .toSorted()
    .at(-1)
  if (newest === undefined) throw new Error(`digests: ${directory} has no checkpoint; expected one at its last step`)
  const folder = path.join(checkpoints, newest)
  const names = (await fs.readdir(folder)).filter((name) => name.endsWith(".safetensors")).toSorted()
  return Promise.all(names.map(async (name) => [name, await fs.readFile(path.join(folder, name))] as const))
}
