/**
 * The process boundary around untrusted code: how a command is started behind it (confine.ts), and what of it really holds
 * on this machine, found by starting a confined process and looking from inside.
 */
import { spawn } from "node:child_process"
import { existsSync } from "node:fs"
import type { Isolation } from "../Sandbox.ts"
import * as cgroup from "./cgroup.ts"
import { confine, isRoot, nobody, toolsHere, words, type Confined, type Tools } from "./confine.ts"
import { systemLinks } from "./paths.ts"
import { filter } from "./seccomp.ts"

export { reachable } from "./paths.ts"
export { confine, type Command, type Confined, type Tools } from "./confine.ts"

export interface Found {
  readonly isolation: Isolation
  readonly holds: ReadonlyArray<string>
  readonly lacks: ReadonlyArray<string>
  /** Why it is not bubblewrap; empty where it is. */
  readonly detail: string
  /** The command that fixes it; empty if nothing has to be fixed. */
  readonly remedy: string
}

const found = new Map<string, Promise<Found>>()

/** Isolation that holds here, at most as strong as `most`; found once by starting a confined process and looking from inside. */
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
    holds: checks.filter(([name, holds]) => holds && name !== NODE_READABLE).map(([name]) => name),
    lacks: checks.filter(([, holds]) => !holds).map(([name]) => name),
    detail: "",
    remedy: ""
  }
}

/** Needed, but nothing that a boundary holds. */
const NODE_READABLE = "node can be read"

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
      [NODE_READABLE, section("node").includes("yes"), true],
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
    holds: checks.filter(([name, holds]) => holds && name !== NODE_READABLE).map(([name]) => name),
    lacks: checks.filter(([, holds]) => !holds).map(([name]) => name),
    detail,
    remedy
  }
}
