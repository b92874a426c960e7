/** Participants of a run's checkpoints. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as fs from "node:fs/promises"
import * as path from "node:path"
import type { EngineError } from "../../engine/EngineError.ts"
import { Policy } from "../../engine/Policy.ts"
import { io, writeWhole } from "./files.ts"
import { RunError } from "./RunError.ts"

export interface Participant<out E = never, out R = never> {
  /** Unique within a run; the name of its folder. */
  readonly name: string
  /** `once`: written when the run is made, read by every resume. Default: with every checkpoint. */
  readonly when?: "once" | "checkpoint"
  /** Its files lie in the checkpoint's own folder, where other tools look for them. Default false: in a folder of its name. */
  readonly root?: boolean
  readonly save: (directory: string) => Effect.Effect<void, E, R>
  readonly load: (directory: string) => Effect.Effect<void, E, R>
  /** Runs once when the trainer opens, after `load` (or `save`, of a `once`), also if the run has no directory. */
  readonly ready?: Effect.Effect<void, E, R>
  /**
   * Changes whenever what `save` writes does. An aborted run writes a checkpoint only if no version has changed since its
   * last whole step. Absent: it writes none.
   */
  readonly version?: Effect.Effect<string | number | undefined, E, R>
}

/** Weights and optimiser of the policy in context. */
export const policy: Participant<EngineError, Policy> = {
  name: "policy",
  root: true,
  save: (directory) => Policy.use((service) => service.save(directory, { optimizer: true })),
  load: (directory) => Policy.use((service) => service.load(directory)),
  version: Policy.use((service) => service.version)
}

/** The weights that training began with, from which a loss measures the distance. Name it before {@link policy}. */
export const reference: Participant<EngineError, Policy> = {
  name: "reference",
  when: "once",
  save: (directory) => Policy.use((service) => service.save(directory)),
  load: (directory) => Policy.use((service) => service.load(directory)),
  ready: Policy.use((service) => service.freezeReference)
}

/**
 * A value of your own in every checkpoint: the position in the data, a callback's patience, a curriculum.
 *
 * @example
 * ```ts
 * let best = 0
 * const patience = Trainer.state("patience", Schema.Finite, { get: () => best, set: (value) => (best = value) })
 * ```
 */
export const state = <A, I extends Schema.Json>(
  name: string,
  schema: Schema.Codec<A, I>,
  cell: { readonly get: () => A; readonly set: (value: A) => void }
): Participant<RunError> => {
  const text = Schema.fromJsonString(schema)
  const decode = Schema.decodeUnknownEffect(text)
  const encode = Schema.encodeEffect(text)
  const file = (directory: string) => path.join(directory, "state.json")
  const encoded = Effect.suspend(() => encode(cell.get())).pipe(
    Effect.mapError((error) => new RunError({ operation: "encode", path: name, detail: error.message }))
  )
  return {
    name,
    save: (directory) => Effect.flatMap(encoded, (json) => writeWhole(file(directory), json)),
    load: (directory) =>
      io("read", file(directory), () => fs.readFile(file(directory), "utf8")).pipe(
        Effect.flatMap((json) =>
          Effect.mapError(
            decode(json),
            (error) => new RunError({ operation: "decode", path: file(directory), detail: error.message })
          )
        ),
        Effect.map((value) => cell.set(value))
      ),
    version: encoded
  }
}

/** The folder of a participant's files in a checkpoint. */
const folderOf = (checkpoint: string, { name, root }: Pick<Participant, "name" | "root">): string =>
  root === true ? checkpoint : path.join(checkpoint, name)

type Participants<E, R> = ReadonlyArray<Participant<E, R>>

const always = <E, R>(all: Participants<E, R>): Participants<E, R> => all.filter(({ when }) => when !== "once")

/** Fills a checkpoint. */
export const saveAll =
  <E, R>(all: Participants<E, R>) =>
  (checkpoint: string): Effect.Effect<void, E | RunError, R> =>
    Effect.forEach(
      always(all),
      Effect.fnUntraced(function* (participant) {
        const folder = folderOf(checkpoint, participant)
        yield* io("create", folder, () => fs.mkdir(folder, { recursive: true }))
        yield* participant.save(folder)
      }),
      { discard: true }
    )

/** Reads a checkpoint. */
export const loadAll = <E, R>(all: Participants<E, R>, checkpoint: string): Effect.Effect<void, E, R> =>
  Effect.forEach(always(all), (participant) => participant.load(folderOf(checkpoint, participant)), { discard: true })

/** The versions of all participants of checkpoints; undefined if one of them cannot tell. */
export const versionsOf = Effect.fnUntraced(function* <E, R>(
  all: Participants<E, R>
): Effect.fn.Return<string | undefined, E, R> {
  const versions: Array<string | number> = []
  for (const { version } of always(all)) {
    const own = version === undefined ? undefined : yield* version
    if (own === undefined) return undefined
    versions.push(own)
  }
  return JSON.stringify(versions)
})
