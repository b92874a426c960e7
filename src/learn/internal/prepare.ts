/** From a batch to packs, with the log-probabilities that must be taken before the first update. */
import * as Effect from "effect/Effect"
import type { EngineError } from "../../engine/EngineError.ts"
import { Policy } from "../../engine/Policy.ts"
import { OptionError } from "../../OptionError.ts"
import * as Batches from "../Batch.ts"
import { needs, type Numbers } from "../lossContract.ts"
import type { Pack } from "../packContract.ts"
import type { Phase, Prepared, PreparedPack, UpdateSettings } from "../updateContract.ts"
import type { Batch } from "./batchTypes.ts"

/** Adds the time of an effect to a phase. */
export const timed =
  (seconds: Record<Phase, number>, phase: Phase) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.suspend(() => {
      const start = performance.now()
      return Effect.onExit(effect, () =>
        Effect.sync(() => {
          seconds[phase] += (performance.now() - start) / 1000
        })
      )
    })

const noSeconds = (): Record<Phase, number> => ({
  pack: 0,
  old: 0,
  reference: 0,
  forward: 0,
  loss: 0,
  backward: 0,
  step: 0,
  total: 0
})

/** Packs of each minibatch. */
const pack = (batch: Batch, settings: UpdateSettings): ReadonlyArray<ReadonlyArray<Pack>> => {
  const { aggregate = "token", loss, maskTruncated = false, maxTokens = 16384, minibatches = 1 } = settings
  const { sharePrefixes = false } = settings
  const size = Math.ceil(batch.groups.length / minibatches)
  const parts: Array<ReadonlyArray<Pack>> = []
  for (let start = 0; start < batch.groups.length; start += size) {
    const groups = batch.groups.slice(start, start + size)
    const unit = loss.unit ?? "sequence"
    const packing = { aggregate, maxTokens, maskTruncated, sharePrefixes, unit, firstGroup: start }
    const packs = Batches.pack({ groups }, packing)
    if (packs.length > 0) parts.push(packs)
  }
  return parts
}

/** A batch that cannot be packed fails with the option that is wrong. */
const packing = <A>(make: () => A): Effect.Effect<A, OptionError> =>
  Effect.try({ try: make, catch: (error) => error }).pipe(
    Effect.catch((error) => (error instanceof OptionError ? Effect.fail(error) : Effect.die(error)))
  )

/** See {@link Updater.prepare}. */
export const prepare = (settings: UpdateSettings) =>
  Effect.fn("Update.prepare")(function* (
    source: Batch | ReadonlyArray<Pack>
  ): Effect.fn.Return<Prepared, EngineError | OptionError, Policy> {
    const { epochs = 1, loss, old = "policy", temperature = 1 } = settings
    const policy = yield* Policy
    const seconds = noSeconds()
    const batch = "groups" in source ? source : undefined
    const parts = yield* packing(
      "groups" in source ? () => pack(source, settings) : () => [source].filter(({ length }) => length > 0)
    ).pipe(timed(seconds, "pack"), timed(seconds, "total"))
    const passes = batch === undefined ? 1 : epochs
    // Several updates: the ratio is against the policy before the first of them.
    const several = parts.length * passes > 1
    const forward = (phase: "old" | "reference", pack: Pack, weights: "policy" | "reference") =>
      policy.forward(pack.forest, { temperature, weights }).pipe(
        timed(seconds, phase),
        Effect.map(({ logprobs }) => logprobs)
      )
    const one = Effect.fnUntraced(function* (pack: Pack): Effect.fn.Return<PreparedPack, EngineError> {
      return {
        pack,
        ...(several ? { old: old === "sampler" ? pack.samplerLogprobs : yield* forward("old", pack, "policy") } : {}),
        ...(needs(loss, "reference") ? { reference: yield* forward("reference", pack, "reference") } : {})
      }
    })
    const updates = yield* Effect.forEach(parts, (packs) => Effect.forEach(packs, one)).pipe(timed(seconds, "total"))
    return { updates, passes, constants: {}, seconds, ...(batch === undefined ? {} : { batch }) }
  })

type Columns = Readonly<Record<string, Numbers>>

const creditedWith = (prepared: Prepared, columns: ReadonlyArray<ReadonlyArray<Columns>> | undefined): Prepared => {
  if (columns === undefined) return prepared
  const updates = prepared.updates.map((packs, u) =>
    packs.map((one, p) => ({ ...one, pack: withColumns(one.pack, columns[u]?.[p] ?? {}) }))
  )
  return { ...prepared, updates }
}

/** See {@link Updater.credit}. */
export const credit = (settings: UpdateSettings) =>
  Effect.fn("Update.credit")(function* (
    prepared: Prepared
  ): Effect.fn.Return<Prepared, EngineError | OptionError, Policy> {
    const credited = yield* packing(() => creditedWith(prepared, settings.credit?.(prepared)))
    if (settings.constants === undefined) return credited
    const constants = yield* settings.constants(credited)
    return { ...credited, constants: { ...credited.constants, ...constants } }
  })

const withColumns = (pack: Pack, columns: Columns): Pack => {
  const targets = pack.weights.length
  for (const [name, { length }] of Object.entries(columns)) {
    if (length !== targets) {
      throw new OptionError({
        module: "Update.credit",
        option: `length of column ${name}`,
        value: length,
        expected: `${targets}, the number of targets`,
        remedy: "Return one number for each target"
      })
    }
  }
  const { advantages, ...others } = columns
  return {
    ...pack,
    columns: { ...pack.columns, ...others },
    ...(advantages === undefined ? {} : { advantages: Float64Array.from(advantages) })
  }
}
