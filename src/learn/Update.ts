/**
 * One batch into the policy: forward, loss and backward for each pack, then a step. With several updates per batch the
 * log-probabilities before the first are computed beforehand; with one they are the forward's own numbers.
 *
 * A loss or gradient that is not finite changes nothing: the update is skipped, counted, and handed to `dump`. A failure
 * or an interruption in the middle leaves no half of a gradient behind.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Stream from "effect/Stream"
import * as Batches from "./Batch.ts"
import type { Batch } from "./Batch.ts"
import type { Loss, LossInput, LossOutput, Measure } from "./Loss.ts"
import type { Aggregate, Pack } from "./Pack.ts"
import type { EngineError } from "../engine/EngineError.ts"
import type { Forward, ForwardOptions, StepSettings } from "../engine/Policy.ts"
import { Policy } from "../engine/Policy.ts"

/** What a skipped update was computed from. */
export interface Dump {
  readonly step: number
  readonly reason: string
  readonly packs: ReadonlyArray<Pack>
  readonly batch?: Batch
}

export interface UpdateSettings extends Omit<StepSettings, "learningRate"> {
  readonly loss: Loss
  /** A number, or a function of the step (0, 1, ...); see `LearningRate`. */
  readonly learningRate: number | ((step: number) => number)
  /** Default `token`. */
  readonly aggregate?: Aggregate
  /** Sampling temperature: logits are divided by it before log-softmax. Default 1. */
  readonly temperature?: number
  /** Most tokens in one forward. Default 16384. */
  readonly maxTokens?: number
  /** Passes over the batch (TRL's num_iterations). Default 1. */
  readonly epochs?: number
  /** Parts of a batch, by groups, each with its own step and its own aggregation. Default 1. */
  readonly minibatches?: number
  /**
   * Where several updates per batch take the log-probabilities before the first from: computed by the `policy`, or those
   * at sampling, which saves a forward where both are the same numbers. Default `policy`.
   */
  readonly old?: "policy" | "sampler"
  /** Leave out truncated trajectories (DAPO's overlong filtering). Default false. */
  readonly maskTruncated?: boolean
  /** Receives what a skipped update was computed from. */
  readonly dump?: (dump: Dump) => Effect.Effect<void>
}

export type Phase = "pack" | "old" | "reference" | "forward" | "loss" | "backward" | "step" | "total"

/** NaN stands for a number that was not computed: there was nothing to update, or all of it was skipped. */
export interface StepReport {
  readonly step: number
  /** Of several updates the mean. */
  readonly loss: number
  /** Before clipping; of several updates the mean. */
  readonly gradNorm: number
  readonly learningRate: number
  /** Updates skipped because loss or gradient was not finite; 0 when all went well. */
  readonly skipped: number
  readonly updates: number
  /** Mean entropy of the policy at its tokens, in nats. */
  readonly entropy: number
  /**
   * The loss's own metrics, and how far the sampler was from the policy before the update (all 0, ratios 1, when both
   * agree; where they do not, see {@link Loss.withImportanceCorrection}): `sampling/sampling_logp_difference/{mean,max}`, `sampling/importance_sampling_ratio/{min,mean,max}`,
   * `sampling/kl_v1` = mean(sampler - policy) and `sampling/kl_v2` = mean of half its square.
   */
  readonly metrics: Readonly<Record<string, number>>
  /** Tokens that went through forward and backward in all updates, and targets among them. */
  readonly tokens: { readonly forward: number; readonly trained: number }
  readonly seconds: Readonly<Record<Phase, number>>
  /** Of the weights after the update; absent when there was none. */
  readonly version?: number
}

export interface Updater {
  /** Updates the policy with a batch; an empty one changes nothing. `step` counts from 0 and drives the learning rate. */
  readonly batch: (batch: Batch, step: number) => Effect.Effect<StepReport, EngineError, Policy>
  /** The same for packs made otherwise (supervised data): one update, whatever `epochs` and `minibatches` say. */
  readonly packs: (packs: ReadonlyArray<Pack>, step: number) => Effect.Effect<StepReport, EngineError, Policy>
}

