/**
 * The process boundary around untrusted code: how a command is started so that it can do no harm, and what of that really
 * holds on this machine. On Linux: bubblewrap, never as root, with a seccomp filter, limits per process, and a control
 * group where one can be made. Elsewhere a plain child process with what the platform lets it give up.
 */
import { spawn, type ChildProcess } from "node:child_process"
import {
  accessSync,
  constants,
  existsSync,
  lstatSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  statSync,
  writeFileSync
} from "node:fs"
import { dirname, isAbsolute, join } from "node:path"
import type { Duplex } from "node:stream"
import type { Isolation } from "../Sandbox.ts"
import * as cgroup from "./cgroup.ts"
import { filter } from "./seccomp.ts"

export interface Command {
  /** Absolute path of the program. */
  readonly file: string
  readonly args: ReadonlyArray<string>
  /** The whole environment; nothing is inherited. */
  readonly env: Readonly<Record<string, string>>
  /** Absolute paths of files and folders that it may read, besides the program and the system's own (`/usr`). */
  readonly readable: ReadonlyArray<string>
  /** Memory of all its processes together, where a control group can be made. */
  readonly memoryMb: number
  /** Address space of each process. Not for programs that reserve far more than they use, such as node. */
  readonly addressMb?: number
  /** Processes and threads. */
  readonly processes: number
  /** Largest file, and all files together in `/tmp`, the only folder that can be written. */
  readonly fileMb: number
  readonly cpuSeconds: number
  /** Descriptors beyond 2 that the caller's `stdio` hands over, such as 3 for an IPC channel. Default: none. */
  readonly descriptors?: ReadonlyArray<number>
}

/**
 * How to spawn a confined command: `spawn(file, args, { ...options, stdio: [...own, ...stdio] })`, and `started(child)`
 * at once after it, without which the command waits for ever. An IPC channel works: put `"ipc"` into the own `stdio` and
 * its descriptor into {@link Command.descriptors}.
 */
export interface Confined {
  readonly file: string
  readonly args: ReadonlyArray<string>
  readonly options: {
    readonly cwd: string
    readonly env: Record<string, string>
    readonly uid?: number
    readonly gid?: number
    readonly windowsHide: true
  }
  readonly stdio: ReadonlyArray<"pipe" | "ignore" | number>
  /** The child's control group, `undefined` where none can be made. It is removed after the child's end. */
  readonly started: (child: ChildProcess) => cgroup.Group | undefined
}

export interface Found {
  readonly isolation: Isolation
  readonly holds: ReadonlyArray<string>
  readonly lacks: ReadonlyArray<string>
  /** Why it is not bubblewrap; empty where it is. */
  readonly detail: string
  /** The command that would mend it; empty where nothing is to be mended. */
  readonly remedy: string
}

export interface Tools {
  readonly bwrap?: string
  readonly prlimit?: string
  readonly setpriv?: string
  readonly unshare?: string
}

const nobody = 65534
/** Users of processes without bubblewrap, so that they neither signal nor count with each other. */
const firstStranger = 64_000
const strangers = 1000
let nextStranger = process.pid % strangers

const openFiles = 256
const isRoot = (): boolean => process.getuid?.() === 0

const onPath = (name: string): string | undefined =>
  [...(process.env.PATH ?? "").split(":"), "/usr/bin", "/bin", "/usr/sbin"]
    .filter(isAbsolute)
    .map((folder) => join(folder, name))
    .find((file) => {
      try {
        accessSync(file, constants.X_OK)
        return statSync(file).isFile()
      } catch {
        return false
      }
    })

const findTools = (): Tools => {
  if (process.platform !== "linux") return {}
  const found = ["bwrap", "prlimit", "setpriv", "unshare"].map((name) => [name, onPath(name)] as const)
  return Object.fromEntries(found.filter(([, file]) => file !== undefined))
}

