/**
 * The durable record of a run, and what resume starts from. A run directory holds
 *
 *     config.json                     the record: model, algorithm, data, settings, versions (`Record.RunRecord`)
 *     metrics.jsonl                   one line a step; `Metrics` lists their names
 *     trajectories/step-000012.jsonl  every trajectory of a step with its scores and advantage (`Record.readTrajectories`)
 *     checkpoints/step-000010/        the policy's files, `state.json`, and a folder for each other participant
 *     skipped/step-000007.json        the batch of a step whose loss or gradient was not finite
 *     reference/                      weights that training began with, if the loss measures a distance from them
 *
 * Everything is written to a temporary name and renamed. `metrics.jsonl` is appended to. A resumed run cuts it (and the
 * trajectories) back to its checkpoint, so a killed run leaves the record that an uninterrupted one would.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as fs from "node:fs/promises"
import * as path from "node:path"
import { difference, opaque } from "./internal/compare.ts"
import { io, lock, readIfThere, sync, writeFolder, writeWhole } from "./internal/files.ts"
import { FORMAT, type RunRecord, State } from "./internal/record.ts"
import { RunError } from "./internal/RunError.ts"
import { type RecordedGroup, trajectoryLines } from "./internal/trajectoryLines.ts"

export { RunError } from "./internal/RunError.ts"
export type { RecordedGroup } from "./internal/trajectoryLines.ts"

export interface RunOptions {
  readonly directory: string
  /** A resumed run must have the same. Versions and the model's name may differ. */
  readonly record: RunRecord
  /** Other fields that may differ, by their names in the record: `settings.steps`, `algorithm.update`. */
  readonly mayChange?: ReadonlyArray<string>
  /** Checkpoints to keep. Default 2. */
  readonly keep?: number
}

/** A checkpoint on the disk. */
export interface Resumed {
  readonly state: State
  /** The policy's files are in it. */
  readonly checkpoint: string
}

export interface Run {
  readonly directory: string
  /** The checkpoint that the run continues from; undefined if the run is new. */
  readonly resumed: Resumed | undefined
  /** Parts of the record that a resume cannot compare, because they are functions without an identity. */
  readonly opaque: ReadonlyArray<string>
  readonly metrics: (record: Readonly<Record<string, number | string>>) => Effect.Effect<void, RunError>
  readonly trajectories: (step: number, groups: ReadonlyArray<RecordedGroup>) => Effect.Effect<void, RunError>
  /** Keeps the batch of a step that was skipped. */
  readonly skipped: (step: number, batch: unknown) => Effect.Effect<void, RunError>
  /** `save` fills the folder of the checkpoint, whose path is the result. */
  readonly checkpoint: <E, R>(
    state: State,
    save: (directory: string) => Effect.Effect<void, E, R>
  ) => Effect.Effect<string, RunError | E, R>
  /** Replaces the state of a checkpoint that is already there. */
  readonly amend: (state: State) => Effect.Effect<void, RunError>
  /** A folder that is filled once, when the run is made; later it is there. */
  readonly once: <E, R>(
    name: string,
    save: (directory: string) => Effect.Effect<void, E, R>
  ) => Effect.Effect<string, RunError | E, R>
}

const decodeState = Schema.decodeUnknownEffect(Schema.fromJsonString(State))

/** A release does not end a run, and the weights' hash says more than their path. */
const mayAlwaysChange = ["versions", "model.name"]

const stepName = (step: number): string => `step-${String(step).padStart(6, "0")}`
const stepOf = (name: string): number => Number(/^step-(\d+)(\.jsonl?)?$/.exec(name)?.[1] ?? Number.NaN)

/**
 * Opens a run directory: makes it, or resumes from its newest whole checkpoint. The scope holds a lock, so two processes
 * cannot write one run; the lock of a process that was killed is taken over. `Trainer.open` calls it.
 *
 * @example
 * ```ts
 * const run = yield* Run.open({ directory: "runs/tool-caller", record })
 * const step = run.resumed?.state.step ?? 0
 * ```
 */
