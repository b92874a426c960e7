/** Computes one token for everybody whose prompt is in the cache. */
import { FORBIDDEN } from "./samplerCache.ts"
import { chooseFiltered } from "./samplerChoose.ts"
import type { Drawing, Outcome, SamplerRun } from "./samplerRun.ts"
import type { Seating } from "./samplerSeating.ts"
import type { Job, Sequence } from "./samplerSequence.ts"
import type { Owner, Weights } from "./weights.ts"

/** What a sample was given: a token, or (undefined) numbers that are not finite. */
export type Accept = (sequence: Sequence, token: number | undefined, logprob: number) => void

export class Decode {
  readonly #weights: Weights
  readonly #run: SamplerRun
  readonly #seating: Seating

  constructor(weights: Weights, run: SamplerRun, seating: Seating) {
    this.#weights = weights
    this.#run = run
    this.#seating = seating
  }

  /** Samples with other weights take runs of their own. */
  async step(accept: Accept): Promise<void> {
    const { running } = this.#seating
    for (const owner of new Set(running.map(({ family }) => family.owner))) {
      const sequences = running.filter(({ family, seat }) => family.owner === owner && seat !== undefined)
      if (sequences.length > 0) await this.#stepFor(owner, sequences, accept)
    }
    this.#seating.sweep()
  }

  async #stepFor(owner: Owner, sequences: ReadonlyArray<Sequence>, accept: Accept): Promise<void> {
    const { cache, grid } = this.#seating
    const { width } = grid.layout
    const lanes = cache.lanes(grid.used)
    const rows = lanes * width
    const parts = cache.parts()
    const scores = parts[0] + parts[1] + parts[2]
    const mask = new Float32Array(rows * scores).fill(FORBIDDEN)
    // Rows of empty seats see themselves only.
    for (let row = 0; row < rows; row++) mask[(row + 1) * scores - 1] = 0
    const tokens = Array.from({ length: rows }, () => 0)
    const positions = Array.from(tokens)
    const seats = sequences.map((sequence) => grid.occupied(sequence))
    const draws = sequences.map((sequence, i): Drawing => {
      const { family, sample, stored } = sequence
      const seat = seats[i]!
      const row = seat.lane * width + seat.column
      tokens[row] = sequence.next
      positions[row] = stored
      cache.allow(mask.subarray(row * scores, (row + 1) * scores), seat)
      const uniform = family.uniform(sample, stored + 1)
      const greedy = family.request.temperature === 0
      return { row, inverseTemperature: family.inverseTemperature, uniform, greedy }
    })
    const outcome = await this.#run.run({
      owner,
      lanes,
      width,
      length: 1,
      tokens,
      positions,
      mask: this.#weights.device.host(mask, [lanes, 1, width, 1, scores]),
      parts,
      cache: cache.feeds(lanes),
      draws,
      logits: sequences.some(({ draws, family }) => draws && family.filtered)
    })
    // Of a request that was cancelled meanwhile nobody sits there any more.
    const present = sequences.map(({ seat }) => seat !== undefined)
    await cache.append(
      outcome.results,
      seats.filter((_, i) => present[i])
    )
    for (const [i, sequence] of sequences.entries()) {
      if (!present[i]) continue
      const known = !sequence.draws
      sequence.stored += 1
      if (known) continue
      const [token, logprob] = this.#drawn(outcome, i, sequence.family, draws[i]!.uniform)
      accept(sequence, Number.isFinite(logprob) ? token : undefined, logprob)
    }
  }

  #drawn(outcome: Outcome, row: number, job: Job, uniform: number): readonly [token: number, logprob: number] {
    if (!job.filtered) return [outcome.tokens[row]!, outcome.logprobs[row]!]
    const { vocabulary } = this.#weights.shape
    const logits = outcome.logits!.subarray(row * vocabulary, (row + 1) * vocabulary)
    // They are tempered already.
    const { logprob, token } = chooseFiltered(logits, { ...job.request, temperature: 1 }, uniform)
    return [token, logprob]
  }
}
