/** A process that measures one execution provider. A driver that aborts or hangs affects only this process. */
import { describe } from "../../../addon/addon.ts"
import { type Measurement, measure } from "./measure.ts"
import type { ProbeAnswer } from "./probe.ts"

const answer = (answer: ProbeAnswer): void => {
  process.send!(answer, () => process.exit())
}

process.once("message", (settings: Measurement) => {
  measure(settings).then(
    (measured) => answer({ _tag: "Measured", measured }),
    (cause: unknown) => answer({ _tag: "Refused", reason: describe(cause).detail })
  )
})
process.once("disconnect", () => process.exit())
