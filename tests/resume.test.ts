import { assert, describe, it } from "vitest"
import { spawn } from "node:child_process"
import { createHash } from "node:crypto"
import * as fs from "node:fs/promises"
import * as os from "node:os"
import * as path from "node:path"

const script = new URL("./fixtures/lookupRun.ts", import.meta.url)
const steps = 40

/** Runs to the end, or until `killAfter` milliseconds after its first step. Tells whether it finished. */
const run = (directory: string, killAfter = Number.POSITIVE_INFINITY): Promise<boolean> =>
  new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ["--conditions=quintain-source", script.pathname, directory, String(steps)], {
      stdio: ["ignore", "pipe", "inherit"]
    })
    let timer: NodeJS.Timeout | undefined
    child.stdout.on("data", () => {
      if (Number.isFinite(killAfter)) timer ??= setTimeout(() => child.kill("SIGKILL"), killAfter)
    })
    child.on("error", reject)
    child.on("exit", (code, signal) => {
      clearTimeout(timer)
      if (code === 0 || signal === "SIGKILL") resolve(code === 0)
      else reject(new Error(`the run exited with ${code ?? signal}`))
    })
  })

const digest = async (directory: string): Promise<Record<string, string>> => {
  const folder = path.join(directory, "checkpoints", `step-${String(steps).padStart(6, "0")}`)
  const digests: Record<string, string> = {}
  for (const name of (await fs.readdir(folder)).toSorted()) {
    digests[name] = createHash("sha256")
      .update(await fs.readFile(path.join(folder, name)))
      .digest("hex")
  }
  return digests
}

/** What a step measured, without what depends on the clock. */
const metrics = async (directory: string): Promise<ReadonlyArray<unknown>> =>
  (await fs.readFile(path.join(directory, "metrics.jsonl"), "utf8"))
    .trimEnd()
    .split("\n")
    .map((line) =>
      Object.fromEntries(
        Object.entries(JSON.parse(line) as Record<string, unknown>).filter(([name]) => !/tim(e|ing)|latency/.test(name))
      )
    )

describe("a run killed at random moments", () => {
  const kills = Number(process.env["QUINTAIN_KILLS"] ?? 3)

  it(`ends with the same weights, optimiser state and metrics as an uninterrupted one (${kills} kills)`, async () => {
    const root = await fs.mkdtemp(path.join(os.tmpdir(), "quintain-kill-"))
    try {
      const whole = path.join(root, "whole")
      const begun = performance.now()
      assert.isTrue(await run(whole))
      const span = performance.now() - begun
      for (let trial = 0; trial < kills; trial++) {
        const killed = path.join(root, `killed-${trial}`)
        // A kill that came too late proves nothing: again, from nothing.
        while (await run(killed, Math.random() * span * 0.8)) await fs.rm(killed, { recursive: true })
        assert.isTrue(await run(killed))
        assert.deepStrictEqual(await digest(killed), await digest(whole))
        assert.deepStrictEqual(await metrics(killed), await metrics(whole))
      }
    } finally {
      await fs.rm(root, { recursive: true, force: true })
    }
  })
})
