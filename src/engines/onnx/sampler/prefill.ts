/** Computes prompts, a bounded number of tokens at a time, and stores them in the cache. */
import type { Tensor } from "../worker/device.ts"
import type { Shape } from "../graph/network.ts"
import { type Filling, FORBIDDEN, type Parts, type Prompts } from "./cache.ts"
import { type Accept, drawingOf, acceptDraw } from "./drawRows.ts"
import type { SamplerRun } from "./samplerRun.ts"
import type { Admission } from "./admission.ts"
import type { Job, Sequence } from "./sequence.ts"
import type { Weights } from "../worker/weights.ts"

/** Prompts in computation. */
interface Computing {
  readonly jobs: ReadonlyArray<Job>
  readonly prompts: Prompts
}

/** For a run that draws no tokens. */
const UNDRAWN = [{ row: 0, inverseTemperature: 1, uniform: 0, greedy: true }]

export class Prefill {
  readonly #weights: Weights
  readonly #run: SamplerRun
  readonly #admission: Admission
  /** Tokens that one step computes. */
  readonly #rows: number
  #filling: Computing | undefined

  constructor(weights: Weights, run: SamplerRun, admission: Admission, rows: number) {
    this.#weights = weights
    this.#run = run
    this.#admission = admission
    this.#rows = rows
  }

  forget(): void {
    this.#filling?.prompts.free()
    this.#filling = undefined
  }

  /** Runs one step; requires a running sample whose prompt is not in the cache. */
  async step(alive: (job: Job) => boolean, accept: Accept): Promise<void> {
    if (this.#filling?.jobs.some(alive) === false) this.forget()
    const { jobs, prompts } = (this.#filling ??= await this.#next())
    const longest = Math.max(...jobs.map(({ request }) => request.prompt.length))
    const length = Math.min(longest - prompts.length, Math.max(1, Math.floor(this.#rows / jobs.length)))
    const tokens: Array<number> = []
    const positions: Array<number> = []
    for (const { request } of jobs) {
      for (let at = prompts.length; at < prompts.length + length; at++) {
        tokens.push(request.prompt[at] ?? 0)
        positions.push(at)
      }
    }
    const last = prompts.length + length === longest
    const parts = prompts.parts(length)
    const begun = jobs.flatMap((job, prompt) => {
      const row = prompt * length + job.prefix - prompts.length
      return this.#beginners(job).map((sequence) => ({
        sequence,
        prompt,
        draw: drawingOf(sequence, row, job.prefix + 1)
      }))
    })
    const draws = last && begun.length > 0
    const outcome = await this.#run.run({
      owner: jobs[0]!.owner,
      gridRows: jobs.length,
      width: 1,
      length,
      tokens,
      positions,
      mask: causal(this.#weights, prompts, parts, length),
      parts,
      cache: prompts.feeds(),
      draws: draws ? begun.map(({ draw }) => draw) : UNDRAWN,
      logits: draws && begun.some(({ sequence }) => sequence.group.filtered)
    })
    prompts.append(outcome.results, length)
    if (!last) return
    const { cache, grid } = this.#admission
    const targets = jobs.flatMap((job, prompt) =>
      grid.fill(job).map((to): Filling => ({ prompt, from: 0, length: job.prefix, to }))
    )
    // A sample that was cancelled in the meantime has no slot.
    for (const { prompt, sequence } of begun) {
      if (sequence.slot === undefined) continue
      const { prefix } = sequence.group
      const at = sequence.shares ? 0 : prefix
      targets.push({ prompt, from: prefix, length: 1, to: { region: "own", ...sequence.slot, at } })
      sequence.stored += 1
    }
    if (targets.length > 0) await cache.write(prompts, targets)
    this.forget()
    for (const [i, { draw, sequence }] of begun.entries()) {
      if (sequence.slot !== undefined) acceptDraw(outcome, i, draw, sequence, accept)
    }
    this.#admission.sweep()
  }

  /** Returns the samples whose first token is drawn from the prompt's last row. Evicted samples already have theirs. */
  #beginners(job: Job): ReadonlyArray<Sequence> {
    return this.#admission.running.filter(
      ({ group, filled, tokens }) => group === job && !filled && tokens.length === 0
    )
  }

  /** Selects the oldest prompt that is not in the cache, and others of similar length with the same weights. */
  async #next(): Promise<Computing> {
    const missing = new Set(this.#admission.running.flatMap(({ group, filled }) => (filled ? [] : [group])))
    const [first, ...others] = missing
    const jobs = [first!]
    const lengthOf = ({ request }: Job): number => request.prompt.length
    let [shortest, longest] = [lengthOf(first!), lengthOf(first!)]
    for (const job of others) {
      const [low, high] = [Math.min(shortest, lengthOf(job)), Math.max(longest, lengthOf(job))]
      if (job.owner !== first!.owner || high > 1.25 * low + 8) continue
      if (high * (jobs.length + 1) > this.#rows) continue
      jobs.push(job)
      ;[shortest, longest] = [low, high]
    }
    return { jobs, prompts: await this.#admission.cache.prompts(jobs.length, longest) }
  }
}

/**
 * New tokens attend to stored ones and to one another, up to themselves. Rows of query heads that share a key are
 * alike.
 */
const causal = (
  { device, shape }: { readonly device: Weights["device"]; readonly shape: Shape },
  { length: stored, start }: Prompts,
  parts: Parts,
  tokens: number
): Tensor => {
  const width = parts[0] + parts[1] + parts[2]
  const rows = (shape.heads / shape.kvHeads) * tokens
  const mask = new Float32Array(rows * width).fill(FORBIDDEN)
  for (let row = 0; row < rows; row++) {
    const at = row * width
    mask.fill(0, at + start, at + start + stored)
    mask.fill(0, at + width - tokens, at + width - tokens + 1 + (row % tokens))
  }
  return device.host(mask, [1, 1, 1, rows, width])
}
