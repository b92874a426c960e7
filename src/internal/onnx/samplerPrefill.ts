/** Computes prompts, a bounded number of tokens at a time, and puts them into the cache. */
import type { Tensor } from "./device.ts"
import type { Shape } from "./network.ts"
import { FORBIDDEN, type Parts, type Prompts } from "./samplerCache.ts"
import type { SamplerRun } from "./samplerRun.ts"
import type { Seating } from "./samplerSeating.ts"
import type { Job } from "./samplerSequence.ts"
import type { Weights } from "./weights.ts"

/** Prompts that are being computed. */
interface Filling {
  readonly jobs: ReadonlyArray<Job>
  readonly prompts: Prompts
}

/** Nothing is drawn from prompts: each sample begins with its prompt's last token. */
const UNDRAWN = [{ row: 0, inverseTemperature: 1, uniform: 0, greedy: true }]

export class Prefill {
  readonly #weights: Weights
  readonly #run: SamplerRun
  readonly #seating: Seating
  /** Tokens that one step computes. */
  readonly #rows: number
  #filling: Filling | undefined

  constructor(weights: Weights, run: SamplerRun, seating: Seating, rows: number) {
    this.#weights = weights
    this.#run = run
    this.#seating = seating
    this.#rows = rows
  }

  forget(): void {
    this.#filling?.prompts.free()
    this.#filling = undefined
  }

  /** One step; somebody who sits has no prompt in the cache. */
  async step(alive: (job: Job) => boolean): Promise<void> {
    if (this.#filling?.jobs.some(alive) === false) this.forget()
    const { jobs, prompts } = (this.#filling ??= await this.#next())
    const longest = Math.max(...jobs.map(({ prefix }) => prefix))
    const length = Math.min(longest - prompts.length, Math.max(1, Math.floor(this.#rows / jobs.length)))
    const tokens: Array<number> = []
    const positions: Array<number> = []
    for (const { request } of jobs) {
      for (let at = prompts.length; at < prompts.length + length; at++) {
        tokens.push(request.prompt[at] ?? 0)
        positions.push(at)
      }
    }
    const parts = prompts.parts(length)
    const { results } = await this.#run.run({
      owner: jobs[0]!.owner,
      lanes: jobs.length,
      width: 1,
      length,
      tokens,
      positions,
      mask: causal(this.#weights, prompts, parts, length),
      parts,
      cache: prompts.feeds(),
      draws: UNDRAWN,
      logits: false
    })
    prompts.append(results, length)
    if (prompts.length < longest) return
    const { cache, grid } = this.#seating
    const targets = jobs.flatMap((job, prompt) => grid.fill(job).map((to) => ({ prompt, length: job.prefix, to })))
    if (targets.length > 0) await cache.write(prompts, targets)
    this.forget()
  }

  /** The oldest prompt that is not in the cache, and others of about its length with the same weights. */
  async #next(): Promise<Filling> {
    const missing = new Set(this.#seating.running.flatMap(({ family, filled }) => (filled ? [] : [family])))
    const [first, ...others] = missing
    const jobs = [first!]
    let [shortest, longest] = [first!.prefix, first!.prefix]
    for (const job of others) {
      const [low, high] = [Math.min(shortest, job.prefix), Math.max(longest, job.prefix)]
      if (job.owner !== first!.owner || high > 1.25 * low + 8) continue
      if (high * (jobs.length + 1) > this.#rows) continue
      jobs.push(job)
      ;[shortest, longest] = [low, high]
    }
    return { jobs, prompts: await this.#seating.cache.prompts(jobs.length, longest) }
  }
}

/** New tokens see what is stored, and one another up to themselves; the rows of query heads that share a key alike. */
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