let ownTools: Tools | undefined
const toolsHere = (): Tools => (ownTools ??= findTools())

/** @throws Error when the isolation is bubblewrap and it is not installed: probe first. */
export const confine = (command: Command, isolation: Isolation, tools: Tools = toolsHere()): Confined =>
  isolation === "bubblewrap" ? wrapped(command, tools) : plain(command, tools)

const words = (text: string): ReadonlyArray<string> => text.split(" ")

const limitArguments = (command: Command, countProcesses: boolean): Array<string> => [
  ...(command.addressMb === undefined ? [] : [`--as=${command.addressMb * 2 ** 20}`]),
  ...(countProcesses ? [`--nproc=${command.processes}`] : []),
  `--fsize=${command.fileMb * 2 ** 20}`,
  `--nofile=${openFiles}`,
  `--cpu=${command.cpuSeconds}`,
  "--core=0",
  "--"
]

const wrapped = (command: Command, tools: Tools): Confined => {
  const { bwrap, prlimit } = tools
  if (bwrap === undefined || prlimit === undefined) throw new Error("bubblewrap or prlimit is not installed")
  const program = filter()
  const first = Math.max(2, ...(command.descriptors ?? [])) + 1
  const grouped = cgroup.available().length > 0

  const paths = new Set<string>()
  for (const path of [command.file, prlimit, ...command.readable]) {
    // a link and what it leads to
    for (const form of [path, real(path)]) if (!form.startsWith("/usr/")) paths.add(form)
  }
  const covered = [...paths].filter((path) => !systemLinks().some(([link]) => path.startsWith(`${link}/`)))
  const hidden = isRoot() ? covered.filter((path) => !reachable(path)) : []
  const stage = hidden.length === 0 ? undefined : stageFolder(covered)
  const source = (path: string): string => {
    const index = hidden.indexOf(path)
    return index < 0 || stage === undefined ? path : `${stage}/${index}`
  }

  const options = [
    "--unshare-all",
    // named, because --disable-userns asks for it
    "--unshare-user",
    "--disable-userns",
    "--die-with-parent",
    "--new-session",
    ...words(`--uid 1000 --gid 1000 --hostname sandbox --ro-bind /usr /usr`),
    ...systemLinks().flatMap(([link, target]) =>
      target === undefined ? ["--ro-bind", link, link] : ["--symlink", target, link]
    ),
    ...words("--ro-bind-try /etc/ld.so.cache /etc/ld.so.cache --ro-bind-try /etc/alternatives /etc/alternatives"),
    ...words("--proc /proc --ro-bind /proc/sys /proc/sys --dev /dev"),
    ...words(`--size ${command.fileMb * 2 ** 20} --tmpfs /tmp --size 4096 --tmpfs /dev/shm`),
    ...covered.flatMap((path) => ["--ro-bind", source(path), path]),
    ...words("--remount-ro /dev --remount-ro / --cap-drop ALL --chdir /tmp"),
    ...(program === undefined ? [] : ["--seccomp", String(first)])
  ]
  const inner = [prlimit, ...limitArguments(command, true), command.file, ...command.args]
  // Read from a descriptor, the options make bubblewrap wait until the process is in its group, before it forks.
  const gate = grouped ? first + (program === undefined ? 0 : 1) : undefined
  const args = [...(gate === undefined ? options : ["--args", String(gate)]), "--", ...inner]
  const staged = stage !== undefined
  if (staged && (tools.unshare === undefined || tools.setpriv === undefined)) {
    throw new Error(`${hidden[0]} cannot be read by other users, and setpriv or unshare is not installed`)
  }
  return {
    file: staged ? tools.unshare! : bwrap,
    args: staged ? [...staging(stage, hidden, tools), bwrap, ...args] : args,
    options: {
      cwd: "/",
      env: { ...command.env },
      windowsHide: true,
      ...(isRoot() && !staged ? { uid: nobody, gid: nobody } : {})
    },
    stdio: closing(first, [program, gate].filter((pipe) => pipe !== undefined).length),
    started: (child) => {
      const group = begin(child, command)
      if (program !== undefined) hand(child, first, program)
      if (gate !== undefined) hand(child, gate, Buffer.from(options.map((option) => `${option}\0`).join("")))
      return group
    }
  }
}

