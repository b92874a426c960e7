/** What an engine can compute, stated by the engine and checked before a run samples anything. */
import type { AdapterConfig } from "../model/adapterConfig.ts"

export interface Capabilities {
  /** What a forward can return besides log-probabilities. */
  readonly outputs: ReadonlyArray<"entropy">
  /** The outputs whose gradient a backward takes, besides log-probabilities. */
  readonly gradients: ReadonlyArray<"entropy">
  /** Kinds of adapters, as PEFT's `peft_type` names them. */
  readonly adapters: ReadonlyArray<AdapterConfig["kind"]>
  /** A forward can compute with the weights that training began with. */
  readonly reference: boolean
}

/**
 * The needs of a loss that an engine does not meet, in their order; empty if it meets all of them.
 *
 * @param needs `reference`, or an output (`entropy`), which a loss needs together with its gradient
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
