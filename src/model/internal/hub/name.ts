/** Name of a model on the Hub: `org/name`, optionally with `@revision` and `:file.gguf`. */
export interface HubName {
  readonly repo: string
  /** Branch, tag or commit. */
  readonly revision: string
  /** The one file that is requested, if it is a GGUF. */
  readonly file: string | undefined
}

const SHAPE =
  /^(?<repo>[A-Za-z0-9_][A-Za-z0-9._-]{0,95}\/[A-Za-z0-9_][A-Za-z0-9._-]{0,95})(?:@(?<revision>[A-Za-z0-9._/-]{1,255}))?(?::(?<file>[^:]{1,255}\.gguf))?$/

/**
 * Returns why a name may not become a path, or `undefined`. It must be relative, with `/` as separator and no hidden
 * parts.
 */
export const faultOfPath = (name: string): string | undefined => {
  // oxlint-disable-next-line no-control-regex -- they are what is looked for
  if (/[\u0000-\u001f\u007f]/.test(name)) return "has control characters"
  if (name.includes("\\")) return "has a backslash"
  if (/^[A-Za-z]:/.test(name)) return "has a drive letter"
  if (name.split("/").some((part) => part === "" || part === "." || part === "..")) {
    return "leaves its folder, or has an empty part"
  }
  return undefined
}

/** Parses a name on the Hub; `undefined` if `text` is not one. */
export const parseName = (text: string): HubName | undefined => {
  const { file, repo, revision = "main" } = SHAPE.exec(text)?.groups ?? {}
  if (repo === undefined) return undefined
  // The cache writes org/name as org--name, so `--` would make two names equal.
  if (/--|\.\.|\.git$/.test(repo) || faultOfPath(revision) !== undefined) return undefined
  if (file !== undefined && faultOfPath(file) !== undefined) return undefined
  return { repo, revision, file }
}

export const formatName = ({ file, repo, revision }: HubName): string =>
  `${repo}@${revision}${file === undefined ? "" : `:${file}`}`

export const isCommit = (revision: string): boolean => /^[0-9a-f]{40}$/.test(revision)
