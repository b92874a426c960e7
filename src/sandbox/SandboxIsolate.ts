/**
 * The runtime for JavaScript and TypeScript where its native addon can be loaded: isolated-vm, a fresh isolate per evaluation,
 * inside child processes that can be killed and start before they are needed.
 */
import { createRequire } from "node:module"
import { dirname } from "node:path"
import * as scriptSandbox from "./internal/script/scriptSandbox.ts"
import type { Sandbox, SandboxOptions } from "./Sandbox.ts"

/** Where the addon is, or `undefined` where it is not installed. */
export const addon = (): string | undefined => {
  try {
    return createRequire(import.meta.url).resolve("isolated-vm")
  } catch {
    return undefined
  }
}

/**
 * Three clocks end what does not end: the runtime's timeout, disposing the isolate, SIGKILL. Model-written TypeScript is
 * only transformed, never checked.
 *
 * @example
 * ```ts
 * const sandbox = SandboxIsolate.make({ timeout: 500 })
 * const candidate = { source: "const add = (a, b) => a + b", language: "javascript" } as const
 * const evaluation = await sandbox.call(candidate, { entry: "add", calls: [[1, 2]] })
 * // { _tag: "Evaluated", results: [{ status: "value", value: 3 }] }
 * ```
 */
export const make = (options: SandboxOptions = {}): Sandbox => {
  const path = addon()
  if (path === undefined)
    throw new Error("isolated-vm is not installed: npm install isolated-vm, or use SandboxQuickJs")
  const loader = createRequire(path).resolve("node-gyp-build")
  return scriptSandbox.make(
    {
      runtime: "isolated-vm",
      child: "isolateChild",
      args: [path],
      flags: ["--no-concurrent-osr", "--no-concurrent-recompilation", "--allow-addons"],
      folders: [dirname(path), dirname(loader)],
      holds: ["an isolate per evaluation", "memory watched", "no files or processes by node's permissions"],
      lacks: []
    },
    options
  )
}
