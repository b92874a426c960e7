/** Losses that add a term to another, and what is wrapped around the other alone. */
import * as Identity from "../../data/Identity.ts"
import type { Loss, Need } from "../lossContract.ts"

/** `wrap` around the innermost loss, which the terms that others add do not belong to ({@link Loss.within}). */
export const within = (loss: Loss, wrap: (loss: Loss) => Loss): Loss =>
  loss.within === undefined ? wrap(loss) : loss.within(wrap)

/** Properties of a loss called `name` that wraps `inner`: what `inner` needs, and `more`. */
export const inherited = (
  inner: Loss,
  name: string,
  settings: Readonly<Record<string, unknown>>,
  more: ReadonlyArray<Need> = []
) => ({
  identity: Identity.make(name, { ...settings, loss: { ...Identity.of(inner) } }),
  needs: Array.from(new Set([...(inner.needs ?? []), ...more])),
  unit: inner.unit ?? ("sequence" as const),
  againstSampler: inner.againstSampler ?? false
})
