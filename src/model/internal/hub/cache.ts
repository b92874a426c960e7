/**
 * The cache of Hugging Face's tools: `models--org--name/{refs,blobs,snapshots}`. A rename gives each file its name once
 * it is complete. Until then it has a name of the downloading process. If that process is gone, another one continues
 * the file.
 */
import { randomBytes } from "node:crypto"
import * as fs from "node:fs/promises"
import * as os from "node:os"
import * as path from "node:path"
import { hasTag } from "../../../internal/hasTag.ts"
import { INDEX, shardsOf, WEIGHTS } from "./files.ts"
import { faultOfPath, type HubName, isCommit } from "./name.ts"

export interface Cache {
  readonly folder: string
  readonly blob: (hash: string) => string
  readonly snapshot: (commit: string) => string
}

export const cacheOf = (root: string, repo: string): Cache => {
  const folder = path.join(root, `models--${repo.replace("/", "--")}`)
  return {
    folder,
    blob: (hash) => path.join(folder, "blobs", hash),
    snapshot: (commit) => path.join(folder, "snapshots", commit)
  }
}

export const isFile = (file: string): Promise<boolean> =>
  fs.stat(file).then(
    (found) => found.isFile(),
    () => false
  )

const unique = (): string => `${process.pid}-${randomBytes(4).toString("hex")}`

const replace = async (final: string, make: (draft: string) => Promise<void>): Promise<void> => {
  const draft = `${final}.${unique()}.tmp`
  await fs.mkdir(path.dirname(final), { recursive: true })
  try {
    await make(draft)
    await fs.rename(draft, final)
  } catch (cause) {
    await fs.rm(draft, { force: true })
    throw cause
  }
}

/** Returns the commit to which a revision was last resolved. */
export const readRef = async (cache: Cache, revision: string): Promise<string | undefined> => {
  if (isCommit(revision)) return revision
  const text = await fs.readFile(path.join(cache.folder, "refs", revision), "utf8").catch(() => "")
  return isCommit(text.trim()) ? text.trim() : undefined
}

export const writeRef = async (cache: Cache, revision: string, commit: string): Promise<void> => {
  if (isCommit(revision) || (await readRef(cache, revision)) === commit) return
  await replace(path.join(cache.folder, "refs", revision), (draft) => fs.writeFile(draft, commit))
}

/** Links `name` of a snapshot to its blob, or copies it if the file system has no symbolic links. */
export const link = async (cache: Cache, commit: string, name: string, hash: string): Promise<void> => {
  const pointer = path.join(cache.snapshot(commit), name)
  const blob = cache.blob(hash)
  await replace(pointer, async (draft) => {
    try {
      await fs.symlink(path.relative(path.dirname(pointer), blob), draft)
    } catch (cause) {
      if (!hasTag(cause, "code", "EPERM") && !hasTag(cause, "code", "ENOTSUP")) throw cause
      await fs.copyFile(blob, draft)
    }
  })
}

/** Says which files a snapshot lacks to be opened; `undefined` if it has all. */
export const missing = async (cache: Cache, commit: string, name: HubName): Promise<string | undefined> => {
  const at = (file: string) => path.join(cache.snapshot(commit), file)
  if (name.file !== undefined) return (await isFile(at(name.file))) ? undefined : name.file
  if (!(await isFile(at("config.json")))) {
    const adapter = (await isFile(at("adapter_config.json"))) && (await isFile(at("adapter_model.safetensors")))
    return adapter ? undefined : "config.json"
  }
  if (await isFile(at(WEIGHTS))) return undefined
  const index = await fs.readFile(at(INDEX), "utf8").catch(() => undefined)
  if (index === undefined) return WEIGHTS
  try {
    for (const shard of shardsOf(index))
      if (faultOfPath(shard) !== undefined || !(await isFile(at(shard)))) return shard
    return undefined
  } catch {
    return `a readable ${INDEX}`
  }
}

/** Downloads of this process; the process id cannot distinguish them. */
const active = new Set<string>()
const host = os
  .hostname()
  .replace(/[^A-Za-z0-9]/g, "")
  .slice(0, 16)
// A running download writes at least every few seconds, so an older one was abandoned.
const LEFT_AFTER = 5 * 60_000

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0)
    return true
  } catch (cause) {
    return hasTag(cause, "code", "EPERM")
  }
}

/** Tells whether this part of a blob was abandoned. */
const isLeft = async (folder: string, name: string): Promise<boolean> => {
  if (active.has(path.join(folder, name))) return false
  const owner = /\.([A-Za-z0-9]*)-(\d+)-[0-9a-f]{8}\.incomplete$/.exec(name)
  if (owner !== null && owner[1] === host) {
    const pid = Number(owner[2])
    if (pid === process.pid || !isAlive(pid)) return true
  }
  const { mtimeMs } = await fs.stat(path.join(folder, name))
  return Date.now() - mtimeMs > LEFT_AFTER
}

/** Claims a file of this process alone for a blob's next bytes. It may already hold bytes of an abandoned download. */
export const claim = async (
  cache: Cache,
  hash: string
): Promise<{ readonly part: string; readonly release: () => void }> => {
  const blob = cache.blob(hash)
  const folder = path.dirname(blob)
  await fs.mkdir(folder, { recursive: true })
  const part = `${blob}.${host}-${unique()}.incomplete`
  active.add(part)
  const release = (): void => void active.delete(part)
  try {
    const left: Array<{ readonly name: string; readonly size: number }> = []
    for (const name of await fs.readdir(folder)) {
      // This process's own new part does not exist yet, whatever else does.
      if (!name.startsWith(hash) || !name.endsWith(".incomplete")) continue
      try {
        const found = await fs.lstat(path.join(folder, name))
        if (found.isFile() && (await isLeft(folder, name))) left.push({ name, size: found.size })
      } catch {
        // The part has gone in the meantime: finished, or claimed.
      }
    }
    for (const { name } of left.toSorted((a, b) => b.size - a.size)) {
      try {
        await fs.rename(path.join(folder, name), part)
        break
      } catch (cause) {
        if (!hasTag(cause, "code", "ENOENT")) throw cause
      }
    }
    return { part, release }
  } catch (cause) {
    release()
    throw cause
  }
}
