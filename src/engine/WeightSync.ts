/**
 * A policy of one engine and a sampler of another that follows its weights: an inference server, a quantised engine. After
 * every step the sampler's weights are stale; the next sample first hands it the new ones, as files, once for all requests
 * that wait for it.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Semaphore from "effect/Semaphore"
import * as Adapter from "./Adapter.ts"
import { EngineError, type Reason } from "./EngineError.ts"
import { newFolder, removeFolder, writeWeights } from "./internal/weightFiles.ts"
import { type ExportOptions, Policy } from "./Policy.ts"
import { Sampler, type WeightUpdate } from "./Sampler.ts"

export interface WeightSyncOptions<E1 = never, R1 = never, E2 = never, R2 = never> {
  /** The engine that trains; a sampler that comes with it is not used. */
  readonly policy: Layer.Layer<Policy, E1, R1>
  /** One whose weights are Updatable. */
  readonly sampler: Layer.Layer<Sampler, E2, R2>
  /** The adapter to follow. Default: the one that the option `adapter` made, or all weights if there is none. */
  readonly adapter?: string
  /**
   * What is handed over: the adapter alone, or a whole model (of a policy that trains an adapter: with the adapter merged
   * into it, for samplers that know no adapters). Default: `adapter` where there is one.
   */
  readonly kind?: WeightUpdate["kind"]
  /** What the weights of a whole model are rounded to on the way. Default f32: what the policy has. */
  readonly dtype?: Exclude<ExportOptions["dtype"], undefined>
  /**
   * Where the files are put, each time in a folder of its own that is removed when the sampler has no more need of it. A
   * server must be able to read it under the same path. Default: the system's folder for temporary files.
   */
  readonly directory?: string
  /** The sampler has opened the very weights that the policy begins with: the first push waits for a step. Default false. */
  readonly inSync?: boolean
}

/**
 * Policy and sampler, the sampler following the policy. Completions carry the policy's version. A push that fails, or is
 * interrupted, fails the requests that waited for it with a {@link EngineError}; the next request tries again.
 *
 * A request may name the followed adapter, or `base` beside an adapter; others are refused with `Config`, for the names of
 * a server's adapters are not the policy's.
 *
 * @example
 * ```ts
 * const engine = WeightSync.layer({
 *   policy: PolicyNative.layer({ model: "HuggingFaceTB/SmolLM2-135M-Instruct", lora: { rank: 16 } }),
 *   sampler: SamplerServer.layer({ kind: "vllm", url: "http://localhost:8000" })
 * })
 * Grpo.train(options).pipe(Effect.provide(engine))
 * ```
 */
export const layer = <E1, R1, E2, R2>(
  options: WeightSyncOptions<E1, R1, E2, R2>
): Layer.Layer<Policy | Sampler, E1 | E2 | EngineError, R1 | R2> =>
  Layer.effectContext(
    Effect.gen(function* () {
      const policy = Context.get(yield* Layer.build(options.policy), Policy)
      const sampler = Context.get(yield* Layer.build(options.sampler), Sampler)
      return yield* follow(policy, sampler, options)
    })
  )

const refused = (operation: string, reason: Reason) => new EngineError({ operation, reason })

type FollowOptions = Pick<WeightSyncOptions, "adapter" | "directory" | "dtype" | "inSync" | "kind">
type Update = (weights: WeightUpdate) => Effect.Effect<void, EngineError>

const follow = Effect.fnUntraced(function* (
  policy: Policy["Service"],
  sampler: Sampler["Service"],
  options: FollowOptions
) {
  if (sampler.weights._tag === "Fixed") {
    const detail = `the weights of the sampler ${sampler.name} are fixed; use one whose \`weights\` are Updatable`
    return yield* refused("update", { _tag: "Unsupported", what: "other weights", engine: sampler.name, detail })
  }
  const weights = yield* synchronise(policy, sampler.weights.update, options)
  return Context.make(Policy, changing(policy, weights)).pipe(
    Context.add(Sampler, following(sampler, weights, options.adapter ?? Adapter.defaultName))
  )
})