/**
 * Folders that only root can walk into, such as below a home, cannot be bound by the user that bubblewrap runs as. So
 * root binds them to where that user can, in a mount namespace of this one child, before it becomes that user.
 */
const staging = (stage: string, hidden: ReadonlyArray<string>, tools: Tools): ReadonlyArray<string> => [
  "--mount",
  "--propagation",
  "private",
  "/bin/sh",
  "-ec",
  `mount -t tmpfs -o mode=755,size=64k tmpfs "$1"; cd "$1"; shift; n=0
while [ "$1" != -- ]; do
  if [ -d "$1" ]; then mkdir $n; else : > $n; fi
  mount --bind "$1" $n; n=$((n+1)); shift
done
shift; cd /; exec "$@"`,
  "sh",
  stage,
  ...hidden,
  "--",
  tools.setpriv!,
  `--reuid=${nobody}`,
  `--regid=${nobody}`,
  "--clear-groups"
]

/** A folder that is hidden by the stage, in the child's eyes only, and that nothing is read from. */
const stageFolder = (needed: ReadonlyArray<string>): string => {
  const free = ["/mnt", "/media", "/srv", "/opt", "/var/tmp", "/tmp"].find(
    (folder) => isFolder(folder) && reachable(folder) && !needed.some((path) => real(path).startsWith(`${folder}/`))
  )
  if (free === undefined) throw new Error(`no folder is left to bind ${needed.join(", ")} to`)
  return free
}

