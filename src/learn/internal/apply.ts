/** From prepared packs to new weights: forward, loss and backward for each pack, then a step. */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { EngineError } from "../../engine/EngineError.ts"
import { type Forward, Policy } from "../../engine/Policy.ts"
import { type LossInput, needs } from "../lossContract.ts"
import type { Phase, Prepared, PreparedPack, StepReport, UpdateSettings } from "../updateContract.ts"
import { evaluateLoss } from "./evaluateLoss.ts"
import { type Gather, gather } from "./gather.ts"
import { timed } from "./prepare.ts"
import { measureSampler } from "./samplerMismatch.ts"

/** State that the updates of one batch share. */
interface Work {
  readonly policy: Policy["Service"]
  readonly settings: UpdateSettings
  readonly prepared: Prepared
  readonly step: number
  readonly rate: number
  readonly seconds: Record<Phase, number>
  readonly overall: Gather
  readonly counts: {
    forwards: number
    recorded: number
    forward: number
    trained: number
    updates: number
    skipped: number
  }
  version?: number
}

const optimizer = ({ beta1, beta2, epsilon, maxGradNorm, weightDecay }: UpdateSettings) => ({
  ...(beta1 === undefined ? {} : { beta1 }),
  ...(beta2 === undefined ? {} : { beta2 }),
  ...(epsilon === undefined ? {} : { epsilon }),
  ...(maxGradNorm === undefined ? {} : { maxGradNorm }),
  ...(weightDecay === undefined ? {} : { weightDecay })
})

const inputOf = (
  { old, pack, reference }: PreparedPack,
  { entropy, logprobs }: Forward,
  constants: LossInput["constants"]
) => ({
  logprobs,
  oldLogprobs: old ?? logprobs,
  samplerLogprobs: pack.samplerLogprobs,
  ...(reference === undefined ? {} : { referenceLogprobs: reference }),
  ...(entropy === undefined ? {} : { entropy }),
  advantages: pack.advantages,
  weights: pack.weights,
  sequenceStart: pack.sequenceStart,
  columns: pack.columns,
  constants,
  sequences: pack.sequences,
  total: pack.total
})

/** Loss and backward of a kept forward. False: not finite, nothing was added to the gradient. */
const useForward = Effect.fnUntraced(function* (
  work: Work,
  part: PreparedPack,
  kept: Forward,
  first: boolean,
  measures: Gather
): Effect.fn.Return<boolean, EngineError> {
  const { policy, seconds, settings } = work
  const { entropy, logprobs } = kept
  const input = inputOf(part, kept, work.prepared.constants)
  const result = yield* Effect.sync(() => evaluateLoss(settings.loss, input)).pipe(timed(seconds, "loss"))
  if (result === undefined) return false
  const { dEntropy, dLogprobs, output } = result
  const gradients = { logprobs: dLogprobs, ...(dEntropy === undefined ? {} : { entropy: dEntropy }) }
  yield* policy.backward(kept.id, gradients).pipe(timed(seconds, "backward"))
  const weight = logprobs.length
  measures.add("loss", { by: "sum", value: output.loss })
  if (entropy !== undefined) {
    measures.add("entropy", { by: "mean", value: entropy.reduce((a, b) => a + b, 0) / weight, weight })
  }
  for (const [name, value] of Object.entries(output.metrics)) {
    measures.add(name, typeof value === "number" ? { by: "mean", value, weight } : { weight, ...value })
  }
  const { samplerLogprobs } = part.pack
  if (first) measureSampler(measures, samplerLogprobs, part.old === samplerLogprobs ? logprobs : input.oldLogprobs)
  return true
})

