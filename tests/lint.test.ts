/** The project's own lint rules, run by oxlint on files made here. */
import { assert, describe, it } from "@effect/vitest"
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"

const root = path.dirname(import.meta.dirname)

/** Messages of one rule about one file, with their lines. */
const report = (rule: string, code: string): ReadonlyArray<string> => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "quintain-lint-"))
  try {
    const plugins = [path.join(root, "scripts/lint.mjs")]
    const config = { jsPlugins: plugins, categories: { correctness: "off" }, rules: { [rule]: "error" } }
    fs.writeFileSync(path.join(folder, ".oxlintrc.json"), JSON.stringify(config))
    fs.writeFileSync(path.join(folder, "code.ts"), code)
    const oxlint = path.join(root, "node_modules/oxlint/bin/oxlint")
    const { stdout } = spawnSync(process.execPath, [oxlint, "--format=json", "code.ts"], {
      cwd: folder,
      encoding: "utf8"
    })
    const { diagnostics } = JSON.parse(stdout) as {
      readonly diagnostics: ReadonlyArray<{
        readonly message: string
        readonly labels: ReadonlyArray<{ readonly span: { readonly line: number } }>
      }>
    }
    return diagnostics.map(({ labels, message }) => `${labels[0]?.span.line}: ${message}`).toSorted()
  } finally {
    fs.rmSync(folder, { recursive: true, force: true })
  }
}

describe("quintain/plain-opening", () => {
  it("reports comments that open with Of, What, Who or Whoever", () => {
    const code = `/** What a user sees. */
export const a = 1
/**
 * Of a group: its mean.
 */
export const b = 2 // Whoever reads this
// Who waits
export const c = 3
`
    const said = (word: string) => `A comment opens with "${word}": name its subject first.`
    assert.deepStrictEqual(report("quintain/plain-opening", code), [
      `1: ${said("What")}`,
      `3: ${said("Of")}`,
      `6: ${said("Whoever")}`,
      `7: ${said("Who")}`
    ])
  })

  it("passes over the same words elsewhere", () => {
    const code = `/** The mean of a group. Of: not the first word. */
export const a = "// What"
// Rows are sorted by name.
// Of these the first counts.
export const Offset = 1
/** Whole numbers only. */
export const b = 2
`
    assert.deepStrictEqual(report("quintain/plain-opening", code), [])
  })
})
