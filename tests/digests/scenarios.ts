/** All scenarios, in the order in which they run. */
import { chatSft } from "./chatSft.ts"
import { bf16, fullKl, lookups, loraKl, minibatches } from "./lookup.ts"
import { onnx } from "./onnx.ts"
import { quickstart } from "./quickstart.ts"
import type { Scenario } from "./scenario.ts"
import { turns } from "./turns.ts"
import { weightSync } from "./weightSync.ts"

export const scenarios: ReadonlyArray<Scenario> = [
  chatSft,
  turns,
  loraKl,
  fullKl,
  minibatches,
  bf16,
  weightSync,
  onnx,
  lookups,
  quickstart
]
