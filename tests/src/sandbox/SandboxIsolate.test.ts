import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { execFile, spawn } from "node:child_process"
import { availableParallelism } from "node:os"
import { promisify } from "node:util"
import * as Sandbox from "../../../src/sandbox/Sandbox.ts"
import * as Sandboxes from "../../../src/sandbox/Sandboxes.ts"
import * as SandboxIsolate from "../../../src/sandbox/SandboxIsolate.ts"
import { results, suite } from "../../fixtures/scriptSandboxes.ts"

suite("isolated-vm", SandboxIsolate.make, { children: 1, timeout: 500, total: 3000, memoryMb: 64 })

const one = { source: "const f = () => 1", language: "javascript" } as const
const work = { entry: "f", calls: [[]] }

describe("Sandboxes", () => {
  it("shares one sandbox per set of options, and chooses the runtime of a language", async () => {
    assert.strictEqual(Sandboxes.get({ timeout: 700 }), Sandboxes.get({ timeout: 700, language: "typescript" }))
    assert.notStrictEqual(Sandboxes.get({ timeout: 700 }), Sandboxes.get({ timeout: 701 }))
    assert.throws(() => Sandboxes.make({ language: "python", runtime: "quickjs" }), /does not run python/)
    const sandbox = Sandboxes.make({ children: 1 })
    assert.deepInclude(await sandbox.boundary(), { runtime: "isolated-vm" })
    assert.deepStrictEqual(results(await sandbox.call(one, work)), [{ status: "value", value: 1 }])
    await sandbox.close()
  })

  it.live("is a service that starts its runtimes and ends them", () =>
    Effect.gen(function* () {
      const sandboxes = yield* Sandbox.Sandboxes
      assert.deepStrictEqual(results(yield* sandboxes.call(one, work)), [{ status: "value", value: 1 }])
      const endless = sandboxes.call({ ...one, source: "for (;;);" }, work)
      const interrupted = yield* Effect.timeoutOption(endless, 30)
      assert.strictEqual(interrupted._tag, "None")
      assert.strictEqual((yield* sandboxes.boundary("typescript")).runtime, "isolated-vm")
    }).pipe(Effect.provide(Sandboxes.layer({ languages: ["javascript", "typescript"], children: 1 })))
  )

  it.live("refuses at start what this machine does not hold", () =>
    Effect.gen(function* () {
      const layer = Sandboxes.layer({ languages: ["javascript"], isolation: "bubblewrap", strongest: "process" })
      const refused = yield* Effect.flip(Effect.provide(Sandbox.Sandboxes, layer))
      assert.deepInclude(refused, { _tag: "SandboxRefused", asked: "bubblewrap", found: "process" })
    })
  )

  // The hogs are eight to a core, and the deadline of 200 ms is some of the turns that a busy system hands out.
  it("never takes a busy machine for a slow candidate", async () => {
    const hogs = Array.from({ length: 8 * availableParallelism() }, () =>
      spawn(process.execPath, ["-e", "for (;;);"], { stdio: "ignore" })
    )
    const sandbox = Sandboxes.make({ children: 2, timeout: 200, total: 60_000 })
    try {
      const busy = {
        ...one,
        source: "const f = (n) => { let s = 0; for (let i = 0; i < n; i++) s += i % 7; return s }"
      }
      const evaluations = await Promise.all(
        Array.from({ length: 20 }, () => sandbox.call(busy, { entry: "f", calls: [[20_000_000]] }))
      )
      const seen = evaluations.map((evaluation) =>
        "results" in evaluation ? evaluation.results.map(({ status }) => status) : ["infra"]
      )
      assert.isEmpty(seen.flat().filter((status) => status !== "value" && status !== "infra"))
      const endless = await sandbox.call({ ...one, source: "const f = () => { for (;;); }" }, work)
      assert.deepStrictEqual(
        results(endless).map(({ status }) => status),
        ["timeout"]
      )
    } finally {
      for (const hog of hogs) hog.kill("SIGKILL")
      await sandbox.close()
    }
  })

  it("lets the process end by itself", async () => {
    const script = `
      import { make } from ${JSON.stringify(new URL("../../../src/sandbox/Sandboxes.ts", import.meta.url).href)}
      const { results } = await make().call(${JSON.stringify(one)}, ${JSON.stringify(work)})
      console.log(results[0].value)`
    const flags = ["--conditions=quintain-source", "--input-type=module", "-e", script]
    const { stdout } = await promisify(execFile)(process.execPath, flags)
    assert.strictEqual(stdout.trim(), "1")
  })
})
