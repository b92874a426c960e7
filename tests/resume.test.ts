import { assert, describe, it } from "vitest"
import { spawn } from "node:child_process"
import { createHash } from "node:crypto"
import * as fs from "node:fs/promises"
import * as os from "node:os"
import * as path from "node:path"
import { readRecords } from "./digests/api.ts"

const steps = 40

/** Runs to the end, or until `killAfter` milliseconds after its first step. Tells whether it finished. */
const run = (script: string, directory: string, killAfter = Number.POSITIVE_INFINITY): Promise<boolean> =>
  new Promise((resolve, reject) => {
    const file = new URL(`./fixtures/${script}`, import.meta.url).pathname
    const child = spawn(process.execPath, ["--conditions=quintain-source", file, directory, String(steps)], {
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

/** Every file of the last checkpoint, those of participants' folders included. */
const digest = async (directory: string): Promise<Record<string, string>> => {
  const folder = path.join(directory, "checkpoints", `step-${String(steps).padStart(6, "0")}`)
  const digests: Record<string, string> = {}
  for (const entry of await fs.readdir(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue
    const file = path.join(entry.parentPath, entry.name)
    digests[path.relative(folder, file)] = createHash("sha256")
      .update(await fs.readFile(file))
      .digest("hex")
  }
  return digests
}

/** Every recorded trajectory, without what depends on the clock. */
const trajectories = async (directory: string): Promise<ReadonlyArray<unknown>> => {
  const records = await readRecords(directory)
  assert.lengthOf(records, steps)
  return records.flat().map((trajectory) => ({
    ...trajectory,
    turns: trajectory.turns.map((turn) => ({ ...turn, seconds: undefined })),
    seconds: undefined,
    timings: undefined
  }))
}

/** Metrics of each step, without clock times. */
const metrics = async (directory: string): Promise<ReadonlyArray<unknown>> =>
  (await fs.readFile(path.join(directory, "metrics.jsonl"), "utf8"))
    .trimEnd()
    .split("\n")
    .map((line) =>
      Object.fromEntries(
        Object.entries(JSON.parse(line) as Record<string, unknown>).filter(
          ([name]) => !/tim(e|ing)|latency|busy/.test(name)
        )
      )
    )

describe("a run killed at random moments", () => {
  const kills = Number(process.env["QUINTAIN_KILLS"] ?? 3)

  for (const [script, name] of [
    ["lookupRun.ts", "of Grpo"],
    ["ownLoop.ts", "of a loop of one's own"]
  ] as const) {
    it(`${name} ends with the same weights, optimiser, metrics and trajectories as a whole one (${kills} kills)`, async () => {
      const root = await fs.mkdtemp(path.join(os.tmpdir(), "quintain-kill-"))
      try {
        const whole = path.join(root, "whole")
        const begun = performance.now()
        assert.isTrue(await run(script, whole))
        const span = performance.now() - begun
        for (let trial = 0; trial < kills; trial++) {
          const killed = path.join(root, `killed-${trial}`)
          // A kill that came too late proves nothing: again, in an empty folder.
          while (await run(script, killed, Math.random() * span * 0.8)) await fs.rm(killed, { recursive: true })
          assert.isTrue(await run(script, killed))
          assert.deepStrictEqual(await digest(killed), await digest(whole))
          assert.deepStrictEqual(await metrics(killed), await metrics(whole))
          assert.deepStrictEqual(await trajectories(killed), await trajectories(whole))
        }
      } finally {
        await fs.rm(root, { recursive: true, force: true })
      }
      // Eight runs: half a minute on two idle cores.
    }, 600_000)
  }
})