/** Without bubblewrap: another user where this one is root, limits where there are tools for them. */
const plain = (command: Command, tools: Tools): Confined => {
  const { prlimit, setpriv } = tools
  const first = Math.max(2, ...(command.descriptors ?? [])) + 1
  // a shell reads from a descriptor of one digit only
  const gate = process.platform === "linux" && first <= 9 && cgroup.available().length > 0 ? first : undefined
  const shell = ["/bin/sh", "-c"]
  const stranger = isRoot() ? firstStranger + (nextStranger = (nextStranger + 1) % strangers) : undefined
  const line = [
    ...(gate === undefined ? [] : [...shell, `read -r _ <&${gate}; exec "$@" ${gate}<&-`, "sh"]),
    ...(setpriv === undefined ? [] : [setpriv, "--no-new-privs", "--pdeathsig=KILL"]),
    ...(setpriv === undefined || stranger === undefined
      ? []
      : [`--reuid=${stranger}`, `--regid=${stranger}`, "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]),
    ...(prlimit !== undefined
      ? [prlimit, ...limitArguments(command, stranger !== undefined)]
      : process.platform === "win32"
        ? []
        : [...shell, `${shellLimits(command)}; exec "$@"`, "sh"]),
    command.file,
    ...command.args
  ]
  const ownUser = stranger !== undefined && setpriv === undefined ? { uid: stranger, gid: stranger } : {}
  return {
    file: line[0]!,
    args: line.slice(1),
    options: {
      cwd: process.platform === "win32" ? dirname(command.file) : "/",
      env: { ...command.env },
      windowsHide: true,
      ...ownUser
    },
    stdio: closing(first, gate === undefined ? 0 : 1),
    started: (child) => {
      const group = begin(child, command)
      if (gate !== undefined) hand(child, gate, Buffer.from("\n"))
      return group
    }
  }
}

/** Some shells lack some of these: what cannot be set is left out. */
const shellLimits = (command: Command): string =>
  [
    "ulimit -c 0",
    `ulimit -t ${command.cpuSeconds}`,
    `ulimit -f ${command.fileMb * 2048}`,
    `ulimit -n ${openFiles}`,
    ...(command.addressMb === undefined ? [] : [`ulimit -v ${command.addressMb * 1024}`])
  ]
    .map((limit) => `${limit} 2>/dev/null || :`)
    .join("; ")

const begin = (child: ChildProcess, command: Command): cgroup.Group | undefined => {
  if (child.pid === undefined) return undefined
  const group = cgroup.create({ memoryMb: command.memoryMb, processes: command.processes + helpers })
  group?.add(child.pid)
  child.once("exit", () => group?.remove())
  if (process.platform === "linux") {
    try {
      // the kernel's first choice when memory is short
      writeFileSync(`/proc/${child.pid}/oom_score_adj`, "1000")
    } catch {}
  }
  return group
}

/** Processes of the boundary itself, which count in the group. */
const helpers = 4

const hand = (child: ChildProcess, descriptor: number, bytes: Buffer): void => {
  const pipe = child.stdio[descriptor] as Duplex | null | undefined
  // it may have died before it read anything
  pipe?.on("error", () => {})
  pipe?.end(bytes, () => pipe.destroy())
}

let inherited: { readonly at: number; readonly descriptors: ReadonlyArray<number> } | undefined
let nothing: number | undefined

/**
 * So many pipes from this descriptor on, and behind them /dev/null in the place of every descriptor that this process
 * was started with and would pass on: through an open folder a candidate could walk out.
 */
const closing = (first: number, pipes: number): Confined["stdio"] => {
  const stdio: Array<"pipe" | "ignore" | number> = Array.from({ length: pipes }, () => "pipe")
  if (process.platform !== "linux") return stdio
  if (inherited === undefined || performance.now() - inherited.at > 5000) {
    inherited = { at: performance.now(), descriptors: readdirSync("/proc/self/fd").map(Number).filter(passesOn) }
  }
  for (const descriptor of inherited.descriptors) {
    const index = descriptor - first
    if (index < pipes) continue
    while (stdio.length < index) stdio.push("ignore")
    stdio[index] = nothing ??= openSync("/dev/null", "r")
  }
  return stdio
}

const passesOn = (descriptor: number): boolean => {
  try {
    const flags = /^flags:\s*([0-7]+)/m.exec(readFileSync(`/proc/self/fdinfo/${descriptor}`, "utf8"))?.[1] ?? ""
    return descriptor > 2 && (Number.parseInt(flags, 8) & closeOnExec) === 0
  } catch {
    return false
  }
}

const closeOnExec = 0o2000000

const real = (path: string): string => {
  try {
    return realpathSync(path)
  } catch {
    return path
  }
}

const isFolder = (path: string): boolean => {
  try {
    return lstatSync(path).isDirectory()
  } catch {
    return false
  }
}

/** Whether a user without rights could read it. */
const reachable = (path: string): boolean => {
  try {
    const { mode } = statSync(path)
    const needed = isFolder(path) ? 0o5 : 0o4
    if ((mode & needed) !== needed) return false
    for (let folder = dirname(path); ; folder = dirname(folder)) {
      if ((statSync(folder).mode & 0o1) === 0) return false
      if (folder === dirname(folder)) return true
    }
  } catch {
    return false
  }
}

let links: ReadonlyArray<readonly [link: string, target: string | undefined]> | undefined

/** Folders of the root that lead into /usr, or stand beside it on systems that never joined them. */
const systemLinks = (): NonNullable<typeof links> =>
  (links ??= ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store"]
    .filter((path) => existsSync(path))
    .map((path) => [path, lstatSync(path).isSymbolicLink() ? readlinkSync(path) : undefined] as const))

const found = new Map<string, Promise<Found>>()

/** What holds here, at most as strong as `most`; found once by starting a confined process and looking from inside. */
export const probe = (most: Isolation = "bubblewrap", tools?: Tools): Promise<Found> => {
  if (tools !== undefined) return look(most, tools)
  let known = found.get(most)
  if (known === undefined) found.set(most, (known = look(most, toolsHere())))
  return known
}

const look = async (most: Isolation, tools: Tools): Promise<Found> => {
  if (most === "process") return asProcess(tools, "", "")
  if (process.platform !== "linux") {
    return asProcess(
      tools,
      `bubblewrap needs Linux, this is ${process.platform}`,
      "run the trainer on Linux, or in a Linux container"
    )
  }
  if (tools.bwrap === undefined)
    return asProcess(tools, "bwrap is not installed", "apt-get install bubblewrap (or dnf, apk, pacman)")
  if (tools.prlimit === undefined)
    return asProcess(tools, "prlimit is not installed", "apt-get install util-linux (or dnf, apk, pacman)")
  const seen = await examine(tools)
  if ("fault" in seen) return asProcess(tools, seen.fault, remedyFor(seen.fault))
  const missing = seen.checks.filter(([, holds, essential]) => essential && !holds).map(([name]) => name)
  if (missing.length > 0) {
    return asProcess(
      tools,
      `bubblewrap started, without: ${missing.join(", ")}`,
      "upgrade bubblewrap to 0.8 or later, and the kernel"
    )
  }
  const controllers = cgroup.available()
  const checks = [
    ...seen.checks,
    ["control group: memory", controllers.includes("memory")],
    ["control group: processes", controllers.includes("pids")]
  ] as const
  return {
    isolation: "bubblewrap",
    holds: checks.filter(([, holds]) => holds).map(([name]) => name),
    lacks: checks.filter(([, holds]) => !holds).map(([name]) => name),
    detail: "",
    remedy: ""
  }
}

type Check = readonly [name: string, holds: boolean, essential: boolean]

/** Starts a shell inside and reads what it sees. */
const examine = async (
  tools: Tools
): Promise<{ readonly checks: ReadonlyArray<Check> } | { readonly fault: string }> => {
  const script = `cat /proc/self/status /proc/self/limits; echo @net; cat /proc/net/dev; echo @root; ls -A /; echo @processes
for p in /proc/[0-9]*; do echo "$p"; done; echo @written
for f in / /usr /etc /dev /proc/sys/kernel /bin; do (: > "$f/quintain-probe") 2>/dev/null && echo "$f"; done
for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger; do (: >> "$f") 2>/dev/null && echo "$f"; done
echo @scratch; : > /tmp/probe && echo yes; echo @namespaces
unshare --user true 2>/dev/null && echo yes; echo @node; test -r "$1" && echo yes; echo @end`
  const shell = systemLinks().some(([link]) => link === "/bin") ? "/bin/sh" : "/usr/bin/sh"
  let started: Confined
  try {
    started = confine(
      {
        file: shell,
        args: ["-c", script, "sh", process.execPath],
        env: { PATH: "/usr/bin:/bin" },
        readable: [process.execPath],
        memoryMb: 64,
        addressMb: 512,
        processes: 16,
        fileMb: 1,
        cpuSeconds: 5
      },
      "bubblewrap",
      tools
    )
  } catch (fault) {
    return { fault: fault instanceof Error ? fault.message : String(fault) }
  }
  const { code, out, said } = await collect(started)
  if (code !== 0 || !out.includes("@end"))
    return { fault: said.trim().slice(0, 500) || `bubblewrap ended with ${code}` }
  const [status = "", ...rest] = out.split(/^@/m)
  const section = (name: string): ReadonlyArray<string> =>
    (rest.find((text) => text.startsWith(`${name}\n`)) ?? "")
      .split("\n")
      .slice(1)
      .filter((text) => text !== "")
  const field = (name: string): string => new RegExp(`^${name}:?\\s+(.*)$`, "m").exec(status)?.[1]?.trim() ?? ""
  const own = process.execPath.split("/")[1] ?? ""
  const allowed = new Set([...words("bin dev etc lib lib32 lib64 libx32 nix proc sbin tmp usr"), own])
  const stranger = isRoot() ? String(nobody) : String(process.getuid?.())
  return {
    checks: [
      [
        "no network",
        section("net")
          .filter((line) => line.includes(":"))
          .every((line) => line.trim().startsWith("lo:")),
        true
      ],
      ["private file system", section("root").every((name) => allowed.has(name)), true],
      ["nothing but /tmp can be written", section("written").length === 0 && section("scratch").includes("yes"), true],
      ["own process space", section("processes").length > 0 && section("processes").length <= 8, true],
      [
        "a user without rights",
        field("CapEff") === "0000000000000000" && field("NoNewPrivs") === "1" && stranger !== "0",
        true
      ],
      ["no further namespaces", !section("namespaces").includes("yes"), true],
      [
        "limits of memory, processes, files and time",
        field("Max processes").startsWith("16 ") && field("Max address space").startsWith(`${512 * 2 ** 20} `),
        true
      ],
      ["node can be read", section("node").includes("yes"), true],
      ["seccomp filter", field("Seccomp") === "2", filter() !== undefined]
    ]
  }
}

const collect = (
  command: Confined
): Promise<{ readonly code: number | string; readonly out: string; readonly said: string }> =>
  new Promise((resolve) => {
    const child = spawn(command.file, command.args, {
      ...command.options,
      stdio: ["ignore", "pipe", "pipe", ...command.stdio]
    })
    command.started(child)
    let out = ""
    let said = ""
    child.stdout!.setEncoding("utf8").on("data", (text: string) => (out = (out + text).slice(0, 65_536)))
    child.stderr!.setEncoding("utf8").on("data", (text: string) => (said = (said + text).slice(0, 4096)))
    const timer = setTimeout(() => child.kill("SIGKILL"), 10_000)
    const end = (code: number | string): void => {
      clearTimeout(timer)
      resolve({ code, out, said })
    }
    child.once("error", (fault) => {
      said += String(fault)
      end("error")
    })
    child.once("close", (code, signal) => end(code ?? signal ?? "?"))
  })

const remedyFor = (fault: string): string => {
  if (/setting up uid map|Permission denied|No permissions to creat|Operation not permitted/i.test(fault)) {
    if (existsSync("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")) {
      return "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile that lets bwrap make user namespaces"
    }
    return "sudo sysctl -w kernel.unprivileged_userns_clone=1 user.max_user_namespaces=15000; in a container: --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined"
  }
  if (/Unknown option/i.test(fault)) return "upgrade bubblewrap to 0.8 or later"
  if (/cannot be read by other users|no folder is left/.test(fault)) {
    return "install node and the project where other users can read them, such as /opt, or run as a user other than root"
  }
  return "run `bwrap --unshare-all --ro-bind / / true` as a user other than root and mend what it reports"
}

const asProcess = (tools: Tools, detail: string, remedy: string): Found => {
  const controllers = process.platform === "linux" ? cgroup.available() : []
  const checks: ReadonlyArray<readonly [string, boolean]> = [
    ["a process of its own", true],
    ["no network", false],
    ["private file system", false],
    ["own process space", false],
    ["a user without rights", isRoot()],
    ["no new privileges", tools.setpriv !== undefined],
    ["limits of memory, files and time", tools.prlimit !== undefined],
    ["limit of processes", tools.prlimit !== undefined && isRoot()],
    ["seccomp filter", false],
    ["control group: memory", controllers.includes("memory")],
    ["control group: processes", controllers.includes("pids")]
  ]
  return {
    isolation: "process",
    holds: checks.filter(([, holds]) => holds).map(([name]) => name),
    lacks: checks.filter(([, holds]) => !holds).map(([name]) => name),
    detail,
    remedy
  }
}
