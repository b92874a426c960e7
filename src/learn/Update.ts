/**
 * One batch into the policy: forward, loss and backward for each pack, then a step. With several updates per batch the
 * log-probabilities before the first are computed beforehand; with one they are the forward's own numbers.
 *
 * A loss or gradient that is not finite changes nothing: the update is skipped, counted, and handed to `dump`. A failure
 * or an interruption in the middle leaves no half of a gradient behind.
 */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { OptionError } from "../OptionError.ts"
import type { EngineError } from "../engine/EngineError.ts"
import type { Policy } from "../engine/Policy.ts"
import { apply } from "./internal/apply.ts"
import type { Batch } from "./internal/batchTypes.ts"
import { credit, prepare } from "./internal/prepare.ts"
import type { Pack } from "./packContract.ts"
import type { StepReport, Updater, UpdateSettings } from "./updateContract.ts"

export type { Dump, Phase, Prepared, PreparedPack, StepReport, Updater, UpdateSettings } from "./updateContract.ts"

/**
 * An updater with these settings.
 *
 * @example
 * ```ts
 * const updater = Update.make({ loss: Loss.clipped({ high: 0.28 }), learningRate: 1e-5 })
 * const reports = Stream.mapEffect(batches, (batch, step) => updater.batch(batch, step))
 * ```
 */
export const make = (settings: UpdateSettings): Updater => {
  const { epochs = 1, minibatches = 1 } = settings
  for (const [name, value] of Object.entries({ epochs, minibatches })) {
    if (!Number.isInteger(value) || value < 1) {
      throw new OptionError({
        module: "Update.make",
        option: name,
        value,
        expected: "an integer of at least 1",
        remedy: "Give 1 or more"
      })
    }
  }
  const verbs = { prepare: prepare(settings), credit: credit(settings), apply: apply(settings) }
  const whole = (source: Batch | ReadonlyArray<Pack>, step: number) =>
    verbs.prepare(source).pipe(
      Effect.flatMap(verbs.credit),
      Effect.flatMap((prepared) => verbs.apply(prepared, step))
    )
  return { ...verbs, batch: whole, packs: whole }
}

/** A batch and what the update made of it. */
export interface Updated<out Data = unknown> {
  readonly batch: Batch<Data>
  readonly report: StepReport
}

/**
 * The stage: updates the policy with every batch, one after the other. `from` is the step of the first one.
 *
 * ```ts
 * batches.pipe(Update.stage({ loss: Loss.clipped(), learningRate: 1e-5 }), Stream.take(200), Stream.runDrain)
 * ```
 */
export const stage = (settings: UpdateSettings, { from = 0 }: { readonly from?: number } = {}) => {
  const updater = make(settings)
  return <Data, E, R>(
    batches: Stream.Stream<Batch<Data>, E, R>
  ): Stream.Stream<Updated<Data>, E | EngineError | OptionError, R | Policy> =>
    Stream.mapEffect(batches, (batch, index) =>
      Effect.map(updater.batch(batch, from + index), (report) => ({ batch, report }))
    )
}
