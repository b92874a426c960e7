/**
 * The durable record of a run, and what resume starts from. A run directory holds
 *
 *     config.json                     what was asked for
 *     metrics.jsonl                   one line a step
 *     trajectories/step-000012.jsonl  every trajectory of a step with its scores, reasons and advantage
 *     checkpoints/step-000010/        weights, optimiser state and `state.json`, whole or absent
 *     skipped/step-000007.json        the batch of a step whose loss or gradient was not finite
 *
 * Everything is written to a temporary name and renamed; `metrics.jsonl` is appended to, and a resumed run cuts it (and
 * the trajectories) back to its checkpoint, so a killed run leaves the record that an uninterrupted one would.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs/promises"
import * as path from "node:path"
import type { ScoredGroup } from "../score/Reward.ts"
import { hasTag } from "../internal/hasTag.ts"

export class RunError extends Schema.TaggedError<RunError>()("RunError", {
  operation: Schema.String,
  path: Schema.String,
  detail: Schema.String
}) {
  override get message(): string {
    return `run: ${this.operation} ${this.path}: ${this.detail}`
  }
}

/** Everything besides the weights that the next step depends on. `custom` is for curricula and baselines: plain JSON. */
export const Position = Schema.Struct({
  /** Steps done. */
  step: Schema.Int,
  /** Tasks drawn from the source. */
  cursor: Schema.Int,
  /** Policy and prompt tokens seen, for `num_tokens`. */
  tokens: Schema.Int,
  custom: Schema.Unknown
})
export type Position = typeof Position.Type

const decodePosition = Schema.decodeUnknownEffect(Schema.fromJsonString(Position))

export interface RunOptions {
  readonly directory: string
  /** Plain JSON. A resumed run must have the same; `mayChange` names top-level fields that need not be. */
  readonly config: Readonly<Record<string, unknown>>
  readonly mayChange?: ReadonlyArray<string>
  /** Checkpoints to keep. Default 2. */
  readonly keep?: number
}

/** A group of a step; without advantages when it was drawn but not trained on. */
export interface RecordedGroup extends ScoredGroup {
  readonly advantages?: ReadonlyArray<number | Float64Array>
}

export interface Run {
  readonly directory: string
  /** Where the run was left, and the directory of its weights; undefined when it is new. */
  readonly resumed: { readonly position: Position; readonly weights: string } | undefined
  readonly metrics: (record: Readonly<Record<string, number | string>>) => Effect.Effect<void, RunError>
  readonly trajectories: (step: number, groups: ReadonlyArray<RecordedGroup>) => Effect.Effect<void, RunError>
  /** Keeps the batch of a step that was skipped. */
  readonly skipped: (step: number, batch: unknown) => Effect.Effect<void, RunError>
  /** `save` writes the weights into the directory it is given. */
  readonly checkpoint: <E, R>(
    position: Position,
    save: (directory: string) => Effect.Effect<void, E, R>
  ) => Effect.Effect<void, RunError | E, R>
}

const stepName = (step: number): string => `step-${String(step).padStart(6, "0")}`
const stepOf = (name: string): number => Number(/^step-(\d+)(\.jsonl?)?$/.exec(name)?.[1] ?? Number.NaN)

const io = <A>(operation: string, file: string, f: () => Promise<A>): Effect.Effect<A, RunError> =>
  Effect.tryPromise({
    try: f,
    catch: (cause) => new RunError({ operation, path: file, detail: String(cause) })
  })

const writeWhole = (file: string, text: string): Effect.Effect<void, RunError> =>
  io("write", file, async () => {
    await fs.writeFile(`${file}.tmp`, text)
    await fs.rename(`${file}.tmp`, file)
  })

