// Runs before `npm start` and `npm test`: installs the dependencies where node_modules is missing or stale.
// Plain JavaScript without dependencies: it runs under whatever Node the machine has (20 or later).
import { spawnSync } from "node:child_process"
import { existsSync, readFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const read = (path) => JSON.parse(readFileSync(join(root, path), "utf8"))

/** Why node_modules is not what package-lock.json asks for, or undefined. */
const stale = () => {
  if (!existsSync(join(root, "node_modules"))) return "there is no node_modules"
  if (!existsSync(join(root, "node_modules/.package-lock.json"))) return "node_modules was not finished by npm"
  const installed = read("node_modules/.package-lock.json").packages
  for (const [path, wanted] of Object.entries(read("package-lock.json").packages)) {
    if (path === "") continue
    const name = path.slice(path.lastIndexOf("node_modules/") + "node_modules/".length)
    const found = installed[path]
    if (found === undefined) {
      // Packages for other platforms are not installed.
      if (wanted.optional) continue
      return `${name} is missing`
    }
    if (found.version !== wanted.version) return `${name} is ${found.version}, not ${wanted.version}`
    if (!existsSync(join(root, path, "package.json"))) return `${name} is missing`
  }
  // The package `node` fetches its executable in its install script.
  const node = join(root, "node_modules/node/bin", process.platform === "win32" ? "node.exe" : "node")
  return existsSync(node) ? undefined : "the install script of the package node has not run"
}

const reason = stale()
if (reason !== undefined) {
  console.log(`Installing the dependencies: ${reason}.`)
  // Only errors: npm itself may run on an older Node than the one it is about to install, and would say so per package.
  const flags = ["ci", "--no-audit", "--no-fund", "--loglevel=error", "--foreground-scripts"]
  const { status } = spawnSync("npm", flags, { cwd: root, stdio: "inherit", shell: process.platform === "win32" })
  if (status !== 0) {
    console.error("npm ci failed: its reason is above.")
    process.exit(status ?? 1)
  }
}
