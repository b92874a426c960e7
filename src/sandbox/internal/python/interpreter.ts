/** Finds an interpreter that a confined process can run, by running it. */
import { execFile, spawn } from "node:child_process"
import { existsSync } from "node:fs"
import { isAbsolute, join } from "node:path"
import type { Isolation } from "../../Sandbox.ts"
import { confine, reachable } from "../boundary.ts"
import { driver } from "./guest.ts"
import type { Interpreter } from "./process.ts"

/** Below it the driver's modules lack something. */
const oldest = [3, 8] as const

interface Search {
  readonly interpreter?: Interpreter
  /** Attempts and the reason why each failed. */
  readonly detail: string
}

const searches = new Map<string, Promise<Search>>()

export const interpreters = (isolation: Isolation, named: string | undefined, packages: boolean): Promise<Search> => {
  const key = JSON.stringify([isolation, named, packages])
  let search = searches.get(key)
  if (search === undefined) {
    search = look(isolation, named, packages).then((result) => {
      // it may have been installed by the next time
      if (result.interpreter === undefined) searches.delete(key)
      return result
    })
    searches.set(key, search)
  }
  return search
}

const look = async (isolation: Isolation, named: string | undefined, packages: boolean): Promise<Search> => {
  const onPath = (process.env.PATH ?? "").split(":").filter(isAbsolute)
  const files = (
    named === undefined ? [...onPath, "/usr/bin", "/usr/local/bin"].map((folder) => join(folder, "python3")) : [named]
  ).filter((file, index, list) => existsSync(file) && list.indexOf(file) === index)
  const places: Array<Place> = []
  const faults: Array<string> = []
  for (const file of files) {
    const place = await whereabouts(file)
    if (typeof place === "string") faults.push(`${file}: ${place}`)
    else places.push(place)
  }
  // what other users can read needs no mounts of its own, which take time
  const handy = (place: Place): number => ([place.file, ...place.readable].every(reachable) ? 0 : 1)
  for (const place of places.toSorted((left, right) => handy(left) - handy(right))) {
    const interpreter = {
      file: place.file,
      args: ["-I", ...(packages ? [] : ["-S"]), "-X", "utf8"],
      readable: packages ? [...place.readable, ...place.packages] : place.readable
    }
    const answer = await compiled(interpreter, isolation)
    if ("boot" in answer) return { interpreter: { ...interpreter, boot: answer.boot }, detail: "" }
    faults.push(`${place.file}: ${answer.fault}`)
  }
  return {
    detail: faults.join("; ") || (named === undefined ? "there is no python3 on the path" : `there is no ${named}`)
  }
}

interface Place {
  readonly file: string
  readonly readable: ReadonlyArray<string>
  readonly packages: ReadonlyArray<string>
}

const question = `import sys, sysconfig
print("\\n".join([sys.executable, "%d.%d" % sys.version_info[:2], sys.base_prefix, sys.prefix, sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]))`

/** The interpreter itself, which what is on the path may only lead to, and where its library is. */
const whereabouts = (file: string): Promise<Place | string> =>
  new Promise((resolve) => {
    execFile(file, ["-I", "-c", question], { timeout: 20_000, maxBuffer: 65_536 }, (fault, out) => {
      if (fault !== null) return resolve(fault.message.slice(0, 300))
      const [executable = "", version = "", ...folders] = out.trim().split("\n")
      const [major = 0, minor = 0] = version.split(".").map(Number)
      if (major !== oldest[0] || minor < oldest[1])
        return resolve(`is version ${version}, wanted is ${oldest.join(".")} or later`)
      const outside = [...new Set(folders)].filter(
        (folder) => isAbsolute(folder) && folder !== "/usr" && existsSync(folder)
      )
      const [prefixes, packages] = [outside.slice(0, 2), outside.slice(2)]
      resolve({ file: executable, readable: prefixes.filter((folder) => folder !== "/"), packages })
    })
  })

const compileDriver = (): string => `import _json, marshal
print(marshal.dumps(compile(${JSON.stringify(driver())}, "quintain", "exec")).hex())`

/** The driver as this interpreter compiles it: reading that is quicker than compiling anew for every evaluation. */
const compiled = (
  interpreter: Omit<Interpreter, "boot">,
  isolation: Isolation
): Promise<{ readonly boot: string } | { readonly fault: string }> =>
  new Promise((resolve) => {
    const command = confine(
      {
        file: interpreter.file,
        args: [...interpreter.args, "-c", compileDriver()],
        env: { PATH: "/usr/bin:/bin" },
        readable: interpreter.readable,
        memoryMb: 512,
        addressMb: 512,
        processes: 8,
        fileMb: 1,
        cpuSeconds: 10
      },
      isolation
    )
    const child = spawn(command.file, command.args, {
      ...command.options,
      stdio: ["ignore", "pipe", "pipe", ...command.stdio]
    })
    command.started(child)
    let out = ""
    let said = ""
    child.stdout!.setEncoding("utf8").on("data", (text: string) => (out = (out + text).slice(0, 100_000)))
    child.stderr!.setEncoding("utf8").on("data", (text: string) => (said = (said + text).slice(-1000)))
    const timer = setTimeout(() => command.kill(child), 20_000)
    child.once("error", (fault) => (said += String(fault)))
    child.once("close", (ended) => {
      clearTimeout(timer)
      const code = /^([0-9a-f]+)\n$/.exec(out)?.[1]
      if (ended === 0 && code !== undefined)
        resolve({ boot: `import marshal;exec(marshal.loads(bytes.fromhex("${code}")))` })
      else resolve({ fault: said.trim().split("\n").at(-1) || `ended with ${ended}` })
    })
  })