/** Forward, loss, backward. False: not finite, nothing was added to the gradient. */
const accumulate = (work: Work, part: PreparedPack, first: boolean, measures: Gather) => {
  const { counts, policy, seconds, settings } = work
  const entropy = needs(settings.loss, "entropy") || policy.capabilities.outputs.includes("entropy")
  const options = { temperature: settings.temperature ?? 1, entropy, keep: true }
  // Between the forward and its backward the engine holds activations that only we can free.
  return Effect.uninterruptibleMask((restore) =>
    restore(policy.forward(part.pack.forest, options).pipe(timed(seconds, "forward"))).pipe(
      Effect.flatMap((kept) => {
        counts.forwards++
        if (kept.recorded) counts.recorded++
        return restore(useForward(work, part, kept, first, measures)).pipe(
          Effect.onExit((exit) =>
            Exit.isSuccess(exit) && exit.value ? Effect.void : Effect.ignore(policy.release(kept.id))
          )
        )
      })
    )
  )
}

const skip = Effect.fnUntraced(function* (work: Work, reason: string, packs: ReadonlyArray<PreparedPack>) {
  const { counts, prepared, settings, step } = work
  counts.skipped++
  yield* Effect.logWarning(`update of step ${step} skipped: ${reason}`)
  if (settings.dump === undefined) return
  const { batch } = prepared
  yield* settings.dump({
    step,
    reason,
    packs: packs.map(({ pack }) => pack),
    ...(batch === undefined ? {} : { batch })
  })
})

/** One step of the optimiser. */
const update = Effect.fnUntraced(function* (
  work: Work,
  packs: ReadonlyArray<PreparedPack>,
  first: boolean
): Effect.fn.Return<void, EngineError> {
  const { counts, overall, policy, rate, seconds, settings } = work
  const measures = gather()
  counts.updates++
  for (const part of packs) {
    counts.forward += part.pack.forest.tokens.length
    counts.trained += part.pack.weights.length
    if (!(yield* accumulate(work, part, first, measures))) {
      yield* policy.zeroGradients()
      return yield* skip(work, "the loss or its gradient is not finite", packs)
    }
  }
  const result = yield* policy.step({ ...optimizer(settings), learningRate: rate }).pipe(timed(seconds, "step"))
  work.version = result.version
  if (result.skipped) return yield* skip(work, "the gradient of the weights is not finite", packs)
  overall.add("grad_norm", { by: "mean", value: result.gradNorm })
  // A sum over the packs of an update is a mean over updates.
  for (const [name, { by, value, weight = 1 }] of measures.entries()) {
    overall.add(name, { by: by === "sum" ? "mean" : by, value, weight: by === "sum" ? 1 : weight })
  }
})

const report = ({ counts, overall, rate, seconds, step, version }: Work): StepReport => {
  const values = Object.fromEntries(overall.entries().map(([name, { value }]) => [name, value]))
  const { entropy = NaN, grad_norm: gradNorm = NaN, loss = NaN, ...metrics } = values
  const recordedShare = counts.forwards === 0 ? NaN : counts.recorded / counts.forwards
  return {
    step,
    loss,
    gradNorm,
    learningRate: rate,
    skipped: counts.skipped,
    updates: counts.updates,
    entropy,
    metrics: { ...metrics, ...(counts.forwards === 0 ? {} : { "update/recorded_share": recordedShare }) },
    recordedShare,
    tokens: { forward: counts.forward, trained: counts.trained },
    seconds,
    ...(version === undefined ? {} : { version })
  }
}

/** See {@link Updater.apply}. */
export const apply = (settings: UpdateSettings) =>
  Effect.fn("Update.apply")(function* (
    prepared: Prepared,
    step: number
  ): Effect.fn.Return<StepReport, EngineError, Policy> {
    const { learningRate } = settings
    const seconds = { ...prepared.seconds }
    const work: Work = {
      policy: yield* Policy,
      settings,
      prepared,
      step,
      rate: typeof learningRate === "number" ? learningRate : learningRate(step),
      seconds,
      overall: gather(),
      counts: { forwards: 0, recorded: 0, forward: 0, trained: 0, updates: 0, skipped: 0 }
    }
    const all = Effect.gen(function* () {
      for (let pass = 0; pass < prepared.passes; pass++) {
        for (const packs of prepared.updates) {
          yield* update(work, packs, pass === 0).pipe(Effect.onError(() => Effect.ignore(work.policy.zeroGradients())))
        }
      }
    })
    yield* all.pipe(timed(seconds, "total"))
    return report(work)
  })