/** A pack and what was computed of it before the first update. */
interface Prepared {
  readonly pack: Pack
  readonly old: Float32Array | undefined
  readonly reference: Float32Array | undefined
}

/** Gathers measures: `mean` by weight, the others as named. */
const gather = () => {
  const totals = new Map<string, { readonly by: Measure["by"]; value: number; weight: number }>()
  return {
    add: (name: string, { by, value, weight = 1 }: Measure) => {
      const total = totals.get(name)
      if (total === undefined) totals.set(name, { by, value: by === "mean" ? value * weight : value, weight })
      else {
        total.weight += weight
        if (by === "min") total.value = Math.min(total.value, value)
        else if (by === "max") total.value = Math.max(total.value, value)
        else total.value += by === "mean" ? value * weight : value
      }
    },
    entries: (): ReadonlyArray<readonly [string, Measure]> =>
      Array.from(totals, ([name, { by, value, weight }]) => [
        name,
        { by, value: by === "mean" ? value / weight : value, weight }
      ])
  }
}
type Gather = ReturnType<typeof gather>

/** Sampler against policy, over the targets that a sampler produced. */
const measureSampler = (into: Gather, sampler: Float32Array, policy: ArrayLike<number>) => {
  let count = 0
  let [sum, squares, distance, farthest] = [0, 0, 0, 0]
  let [ratios, lowest, highest] = [0, Infinity, -Infinity]
  for (let t = 0; t < sampler.length; t++) {
    const d = sampler[t]! - policy[t]!
    if (Number.isNaN(d)) continue
    count++
    sum += d
    squares += d * d
    distance += Math.abs(d)
    farthest = Math.max(farthest, Math.abs(d))
    const ratio = Math.exp(-d)
    ratios += ratio
    lowest = Math.min(lowest, ratio)
    highest = Math.max(highest, ratio)
  }
  if (count === 0) return
  const average = (name: string, total: number) => into.add(name, { by: "mean", value: total / count, weight: count })
  average("sampling/sampling_logp_difference/mean", distance)
  into.add("sampling/sampling_logp_difference/max", { by: "max", value: farthest })
  into.add("sampling/importance_sampling_ratio/min", { by: "min", value: lowest })
  average("sampling/importance_sampling_ratio/mean", ratios)
  into.add("sampling/importance_sampling_ratio/max", { by: "max", value: highest })
  average("sampling/kl_v1", sum)
  average("sampling/kl_v2", squares / 2)
}

/** Evaluates a loss and checks what came back; `undefined` in place of numbers that are not finite. */
const evaluate = (loss: Loss, input: LossInput) => {
  const output: LossOutput = loss(input)
  const targets = input.logprobs.length
  for (const [name, values] of [
    ["dLogprobs", output.dLogprobs],
    ["dEntropy", output.dEntropy]
  ] as const) {
    if (values !== undefined && values.length !== targets) {
      throw new RangeError(`the loss returned ${values.length} numbers as ${name} for ${targets} targets`)
    }
  }
  // In the precision they are handed over in: what overflows there is not finite either.
  const dLogprobs = Float32Array.from(output.dLogprobs)
  const dEntropy = output.dEntropy === undefined ? undefined : Float32Array.from(output.dEntropy)
  const finite =
    Number.isFinite(output.loss) &&
    dLogprobs.every(Number.isFinite) &&
    (dEntropy === undefined || dEntropy.every(Number.isFinite))
  return finite ? { output, dLogprobs, dEntropy } : undefined
}

/**
 * An updater with these settings.
 *
 * ```ts
 * const updater = Update.make({ loss: Loss.clipped({ high: 0.28 }), learningRate: 1e-5 })
 * const reports = Stream.mapEffect(batches, (batch, step) => updater.batch(batch, step))
 * ```
 */
