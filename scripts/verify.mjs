// `npm run check` (formatters, linters, type checkers) and `npm test` (the same, then every test). All steps run, also
// after one that failed; the exit code is 0 only if all passed. Closes with the real counts, alone on a line:
// 'N passed, N failed'. Plain JavaScript without dependencies.
//
//   node scripts/verify.mjs check
//   node scripts/verify.mjs test [vitest arguments]     e.g. npm test -- tests/src/Loss.test.ts
import { spawn } from "node:child_process"
import { existsSync, readFileSync, rmSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const [mode = "check", ...extra] = process.argv.slice(2)
const minutes = (n) => n * 60_000
const tool = (path, ...args) => [process.execPath, join(root, "node_modules", path), ...args]
const cargo = (...args) => ["cargo", ...args]

/** Runs one command, its output passed on as it comes; a step past its deadline is ended and has failed. */
const run = ({ command: [program, ...args], cwd = root, deadline, keep = false }) =>
  new Promise((resolve) => {
    let output = ""
    let late = false
    const child = spawn(program, args, {
      cwd,
      stdio: ["ignore", keep ? "pipe" : "inherit", "inherit"],
      // Its own process group, so that the deadline ends its workers too.
      detached: process.platform !== "win32"
    })
    const end = () => {
      try {
        if (process.platform === "win32") child.kill("SIGKILL")
        else process.kill(-child.pid, "SIGKILL")
      } catch {
        // Already gone.
      }
    }
    const interrupt = () => {
      end()
      process.exit(130)
    }
    process.once("SIGINT", interrupt)
    process.once("SIGTERM", interrupt)
    const timer = setTimeout(() => {
      late = true
      end()
    }, deadline)
    child.stdout?.setEncoding("utf8").on("data", (text) => {
      output += text
      process.stdout.write(text)
    })
    const done = (code, why) => {
      clearTimeout(timer)
      process.off("SIGINT", interrupt)
      process.off("SIGTERM", interrupt)
      resolve({ code, output, why: late ? `ended at its deadline of ${deadline / 60_000} minutes` : why })
    }
    child.on("error", (error) => done(1, error.code === "ENOENT" ? `${program} was not found` : error.message))
    child.on("close", (code, signal) => done(code ?? 1, signal === null ? undefined : `ended by ${signal}`))
  })

const native = join(root, "native")
const report = join(root, "node_modules/.cache/quintain-vitest.json")

const checks = [
  { name: "format (oxfmt)", command: tool("oxfmt/bin/oxfmt", "--check"), deadline: minutes(5) },
  { name: "lint (oxlint)", command: tool("oxlint/bin/oxlint", "--deny-warnings"), deadline: minutes(5) },
  { name: "types (tsc)", command: tool("typescript/bin/tsc", "-p", "tsconfig.json"), deadline: minutes(10) },
  { name: "format (rustfmt)", command: cargo("fmt", "--all", "--check"), cwd: native, deadline: minutes(5) },
  {
    name: "lint (clippy)",
    command: cargo("clippy", "--locked", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"),
    cwd: native,
    deadline: minutes(20)
  }
]

/** Sums over every test binary and the doc tests. */
const cargoCounts = ({ output }) => {
  const sum = { passed: 0, failed: 0 }
  for (const [, passed, failed] of output.matchAll(/^test result: \w+\. (\d+) passed; (\d+) failed;/gm)) {
    sum.passed += Number(passed)
    sum.failed += Number(failed)
  }
  return sum
}

/** A test file that does not load has no tests; it counts as one that failed. */
const vitestCounts = () => {
  if (!existsSync(report)) return { passed: 0, failed: 0 }
  const { numPassedTests, numFailedTests, testResults } = JSON.parse(readFileSync(report, "utf8"))
  const unloaded = testResults.filter(
    ({ status, assertionResults }) => status === "failed" && !assertionResults.some((test) => test.status === "failed")
  )
  return { passed: numPassedTests, failed: numFailedTests + unloaded.length }
}

const vitest = {
  name: "tests (vitest)",
  command: tool(
    "vitest/vitest.mjs",
    "run",
    "--reporter=default",
    "--reporter=json",
    `--outputFile.json=${report}`,
    ...extra
  ),
  deadline: minutes(30),
  counts: vitestCounts
}
const cargoTest = {
  name: "tests (cargo)",
  command: cargo("test", "--locked", "--workspace"),
  cwd: native,
  deadline: minutes(20),
  keep: true,
  counts: cargoCounts
}

const steps = mode === "check" ? checks : extra.length > 0 ? [vitest] : [...checks, cargoTest, vitest]
const total = { passed: 0, failed: 0 }
const lines = []
rmSync(report, { force: true })

for (const step of steps) {
  console.log(`\n--- ${step.name}`)
  const started = Date.now()
  const result = await run(step)
  const seconds = ((Date.now() - started) / 1000).toFixed(1)
  let ok = result.code === 0
  let detail = result.why === undefined ? "" : `  ${result.why}`
  if (step.counts !== undefined) {
    const { passed, failed } = step.counts(result)
    total.passed += passed
    // A runner that broke off reported no failure of its own: one, so that the closing line never looks well.
    total.failed += failed === 0 && !ok ? 1 : failed
    detail += `  ${passed} passed, ${failed} failed`
    if (passed + failed === 0) {
      ok = false
      detail += ": no test ran"
    }
  }
  lines.push({ ok, text: `${ok ? "ok  " : "FAIL"} ${step.name.padEnd(18)} ${seconds.padStart(7)} s${detail}` })
}

console.log(`\n${lines.map(({ text }) => text).join("\n")}`)
if (mode === "test") console.log(`\n${total.passed} passed, ${total.failed} failed`)
process.exitCode = lines.every(({ ok }) => ok) ? 0 : 1
