/** Digests of what a run left behind. */
import { createHash } from "node:crypto"
import * as fs from "node:fs/promises"
import { readMetrics, readTrajectories, readWeights } from "./api.ts"

/** SHA-256 in hex; `trajectories` is null for runs that sample none. */
export interface Digests {
  readonly weights: string
  readonly metrics: string
  readonly trajectories: string | null
}

/** Hashes the runs of a scenario, one after the other. */
export const digestsOf = async (directories: ReadonlyArray<string>): Promise<Digests> => {
  const weights = createHash("sha256")
  const metrics = createHash("sha256")
  const trajectories = createHash("sha256")
  let count = 0
  for (const directory of directories) {
    const files = await readWeights(directory)
    // A run that stopped saving its optimiser must not look like one that still does.
    if (files.length < 2)
      throw new Error(`digests: ${directory} saved ${files.length} files; expected weights and optimiser`)
    for (const [name, bytes] of files) weights.update(`${name} ${bytes.length}\n`).update(bytes)
    metrics.update(JSON.stringify(await readMetrics(directory)))
    // Sft records none.
    if (!(await fs.readdir(directory)).includes("trajectories")) continue
    for (const [step, all] of (await readTrajectories(directory)).entries()) {
      for (const { logprobs, sampled, tokens, ...rest } of all) {
        count++
        trajectories.update(`${step} ${JSON.stringify(rest)} ${tokens.length} ${logprobs.length}\n`)
        for (const values of [tokens, sampled, logprobs]) trajectories.update(values)
      }
    }
  }
  return {
    weights: weights.digest("hex"),
    metrics: metrics.digest("hex"),
    trajectories: count === 0 ? null : trajectories.digest("hex")
  }
}
