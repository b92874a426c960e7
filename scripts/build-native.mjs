// Builds the native addon: cargo compiles native/, the library is copied to
// native/prebuilt/quintain.<platform>-<arch>.node. Does nothing when that file was built from the same sources.
// Plain JavaScript without dependencies: it runs under any Node from 20 on.
//
//   node scripts/build-native.mjs           build if needed; without cargo, keep an addon that is already there
//   node scripts/build-native.mjs --force   build in any case
import { spawn, spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import { copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, renameSync, writeFileSync } from "node:fs"
import { dirname, join, relative, sep } from "node:path"
import { fileURLToPath } from "node:url"

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const native = join(root, "native")
const { platform, arch } = process
const target = join(native, "prebuilt", `quintain.${platform}-${arch}.node`)
const stamp = `${target}.sources`
const library =
  { win32: "quintain_binding.dll", darwin: "libquintain_binding.dylib" }[platform] ?? "libquintain_binding.so"
const seconds = (since) => `${((Date.now() - since) / 1000).toFixed(0)} s`

/** Everything the addon is compiled from, sorted, so that the hash is the same everywhere. */
const sources = (directory = native) =>
  readdirSync(directory, { withFileTypes: true })
    .flatMap((entry) => {
      const path = join(directory, entry.name)
      if (entry.isDirectory()) {
        const skipped = ["target", "prebuilt", "tests", "benches", "examples", "fixtures", "node_modules"]
        return skipped.includes(entry.name) ? [] : sources(path)
      }
      return /\.rs$|^Cargo\.(toml|lock)$/.test(entry.name) ? [path] : []
    })
    .toSorted()

const digest = () => {
  const hash = createHash("sha256")
  for (const path of sources()) {
    hash.update(relative(native, path).split(sep).join("/")).update("\0").update(readFileSync(path)).update("\0")
  }
  return hash.digest("hex")
}

/** The reason why the addon cannot be compiled, in words for the user, or undefined. */
const obstacle = () => {
  const rustc = spawnSync("rustc", ["--version"], { cwd: native, encoding: "utf8" })
  const cargo = spawnSync("cargo", ["--version"], { cwd: native, encoding: "utf8" })
  const install = "Install Rust from https://rustup.rs (or your system's packages), then run: npm run build:native"
  if (cargo.status !== 0 || rustc.status !== 0) return `cargo, which compiles it, was not found.\n${install}`
  const minimum = /^rust-version\s*=\s*"(\d+)\.(\d+)/m.exec(readFileSync(join(native, "Cargo.toml"), "utf8"))
  const found = /(\d+)\.(\d+)/.exec(rustc.stdout)
  if (minimum !== null && found !== null) {
    const [wanted, have] = [minimum, found].map(([, major, minor]) => Number(major) * 1000 + Number(minor))
    if (have < wanted) {
      return `it needs Rust ${minimum[1]}.${minimum[2]} or later and this is ${rustc.stdout.trim()}.\nRun: rustup update stable, then: npm run build:native`
    }
  }
  return undefined
}

/** cargo's exit code; the last crate it named is shown every few seconds, its whole output only where it fails. */
const compile = () =>
  new Promise((resolve) => {
    const started = Date.now()
    let output = ""
    let doing = "starting cargo"
    const cargo = spawn("cargo", ["build", "--release", "-p", "quintain-binding", "--locked"], {
      cwd: native,
      env: { ...process.env, CARGO_TARGET_DIR: targetDirectory, CARGO_TERM_COLOR: "never" },
      stdio: ["ignore", "ignore", "pipe"]
    })
    cargo.stderr.setEncoding("utf8").on("data", (text) => {
      output += text
      const crates = text.match(/(?:Compiling|Downloading|Downloaded) \S+/g)
      if (crates !== null) doing = crates.at(-1)
    })
    const say = () => console.log(`  native addon: ${doing} (${seconds(started)})`)
    const first = setTimeout(say, 2_000)
    const timer = setInterval(say, 10_000)
    const end = (code) => {
      clearTimeout(first)
      clearInterval(timer)
      if (code !== 0) process.stderr.write(output)
      resolve(code)
    }
    cargo.on("error", (error) => {
      output += `${error.message}\n`
      end(1)
    })
    cargo.on("close", end)
  })

const targetDirectory = process.env.CARGO_TARGET_DIR ?? join(native, "target")
const shown = relative(root, target)
const hash = digest()
const built = existsSync(target)
const upToDate = built && existsSync(stamp) && readFileSync(stamp, "utf8").trim() === hash

if (!upToDate || process.argv.includes("--force")) {
  const reason = obstacle()
  if (reason !== undefined) {
    console.error(`\nThe native addon (${shown}) ${built ? "is older than its sources" : "is not built"}: ${reason}`)
    console.error(
      built
        ? "Going on with the one that is there.\n"
        : "Everything that does not train or sample with the native engine works without it.\n"
    )
    // An installation must not fail for it: rewards and environments are usable alone, and the loader says the same.
    process.exit(process.env.npm_lifecycle_event === "build:native" ? 1 : 0)
  }
  const started = Date.now()
  console.log(
    `Building the native addon for ${platform}-${arch} (release, one to two minutes of processor time the first time)`
  )
  const code = await compile()
  if (code !== 0) {
    console.error(`\nThe native addon did not compile: cargo build ended with ${code}, its output is above.`)
    process.exit(1)
  }
  mkdirSync(dirname(target), { recursive: true })
  // A new name first: a process that has the old library loaded keeps its own file.
  const fresh = `${target}.${process.pid}.new`
  copyFileSync(join(targetDirectory, "release", library), fresh)
  renameSync(fresh, target)
  writeFileSync(stamp, `${hash}\n`)
  console.log(`  native addon: ${shown} in ${seconds(started)}`)
}
