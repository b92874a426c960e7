// Plants each fault of faults.json in a copy of the sources and expects the tests it names to fail: tests that notice
// nothing protect nothing. Half a minute on two cores.
//
//   node scripts/faults.mjs [fault ...]
//
// A fault is a text that stands exactly once in src, rewards and envs, what replaces it, and the tests that must fail.
// The file is found by the text, so that faults survive a move. The exit code is 1 if a fault survives, or if a test
// fails without one.
import { spawnSync } from "node:child_process"
import { cpSync, globSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const all = JSON.parse(readFileSync(join(root, "scripts/faults.json"), "utf8"))
const names = process.argv.slice(2)
const unknown = names.filter((name) => !all.some((fault) => fault.name === name))
if (unknown.length > 0) {
  console.error(`faults: no fault is called ${unknown.join(", ")}; there are ${all.map(({ name }) => name).join(", ")}`)
  process.exit(2)
}
const faults = names.length === 0 ? all : all.filter(({ name }) => names.includes(name))

/** The sources as they stand, committed or not. What is large and not changed is linked. */
const makeCopy = () => {
  const copy = mkdtempSync(join(tmpdir(), "quintain-faults-"))
  for (const name of ["src", "rewards", "envs", "tests", "package.json", "tsconfig.json", "vitest.config.ts"]) {
    cpSync(join(root, name), join(copy, name), { recursive: true })
  }
  for (const name of ["node_modules", "native"]) symlinkSync(join(root, name), join(copy, name))
  return copy
}

/** Runs tests of one file by their titles: `passed`, `failed` or `missing` for each. */
const run = (copy, file, titles) => {
  const report = join(copy, "report.json")
  rmSync(report, { force: true })
  const pattern = titles.map((title) => title.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|")
  const vitest = ["node_modules/vitest/vitest.mjs", "run", file, "-t", pattern]
  const { stderr } = spawnSync(process.execPath, [...vitest, "--reporter=json", `--outputFile.json=${report}`], {
    cwd: copy,
    encoding: "utf8"
  })
  let results = []
  try {
    results = JSON.parse(readFileSync(report, "utf8")).testResults.flatMap(({ assertionResults }) => assertionResults)
  } catch {
    console.error(stderr)
  }
  return titles.map((title) => results.find((result) => result.title === title)?.status ?? "missing")
}

/** The one file that has the text; an error says how many have it. */
const locate = (copy, find) => {
  const files = globSync("{src,rewards,envs}/**/*.{ts,mjs,py}", { cwd: copy })
  const found = files.flatMap((file) => {
    const times = readFileSync(join(copy, file), "utf8").split(find).length - 1
    return Array.from({ length: times }, () => file)
  })
  if (found.length === 1) return found[0]
  throw new Error(`its text stands ${found.length} times; expected once. Bring it up to date in scripts/faults.json`)
}

/** Undefined if every named test failed; else what happened instead. */
const survives = (copy, { file, find, replace, tests }) => {
  const sound = run(copy, file, tests)
  if (sound.some((status) => status !== "passed")) return `without the fault: ${sound.join(", ")}`
  const place = join(copy, locate(copy, find))
  const source = readFileSync(place, "utf8")
  writeFileSync(
    place,
    source.replace(find, () => replace)
  )
  try {
    const faulty = run(copy, file, tests)
    return faulty.every((status) => status === "failed") ? undefined : `with the fault: ${faulty.join(", ")}`
  } finally {
    writeFileSync(place, source)
  }
}

const copy = makeCopy()
let survived = 0
try {
  for (const fault of faults) {
    const begun = performance.now()
    let why
    try {
      why = survives(copy, fault)
    } catch (error) {
      why = error.message
    }
    const seconds = ((performance.now() - begun) / 1000).toFixed(1).padStart(5)
    if (why !== undefined) survived++
    console.log(
      `${why === undefined ? "killed  " : "SURVIVES"} ${fault.name.padEnd(22)} ${seconds} s  ${why ?? fault.says}`
    )
  }
} finally {
  rmSync(copy, { recursive: true, force: true })
}
console.log(`${faults.length - survived} killed, ${survived} survive`)
process.exitCode = survived === 0 ? 0 : 1
