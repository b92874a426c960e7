/**
 * Small runs end with the very weights, optimiser state, metrics and trajectories that they ended with before. The longer
 * ones: `node scripts/digests.mjs compare tests/fixtures/digests.json`. A change that is meant to change numbers records
 * them anew and names them.
 */
import { assert, describe, it } from "vitest"
import { spawnSync } from "node:child_process"
import * as path from "node:path"
import type { Digests } from "./digests/digest.ts"
import { scenarios } from "./digests/scenarios.ts"
import recorded from "./fixtures/digests.json" with { type: "json" }

const expected: Readonly<Record<string, Digests>> = recorded

const run = (name: string) =>
  spawnSync(
    process.execPath,
    ["--conditions=quintain-source", path.join(import.meta.dirname, "digests/main.ts"), name],
    { encoding: "utf8" }
  )

describe("digests", () => {
  for (const { name, quick } of scenarios) {
    if (!quick) continue
    it(`${name} is what it was, bit for bit`, (context) => {
      const { status, stderr, stdout } = run(name)
      context.skip(stderr.includes("this machine does not support avx2"), "needs AVX2")
      assert.strictEqual(status, 0, stderr)
      const { digests } = JSON.parse(stdout) as { readonly digests: Digests }
      assert.deepStrictEqual(digests, expected[name])
    })
  }

  it("covers every scenario that does not depend on the machine", () => {
    const portable = scenarios.filter(({ thisMachineOnly = false }) => !thisMachineOnly)
    assert.sameMembers(
      Object.keys(expected),
      portable.map(({ name }) => name)
    )
  })
})
