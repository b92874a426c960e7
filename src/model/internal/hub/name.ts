/** A model on the Hub, as it is written: `org/name`, with `@revision` and `:file.gguf` where they are given. */
export interface HubName {
  readonly repo: string
  /** Branch, tag or commit. */
  readonly revision: string
  /** The one file wanted, where it is a GGUF. */
  readonly file: string | undefined
}

const SHAPE =
  /^(?<repo>[A-Za-z0-9_][A-Za-z0-9._-]{0,95}\/[A-Za-z0-9_][A-Za-z0-9._-]{0,95})(?:@(?<revision>[A-Za-z0-9._/-]{1,255}))?(?::(?<file>[^:]{1,255}\.gguf))?$/

/** The reason why a name may not become a path, or `undefined`: relative, `/` as separator, nothing hidden. */
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

/** `undefined` when `text` is not a hub name. */
export const parseName = (text: string): HubName | undefined => {
  const { file, repo, revision = "main" } = SHAPE.exec(text)?.groups ?? {}
  if (repo === undefined) return undefined
  // The cache writes org/name as org--name, and two of them could not be told apart.
  if (/--|\.\.|\.git$/.test(repo) || faultOfPath(revision) !== undefined) return undefined
  if (file !== undefined && faultOfPath(file) !== undefined) return undefined
  return { repo, revision, file }
}

export const formatName = ({ file, repo, revision }: HubName): string =>
  `${repo}@${revision}${file === undefined ? "" : `:${file}`}`

export const isCommit = (revision: string): boolean => /^[0-9a-f]{40}$/.test(revision)
