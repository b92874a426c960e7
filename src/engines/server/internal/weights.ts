/** Tracks the weights that a server samples with, and loads others by path, under a unique name. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { randomUUID } from "node:crypto"
import * as Adapter from "../../../engine/Adapter.ts"
import { EngineError, type Reason } from "../../../engine/EngineError.ts"
import type { WeightUpdate } from "../../../engine/Sampler.ts"
import type { Client } from "./client.ts"
import type { Call, Dialect } from "./dialect.ts"

const failed = (operation: string, reason: Reason) => new EngineError({ operation, reason })

/** Milliseconds that the end of a scope may wait for a server to unload an adapter. */
const LAST_WISHES = 5000

/** `alone` runs an exchange while no sample is in flight. */
export const weightsOf = Effect.fnUntraced(function* <Body>(
  { load, name: server }: Dialect<Body>,
  client: Client,
  deadline: number,
  alone: (exchange: Effect.Effect<void, EngineError>) => Effect.Effect<void, EngineError>
) {
  let own: { readonly adapter?: string; readonly version: number } = { version: 0 }
  /** Version of a pushed model that the server may or may not have loaded. */
  let unsure: number | undefined
  const serving = (asked: string | undefined): Effect.Effect<typeof own, EngineError> => {
    if (unsure !== undefined) {
      const detail = `${server} may or may not have taken the weights of version ${unsure}, because its answer was lost: update it again`
      return Effect.fail(failed("sample", { _tag: "State", detail }))
    }
    if (asked === undefined) return Effect.succeed(own)
    return Effect.succeed(asked === Adapter.base ? { version: own.version } : { adapter: asked, version: own.version })
  }
  if (load === undefined) return { serving, update: undefined }

  const post = (call: Call) => client.post(call, { operation: "update", deadline, bytes: 2 ** 20 })
  /** Names that the server may know, in addition to those that it was started with. */
  const loaded = new Set<string>()
  const unload = Effect.gen(function* () {
    for (const name of loaded) {
      if (load.unload === undefined || name === own.adapter) continue
      yield* post(load.unload(name)).pipe(
        Effect.catch((error) => Effect.logDebug(`${server} may still hold the adapter ${name}: ${error.message}`))
      )
      loaded.delete(name)
    }
  })
  yield* Effect.addFinalizer(() =>
    Effect.suspend(() => {
      own = { version: own.version }
      // The server may be down, so the wait is short.
      return Effect.timeoutOption(Effect.interruptible(unload), LAST_WISHES)
    })
  )

  const update = ({ directory, kind, version }: WeightUpdate): Effect.Effect<void, EngineError> =>
    alone(
      Effect.gen(function* () {
        const name = kind === "adapter" ? `quintain-${version}-${randomUUID().slice(0, 8)}` : undefined
        const call = name === undefined ? load.model?.(directory) : load.adapter?.(name, directory)
        if (call === undefined) {
          const what = `weights of kind \`${kind}\``
          return yield* failed("update", { _tag: "Unsupported", what, engine: server, detail: load.refused(kind) })
        }
        // The server may have loaded it even if the answer was lost.
        if (name !== undefined) loaded.add(name)
        const before = unsure
        if (name === undefined) unsure = version
        const text = yield* post(call).pipe(
          // The name is unique: an attempt whose answer was lost has loaded it.
          Effect.catchIf(
            ({ reason }) => name !== undefined && reason._tag === "Rejected" && reason.detail.includes("already"),
            () => Effect.succeed("")
          ),
          Effect.tapError(({ reason }) =>
            Effect.sync(() => {
              if (reason._tag === "Rejected") unsure = before
            })
          )
        )
        const said = refusal(text)
        if (said !== undefined) {
          unsure = before
          return yield* failed("update", { _tag: "Rejected", detail: `${server} did not load ${directory}: ${said}` })
        }
        if (name === undefined) unsure = undefined
        own = name === undefined ? { version } : { adapter: name, version }
        yield* unload
      })
    )
  return { serving, update }
})

const Outcome = Schema.fromJsonString(
  Schema.Struct({
    success: Schema.Boolean,
    message: Schema.optionalKey(Schema.NullOr(Schema.String)),
    error_message: Schema.optionalKey(Schema.NullOr(Schema.String))
  })
)
const decodeOutcome = Schema.decodeUnknownOption(Outcome)

/** SGLang may refuse with a status of success; vLLM answers in plain text. */
const refusal = (text: string): string | undefined => {
  const outcome = decodeOutcome(text)
  if (outcome._tag === "None" || outcome.value.success) return undefined
  return (outcome.value.error_message ?? outcome.value.message ?? "it gives no reason").slice(0, 300)
}
