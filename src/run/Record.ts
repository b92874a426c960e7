/**
 * The files of a run as schemas: the record of its parts (`config.json`), its position (`state.json`), and its
 * trajectories. Parts have an {@link Identity}: a name and settings. A resume with another part is refused by name.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { createHash } from "node:crypto"
import { createReadStream, readFileSync } from "node:fs"
import * as path from "node:path"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import * as Identity from "../data/Identity.ts"
import type { Source, TaskError, Tasks } from "../data/Task.ts"
import type { EngineError } from "../engine/EngineError.ts"
import { Policy, type PolicyInfo } from "../engine/Policy.ts"
import type { Environment } from "../rollout/Environment.ts"
import type { Part } from "../score/Reward.ts"
import { identityOf } from "../score/identityOf.ts"
import type { Tokenizer } from "../text/Tokenizer.ts"
import { type DataRecord, FORMAT, type RunRecord } from "./internal/record.ts"
import { RunError } from "./internal/RunError.ts"
import { Line, type TrajectoryRecord } from "./internal/trajectoryLines.ts"

export { DataRecord, FORMAT, RunRecord, State } from "./internal/record.ts"
export { TrajectoryRecord } from "./internal/trajectoryLines.ts"

/** The parts of a run, as a recipe has them. */
export interface Parts {
  /** The recipe: `grpo`, `sft`, or the name of your own loop. */
  readonly name: string
  readonly loss?: unknown
  readonly advantage?: unknown
  readonly aggregate?: Schema.Json
  readonly correction?: Schema.Json
  /** Settings of `Update.make`. A learning rate that is a function is recorded by its identity. */
  readonly update?: Readonly<Record<string, unknown>>
  readonly tasks?: Source | DataRecord
  readonly heldOut?: Source | DataRecord
  readonly environment?: Environment<any, any>
  readonly reward?: Part<any, any>
  readonly tokenizer?: Tokenizer
  /** Everything else that changes results. */
  readonly settings?: Readonly<Record<string, unknown>>
}

/**
 * The record of a run with these parts, trained by the policy in context.
 *
 * @example
 * ```ts
 * const record = yield* Record.make({ name: "mine", loss, tasks, reward, tokenizer, settings: { seed: 1, steps: 100 } })
 * const trainer = yield* Trainer.open({ directory: "runs/mine", record, participants: [Trainer.policy] })
 * ```
 */
export const make = Effect.fn("Record.make")(function* (
  parts: Parts
): Effect.fn.Return<RunRecord, TaskError | EngineError, Policy> {
  const policy = yield* Policy
  const tasks = yield* dataOf(parts.tasks)
  const heldOut = parts.heldOut === parts.tasks ? tasks : yield* dataOf(parts.heldOut)
  const present = <K extends string, A>(key: K, value: A | undefined) =>
    (value === undefined ? {} : { [key]: value }) as { readonly [P in K]?: A }
  const identity = (value: unknown) => (value === undefined ? undefined : Identity.of(value))
  return {
    format: FORMAT,
    model: modelOf(policy.info),
    adapter: yield* adapterOf(policy),
    algorithm: {
      name: parts.name,
      ...present("loss", identity(parts.loss)),
      ...present("advantage", identity(parts.advantage)),
      ...present("aggregate", parts.aggregate),
      ...present("correction", parts.correction),
      ...present("update", parts.update === undefined ? undefined : updateOf(parts.update))
    },
    data: {
      ...present("tasks", tasks),
      ...present("heldOut", heldOut),
      ...present("environment", parts.environment === undefined ? undefined : environmentOf(parts.environment)),
      ...present("reward", parts.reward === undefined ? undefined : identityOf(parts.reward)),
      ...present("tokenizer", parts.tokenizer === undefined ? undefined : tokenizerOf(parts.tokenizer))
    },
    settings: Identity.make("settings", parts.settings).settings,
    versions: versions()
  }
})

