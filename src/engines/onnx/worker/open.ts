/** Opens the worker of an ONNX engine in a scope. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { EngineError } from "../../../engine/EngineError.ts"
import type { DeviceOptions } from "./executionProvider.ts"
import { engineFailure } from "../../internal/engineFailure.ts"
import type { ModelOptions, Source } from "../../internal/openModel.ts"
import { OnnxClient } from "./client.ts"
import type { WorkerSettings } from "./protocol.ts"

const Positive = Schema.Int.check(Schema.isGreaterThan(0))

const Settings = Schema.Struct({
  executionProviders: Schema.optionalKey(
    Schema.NonEmptyArray(Schema.Literals(["webgpu", "cuda", "dml", "coreml", "cpu"]))
  ),
  deviceBytes: Schema.optionalKey(Positive),
  threads: Schema.optionalKey(Positive),
  cacheBytes: Schema.optionalKey(Positive),
  chunkTokens: Schema.optionalKey(Positive),
  activationBytes: Schema.optionalKey(Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))),
  weights: Schema.optionalKey(Schema.Literals(["f32", "f16", "q8_0", "q4_0", "file"]))
})
const decode = Schema.decodeUnknownEffect(Settings, { errors: "all" })

/** The options of the engine and its device, checked. */
export const deviceSettings = (options: unknown) =>
  Effect.mapError(
    decode(options),
    (error) => new EngineError({ operation: "open", reason: { _tag: "Config", detail: error.message } })
  )

export const openClient = Effect.fnUntraced(function* (
  options: DeviceOptions & Pick<ModelOptions, "cacheBytes" | "threads">,
  { location, settings }: Source,
  serves: Pick<WorkerSettings, "policy" | "weights">
) {
  const { cacheBytes, deviceBytes, executionProviders, threads } = yield* deviceSettings(options)
  const client = yield* Effect.acquireRelease(
    Effect.tryPromise({
      try: () =>
        OnnxClient.open({
          store: { path: location?.path, settings },
          providers: executionProviders ?? ["webgpu", "cpu"],
          ...(threads === undefined ? {} : { threads }),
          ...(deviceBytes === undefined ? {} : { deviceBytes }),
          ...(cacheBytes === undefined ? {} : { cacheBytes }),
          ...serves
        }),
      catch: (cause) => engineFailure("open", cause)
    }),
    (client) => Effect.promise(() => client.close())
  )
  const { provider, refused } = client.opened
  for (const { provider: preferred, reason } of refused) {
    yield* Effect.logInfo(`${preferred} did not open (${reason}); the engine runs on ${provider}`)
  }
  return client
})
