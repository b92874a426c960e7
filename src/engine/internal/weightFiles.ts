/** Files that carry a policy's weights to the sampler that follows it. */
import * as Effect from "effect/Effect"
import * as fs from "node:fs/promises"
import { tmpdir } from "node:os"
import * as path from "node:path"
import { defaultName } from "../../model/adapterConfig.ts"
import { EngineError, type Reason } from "../EngineError.ts"
import type { ExportOptions, Policy } from "../Policy.ts"
import type { WeightUpdate } from "../Sampler.ts"

export interface FileOptions {
  readonly adapter?: string
  readonly kind?: WeightUpdate["kind"]
  readonly dtype?: Exclude<ExportOptions["dtype"], undefined>
}

const refused = (reason: Reason) => new EngineError({ operation: "update", reason })

/** Reports an error of the policy as an error of the update. */
const asUpdate = <A>(effect: Effect.Effect<A, EngineError>): Effect.Effect<A, EngineError> =>
  Effect.mapError(effect, ({ message, reason }) => refused({ ...reason, detail: message }))

/** Writes the policy's present weights into a folder, and returns what was written. */
export const writeWeights = Effect.fnUntraced(function* (
  policy: Policy["Service"],
  { adapter: asked, dtype, kind: wanted }: FileOptions,
  folder: string
) {
  const choice = asked === undefined ? {} : { adapter: asked }
  const followed = asked ?? defaultName
  const adapters = yield* asUpdate(policy.adapters.list)
  const adapter = adapters.find(({ name }) => name === followed)
  if (adapter === undefined && asked !== undefined) {
    return yield* refused({ _tag: "State", detail: `the policy has no adapter \`${followed}\`; add it first` })
  }
  const kind = wanted ?? (adapter === undefined ? "model" : "adapter")
  if (kind === "adapter" && adapter === undefined) {
    const detail = "kind is `adapter`, but the policy trains none; set `adapter`, or leave `kind` out"
    return yield* refused({ _tag: "Config", option: "kind", detail })
  }
  const version = adapter?.version ?? (yield* asUpdate(policy.version))
  const directory = path.join(folder, `${kind}-${version}`)
  yield* asUpdate(
    kind === "adapter"
      ? policy.save(directory, choice)
      : policy.exportModel(directory, { ...choice, ...(dtype === undefined ? {} : { dtype }) })
  )
  return { directory, kind, version } satisfies WeightUpdate
})

/** Makes a new folder in `directory`. */
export const newFolder = (directory: string | undefined): Effect.Effect<string, EngineError> =>
  Effect.tryPromise({
    try: async () => {
      if (directory !== undefined) await fs.mkdir(directory, { recursive: true })
      return await fs.mkdtemp(path.join(directory ?? tmpdir(), "quintain-weights-"))
    },
    catch: (cause) => {
      const detail = `no folder for the weights: ${String(cause)}; choose one with \`directory\``
      return refused({ _tag: "Io", detail })
    }
  })

export const removeFolder = (folder: string): Effect.Effect<void> =>
  Effect.tryPromise(() => fs.rm(folder, { recursive: true, force: true })).pipe(
    Effect.catch((error) => Effect.logWarning(`the weights in ${folder} could not be removed: ${String(error.cause)}`))
  )
