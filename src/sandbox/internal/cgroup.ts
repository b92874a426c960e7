/**
 * A control group per sandbox child, where this process may make them: memory and processes of the whole family
 * together, which per-process limits cannot bound. Version 1 and 2 of the kernel's interface.
 */
import { existsSync, mkdirSync, readFileSync, readdirSync, rmdirSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"

export interface Limits {
  readonly memoryMb: number
  readonly processes: number
}

export interface Group {
  readonly add: (pid: number) => void
  readonly limitsMemory: boolean
  /** Whether the kernel ended a process of the group for want of memory. */
  readonly ranOutOfMemory: () => boolean
  /** Bytes that the group holds now. */
  readonly memory: () => number
  /** Ends what is left and removes the group, now or as soon as its processes are gone. */
  readonly remove: () => void
}

type Controller = "memory" | "pids"

interface Places {
  readonly version: 1 | 2
  readonly parents: Readonly<Partial<Record<Controller, string>>>
}

const root = "/sys/fs/cgroup"
const prefix = "quintain-"

let places: Places | undefined
let serial = 0
let listening = false
const live = new Set<() => boolean>()

/** Which limits can be set here: found by making a group and removing it. */
export const available = (): ReadonlyArray<Controller> => Object.keys(find().parents) as Array<Controller>

const find = (): Places => (places ??= process.platform === "linux" ? search() : { version: 2, parents: {} })

const search = (): Places => {
  const version = existsSync(join(root, "cgroup.controllers")) ? 2 : 1
  const parents: Partial<Record<Controller, string>> = {}
  for (const controller of ["memory", "pids"] as const) {
    for (const parent of candidates(version, controller)) {
      if (!usable(version, parent, controller)) continue
      parents[controller] = parent
      sweep(parent)
      break
    }
  }
  if (version === 1 || parents.memory === parents.pids) return { version, parents }
  // one group holds both there; memory is the one that nothing else bounds
  return { version, parents: parents.memory === undefined ? parents : { memory: parents.memory } }
}

/**
 * The own group, and the one above it: in version 2 a group with processes cannot pass its controllers on. No further
 * up, where a child would leave limits that were set for this process.
 */
const candidates = (version: 1 | 2, controller: Controller): ReadonlyArray<string> => {
  const line = read("/proc/self/cgroup")
    .split("\n")
    .map((text) => text.split(":"))
    .find(([, controllers]) => (version === 2 ? controllers === "" : controllers?.split(",").includes(controller)))
  if (line === undefined) return []
  const base = version === 2 ? root : join(root, controller)
  const own = join(base, line.slice(2).join(":"))
  // inside a container the path may be the host's
  if (!existsSync(own)) return [base]
  return version === 2 && own !== base ? [own, dirname(own)] : [own]
}

const limitFile = {
  1: { memory: "memory.limit_in_bytes", pids: "pids.max" },
  2: { memory: "memory.max", pids: "pids.max" }
}

const usable = (version: 1 | 2, parent: string, controller: Controller): boolean => {
  const trial = join(parent, `${prefix}${process.pid}-probe-${controller}`)
  try {
    mkdirSync(trial)
  } catch {
    return false
  }
  try {
    const file = join(trial, limitFile[version][controller])
    // opening a file that the kernel did not put there would fail, not make it
    writeFileSync(file, String(64 * 2 ** 20), { flag: "r+" })
    writeFileSync(join(trial, "cgroup.procs"), "", { flag: "r+" })
    return true
  } catch {
    return false
  } finally {
    attempt(() => rmdirSync(trial))
  }
}

/** Removes what processes that are gone have left behind. */
const sweep = (parent: string): void => {
  for (const name of readdirSync(parent)) {
    const owner = name.startsWith(prefix) ? Number.parseInt(name.slice(prefix.length), 10) : Number.NaN
    if (Number.isInteger(owner) && owner !== process.pid && !existsSync(`/proc/${owner}`)) {
      attempt(() => rmdirSync(join(parent, name)))
    }
  }
}

/** `undefined` where none can be made. */
export const create = (limits: Limits): Group | undefined => {
  const { parents, version } = find()
  const name = `${prefix}${process.pid}-${serial++}`
  const folders = new Set<string>()
  let memory: string | undefined
  for (const [controller, parent] of Object.entries(parents) as Array<[Controller, string]>) {
    const folder = join(parent, name)
    try {
      mkdirSync(folder, { recursive: true })
      folders.add(folder)
      if (controller === "memory") memory = folder
      setLimits(version, folder, controller, limits)
    } catch {}
  }
  if (folders.size === 0) return undefined

  let outOfMemory = false
  const ranOutOfMemory = (): boolean => {
    if (memory !== undefined && !outOfMemory) {
      const events = read(join(memory, version === 2 ? "memory.events" : "memory.oom_control"))
      outOfMemory = /^oom_kill [1-9]/m.test(events)
    }
    return outOfMemory
  }
  const tryRemove = (): boolean => {
    ranOutOfMemory()
    for (const folder of folders) {
      // those that left the family are still in the group
      if (version === 2) attempt(() => writeFileSync(join(folder, "cgroup.kill"), "1", { flag: "r+" }))
      else for (const pid of pidsIn(folder)) attempt(() => process.kill(pid, "SIGKILL"))
      try {
        rmdirSync(folder)
        folders.delete(folder)
      } catch (fault) {
        if ((fault as NodeJS.ErrnoException).code === "ENOENT") folders.delete(folder)
      }
    }
    if (folders.size === 0) live.delete(tryRemove)
    return folders.size === 0
  }
  if (!listening) process.once("exit", removeAll)
  listening = true
  live.add(tryRemove)
  const remove = (delays: ReadonlyArray<number>): void => {
    const [delay, ...rest] = delays
    // processes that were killed take a moment to leave
    if (!tryRemove() && delay !== undefined) setTimeout(remove, delay, rest).unref()
  }
  return {
    add: (pid) => {
      for (const folder of folders)
        attempt(() => writeFileSync(join(folder, "cgroup.procs"), String(pid), { flag: "r+" }))
    },
    limitsMemory: memory !== undefined,
    ranOutOfMemory,
    memory: () =>
      memory === undefined ? 0 : Number(read(join(memory, version === 2 ? "memory.current" : "memory.usage_in_bytes"))),
    remove: () => remove(removeDelays)
  }
}

const removeDelays = [5, 20, 100, 500, 2000]

/** At the end of this process its children are ended with it, and there is a last moment to remove their groups. */
const removeAll = (): void => {
  const pause = new Int32Array(new SharedArrayBuffer(4))
  for (let round = 0; round < 50 && live.size > 0; round++) {
    if (round > 0) Atomics.wait(pause, 0, 0, 4)
    for (const tryRemove of live) tryRemove()
  }
}

const pidsIn = (folder: string): ReadonlyArray<number> =>
  read(join(folder, "cgroup.procs")).split("\n").filter(Boolean).map(Number)

const setLimits = (version: 1 | 2, folder: string, controller: Controller, limits: Limits): void => {
  const set = (file: string, value: number): void => writeFileSync(join(folder, file), String(value), { flag: "r+" })
  if (controller === "pids" || version === 2) attempt(() => set("pids.max", limits.processes))
  if (controller === "pids") return
  const bytes = limits.memoryMb * 2 ** 20
  set(limitFile[version].memory, bytes)
  // swap is memory too; the files are missing where the kernel does not count it
  attempt(() => (version === 2 ? set("memory.swap.max", 0) : set("memory.memsw.limit_in_bytes", bytes)))
  if (version === 2) attempt(() => set("memory.oom.group", 1))
}

const read = (file: string): string => {
  try {
    return readFileSync(file, "utf8")
  } catch {
    return ""
  }
}

const attempt = (action: () => void): void => {
  try {
    action()
  } catch {}
}
