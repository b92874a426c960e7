import * as fs from "node:fs/promises"
import * as os from "node:os"
import * as path from "node:path"

/** Address of the Hub and folder of its files, taken from the environment as Hugging Face's own tools do. */
export interface HubSettings {
  readonly endpoint: string
  readonly cache: string
  readonly token: string | undefined
  readonly offline: boolean
}

export type Variables = Readonly<Record<string, string | undefined>>

const expand = (folder: string): string =>
  path.resolve(folder === "~" || folder.startsWith("~/") ? path.join(os.homedir(), folder.slice(1)) : folder)

const isTrue = (value: string | undefined): boolean => /^(1|on|yes|true)$/i.test(value ?? "")

/** An empty variable counts as unset. */
const first = (env: Variables, ...names: ReadonlyArray<string>): string | undefined =>
  names.map((name) => env[name]?.trim()).find((value) => value !== undefined && value !== "")

export const readSettings = async (env: Variables, given: Partial<HubSettings>): Promise<HubSettings> => {
  const home = expand(
    first(env, "HF_HOME") ?? path.join(first(env, "XDG_CACHE_HOME") ?? path.join(os.homedir(), ".cache"), "huggingface")
  )
  const tokenFile = expand(first(env, "HF_TOKEN_PATH") ?? path.join(home, "token"))
  const token =
    given.token ??
    first(env, "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") ??
    (await fs.readFile(tokenFile, "utf8").then(
      (text) => text.trim() || undefined,
      () => undefined
    ))
  return {
    endpoint: (given.endpoint ?? first(env, "HF_ENDPOINT") ?? "https://huggingface.co").replace(/\/+$/, ""),
    cache: expand(given.cache ?? first(env, "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE") ?? path.join(home, "hub")),
    token,
    offline: given.offline ?? isTrue(first(env, "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
  }
}
