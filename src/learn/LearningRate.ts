/** Learning rates as functions of the step (0, 1, ...), for `Update`. A number alone is a constant rate. */

/** Rises linearly over `warmup` steps to `peak`, and stays. The first step has 1 / warmup of it. */
export const warmup =
  (peak: number, warmup: number) =>
  (step: number): number =>
    warmup <= 0 ? peak : peak * Math.min(1, (step + 1) / warmup)

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
  (shape: (progress: number) => number) =>
  ({ floor = 0, peak, steps, warmup: rise = 0 }: Decay) => {
    const rising = warmup(peak, rise)
    return (step: number): number =>
      step < rise
        ? rising(step)
        : floor + (peak - floor) * shape(Math.min(1, (step - rise) / Math.max(1, steps - rise)))
  }

/** Falls linearly from `peak` to `floor`. */
export const linear = decay((progress) => 1 - progress)

/** Falls along half a cosine from `peak` to `floor` (Loshchilov and Hutter 2017). */
export const cosine = decay((progress) => 0.5 * (1 + Math.cos(Math.PI * progress)))
