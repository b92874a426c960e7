/** The library's side: runs in a process that can be killed, evaluates what it is handed, and judges nothing. */
import { ComputeEngine } from "@cortex-js/compute-engine"
import type { Verdict, VerifierInput } from "../../../src/score/Verifier.ts"
import type { Digits, MathJson } from "./numeric.ts"

/** Constants to evaluate: MathJSON, or LaTeX. */
export interface Work {
  readonly constants: ReadonlyArray<{ readonly json: MathJson } | { readonly latex: string }>
}

const make = (): ComputeEngine => {
  const engine = new ComputeEngine()
  engine.precision = 100
  return engine
}
// with the module, not with the first call: loading is not the text's doing
const shared = make()

export const evaluate = ({ task }: VerifierInput<Work>): Verdict => {
  const values = task.data.constants.map((constant): Digits | null => {
    // a text may assign and declare: what it leaves behind judges nobody else
    const engine = "latex" in constant ? make() : shared
    const expression =
      "latex" in constant
        ? engine.parse(constant.latex)
        : engine.expr(constant.json as Parameters<typeof engine.expr>[0])
    if (!expression.isValid || expression.unknowns.length > 0) return null
    return digits(("latex" in constant ? expression.evaluate() : expression).N().json)
  })
  // a verifier's worker carries anything that can be cloned
  return values as unknown as Verdict
}

const digits = (json: unknown): Digits | null => {
  if (Array.isArray(json) && json[0] === "Complex") {
    const re = part(json[1])
    const im = part(json[2])
    return re === null || im === null ? null : { re, im }
  }
  const re = part(json)
  return re === null ? null : { re, im: "0" }
}

/** A machine number with a fraction was not computed to the digits that were asked for. */
const part = (json: unknown): string | null => {
  if (typeof json === "number") return Number.isSafeInteger(json * 1024) ? exact(json) : null
  if (typeof json !== "object" || json === null || !("num" in json) || typeof json.num !== "string") return null
  const { num } = json
  return /^[+-]?\d/.test(num) && num.replace(/\D/g, "").length < 3000 ? num : null
}

const exact = (value: number): string => value.toFixed(12)
