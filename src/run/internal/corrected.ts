import * as Effect from "effect/Effect"
import { Policy } from "../../engine/Policy.ts"
import { Sampler } from "../../engine/Sampler.ts"
import * as Loss from "../../learn/Loss.ts"

export interface Correction {
  readonly correction?: Loss.ImportanceCorrection | "none"
  readonly loss?: Loss.Loss
}

/** The loss, and what corrects it for the distance between the engines. */
export const corrected = Effect.fnUntraced(function* ({ correction, loss = Loss.clipped() }: Correction) {
  const sampler = yield* Sampler
  const engines = { sampler: sampler.engine, policy: (yield* Policy).info.engine }
  const needed = engines.sampler !== engines.policy && loss.againstSampler !== true
  const chosen = correction ?? (needed ? {} : ("none" as const))
  if (chosen === "none") return { loss, engines, correction: chosen }
  const { level = "sequence", max = 3, min = 0, mode = "mask" } = chosen
  return { loss: Loss.withImportanceCorrection(loss, chosen), engines, correction: { level, mode, min, max } }
})
