/** Learning rates as functions of the step (0, 1, ...), for `Update`. A number alone is a constant rate. */
import * as Identity from "../data/Identity.ts"

/** The rate at a step. Schedules of this module state their name and settings as `identity`. */
export interface Schedule {
  (step: number): number
  readonly identity?: Identity.Identity
}

const rise = (peak: number, warmup: number, step: number): number =>
  warmup <= 0 ? peak : peak * Math.min(1, (step + 1) / warmup)

/** Rises linearly over `warmup` steps to `peak`, and stays. The first step has 1 / warmup of it. */
export const warmup = (peak: number, warmup: number): Schedule =>
  Identity.identify((step: number) => rise(peak, warmup, step), Identity.make("warmup", { peak, warmup }))

export interface Decay {
  readonly peak: number
  /** Steps of the whole run; afterwards the rate stays at `floor`. */
  readonly steps: number
  /** Steps of linear rise at the start. Default 0. */
  readonly warmup?: number
  /** Default 0. */
  readonly floor?: number
}

const decay =
  (name: string, shape: (progress: number) => number) =>
  ({ floor = 0, peak, steps, warmup = 0 }: Decay): Schedule =>
    Identity.identify(
      (step: number) =>
        step < warmup
          ? rise(peak, warmup, step)
          : floor + (peak - floor) * shape(Math.min(1, (step - warmup) / Math.max(1, steps - warmup))),
      Identity.make(name, { peak, steps, warmup, floor })
    )

/** Falls linearly from `peak` to `floor`. */
export const linear = decay("linear", (progress) => 1 - progress)

/** Falls along half a cosine from `peak` to `floor` (Loshchilov and Hutter 2017). */
export const cosine = decay("cosine", (progress) => 0.5 * (1 + Math.cos(Math.PI * progress)))
