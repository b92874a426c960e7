/** Model-written JavaScript or TypeScript, judged by what its function returns. */
import type { Task } from "../src/Task.ts"
import * as Verifier from "../src/Verifier.ts"
import { extractCode, type Code } from "./internal/completion.ts"
import { equals, Opaque } from "./internal/TypedData.ts"
import * as JavaScriptSandbox from "./JavaScriptSandbox.ts"

export interface UnitTestCase {
  readonly args: ReadonlyArray<unknown>
  readonly expect: unknown
}

export interface UnitTestsOptions<Data> extends JavaScriptSandbox.SandboxOptions {
  readonly cases: (task: Task<Data>) => ReadonlyArray<UnitTestCase>
  /** Name of the function that the candidate has to define. */
  readonly entry: string | ((task: Task<Data>) => string)
  /** `all`: 1 when every case passes, else 0. `share`: the share that passes, which constant answers can farm. Default `all`. */
  readonly score?: "all" | "share"
  /**
   * Compares on the host. Default: same types, same values, no coercion. A comparison of your own gets plain data, or an
   * object of class `Opaque` where the candidate returned a function or the like.
   */
  readonly equals?: (actual: unknown, expected: unknown, task: Task<Data>) => boolean
  /** Finds the code in the completion. Default: the first fenced block, else the whole text. */
  readonly extract?: (text: string) => string
  /** Of code that no fence names. Default `javascript`. */
  readonly language?: "javascript" | "typescript"
}

/** What became of a candidate: the worst of its cases. */
export type UnitTestStatus = "pass" | "fail" | "error" | "timeout" | "memory" | "output"

/**
 * Runs the completion's code in a sandbox (see `JavaScriptSandbox`), calls its function with each case's arguments, and
 * compares here. The candidate never sees what is expected. A candidate that loops, throws, or exhausts memory scores 0
 * with that reason; a sandbox that fails is unscorable. Metrics: `passed`, `cases`, and 1 under the status's own name.
 *
 * @example
 * ```ts
 * const tests = unitTests<{ cases: Array<UnitTestCase> }>({ entry: "add", cases: (task) => task.data.cases })
 * // "```js\nconst add = (a, b) => a + b\n```" with [{ args: [1, 2], expect: 3 }] scores 1: pass, 1 of 1
 * ```
 */
export const unitTests = <Data = unknown>(options: UnitTestsOptions<Data>): Verifier.VerifierFunction<Data> => {
  const sandbox = JavaScriptSandbox.get(options)
  const all = (options.score ?? "all") === "all"
  return async ({ task, trajectory, signal }): Promise<Verifier.Verdict> => {
    const cases = options.cases(task)
    if (cases.length === 0) return Verifier.unscorable(`task ${task.id} has no unit tests`)
    const code: Code = options.extract
      ? { source: options.extract(trajectory.text), language: undefined }
      : extractCode(trajectory.text)
    const evaluation = await sandbox.evaluate(
      {
        source: code.source,
        language: code.language ?? options.language ?? "javascript",
        entry: typeof options.entry === "string" ? options.entry : options.entry(task),
        calls: cases.map((one) => one.args),
        stopEarly: all
      },
      signal
    )
    if (evaluation._tag === "Infrastructure") return Verifier.unscorable(`sandbox: ${evaluation.detail}`)
    const compare = options.equals ?? equals
    let passed = 0
    let status: UnitTestStatus = "pass"
    let reason = ""
    cases.forEach((one, index) => {
      const result = evaluation.calls[index]
      let own: UnitTestStatus
      let detail = ""
      if (result === undefined) own = "error"
      else if (result.status !== "value") {
        own = result.status === "load" ? "error" : result.status
        detail = result.detail
      } else {
        own = compare(result.value, one.expect, task) ? "pass" : "fail"
        detail = result.value instanceof Opaque ? `it returned ${result.value.kind}` : "a wrong value"
      }
      if (own === "pass") passed++
      else if (status === "pass") {
        status = own
        reason = `case ${index + 1}: ${detail}`
      }
    })
    return {
      score: all ? Number(passed === cases.length) : passed / cases.length,
      reason: `${status}, ${passed} of ${cases.length}${reason === "" ? "" : `; ${reason}`}`.slice(0, 400),
      metrics: { passed, cases: cases.length, [status]: 1 }
    }
  }
}
