// Digests of weights, metrics and trajectories over the scenarios of tests/digests: a change that is to change no number
// leaves them as they were. A minute on two cores.
//
//   node scripts/digests.mjs record FILE [scenario ...]
//   node scripts/digests.mjs compare FILE [scenario ...]
//   node scripts/digests.mjs record tests/fixtures/digests.json --portable     without what depends on this machine
//
// `compare` prints a line per scenario and exits with 1 if one differs. Only x86-64 with AVX2 can run it.
import { spawn } from "node:child_process"
import { readFileSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const args = process.argv.slice(2)
const portable = args.includes("--portable")
const [mode, file, ...names] = args.filter((arg) => arg !== "--portable")
if ((mode !== "record" && mode !== "compare") || file === undefined) {
  console.error("usage: node scripts/digests.mjs record|compare FILE [scenario ...] [--portable]")
  process.exit(2)
}

/** A process for each scenario: none of them sees what another left in memory. */
const ask = (...argv) =>
  new Promise((resolve, reject) => {
    const main = join(root, "tests/digests/main.ts")
    const child = spawn(process.execPath, ["--conditions=quintain-source", main, ...argv], {
      stdio: ["ignore", "pipe", "inherit"]
    })
    let output = ""
    child.stdout.setEncoding("utf8").on("data", (text) => (output += text))
    child.on("error", reject)
    child.on("close", (code, signal) => {
      if (code === 0) resolve(JSON.parse(output))
      else reject(new Error(`digests: ${argv.join(" ")} ended with ${code ?? signal}`))
    })
  })

const differing = (expected, digests) =>
  [...new Set([...Object.keys(expected), ...Object.keys(digests)])].filter((part) => expected[part] !== digests[part])

const known = await ask("--list")
const expected = mode === "compare" ? JSON.parse(readFileSync(file, "utf8")) : {}
const recorded = {}
let failed = false
const say = (word, name, rest) => console.log(`${word.padEnd(9)}${name.padEnd(16)}${rest}`)

for (const name of names.length > 0 ? names : known.map((scenario) => scenario.name)) {
  const thisMachineOnly = known.find((scenario) => scenario.name === name)?.thisMachineOnly ?? false
  if (portable && thisMachineOnly) continue
  const answer = await ask(name).catch((error) => {
    // A record without one of its scenarios would compare as equal later.
    if (mode === "record") throw error
    failed = true
    say("FAILED", name, error.message)
  })
  if (answer === undefined) continue
  const { digests, seconds } = answer
  const took = `${seconds.toFixed(1).padStart(6)} s`
  recorded[name] = digests
  if (mode === "record") say("recorded", name, took)
  else if (expected[name] === undefined) {
    failed ||= !thisMachineOnly
    say("unknown", name, `${took}  ${file} has no digests of it`)
  } else {
    const parts = differing(expected[name], digests)
    failed ||= parts.length > 0
    say(parts.length > 0 ? "DIFFERS" : "equal", name, `${took}  ${parts.join(", ")}`.trimEnd())
  }
}
if (names.length === 0) {
  for (const name of Object.keys(expected)) {
    if (known.some((scenario) => scenario.name === name)) continue
    failed = true
    say("MISSING", name, "  no such scenario")
  }
}
if (mode === "record") writeFileSync(file, `${JSON.stringify(recorded, undefined, 2)}\n`)
process.exitCode = failed ? 1 : 0
