/** The first form of `Sandbox`, for who has not moved yet. */
import * as Sandbox from "./Sandbox.ts"

export type SandboxOptions = Sandbox.SandboxOptions

export interface Candidate extends Sandbox.Calls {
  readonly source: string
  readonly language?: "javascript" | "typescript"
}

export type Evaluation =
  | { readonly _tag: "Evaluated"; readonly calls: ReadonlyArray<Sandbox.CallResult> }
  | { readonly _tag: "Infrastructure"; readonly detail: string }

export interface JavaScriptSandbox {
  readonly evaluate: (candidate: Candidate, signal?: AbortSignal) => Promise<Evaluation>
  readonly close: () => Promise<void>
}

const over = (sandbox: Sandbox.Sandbox): JavaScriptSandbox => ({
  evaluate: async ({ source, language = "javascript", ...work }, signal) => {
    const evaluation = await sandbox.call({ source, language }, work, signal)
    return evaluation._tag === "Evaluated" ? { _tag: "Evaluated", calls: evaluation.results } : evaluation
  },
  close: sandbox.close
})

export const make = (options: SandboxOptions = {}): JavaScriptSandbox => over(Sandbox.make(options))
export const get = (options: SandboxOptions = {}): JavaScriptSandbox => over(Sandbox.get(options))
