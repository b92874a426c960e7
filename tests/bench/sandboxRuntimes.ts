/** The runtimes under one roof, for the benchmarks. */
import type { Runtime, Isolation, Language, Sandbox, SandboxOptions } from "../../src/sandbox/Sandbox.ts"
import * as SandboxIsolate from "../../src/sandbox/SandboxIsolate.ts"
import * as SandboxPython from "../../src/sandbox/SandboxPython.ts"
import * as SandboxQuickJs from "../../src/sandbox/SandboxQuickJs.ts"

interface Made {
  readonly language: Language
  /** With an isolation, that one and no stronger. */
  readonly make: (options: SandboxOptions, isolation: Isolation | undefined) => Sandbox
}

const of = (language: Language, make: (options: SandboxOptions) => Sandbox): Made => ({
  language,
  make: (options, isolation) =>
    make(isolation === undefined ? options : { ...options, isolation, strongest: isolation })
})

export const runtimes: Readonly<Record<Runtime, Made>> = {
  "isolated-vm": of("javascript", SandboxIsolate.make),
  quickjs: of("javascript", SandboxQuickJs.make),
  python: of("python", SandboxPython.make)
}
