import type { Measure } from "../lossContract.ts"

/** Gathers measures: `mean` by weight, the others as named. */
export const gather = () => {
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
export type Gather = ReturnType<typeof gather>
