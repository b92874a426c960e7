/** A stopwatch of one fiber: every moment belongs to exactly one phase, so the phases add up to the whole. */
import * as Effect from "effect/Effect"

/** Runs an effect as a phase of the step. A phase within a phase is taken out of the outer one. */
export type RunPhase = <A, E, R>(name: string, effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

export interface Phases {
  readonly run: RunPhase
  /** Seconds of each phase since the last lap, and of all of them; then counts from 0 again. */
  readonly lap: () => { readonly seconds: Record<string, number>; readonly total: number }
}

/** Time outside every phase. */
export const OTHER = "other"

export const phases = (now: () => number = () => performance.now() / 1000): Phases => {
  let since = now()
  let seconds: Record<string, number> = {}
  const open = [OTHER]
  const charge = (): void => {
    const name = open.at(-1)!
    const until = now()
    seconds[name] = (seconds[name] ?? 0) + until - since
    since = until
  }
  return {
    run: (name, effect) =>
      Effect.suspend(() => {
        charge()
        open.push(name)
        return Effect.onExit(effect, () =>
          Effect.sync(() => {
            charge()
            open.pop()
          })
        )
      }),
    lap: () => {
      charge()
      const own = seconds
      seconds = {}
      return { seconds: own, total: Object.values(own).reduce((sum, value) => sum + value, 0) }
    }
  }
}

/** Moves what a step measured itself out of the time between phases. */
export const split = (
  seconds: Readonly<Record<string, number>>,
  own: Readonly<Record<string, number>>
): Record<string, number> => {
  const all: Record<string, number> = { ...seconds }
  for (const [name, value] of Object.entries(own)) {
    all[name] = (all[name] ?? 0) + value
    all[OTHER] = (all[OTHER] ?? 0) - value
  }
  return all
}
