/** Computes one token for everybody whose prompt is in the cache. */
import { FORBIDDEN } from "./cache.ts"
import { type Accept, drawingOf, handOver } from "./drawRows.ts"
import type { SamplerRun } from "./samplerRun.ts"
import type { Seating } from "./admission.ts"
import type { Sequence } from "./sequence.ts"
import type { Owner, Weights } from "../worker/weights.ts"

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
    const draws = sequences.map((sequence, i) => {
      const seat = seats[i]!
      const row = seat.lane * width + seat.column
      tokens[row] = sequence.next
      positions[row] = sequence.stored
      cache.allow(mask.subarray(row * scores, (row + 1) * scores), seat)
      return drawingOf(sequence, row, sequence.stored + 1)
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
      handOver(outcome, i, draws[i]!, sequence, accept)
    }
  }
}
