/** How the time of a verdict grows with the length of the completion. */
import * as Effect from "effect/Effect"

export interface CostPoint {
  /** The padding of the completion. */
  readonly padding: string
  readonly characters: number
  readonly milliseconds: number
}

export interface Cost {
  readonly points: ReadonlyArray<CostPoint>
  readonly slowest: CostPoint
  /** Largest exponent of time over length between neighbouring lengths: 1 is linear, 2 quadratic. Absent when all is quick. */
  readonly growth: number | undefined
  /** Set when longer completions were not tried, since they would take minutes. */
  readonly stopped: string | undefined
}

/** Paddings that are costly for regular expressions and parsers. */
const paddings = [
  " ",
  "\n",
  "a",
  "1",
  "a ",
  "(",
  "[",
  '{"a":',
  "\\boxed{",
  "<think>",
  "```\n",
  "$",
  "- ",
  "\\",
  '"',
  "#"
]
const sizes = [2 ** 12, 2 ** 14, 2 ** 16, 2 ** 18, 2 ** 20]

/** Milliseconds below which a time says nothing about growth. */
const floor = 5
/** The longest that a verdict is let take, going by how the time has grown. */
const patience = 10_000

const timed = <E, R>(judging: Effect.Effect<unknown, E, R>): Effect.Effect<number, E, R> =>
  Effect.suspend(() => {
    const start = performance.now()
    return Effect.map(judging, () => performance.now() - start)
  })

/** `gold` in the middle of ever more padding. */
export const measureCost = Effect.fnUntraced(function* <E, R>(
  gold: string,
  judge: (text: string) => Effect.Effect<unknown, E, R>
): Effect.fn.Return<Cost, E, R> {
  const points: Array<CostPoint> = []
  let growth: number | undefined
  let stopped: string | undefined
  // the first verdict of all pays for starting up
  yield* judge(gold)
  for (const padding of paddings) {
    let before: number | undefined
    for (const characters of sizes) {
      const half = padding.repeat(Math.floor(characters / 2 / padding.length))
      const text = `${half}\n${gold}\n${half}`
      let milliseconds = yield* timed(judge(text))
      // what looks like growth may have been the machine's: the best of three counts
      for (let again = 0; again < 2 && milliseconds >= floor && milliseconds > 5 * (before ?? floor); again++)
        milliseconds = Math.min(milliseconds, yield* timed(judge(text)))
      points.push({ padding, characters, milliseconds })
      if (before !== undefined && milliseconds >= floor) {
        growth = Math.max(growth ?? 0, Math.log(milliseconds / before) / Math.log(4))
        const next = milliseconds * Math.max(4, milliseconds / before)
        if (next > patience && characters < sizes.at(-1)!) {
          stopped = `not tried beyond ${characters} characters of ${JSON.stringify(padding)}`
          break
        }
      }
      // what is below the floor is taken for the floor: noise must not look like growth
      before = Math.max(milliseconds, floor)
    }
  }
  const slowest = points.reduce((worst, point) => (point.milliseconds > worst.milliseconds ? point : worst))
  return { points, slowest, growth, stopped }
})
