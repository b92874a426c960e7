// `npm run build` and `prepare`: the native addon, then dist/ by tsc. `prepare` also runs while a consumer installs from
// git, and before anything is checked out by hand, so it skips dist where the compiler is not installed.
import { spawnSync } from "node:child_process"
import { cpSync, existsSync, rmSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const run = (...script) => {
  const { status } = spawnSync(process.execPath, script, { cwd: root, stdio: "inherit" })
  if (status !== 0) process.exit(status ?? 1)
}

run("scripts/build-native.mjs")
const tsc = join(root, "node_modules/typescript/bin/tsc")
if (existsSync(tsc)) {
  rmSync(join(root, "dist"), { recursive: true, force: true })
  run(tsc, "-p", "tsconfig.build.json")
  // read as text at run time, so tsc does not see it
  const python = "src/sandbox/internal/guest/python"
  cpSync(join(root, python), join(root, "dist", python), { recursive: true })
} else {
  console.error("dist/ was not built: the development dependencies are not installed.")
}
