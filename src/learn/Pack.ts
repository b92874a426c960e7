/**
 * What one forward and backward computes: a forest of token segments with one target per policy token, and for each
 * target what a loss needs. Aggregation is folded into `weights`, so a loss is a plain sum over targets and the gradient
 * of a batch does not depend on how it is cut into packs.
 */
import type { Forest } from "../engine/Policy.ts"

/**
 * How the losses of policy tokens add up to one number. With B sequences, n_i policy tokens in sequence i:
 * - `token`: each weighs 1 / sum of all n_i of the batch (DAPO, TAPO, verl token-mean)
 * - `sequence`: 1 / (B n_i), the mean over sequences of the mean over tokens (GRPO as published)
 * - `{ constant: L }`: 1 / (B L), L the longest completion allowed (Dr.GRPO)
 * - `sum`: 1 (Tinker)
 *
 * B counts every sequence given, those without a target included (TRL's convention).
 */
export type Aggregate = "token" | "sequence" | "sum" | { readonly constant: number }

/** One sequence that hangs from a shared prompt. `n` policy tokens are its targets. */
export interface PackSequence {
  /** Everything after the prompt. */
  readonly tokens: Uint32Array
  /** Of each of `tokens`: whether it is a target (produced by the policy). */
  readonly target: ArrayLike<boolean | number>
  /** One number for every target alike, or [n]. */
  readonly advantage: number | Float64Array
  /** [n]; absent where no sampler was involved (supervised data): the pack then holds NaN. */
  readonly samplerLogprobs?: Float32Array
}

/** Sequences that share a prompt, which is computed once in every pack it appears in. */
export interface PackGroup {
  readonly prompt: Uint32Array
  readonly sequences: ReadonlyArray<PackSequence>
}

/** Shapes: T tokens of the forest, N targets, Q sequences. */
export interface Pack {
  readonly forest: Forest
  /** [N] */
  readonly advantages: Float64Array
  /** [N] log-probabilities at sampling; NaN where there was no sampler. */
  readonly samplerLogprobs: Float32Array
  /** [N] the aggregation's share of each target. */
  readonly weights: Float64Array
  /** [Q+1] offsets into the targets: sequence q owns targets `sequenceStart[q]` to `sequenceStart[q + 1] - 1`. */
  readonly sequenceStart: Uint32Array
  /** [Q] which group and which of its sequences, as indexes into what was packed. */
  readonly sequences: ReadonlyArray<{ readonly group: number; readonly sequence: number }>
}

export interface PackOptions {
  readonly aggregate: Aggregate
  /** Most forest tokens in a pack; one sequence longer than that still gets a pack of its own. Default: no limit. */
  readonly maxTokens?: number
}

/** A sequence as the packer sees it. */
interface Item {
  readonly group: number
  readonly sequence: number
  readonly source: PackSequence
  /** Offsets of its targets in `source.tokens`. */
  readonly targets: ReadonlyArray<number>
  /** Tokens the forest needs: what comes after the last target's predecessor predicts nothing. */
  readonly length: number
}

const itemsOf = (groups: ReadonlyArray<PackGroup>): Array<Array<Item>> =>
  groups.map(({ prompt, sequences }, group) =>
    sequences.flatMap((source, sequence) => {
      const targets: Array<number> = []
      for (let i = 0; i < source.tokens.length; i++) if (source.target[i]) targets.push(i)
      if (targets.length === 0) return []
      if (targets[0] === 0 && prompt.length === 0) {
        throw new RangeError(
          `Pack.pack: sequence ${sequence} of group ${group} starts with a target, but its prompt is empty: ` +
            "nothing predicts a first token, give the prompt at least one"
        )
      }
      for (const [name, values] of [
        ["advantage", source.advantage],
        ["samplerLogprobs", source.samplerLogprobs]
      ] as const) {
        if (typeof values === "object" && values.length !== targets.length) {
          throw new RangeError(
            `Pack.pack: ${name} of sequence ${sequence} of group ${group} has ${values.length} numbers for ` +
              `${targets.length} targets; give one per policy token`
          )
        }
      }
      return [{ group, sequence, source, targets, length: targets.at(-1)! }]
    })
  )

const weigher = (groups: ReadonlyArray<PackGroup>, items: ReadonlyArray<ReadonlyArray<Item>>, aggregate: Aggregate) => {
  const sequences = groups.reduce((sum, group) => sum + group.sequences.length, 0)
  const tokens = items.flat().reduce((sum, item) => sum + item.targets.length, 0)
  if (aggregate === "token") return () => 1 / tokens
  if (aggregate === "sequence") return (n: number) => 1 / (sequences * n)
  if (aggregate === "sum") return () => 1
  const { constant } = aggregate
  if (!(constant > 0)) {
    throw new RangeError(`Pack.pack: aggregate.constant is ${constant}; give the longest completion allowed, in tokens`)
  }
  return () => 1 / (sequences * constant)
}

