/** Means, deviations and quantiles. */

/** NaN if there is no value. */
export const mean = (values: ReadonlyArray<number>): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length

/** Sample standard deviation, n - 1 in the denominator. NaN of one value. */
export const deviation = (values: ReadonlyArray<number>): number => {
  const center = mean(values)
  return Math.sqrt(values.reduce((sum, value) => sum + (value - center) ** 2, 0) / (values.length - 1))
}

/** The same, but 0 if there are fewer than two values. */
export const deviationOrZero = (values: ReadonlyArray<number>): number => (values.length < 2 ? 0 : deviation(values))

/** Infinity if there is no value. */
export const least = (values: ReadonlyArray<number>): number => values.reduce((a, b) => Math.min(a, b), Infinity)

/** -Infinity if there is no value. */
export const most = (values: ReadonlyArray<number>): number => values.reduce((a, b) => Math.max(a, b), -Infinity)

/** The smallest value that at least `share` of the values do not exceed (nearest rank). NaN if there is no value. */
export const quantile = (values: ReadonlyArray<number>, share: number): number =>
  values.toSorted((a, b) => a - b)[Math.max(0, Math.ceil(share * values.length) - 1)] ?? Number.NaN
