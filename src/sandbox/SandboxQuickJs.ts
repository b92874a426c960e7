/**
 * The runtime for JavaScript and TypeScript where isolated-vm cannot be loaded: QuickJS in WebAssembly, anew for every
 * case, on a thread of a child process that can be killed. It computes two to ten times slower than V8.
 */
import { createRequire } from "node:module"
import { dirname } from "node:path"
import * as scriptSandbox from "./internal/script/scriptSandbox.ts"
import type { Sandbox, SandboxOptions } from "./Sandbox.ts"

/**
 * Three clocks: the interpreter's own, the end of its thread, SIGKILL. What it lacks beside `SandboxIsolate` is listed by
 * `boundary()`.
 *
 * @example
 * ```ts
 * const sandbox = SandboxQuickJs.make({ timeout: 500 })
 * const candidate = { source: "const add = (a, b) => a + b", language: "javascript" } as const
 * const evaluation = await sandbox.call(candidate, { entry: "add", calls: [[1, 2]] })
 * // { _tag: "Evaluated", results: [{ status: "value", value: 3 }] }
 * ```
 */
export const make = (options: SandboxOptions = {}): Sandbox => {
  const require = createRequire(import.meta.url)
  const module = (path: string): string => path.replace(/\.js$/, ".mjs")
  const core = module(require.resolve("quickjs-emscripten-core"))
  const variantName = "@jitl/quickjs-wasmfile-release-sync"
  const variant = module(require.resolve(variantName))
  const wasm = require.resolve(`${variantName}/wasm`)
  const types = createRequire(core).resolve("@jitl/quickjs-ffi-types")
  const root = (path: string): string => dirname(dirname(path))
  return scriptSandbox.make(
    {
      runtime: "quickjs",
      child: "quickjsChild",
      args: [core, variant, wasm],
      flags: ["--allow-worker"],
      folders: [root(core), root(variant), root(types)],
      holds: [
        "a runtime per evaluation",
        "memory capped by WebAssembly and watched",
        "no files or processes by node's permissions"
      ],
      lacks: [
        "V8's speed: computes 2 to 10 times slower",
        "Intl",
        "a deadline inside native loops: those end with their thread"
      ]
    },
    options
  )
}