export const make = (settings: UpdateSettings): Updater => {
  const { aggregate = "token", epochs = 1, loss, maskTruncated = false, maxTokens = 16384, minibatches = 1 } = settings
  const { dump, learningRate, old = "policy", temperature = 1 } = settings
  const packing = { aggregate, maxTokens, maskTruncated }
  const { beta1, beta2, epsilon, maxGradNorm, weightDecay } = settings
  const optimizer = {
    ...(beta1 === undefined ? {} : { beta1 }),
    ...(beta2 === undefined ? {} : { beta2 }),
    ...(epsilon === undefined ? {} : { epsilon }),
    ...(maxGradNorm === undefined ? {} : { maxGradNorm }),
    ...(weightDecay === undefined ? {} : { weightDecay })
  }
  for (const [name, value] of Object.entries({ epochs, minibatches })) {
    if (!Number.isInteger(value) || value < 1) throw new RangeError(`Update.make: ${name} is ${value}; give 1 or more`)
  }

  const run = Effect.fn("Update.run")(function* (
    parts: ReadonlyArray<ReadonlyArray<Pack>>,
    passes: number,
    step: number,
    seconds: Record<Phase, number>,
    batch: Batch | undefined
  ): Effect.fn.Return<StepReport, EngineError, Policy> {
    const policy = yield* Policy
    const begun = performance.now()
    const rate = typeof learningRate === "number" ? learningRate : learningRate(step)
    const timed = <A, E>(phase: Phase, effect: Effect.Effect<A, E>): Effect.Effect<A, E> =>
      Effect.suspend(() => {
        const start = performance.now()
        return Effect.onExit(effect, () =>
          Effect.sync(() => {
            seconds[phase] += (performance.now() - start) / 1000
          })
        )
      })
    const forward = (phase: Phase, pack: Pack, options: ForwardOptions) =>
      timed(phase, policy.forward(pack.forest, { temperature, ...options }))

    // Several updates: the ratio is against the policy before the first of them.
    const several = parts.length * passes > 1
    const prepare = Effect.fnUntraced(function* (pack: Pack): Effect.fn.Return<Prepared, EngineError> {
      const before = !several
        ? undefined
        : old === "sampler"
          ? pack.samplerLogprobs
          : (yield* forward("old", pack, {})).logprobs
      const reference =
        loss.reference === true ? (yield* forward("reference", pack, { weights: "reference" })).logprobs : undefined
      return { pack, old: before, reference }
    })
    const prepared = yield* Effect.forEach(parts, (packs) => Effect.forEach(packs, prepare))

    /** Forward, loss, backward. False: not finite, nothing was added to the gradient. */
    const accumulate = Effect.fnUntraced(function* (
      { old, pack, reference }: Prepared,
      first: boolean,
      measures: Gather
    ): Effect.fn.Return<boolean, EngineError> {
      const use = Effect.fnUntraced(function* (kept: Forward): Effect.fn.Return<boolean, EngineError> {
        const { entropy = new Float32Array(), logprobs } = kept
        const input: LossInput = {
          logprobs,
          oldLogprobs: old ?? logprobs,
          samplerLogprobs: pack.samplerLogprobs,
          ...(reference === undefined ? {} : { referenceLogprobs: reference }),
          entropy,
          advantages: pack.advantages,
          weights: pack.weights,
          sequenceStart: pack.sequenceStart
        }
        const result = yield* timed(
          "loss",
          Effect.sync(() => evaluate(loss, input))
        )
        if (result === undefined) return false
        const gradients = {
          logprobs: result.dLogprobs,
          ...(result.dEntropy === undefined ? {} : { entropy: result.dEntropy })
        }
        yield* timed("backward", policy.backward(kept.id, gradients))
        const weight = logprobs.length
        measures.add("loss", { by: "sum", value: result.output.loss })
        measures.add("entropy", { by: "mean", value: entropy.reduce((a, b) => a + b, 0) / weight, weight })
        for (const [name, value] of Object.entries(result.output.metrics)) {
          measures.add(name, typeof value === "number" ? { by: "mean", value, weight } : { weight, ...value })
        }
        if (first)
          measureSampler(measures, pack.samplerLogprobs, old === pack.samplerLogprobs ? logprobs : input.oldLogprobs)
        return true
      })
      // Between the forward and its backward the engine holds activations that only we can free.
      return yield* Effect.uninterruptibleMask((restore) =>
        restore(forward("forward", pack, { entropy: true, keep: true })).pipe(
          Effect.flatMap((kept) =>
            restore(use(kept)).pipe(
              Effect.onExit((exit) =>
                Exit.isSuccess(exit) && exit.value ? Effect.void : Effect.ignore(policy.release(kept.id))
              )
            )
          )
        )
      )
    })

    const overall = gather()
    const tokens = { forward: 0, trained: 0 }
    let skipped = 0
    let updates = 0
    let version: number | undefined
    const skip = Effect.fnUntraced(function* (reason: string, packs: ReadonlyArray<Prepared>) {
      skipped++
      yield* Effect.logWarning(`update of step ${step} skipped: ${reason}`)
      if (dump !== undefined) {
        yield* dump({ step, reason, packs: packs.map(({ pack }) => pack), ...(batch === undefined ? {} : { batch }) })
      }
    })
    const update = Effect.fnUntraced(function* (
      packs: ReadonlyArray<Prepared>,
      first: boolean
    ): Effect.fn.Return<void, EngineError> {
      const measures = gather()
      updates++
      for (const part of packs) {
        tokens.forward += part.pack.forest.tokens.length
        tokens.trained += part.pack.weights.length
        if (!(yield* accumulate(part, first, measures))) {
          yield* policy.zeroGradients()
          return yield* skip("the loss or its gradient is not finite", packs)
        }
      }
      const result = yield* timed("step", policy.step({ ...optimizer, learningRate: rate }))
      version = result.version
      if (result.skipped) return yield* skip("the gradient of the weights is not finite", packs)
      overall.add("grad_norm", { by: "mean", value: result.gradNorm })
      // A sum over the packs of an update is a mean over updates.
      for (const [name, { by, value, weight = 1 }] of measures.entries()) {
        overall.add(name, { by: by === "sum" ? "mean" : by, value, weight: by === "sum" ? 1 : weight })
      }
    })
    for (let pass = 0; pass < passes; pass++) {
      for (const packs of prepared) {
        yield* update(packs, pass === 0).pipe(Effect.onError(() => Effect.ignore(policy.zeroGradients())))
      }
    }

    const values = Object.fromEntries(overall.entries().map(([name, { value }]) => [name, value]))
    const { entropy = NaN, grad_norm: gradNorm = NaN, loss: value = NaN, ...metrics } = values
    seconds.total = seconds.pack + (performance.now() - begun) / 1000
    return {
      step,
      loss: value,
      gradNorm,
      learningRate: rate,
      skipped,
      updates,
      entropy,
      metrics,
      tokens,
      seconds,
      ...(version === undefined ? {} : { version })
    }
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

  return {
    batch: (batch, step) =>
      Effect.suspend(() => {
        const seconds = noSeconds()
        const begun = performance.now()
        const size = Math.ceil(batch.groups.length / minibatches)
        const parts: Array<ReadonlyArray<Pack>> = []
        for (let start = 0; start < batch.groups.length; start += size) {
          const packs = Batches.pack({ groups: batch.groups.slice(start, start + size) }, packing)
          if (packs.length > 0) parts.push(packs)
        }
        seconds.pack = (performance.now() - begun) / 1000
        return run(parts, epochs, step, seconds, batch)
      }),
    packs: (packs, step) =>
      Effect.suspend(() => run(packs.length === 0 ? [] : [packs], 1, step, noSeconds(), undefined))
  }
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
  ): Stream.Stream<Updated<Data>, E | EngineError, R | Policy> =>
    Stream.mapEffect(batches, (batch, index) =>
      Effect.map(updater.batch(batch, from + index), (report) => ({ batch, report }))
    )
}
