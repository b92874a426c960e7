/** Capabilities of an engine: stated by the engine, and checked before a run samples anything. */
import type { AdapterConfig } from "../model/adapterConfig.ts"

export interface Capabilities {
  /** Outputs that a forward can return besides log-probabilities. */
  readonly outputs: ReadonlyArray<"entropy">
  /** Outputs besides log-probabilities whose gradient a backward takes. */
  readonly gradients: ReadonlyArray<"entropy">
  /** Kinds of adapters, as PEFT's `peft_type` names them. */
  readonly adapters: ReadonlyArray<AdapterConfig["kind"]>
  /** Whether a forward can use the weights that training began with. */
  readonly reference: boolean
}

/**
 * Lists the needs of a loss that an engine does not meet.
 *
 * The order is that of `needs`. The list is empty if the engine meets all of them.
 *
 * @param needs `reference`, or an output (`entropy`) that a loss needs together with its gradient
 *
 * @example
 * ```ts
 * Capabilities.missing(policy.capabilities, ["entropy", "values"])   // ["values"]
 * ```
 */
export const missing = (capabilities: Capabilities, needs: ReadonlyArray<string>): ReadonlyArray<string> => {
  const outputs: ReadonlyArray<string> = capabilities.outputs
  const gradients: ReadonlyArray<string> = capabilities.gradients
  return needs.filter((need) =>
    need === "reference" ? !capabilities.reference : !(outputs.includes(need) && gradients.includes(need))
  )
}
