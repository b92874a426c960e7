/** Paths as a user without rights sees them, and how this system lays out its root. */
import { existsSync, lstatSync, readdirSync, readlinkSync, realpathSync, statSync } from "node:fs"
import { dirname, join } from "node:path"

/** Where links lead; the path itself if it leads nowhere. */
export const real = (path: string): string => {
  try {
    return realpathSync(path)
  } catch {
    return path
  }
}

export const isFolder = (path: string): boolean => {
  try {
    return lstatSync(path).isDirectory()
  } catch {
    return false
  }
}

/** Whether a user without rights could read it where it is. */
export const reachable = (path: string): boolean => {
  try {
    if (!isOpen(path)) return false
    for (let folder = dirname(path); ; folder = dirname(folder)) {
      if ((statSync(folder).mode & 0o1) === 0) return false
      if (folder === dirname(folder)) return true
    }
  } catch {
    return false
  }
}

/** Whether its own rights, and those of what a folder holds, are open to other users. */
export const isOpen = (path: string, deep = true): boolean => {
  const entry = statSync(path)
  const needed = entry.isDirectory() ? 0o5 : 0o4
  if ((entry.mode & needed) !== needed) return false
  return !deep || !entry.isDirectory() || readdirSync(path).every((name) => isOpenEntry(join(path, name)))
}

const isOpenEntry = (path: string): boolean => {
  try {
    return isOpen(path, false)
  } catch {
    // a link that leads nowhere
    return true
  }
}

let links: ReadonlyArray<readonly [link: string, target: string | undefined]> | undefined

/** Folders of the root that lead into /usr, or stand beside it on systems that never joined them. */
export const systemLinks = (): NonNullable<typeof links> =>
  (links ??= ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store"]
    .filter((path) => existsSync(path))
    .map((path) => [path, lstatSync(path).isSymbolicLink() ? readlinkSync(path) : undefined] as const))