const build = (groups: ReadonlyArray<PackGroup>, items: ReadonlyArray<Item>, weigh: (n: number) => number): Pack => {
  const targetCount = items.reduce((sum, item) => sum + item.targets.length, 0)
  const tokens: Array<Uint32Array> = []
  const segmentStart: Array<number> = []
  const segmentLength: Array<number> = []
  const segmentParent: Array<number> = []
  const targetPosition = new Uint32Array(targetCount)
  const targetToken = new Uint32Array(targetCount)
  const advantages = new Float64Array(targetCount)
  const samplerLogprobs = new Float32Array(targetCount).fill(NaN)
  const weights = new Float64Array(targetCount)
  const sequenceStart = new Uint32Array(items.length + 1)
  let total = 0
  const append = (part: Uint32Array, parent: number): number => {
    tokens.push(part)
    segmentStart.push(total)
    segmentLength.push(part.length)
    segmentParent.push(parent)
    total += part.length
    return segmentStart.length - 1
  }
  let group = -1
  let prompt = -1
  let n = 0
  for (const [q, item] of items.entries()) {
    if (item.group !== group) {
      group = item.group
      prompt = groups[group]!.prompt.length === 0 ? -1 : append(groups[group]!.prompt, -1)
    }
    const promptEnd = prompt === -1 ? -1 : segmentStart[prompt]! + segmentLength[prompt]! - 1
    const start = total
    // A single token is predicted by the prompt alone: no segment then.
    if (item.length > 0) append(item.source.tokens.subarray(0, item.length), prompt)
    const weight = weigh(item.targets.length)
    const { advantage, samplerLogprobs: sampled } = item.source
    for (const [i, target] of item.targets.entries()) {
      targetPosition[n] = target === 0 ? promptEnd : start + target - 1
      targetToken[n] = item.source.tokens[target]!
      advantages[n] = typeof advantage === "number" ? advantage : advantage[i]!
      if (sampled !== undefined) samplerLogprobs[n] = sampled[i]!
      weights[n] = weight
      n++
    }
    sequenceStart[q + 1] = n
  }
  const flat = new Uint32Array(total)
  for (const [s, part] of tokens.entries()) flat.set(part, segmentStart[s]!)
  return {
    forest: {
      tokens: flat,
      segmentStart: Uint32Array.from(segmentStart),
      segmentLength: Uint32Array.from(segmentLength),
      segmentParent: Int32Array.from(segmentParent),
      targetPosition,
      targetToken
    },
    advantages,
    samplerLogprobs,
    weights,
    sequenceStart,
    sequences: items.map(({ group, sequence }) => ({ group, sequence }))
  }
}

/**
 * Packs groups in their order. A sequence is never cut; a group is cut only when it is larger than a pack by itself, and
 * its prompt then is repeated. Sequences without a target take no room, but count in B. The weights are those of all
 * groups together: splitting into packs changes no gradient, splitting `groups` over several calls does.
 *
 * ```ts
 * const sequence = { tokens: Uint32Array.of(7, 8, 9), target: [1, 1, 1], advantage: 0.7 }
 * const packs = Pack.pack([{ prompt: Uint32Array.of(1, 2), sequences: [sequence] }], { aggregate: "token" })
 * ```
 */
export const pack = (groups: ReadonlyArray<PackGroup>, options: PackOptions): ReadonlyArray<Pack> => {
  const { aggregate, maxTokens = Infinity } = options
  const items = itemsOf(groups)
  const weigh = weigher(groups, items, aggregate)
  const packs: Array<Pack> = []
  let pending: Array<Item> = []
  let size = 0
  const flush = () => {
    if (pending.length > 0) packs.push(build(groups, pending, weigh))
    pending = []
    size = 0
  }
  for (const [group, own] of items.entries()) {
    const promptLength = groups[group]!.prompt.length
    const whole = promptLength + own.reduce((sum, item) => sum + item.length, 0)
    // Rather a new pack than this group's prompt twice.
    if (size + whole > maxTokens) flush()
    for (const item of own) {
      const needsPrompt = pending.at(-1)?.group !== group
      if (size + item.length + (needsPrompt ? promptLength : 0) > maxTokens) flush()
      size += item.length + (pending.at(-1)?.group !== group ? promptLength : 0)
      pending.push(item)
    }
  }
  flush()
  return packs
}