interface Synchronised {
  /** Done when the sampler has the policy's present weights. */
  readonly current: Effect.Effect<unknown, EngineError>
  /** Runs what changes an adapter's weights. Whatever became of it, weights that may have changed are stale. */
  readonly change: <A, E>(
    effect: Effect.Effect<A, E>,
    adapter: string | undefined,
    unchanged?: (value: A) => boolean
  ) => Effect.Effect<A, E>
}

const synchronise = Effect.fnUntraced(function* (policy: Policy["Service"], update: Update, options: FollowOptions) {
  const followed = options.adapter ?? Adapter.defaultName
  // Of the policy's weights; `pushed` is the one that the sampler has.
  let generation = 0
  let pushed = options.inSync === true ? 0 : -1
  let failures = 0
  let failure: EngineError | undefined
  /** The folder of an adapter that the sampler may read again. */
  let held: string | undefined
  // One push at a time; nothing changes the weights between their version and their files.
  const pushing = yield* Semaphore.make(1)
  const writing = yield* Semaphore.make(1)
  yield* Effect.addFinalizer(() => Effect.suspend(() => (held === undefined ? Effect.void : removeFolder(held))))

  /** Not interruptible: an engine writes on when nobody waits. */
  const write = (folder: string) =>
    Effect.map(
      Effect.suspend(() => writeWeights(policy, options, folder)),
      (weights) => ({ generation, weights })
    ).pipe(Effect.uninterruptible, writing.withPermit)

  const push = Effect.acquireUseRelease(
    newFolder(options.directory),
    (folder) =>
      Effect.tap(write(folder), ({ generation, weights }) =>
        Effect.uninterruptibleMask((restore) =>
          Effect.tap(restore(update(weights)), () =>
            Effect.sync(() => {
              pushed = generation
            })
          )
        )
      ),
    (folder, exit) =>
      Effect.suspend(() => {
        if (Exit.isFailure(exit) || exit.value.weights.kind === "model") return removeFolder(folder)
        const former = held
        held = folder
        return former === undefined ? Effect.void : removeFolder(former)
      })
  )

  /** Those who waited for a push that failed share its error; who comes later tries again. */
  const current = Effect.suspend(() => {
    if (pushed === generation) return Effect.void
    const seen = failures
    return pushing.withPermit(
      Effect.suspend((): Effect.Effect<unknown, EngineError> => {
        if (pushed === generation) return Effect.void
        if (failures > seen && failure !== undefined) return Effect.fail(failure)
        return Effect.tapError(push, (error) =>
          Effect.sync(() => {
            failures++
            failure = error
          })
        )
      })
    )
  })

  const change: Synchronised["change"] = (effect, adapter, unchanged = () => false) =>
    writing.withPermit(
      Effect.onExit(effect, (exit) =>
        Effect.sync(() => {
          if ((adapter ?? Adapter.defaultName) !== followed) return
          if (!(Exit.isSuccess(exit) && unchanged(exit.value))) generation++
        })
      )
    )
  return { current, change } satisfies Synchronised
})

/** The policy, whose changes make the sampler's weights stale. */
const changing = (policy: Policy["Service"], { change }: Synchronised): Policy["Service"] => ({
  ...policy,
  step: (settings) => change(policy.step(settings), settings.adapter, ({ skipped }) => skipped),
  load: (directory, which) => change(policy.load(directory, which), which?.adapter),
  adapters: {
    ...policy.adapters,
    add: (name, from) => change(policy.adapters.add(name, from), name),
    remove: (name) => change(policy.adapters.remove(name), name)
  }
})

/** The sampler, which takes the policy's weights before it samples. */
const following = (sampler: Sampler["Service"], { current }: Synchronised, followed: string): Sampler["Service"] => ({
  name: sampler.name,
  engine: sampler.engine,
  weights: { _tag: "Fixed" },
  sample: ({ adapter, ...request }) => {
    if (adapter === undefined || adapter === followed) return Effect.flatMap(current, () => sampler.sample(request))
    if (adapter === Adapter.base) return sampler.sample({ ...request, adapter })
    const detail = `the sampler ${sampler.name} follows \`${followed}\`, not \`${adapter}\`; name that in WeightSync's \`adapter\``
    return Effect.fail(refused("sample", { _tag: "Config", option: "adapter", detail }))
  }
})
