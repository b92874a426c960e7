/**
 * Keeps a sampler of one engine in step with the policy of another.
 *
 * The sampler may be an inference server or a quantised engine. After every step its weights are stale. The next sample
 * first pushes the new weights as files, once for all requests that wait for them.
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
  /** The engine that trains. If it brings a sampler, that sampler is not used. */
  readonly policy: Layer.Layer<Policy, E1, R1>
  /** A sampler whose `weights` are Updatable. */
  readonly sampler: Layer.Layer<Sampler, E2, R2>
  /** The adapter to follow. Default: the adapter that the option `adapter` made, or all weights if there is none. */
  readonly adapter?: string
  /**
   * Weights that are pushed: the adapter alone, or a whole model. If the policy trains an adapter, `model` merges it
   * into the base, for samplers that cannot load adapters. Default: `adapter` if there is one.
   */
  readonly kind?: WeightUpdate["kind"]
  /** Rounds the weights of a whole model. Default f32, which the policy has. */
  readonly dtype?: Exclude<ExportOptions["dtype"], undefined>
  /**
   * Folder for the pushed files. Each push gets its own folder, which is removed once the sampler no longer needs it. A
   * server must be able to read it under the same path. Default: the system's folder for temporary files.
   */
  readonly directory?: string
  /**
   * Whether the sampler opened the weights that the policy begins with. If so, the first push waits for a step. Default
   * false.
   */
  readonly inSync?: boolean
}

/**
 * Builds a policy, and a sampler that follows its weights.
 *
 * Completions carry the policy's version. A push that fails or is interrupted fails the requests that waited for it
 * with an {@link EngineError}. The next request tries again.
 *
 * A request may name the followed adapter, or `base` if an adapter is followed. Any other name is refused with
 * `Config`, because a server's adapters have names of their own.
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
  /** Completes once the sampler has the policy's present weights. */
  readonly current: Effect.Effect<unknown, EngineError>
  /** Runs a change of an adapter's weights. Weights that may have changed are stale, even if the change failed. */
  readonly change: <A, E>(
    effect: Effect.Effect<A, E>,
    adapter: string | undefined,
    unchanged?: (value: A) => boolean
  ) => Effect.Effect<A, E>
}

const synchronise = Effect.fnUntraced(function* (policy: Policy["Service"], update: Update, options: FollowOptions) {
  const followed = options.adapter ?? Adapter.defaultName
  // Counts changes of the policy's weights; `pushed` is the generation that the sampler has.
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

  /** Not interruptible, because an engine continues to write after its caller has gone. */
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

  /** Requests that waited for a failed push share its error; later requests try again. */
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

/** A policy whose changes make the sampler's weights stale. */
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

/** A sampler that takes the policy's weights before it samples. */
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
