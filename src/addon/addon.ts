/**
 * The native addon: its loader, its errors, and what it reads without a model. Models are typed where engines use them
 * (`engines/internal/nativeModel.ts`), since a model implements the engines' contracts.
 */
import { existsSync } from "node:fs"
import { createRequire } from "node:module"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

/** The JSON of `readGguf`. */
export interface GgufHeader {
  /** Version of the format: 2 or 3. */
  readonly version: number
  readonly alignment: number
  /** Entries in the order of the file. Numbers beyond 2^53 are rounded; infinite numbers and NaN are null. */
  readonly metadata: { readonly [key: string]: GgufValue }
  /** Outermost dimension first; kinds as GGUF names them (`F32`, `BF16`, `Q4_1`, ...). */
  readonly tensors: ReadonlyArray<{
    readonly name: string
    readonly shape: ReadonlyArray<number>
    readonly kind: string
  }>
}

type GgufScalar = string | number | boolean | null
export type GgufValue = GgufScalar | ReadonlyArray<GgufScalar>

export interface Addon {
  /**
   * Reads metadata and tensors of a GGUF file ({@link GgufHeader}). The whole header is checked. A damaged file, or a
   * tensor of a type that the kernel cannot load, is refused with `FORMAT`.
   */
  readGguf(path: string): Promise<string>
}

/** The package's own directory, whether this file runs from src/ or from dist/src/. */
const packageRoot = (): string => {
  let directory = dirname(fileURLToPath(import.meta.url))
  while (!existsSync(join(directory, "package.json"))) {
    const parent = dirname(directory)
    if (parent === directory) throw new Error(`no package.json above ${fileURLToPath(import.meta.url)}`)
    directory = parent
  }
  return directory
}

let loaded: Addon | undefined

/** The addon; loaded at the first call. */
export const load = (): Addon => (loaded ??= open())

const open = (): Addon => {
  const target = `${process.platform}-${process.arch}`
  const path = join(packageRoot(), "native", "prebuilt", `quintain.${target}.node`)
  try {
    return createRequire(import.meta.url)(path) as Addon
  } catch (cause) {
    const reason = existsSync(path) ? `could not be loaded: ${(cause as Error).message}` : "does not exist"
    throw new Error(
      `The native addon for ${target} is not available: ${path} ${reason}.\n` +
        "Build it with: npm run build:native (it needs Rust, https://rustup.rs)",
      { cause }
    )
  }
}

/** The kind of an error of the addon (`SHAPE`, `CONFIG`, `STATE`, `ABORTED`, ...) and what to do about it. */
export const describe = (cause: unknown): { readonly code: string; readonly detail: string } => {
  if (!(cause instanceof Error)) return { code: "INTERNAL", detail: String(cause) }
  const code = "code" in cause && typeof cause.code === "string" ? cause.code : "INTERNAL"
  // napi reports an argument of the wrong type with a code of its own.
  return { code: /^[A-Z_]+$/.test(code) ? code : "ARGUMENT", detail: cause.message }
}
