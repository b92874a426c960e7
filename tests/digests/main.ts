/**
 * Runs scenarios and prints the digests of each, a line of JSON. `scripts/digests.mjs` records and compares them.
 *
 *     node --conditions=quintain-source tests/digests/main.ts turns bf16
 *     node --conditions=quintain-source tests/digests/main.ts --list
 */
import * as Effect from "effect/Effect"
import { spawnSync } from "node:child_process"
import * as fs from "node:fs/promises"
import * as os from "node:os"
import * as path from "node:path"
import { fileURLToPath } from "node:url"
import { digestsOf } from "./digest.ts"
import type { Scenario } from "./scenario.ts"
import { scenarios } from "./scenarios.ts"

// Every x86-64 machine of the last ten years has these instructions. Others would round otherwise.
process.env["QUINTAIN_ISA"] = "avx2"

const named = (name: string | undefined): Scenario => {
  const scenario = scenarios.find((scenario) => scenario.name === name)
  if (scenario !== undefined) return scenario
  const known = scenarios.map(({ name }) => name).join(", ")
  throw new RangeError(`digests: scenario is "${name}"; expected one of ${known}. Name one of them.`)
}

/** Trains in a process of its own, which ends itself amid the run. */
const killed = ({ killAfter, name }: Scenario, root: string): void => {
  const file = fileURLToPath(import.meta.url)
  const { signal, status } = spawnSync(
    process.execPath,
    [...process.execArgv, file, "--kill", name, root, String(killAfter)],
    { stdio: ["ignore", "ignore", "inherit"] }
  )
  if (signal !== "SIGKILL") {
    throw new Error(`digests: the first process of ${name} ended with ${status ?? signal}; expected SIGKILL`)
  }
}

const digest = async (scenario: Scenario): Promise<void> => {
  const begun = performance.now()
  const root = await fs.mkdtemp(path.join(os.tmpdir(), "quintain-digests-"))
  try {
    if (scenario.killAfter !== undefined) killed(scenario, root)
    const digests = await digestsOf(await Effect.runPromise(scenario.run({ root })))
    console.log(JSON.stringify({ name: scenario.name, seconds: (performance.now() - begun) / 1000, digests }))
  } finally {
    await fs.rm(root, { recursive: true, force: true })
  }
}

const [first, ...rest] = process.argv.slice(2)
if (first === "--list") {
  console.log(JSON.stringify(scenarios.map(({ name, thisMachineOnly = false }) => ({ name, thisMachineOnly }))))
} else if (first === "--kill") {
  const [name, root, killAfter] = rest
  if (root === undefined) throw new TypeError("digests: --kill takes a scenario, a folder and a step")
  await Effect.runPromise(named(name).run({ root, killAfter: Number(killAfter) }))
} else {
  for (const name of first === undefined ? scenarios.map(({ name }) => name) : [first, ...rest]) {
    await digest(named(name))
  }
}
