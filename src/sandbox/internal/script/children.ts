/** The child processes of a JavaScript sandbox: which boundary they get, how one starts, and what its end means. */
import { existsSync as exists } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { SandboxRefused, type Boundary, type Isolation, type Runtime, type SandboxOptions } from "../../Sandbox.ts"
import * as boundary from "../boundary.ts"
import * as ChildPool from "../childPool.ts"
import type { CaseResult, ChildRequest, ChildResponse, SandboxLimits } from "./protocol.ts"

export interface RuntimeParts {
  readonly runtime: Runtime
  /** Name of the child's module in this folder, without its ending. */
  readonly child: string
  /** Arguments of the child's command line. */
  readonly args: ReadonlyArray<string>
  readonly flags: ReadonlyArray<string>
  /** Folders that the child reads beside its own code. */
  readonly folders: ReadonlyArray<string>
  readonly holds: ReadonlyArray<string>
  readonly lacks: ReadonlyArray<string>
}

/** Longest source that is run; a longer one has status `load`. Characters. */
export const maxSource = 262_144
/** Milliseconds that a child has beyond its own clocks before it is killed from outside. */
export const grace = 3000
export type Link = ChildPool.Link<ChildRequest, ChildResponse>
export type Pool = ChildPool.ChildPool<ChildRequest, ChildResponse>
type Way = Isolation | "bare"

export interface Children {
  readonly pool: Pool
  readonly boundary: Boundary
}

/** The strongest way that really starts a child. */
export const startChildren = async (
  parts: RuntimeParts,
  options: SandboxOptions,
  limits: SandboxLimits,
  size: number
): Promise<Children> => {
  const asked: Isolation = options.isolation ?? "process"
  const best = await boundary.probe(options.strongest)
  let detail = best.detail
  for (const way of ["bubblewrap", "process", "bare"] as const) {
    if (way === "bubblewrap" && best.isolation !== "bubblewrap") continue
    if (way !== "bubblewrap" && asked === "bubblewrap") break
    const pool: Pool = ChildPool.make(size, () => startOf(parts, limits, way))
    const first = await pool.take()
    if (!ChildPool.isLost(first)) {
      first.release(false)
      return { pool, boundary: await boundaryOf(parts, way, best) }
    }
    detail = `${detail}${detail === "" ? "" : "; "}${way}: ${first.detail}`
    await pool.close()
  }
  const remedy =
    options.strongest === "process"
      ? 'leave "strongest" out'
      : "see that node and this package can be read by other users"
  throw new SandboxRefused({
    runtime: parts.runtime,
    asked,
    found: best.isolation === "bubblewrap" ? "none" : best.isolation,
    detail,
    remedy: best.remedy === "" ? remedy : best.remedy
  })
}

const boundaryOf = async (parts: RuntimeParts, way: Way, best: boundary.Found): Promise<Boundary> => {
  const found = way === "bubblewrap" ? best : await boundary.probe("process")
  const holds = way === "bare" ? ["a process of its own"] : found.holds
  return {
    runtime: parts.runtime,
    isolation: way === "bubblewrap" ? "bubblewrap" : "process",
    holds: [...holds, ...parts.holds],
    lacks: [
      ...(way === "bare" ? found.holds.filter((one) => !holds.includes(one)) : []),
      ...found.lacks,
      ...parts.lacks
    ]
  }
}

/** The candidate's result after the loss of its child, if the loss tells it. */
export const ofCandidate = (loss: ChildPool.Lost): CaseResult | undefined => {
  if (loss.lost === "hang") return { status: "timeout", text: "it hung the sandbox" }
  if (loss.lost !== "crash") return undefined
  const memory = /out of memory|Allocation failed|invalid (size|array length)/i.test(loss.detail)
  return { status: memory ? "memory" : "error", text: `it ended the sandbox's process, which ${loss.detail}` }
}

const here = dirname(fileURLToPath(import.meta.url))
const ending = import.meta.url.endsWith(".ts") ? ".ts" : ".js"

const startOf = (parts: RuntimeParts, limits: SandboxLimits, way: Way): ChildPool.Start => {
  const sandbox = join(here, "../..")
  // Node looks for the package's manifest in every folder above: of src/sandbox, or of dist/src/sandbox.
  const manifests = ["..", "../..", "../../.."].map((above) => join(sandbox, above, "package.json"))
  const folders = [sandbox, ...parts.folders]
  const args = [
    ...parts.flags,
    "--max-old-space-size=96",
    "--no-warnings",
    "--permission",
    "--allow-fs-write=/proc/self/oom_score_adj",
    // the first tells how busy the machine is, the last is looked at by addons to tell musl from glibc
    ...["/proc/self/task/*", ...folders.map((folder) => join(folder, "*")), ...manifests, "/etc/alpine-release"].map(
      (path) => `--allow-fs-read=${path}`
    ),
    join(here, `${parts.child}${ending}`),
    ...parts.args
  ]
  if (way === "bare") return { file: process.execPath, args, options: { env: {} }, more: [] }
  const confined = boundary.confine(
    {
      file: process.execPath,
      args,
      env: {},
      readable: [...folders, ...manifests.filter(exists)],
      // a backstop: the child watches itself and ends at less
      memoryMb: 2 * limits.memoryMb + 768,
      processes: 128,
      fileMb: 1,
      // of a life, not of an evaluation
      cpuSeconds: 100_000,
      descriptors: [3]
    },
    way
  )
  return {
    file: confined.file,
    args: confined.args,
    options: confined.options,
    more: confined.stdio,
    started: confined.started,
    kill: confined.kill
  }
}