/** The trajectories of a file of a run, one after the other. */
export const readTrajectories = (file: string): Stream.Stream<TrajectoryRecord, RunError> =>
  Stream.fromAsyncIterable(
    createInterface({ input: createReadStream(file), crlfDelay: Number.POSITIVE_INFINITY }),
    (cause) => new RunError({ operation: "read", path: file, detail: String(cause) })
  ).pipe(
    Stream.zipWithIndex,
    Stream.mapEffect(([line, index]) =>
      decodeLine(line).pipe(
        Effect.mapError(
          (error) => new RunError({ operation: "decode", path: `${file}, line ${index + 1}`, detail: error.message })
        )
      )
    )
  )

const decodeLine = Schema.decodeUnknownEffect(Line)

/** Limits change episodes as much as the environment's own settings do. */
const environmentOf = ({ maxTokens, maxTurns, name, settings, stop }: Environment<any, any>): Identity.Identity =>
  Identity.make(name, { ...settings, maxTokens, maxTurns, stop })

const modelOf = (info: PolicyInfo): RunRecord["model"] => ({
  name: info.model?.name ?? "unnamed",
  // An engine that does not know its files is known by its shape.
  hash: info.model?.hash ?? `${info.parameters} parameters`,
  dtype: info.dtype,
  engine: info.engine
})

/** Settings of the adapter that is trained. */
const adapterOf = Effect.fnUntraced(function* (policy: Policy["Service"]) {
  const { info } = policy
  if (info.adapter === undefined) return null
  const own = (yield* policy.adapters.list).find(({ name }) => name === info.adapter)
  return own === undefined ? null : Identity.make("adapter", own.config).settings
})

const updateOf = ({ learningRate, ...rest }: Readonly<Record<string, unknown>>): Schema.JsonObject =>
  Identity.make("update", {
    ...rest,
    ...(learningRate === undefined ? {} : { learningRate: Identity.of(learningRate) })
  }).settings

const dataOf = (data: Source | DataRecord | undefined): Effect.Effect<DataRecord | undefined, TaskError> => {
  if (data === undefined || !("load" in data)) return Effect.succeed(data)
  return Effect.map(data.load, (tasks) => ({ name: data.name, ...contentOf(tasks) }))
}

/** Count and hash of ids and prompts; nothing of an endless source. */
const contentOf = (tasks: Tasks): Omit<DataRecord, "name"> => {
  if (!Number.isFinite(tasks.length)) return {}
  const hash = createHash("sha256")
  for (let index = 0; index < tasks.length; index++) {
    const task = tasks.at(index)
    if (task === undefined) continue
    const prompt = ArrayBuffer.isView(task.prompt) ? Array.from(task.prompt) : task.prompt
    hash.update(`${JSON.stringify([task.id, prompt])}\n`)
  }
  return { count: tasks.length, sha256: hash.digest("hex") }
}

/** Tokens whose bytes stand for a vocabulary. */
const SAMPLED = 4096

const tokenizerOf = (tokenizer: Tokenizer): Identity.Identity => {
  const hash = createHash("sha256")
  const stride = Math.max(1, Math.floor(tokenizer.vocabularySize / SAMPLED))
  for (let token = 0; token < tokenizer.vocabularySize; token += stride) hash.update(tokenizer.bytes(token)).update("|")
  return Identity.make(tokenizer.name, { vocabularySize: tokenizer.vocabularySize, sha256: hash.digest("hex") })
}

let known: RunRecord["versions"] | undefined

/** Versions of this package, Node and the addon, which is the package's own. */
const versions = (): RunRecord["versions"] =>
  (known ??= { quintain: packageVersion(), node: process.version, addon: packageVersion() })

const decodeManifest = Schema.decodeUnknownSync(
  Schema.fromJsonString(Schema.Struct({ name: Schema.String, version: Schema.String }))
)

/** The nearest package.json above this file, in src and in dist alike. */
const packageVersion = (): string => {
  for (
    let folder = path.dirname(fileURLToPath(import.meta.url));
    folder !== path.dirname(folder);
    folder = path.dirname(folder)
  ) {
    try {
      const { name, version } = decodeManifest(readFileSync(path.join(folder, "package.json"), "utf8"))
      if (name === "quintain") return version
    } catch {
      // Another folder, or one whose package.json only says how its files are read.
    }
  }
  return "unknown"
}