export const open = Effect.fn("Run.open")(function* (
  options: RunOptions
): Effect.fn.Return<Run, RunError, Scope.Scope> {
  const at = (...parts: ReadonlyArray<string>): string => path.join(options.directory, ...parts)
  yield* io("create", options.directory, () => fs.mkdir(options.directory, { recursive: true }))
  yield* lock(at("lock"))

  const saved = yield* readIfThere(at("config.json"))
  if (saved !== undefined) yield* sameRecord(at("config.json"), saved, options)
  for (const folder of ["trajectories", "checkpoints"]) {
    yield* io("create", at(folder), () => fs.mkdir(at(folder), { recursive: true }))
  }
  yield* writeWhole(at("config.json"), `${JSON.stringify(options.record, undefined, 2)}\n`)

  const latest = (yield* listSteps(at("checkpoints"))).at(-1)
  const resumed = latest === undefined ? undefined : yield* readCheckpoint(at("checkpoints", stepName(latest)))
  yield* cutBack(at, resumed?.state.step ?? 0)

  return {
    directory: options.directory,
    resumed,
    opaque: opaque(options.record),
    metrics: (record) =>
      io("append to", at("metrics.jsonl"), () => fs.appendFile(at("metrics.jsonl"), `${JSON.stringify(record)}\n`)),
    trajectories: (step, groups) => writeWhole(at("trajectories", `${stepName(step)}.jsonl`), trajectoryLines(groups)),
    skipped: (step, batch) =>
      io("create", at("skipped"), () => fs.mkdir(at("skipped"), { recursive: true })).pipe(
        Effect.andThen(writeWhole(at("skipped", `${stepName(step)}.json`), JSON.stringify(batch)))
      ),
    checkpoint: (state, save) => writeCheckpoint(at("checkpoints"), state, save, options.keep ?? 2),
    amend: (state) => writeWhole(at("checkpoints", stepName(state.step), "state.json"), JSON.stringify(state)),
    once: (name, save) => writeFolder(at(name), save).pipe(Effect.as(at(name)))
  }
})

const writeCheckpoint = Effect.fnUntraced(function* <E, R>(
  folder: string,
  state: State,
  save: (directory: string) => Effect.Effect<void, E, R>,
  keep: number
): Effect.fn.Return<string, RunError | E, R> {
  const final = path.join(folder, stepName(state.step))
  yield* writeFolder(final, (draft) =>
    Effect.gen(function* () {
      yield* save(draft)
      yield* writeWhole(path.join(draft, "state.json"), JSON.stringify(state))
      yield* sync(path.join(draft, "state.json"))
    })
  )
  for (const old of (yield* listSteps(folder)).slice(0, -keep)) {
    const stale = path.join(folder, stepName(old))
    yield* io("remove", stale, () => fs.rm(stale, { recursive: true, force: true }))
  }
  return final
})

const readCheckpoint = Effect.fnUntraced(function* (checkpoint: string): Effect.fn.Return<Resumed, RunError> {
  const file = path.join(checkpoint, "state.json")
  const text = yield* io("read", file, () => fs.readFile(file, "utf8"))
  const state = yield* decodeState(text).pipe(
    Effect.mapError((error) => new RunError({ operation: "decode", path: file, detail: error.message }))
  )
  return { state, checkpoint }
})

/** Whole checkpoints only: a `.tmp` folder is what a kill left behind. */
const listSteps = (folder: string): Effect.Effect<ReadonlyArray<number>, RunError> =>
  io("list", folder, async () =>
    (await fs.readdir(folder))
      .map(stepOf)
      .filter(Number.isInteger)
      .toSorted((a, b) => a - b)
  )

const sameRecord = Effect.fnUntraced(function* (file: string, saved: string, options: RunOptions) {
  const refused = (detail: string) => new RunError({ operation: "resume", path: file, detail })
  const was = yield* Effect.try({
    try: () => JSON.parse(saved) as Schema.JsonObject,
    catch: (cause) => refused(`the file is not JSON: ${String(cause)}`)
  })
  if (was["format"] !== FORMAT) {
    const format = String(was["format"] ?? 1)
    return yield* refused(
      `format is ${format}; expected ${FORMAT}. Finish the run with the version of quintain that made it, or start a run in another directory`
    )
  }
  const is = JSON.parse(JSON.stringify(options.record)) as Schema.JsonObject
  const found = difference(was, is, [...mayAlwaysChange, ...(options.mayChange ?? [])])
  if (found === undefined) return
  return yield* refused(
    `\`${found.field}\` was ${JSON.stringify(found.was)} and is now ${JSON.stringify(found.is)}; ` +
      "restore it, name it in mayChange, or start a run in another directory"
  )
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
