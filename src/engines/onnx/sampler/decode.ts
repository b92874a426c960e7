/** Computes one token for every running sample. */
import { FORBIDDEN } from "./cache.ts"
import { type Accept, drawingOf, acceptDraw } from "./drawRows.ts"
import type { SamplerRun } from "./samplerRun.ts"
import type { Admission } from "./admission.ts"
import type { Sequence } from "./sequence.ts"
import type { Owner, Weights } from "../worker/weights.ts"

export class Decode {
  readonly #weights: Weights
  readonly #run: SamplerRun
  readonly #admission: Admission

  constructor(weights: Weights, run: SamplerRun, admission: Admission) {
    this.#weights = weights
    this.#run = run
    this.#admission = admission
  }

  /** Samples with other weights need runs of their own. */
  async step(accept: Accept): Promise<void> {
    const { running } = this.#admission
    for (const owner of new Set(running.map(({ group }) => group.owner))) {
      const sequences = running.filter(({ group, slot }) => group.owner === owner && slot !== undefined)
      if (sequences.length > 0) await this.#stepFor(owner, sequences, accept)
    }
    this.#admission.sweep()
  }

  async #stepFor(owner: Owner, sequences: ReadonlyArray<Sequence>, accept: Accept): Promise<void> {
    const { cache, grid } = this.#admission
    const { width } = grid.layout
    const gridRows = cache.gridRows(grid.used)
    const rows = gridRows * width
    const parts = cache.parts()
    const scores = parts[0] + parts[1] + parts[2]
    const mask = new Float32Array(rows * scores).fill(FORBIDDEN)
    // Rows of empty slots attend only to themselves.
    for (let row = 0; row < rows; row++) mask[(row + 1) * scores - 1] = 0
    const tokens = Array.from({ length: rows }, () => 0)
    const positions = Array.from(tokens)
    const slots = sequences.map((sequence) => grid.occupied(sequence))
    const draws = sequences.map((sequence, i) => {
      const slot = slots[i]!
      const row = slot.gridRow * width + slot.column
      tokens[row] = sequence.next
      positions[row] = sequence.stored
      cache.allow(mask.subarray(row * scores, (row + 1) * scores), slot)
      return drawingOf(sequence, row, sequence.stored + 1)
    })
    const outcome = await this.#run.run({
      owner,
      gridRows,
      width,
      length: 1,
      tokens,
      positions,
      mask: this.#weights.device.host(mask, [gridRows, 1, width, 1, scores]),
      parts,
      cache: cache.feeds(gridRows),
      draws,
      logits: sequences.some(({ draws, group }) => draws && group.filtered)
    })
    // Samples of a request that was cancelled in the meantime have no slot.
    const present = sequences.map(({ slot }) => slot !== undefined)
    await cache.append(
      outcome.results,
      slots.filter((_, i) => present[i])
    )
    for (const [i, sequence] of sequences.entries()) {
      if (!present[i]) continue
      const known = !sequence.draws
      sequence.stored += 1
      if (known) continue
      acceptDraw(outcome, i, draws[i]!, sequence, accept)
    }
  }
}