/** A checkpoint must be on the disk before its rename makes it the newest; the step records need not. */
const sync = async (file: string): Promise<void> => {
  const handle = await fs.open(file, "r")
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

const readIfThere = (file: string): Effect.Effect<string | undefined, RunError> =>
  io("read", file, () =>
    fs.readFile(file, "utf8").catch((cause: unknown) => {
      if (hasTag(cause, "code", "ENOENT")) return undefined
      throw cause
    })
  )

/**
 * Opens a run directory: makes it, or resumes from its newest whole checkpoint. The scope holds a lock, so two processes
 * cannot write one run; the lock of a process that was killed is taken over.
 *
 * @example
 * ```ts
 * const run = yield* Run.open({ directory: "runs/tool-caller", config: { seed: 1 } })
 * const step = run.resumed?.position.step ?? 0
 * ```
 */
export const open = Effect.fn("Run.open")(function* (
  options: RunOptions
): Effect.fn.Return<Run, RunError, Scope.Scope> {
  const at = (...parts: ReadonlyArray<string>): string => path.join(options.directory, ...parts)
  for (const folder of ["trajectories", "checkpoints"]) {
    yield* io("create", at(folder), () => fs.mkdir(at(folder), { recursive: true }))
  }
  yield* lock(at("lock"))

  const saved = yield* readIfThere(at("config.json"))
  if (saved !== undefined) yield* sameConfig(at("config.json"), saved, options)
  yield* writeWhole(at("config.json"), `${JSON.stringify(options.config, undefined, 2)}\n`)

  const checkpoints = yield* listSteps(at("checkpoints"))
  const latest = checkpoints.at(-1)
  const resumed =
    latest === undefined
      ? undefined
      : {
          position: yield* readPosition(at("checkpoints", stepName(latest), "state.json")),
          weights: at("checkpoints", stepName(latest))
        }
  yield* cutBack(at, resumed?.position.step ?? 0)

  return {
    directory: options.directory,
    resumed,
    metrics: (record) =>
      io("append to", at("metrics.jsonl"), () => fs.appendFile(at("metrics.jsonl"), `${JSON.stringify(record)}\n`)),
    trajectories: (step, groups) =>
      writeWhole(at("trajectories", `${stepName(step)}.jsonl`), groups.flatMap(trajectoryLines).join("")),
    skipped: (step, batch) =>
      io("create", at("skipped"), () => fs.mkdir(at("skipped"), { recursive: true })).pipe(
        Effect.andThen(writeWhole(at("skipped", `${stepName(step)}.json`), JSON.stringify(batch)))
      ),
    checkpoint: Effect.fnUntraced(function* (position, save) {
      const final = at("checkpoints", stepName(position.step))
      const draft = `${final}.tmp`
      yield* io("clear", draft, () => fs.rm(draft, { recursive: true, force: true }))
      yield* io("create", draft, () => fs.mkdir(draft, { recursive: true }))
      yield* save(draft)
      yield* writeWhole(path.join(draft, "state.json"), JSON.stringify(position))
      yield* io("sync", draft, () => sync(path.join(draft, "state.json")))
      yield* io("clear", final, () => fs.rm(final, { recursive: true, force: true }))
      yield* io("rename", final, () => fs.rename(draft, final))
      const steps = yield* listSteps(at("checkpoints"))
      for (const old of steps.slice(0, -(options.keep ?? 2))) {
        const folder = at("checkpoints", stepName(old))
        yield* io("remove", folder, () => fs.rm(folder, { recursive: true, force: true }))
      }
    })
  }
})

const readPosition = (file: string): Effect.Effect<Position, RunError> =>
  io("read", file, () => fs.readFile(file, "utf8")).pipe(
    Effect.flatMap((text) =>
      decodePosition(text).pipe(
        Effect.mapError((error) => new RunError({ operation: "decode", path: file, detail: error.message }))
      )
    )
  )

/** Whole checkpoints only: a `.tmp` folder is what a kill left behind. */
const listSteps = (folder: string): Effect.Effect<ReadonlyArray<number>, RunError> =>
  io("list", folder, async () =>
    (await fs.readdir(folder))
      .map(stepOf)
      .filter(Number.isInteger)
      .toSorted((a, b) => a - b)
  )

const sameConfig = Effect.fnUntraced(function* (file: string, saved: string, options: RunOptions) {
  const before = yield* Effect.try({
    try: () => JSON.parse(saved) as Record<string, unknown>,
    catch: (cause) => new RunError({ operation: "decode", path: file, detail: String(cause) })
  })
  const now = JSON.parse(JSON.stringify(options.config)) as Record<string, unknown>
  for (const field of new Set([...Object.keys(before), ...Object.keys(now)])) {
    if (options.mayChange?.includes(field) === true) continue
    const [was, is] = [JSON.stringify(before[field]), JSON.stringify(now[field])]
    if (was !== is) {
      return yield* new RunError({
        operation: "resume",
        path: file,
        detail: `\`${field}\` was ${was} and is now ${is}; restore it, or start a run in another directory`
      })
    }
  }
})

/** Forgets what came after the checkpoint: it will be done again, identically. */
const cutBack = Effect.fnUntraced(function* (at: (...parts: ReadonlyArray<string>) => string, step: number) {
  const metrics = yield* readIfThere(at("metrics.jsonl"))
  if (metrics !== undefined) {
    const kept = metrics.split("\n").filter((line) => {
      try {
        return (JSON.parse(line) as { readonly step: number }).step <= step
      } catch {
        return false // the empty last line, or one that a kill cut short
      }
    })
    yield* writeWhole(at("metrics.jsonl"), kept.map((line) => `${line}\n`).join(""))
  }
  for (const name of yield* io("list", at("trajectories"), () => fs.readdir(at("trajectories")))) {
    if (!(stepOf(name) <= step)) yield* io("remove", name, () => fs.rm(at("trajectories", name), { force: true }))
  }
})

const lock = (file: string): Effect.Effect<void, RunError, Scope.Scope> =>
  Effect.acquireRelease(
    io("lock", file, async () => {
      for (let attempt = 0; attempt < 2; attempt++) {
        try {
          await fs.writeFile(file, String(process.pid), { flag: "wx" })
          return
        } catch (cause) {
          if (!hasTag(cause, "code", "EEXIST")) throw cause
          const holder = Number(await fs.readFile(file, "utf8"))
          if (isAlive(holder)) {
            throw new Error(`process ${holder} is writing this run; stop it, or choose another directory`, { cause })
          }
          await fs.rm(file, { force: true })
        }
      }
      throw new Error("another process took the lock over")
    }),
    () => Effect.promise(() => fs.rm(file, { force: true }))
  )

const isAlive = (pid: number): boolean => {
  if (!Number.isInteger(pid) || pid <= 0) return false
  try {
    process.kill(pid, 0)
    return true
  } catch (cause) {
    return hasTag(cause, "code", "EPERM")
  }
}

const trajectoryLines = (group: RecordedGroup): ReadonlyArray<string> =>
  group.trajectories.map(({ metrics, outcomes, reward, trajectory }, i) => {
    const advantage = group.advantages?.[i]
    return `${JSON.stringify({
      task: trajectory.taskId,
      index: trajectory.index,
      reward: reward ?? null,
      advantage: typeof advantage === "object" ? Array.from(advantage) : (advantage ?? null),
      outcomes,
      metrics: { ...trajectory.metrics, ...metrics },
      stopReason: trajectory.stopReason,
      text: trajectory.text,
      promptLength: trajectory.promptLength,
      branches: trajectory.branches.map(({ logprobs, parent, producer, tokens, versions }) => ({
        parent,
        tokens: Array.from(tokens),
        producer: Array.from(producer),
        logprobs: Array.from(logprobs),
        versions: Array.from(versions)
      })),
      turns: trajectory.turns,
      seconds: trajectory.seconds,
      info: trajectory.info
    })}\n`
  })
