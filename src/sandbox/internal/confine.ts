/**
 * How a command is started so that it can do no harm. On Linux: bubblewrap, never as root, with a seccomp filter, limits per
 * process, and a control group where one can be made. Elsewhere a plain child process with what the platform lets it give
 * up. What of that holds on a machine says boundary.ts.
 */
import type { ChildProcess } from "node:child_process"
import { accessSync, constants, existsSync, statSync, writeFileSync } from "node:fs"
import { dirname, isAbsolute, join } from "node:path"
import type { Duplex } from "node:stream"
import type { Isolation } from "../Sandbox.ts"
import * as cgroup from "./cgroup.ts"
import { closing } from "./descriptors.ts"
import { isFolder, isOpen, reachable, real, systemLinks } from "./paths.ts"
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
    readonly detached?: true
  }
  readonly stdio: ReadonlyArray<"pipe" | "ignore" | number>
  /** Ends the child and, as far as they can be reached, those that it started. */
  readonly kill: (child: ChildProcess) => void
  /** The child's control group, `undefined` where none can be made. It is removed after the child's end. */
  readonly started: (child: ChildProcess) => cgroup.Group | undefined
}

export interface Tools {
  readonly bwrap?: string
  readonly prlimit?: string
  readonly setpriv?: string
  readonly unshare?: string
}

export const nobody = 65534
/** Users of processes without bubblewrap, so that they neither signal nor count with each other. */
const firstStranger = 64_000
const strangers = 1000
let nextStranger = process.pid % strangers

const openFiles = 256
export const isRoot = (): boolean => process.getuid?.() === 0

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
export const toolsHere = (): Tools => (ownTools ??= findTools())

/** @throws Error when the isolation is bubblewrap and it is not installed: probe first. */
export const confine = (command: Command, isolation: Isolation, tools: Tools = toolsHere()): Confined =>
  isolation === "bubblewrap" ? wrapped(command, tools) : plain(command, tools)

export const words = (text: string): ReadonlyArray<string> => text.split(" ")

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
    kill: (child) => void child.kill("SIGKILL"),
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
  `mount -t tmpfs -o mode=755 tmpfs "$1"; cd "$1"; shift; n=0
while [ "$1" != -- ]; do
  if [ "$1" = copy ]; then cp -RL "$2" $n; chmod -R a+rX $n
  else
    if [ -d "$2" ]; then mkdir $n; else : > $n; fi
    mount --bind "$2" $n
  fi
  n=$((n+1)); shift 2
done
shift; cd /; exec "$@"`,
  "sh",
  stage,
  // what is closed itself, not only below something closed, stays so wherever it is bound
  ...hidden.flatMap((path) => [existsSync(path) && !isOpen(path) ? "copy" : "bind", path]),
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
      ...(process.platform === "win32" ? {} : { detached: true }),
      ...ownUser
    },
    kill: (child) => {
      child.kill("SIGKILL")
      try {
        // its process group, which a daemon can leave
        if (child.pid !== undefined && process.platform !== "win32") process.kill(-child.pid, "SIGKILL")
      } catch {}
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
