import type { Gather } from "./gather.ts"

/** Sampler against policy, over the targets that a sampler produced. */
export const measureSampler = (into: Gather, sampler: Float32Array, policy: ArrayLike<number>) => {
  let count = 0
  let [sum, squares, distance, farthest] = [0, 0, 0, 0]
  let [ratios, lowest, highest] = [0, Infinity, -Infinity]
  for (let t = 0; t < sampler.length; t++) {
    const d = sampler[t]! - policy[t]!
    if (Number.isNaN(d)) continue
    count++
    sum += d
    squares += d * d
    distance += Math.abs(d)
    farthest = Math.max(farthest, Math.abs(d))
    const ratio = Math.exp(-d)
    ratios += ratio
    lowest = Math.min(lowest, ratio)
    highest = Math.max(highest, ratio)
  }
  if (count === 0) return
  const average = (name: string, total: number) => into.add(name, { by: "mean", value: total / count, weight: count })
  average("sampling/sampling_logp_difference/mean", distance)
  into.add("sampling/sampling_logp_difference/max", { by: "max", value: farthest })
  into.add("sampling/importance_sampling_ratio/min", { by: "min", value: lowest })
  average("sampling/importance_sampling_ratio/mean", ratios)
  into.add("sampling/importance_sampling_ratio/max", { by: "max", value: highest })
  average("sampling/kl_v1", sum)
  average("sampling/kl_v2", squares / 2)
}
