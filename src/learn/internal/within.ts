/** Losses that add a term to another, and what is wrapped around the other alone. */
import type { Loss } from "../lossContract.ts"

/** `wrap` around the innermost loss, which the terms that others add do not belong to ({@link Loss.within}). */
export const within = (loss: Loss, wrap: (loss: Loss) => Loss): Loss =>
  loss.within === undefined ? wrap(loss) : loss.within(wrap)

/** Properties of a loss that `add` makes of `inner`. */
export const around = (inner: Loss, reference: boolean, add: (inner: Loss) => Loss) => ({
  reference,
  againstSampler: inner.againstSampler ?? false,
  within: (wrap: (loss: Loss) => Loss) => add(within(inner, wrap))
})
