/**
 * Downloads models from the Hugging Face Hub into the cache of Hugging Face's tools (`~/.cache/huggingface/hub`).
 *
 * Python and this module find each other's downloads. The environment variables are `HF_ENDPOINT`, `HF_TOKEN` (or the
 * token file under `HF_HOME`), `HF_HOME`, `HF_HUB_CACHE` and `HF_HUB_OFFLINE`.
 *
 * Only what a model needs is downloaded: configuration, tokenizer, chat template and safetensors, or one GGUF file;
 * never pickles. A broken download continues from its last byte, also in another process. Every file's hash is checked
 * before the file gets its name.
 */
import { listFiles, modelInfo } from "@huggingface/hub"
import * as Effect from "effect/Effect"
import * as fs from "node:fs/promises"
import * as path from "node:path"
import { hasTag } from "../internal/hasTag.ts"
import { type Cache, cacheOf, isFile, link, missing, readRef, writeRef } from "./internal/hub/cache.ts"
import { INDEX, isSmall, type RemoteFile, remoteFile, shardsOf, WEIGHTS } from "./internal/hub/files.ts"
import { HubError, isPassing } from "./internal/hub/HubError.ts"
import { faultOfPath, formatName, type HubName, isCommit, parseName } from "./internal/hub/name.ts"
import { fetcher, hubError, type Purpose } from "./internal/hub/request.ts"
import { type HubSettings, readSettings, type Variables } from "./internal/hub/settings.ts"
import { persistently, transfer } from "./internal/hub/transfer.ts"
import * as TransferProgress from "./TransferProgress.ts"

export { HubError } from "./internal/hub/HubError.ts"
export { formatName, type HubName, parseName } from "./internal/hub/name.ts"
export type { HubSettings } from "./internal/hub/settings.ts"

export interface HubOptions extends Partial<HubSettings> {
  /** Most files in flight. Default 4. */
  readonly concurrency?: number
  /** Milliseconds that one wait may take: for the head of an answer, or for its next bytes. Default 30,000. */
  readonly deadline?: number
  /** Seconds before a failed request is retried; doubled each time. Default 0.5. */
  readonly pause?: number
  /** Progress output. Default: a line on standard error if that is a terminal. */
  readonly progress?: TransferProgress.Transfer
  /** Environment variables. Default `process.env`. */
  readonly env?: Variables
}

/** A model in the cache. */
export interface Snapshot {
  readonly name: HubName
  /** Commit to which the revision was resolved. */
  readonly commit: string
  /** Path of the snapshot's folder, or of the requested GGUF file in it. */
  readonly path: string
}

/**
 * Ensures that a model is in the cache, and returns its place.
 *
 * The revision is resolved to a commit. In offline mode, and if the Hub cannot be reached, the cached commit is used.
 *
 * @param text `org/name`, `org/name@revision`, or `org/name@revision:file.gguf`
 *
 * @example
 * ```ts
 * const { path } = yield* Hub.snapshot("HuggingFaceTB/SmolLM2-135M-Instruct@main")
 * ```
 */
export const snapshot = Effect.fn("Hub.snapshot")(function* (
  text: string,
  options: HubOptions = {}
): Effect.fn.Return<Snapshot, HubError> {
  const name = parseName(text)
  if (name === undefined) {
    return yield* hubError(
      { model: text, operation: "open" },
      {
        code: "NAME",
        detail: "not a hub name",
        remedy: "Write org/name, org/name@revision or org/name@revision:file.gguf"
      }
    )
  }
  return yield* interruptible((signal) => fetchModel(name, options, signal), formatName(name))
})

/** Interruption aborts the transfers, and waits until they have closed their files. */
const interruptible = <A>(run: (signal: AbortSignal) => Promise<A>, model: string): Effect.Effect<A, HubError> =>
  Effect.callback((resume) => {
    const controller = new AbortController()
    const done = run(controller.signal).then(
      (value) => resume(Effect.succeed(value)),
      (cause: unknown) => resume(Effect.fail(typed(cause, { model, operation: "fetch" })))
    )
    return Effect.promise(() => {
      controller.abort()
      return done
    })
  })

/** Converts errors of the disk, and answers that fit no schema, to a {@link HubError}. */
const typed = (cause: unknown, purpose: Pick<Purpose, "model" | "operation">): HubError => {
  if (cause instanceof HubError) return cause
  const detail = cause instanceof Error ? cause.message : String(cause)
  if (cause instanceof Error && "syscall" in cause) {
    const remedy = hasTag(cause, "code", "ENOSPC")
      ? "Make room, or name another disk with HF_HUB_CACHE"
      : "Check the rights of the cache's folder, or name another with HF_HUB_CACHE"
    return hubError(purpose, { code: "DISK", detail, remedy })
  }
  return hubError(purpose, {
    code: "PROTOCOL",
    detail: `an answer that is not the Hub's: ${detail.slice(0, 300)}`,
    remedy: "Check HF_ENDPOINT"
  })
}

const fetchModel = async (name: HubName, options: HubOptions, signal: AbortSignal): Promise<Snapshot> => {
  const settings = await readSettings(options.env ?? process.env, options)
  const model = formatName(name)
  const purpose = (operation: string): Purpose => ({
    model,
    operation,
    settings,
    deadline: options.deadline ?? 30_000,
    signal
  })
  if (!/^https?:$/.test(URL.parse(settings.endpoint)?.protocol ?? "")) {
    throw hubError(purpose("open"), {
      code: "UNREACHABLE",
      detail: `the endpoint ${JSON.stringify(settings.endpoint)} is not a URL`,
      remedy: "Set HF_ENDPOINT to one that begins with https://, or unset it"
    })
  }
  const cache = cacheOf(settings.cache, name.repo)
  const found = (commit: string): Snapshot => ({
    name,
    commit,
    path: path.join(cache.snapshot(commit), name.file ?? "")
  })

  const known = await readRef(cache, name.revision)
  const lacks = known === undefined ? "any snapshot of this revision" : await missing(cache, known, name)
  if (known !== undefined && lacks === undefined && (settings.offline || isCommit(name.revision))) return found(known)
  if (settings.offline) {
    throw hubError(purpose("open"), {
      code: "OFFLINE",
      detail: `offline mode, and the cache ${settings.cache} lacks ${lacks}`,
      remedy: `Unset HF_HUB_OFFLINE for one run, or download on a machine with a network: hf download ${name.repo} ${name.file ?? ""}--revision ${name.revision}`
    })
  }
  try {
    const commit = await resolve(purpose(`resolve revision ${name.revision}`), name, options)
    await fill(name, commit, cache, purpose, options)
    await writeRef(cache, name.revision, commit)
    return found(commit)
  } catch (cause) {
    signal.throwIfAborted()
    const error = typed(cause, purpose("fetch"))
    if (!isPassing(error) || known === undefined || lacks !== undefined) throw error
    const progress = options.progress ?? TransferProgress.transfer({ label: model })
    progress.note(`${error.message} Using the copy in the cache, commit ${known.slice(0, 12)}.`)
    return found(known)
  }
}

const resolve = async (purpose: Purpose, { repo, revision }: HubName, options: HubOptions): Promise<string> => {
  const { sha } = await persistently(
    purpose,
    (attempt) =>
      modelInfo({
        name: repo,
        revision,
        additionalFields: ["sha"],
        hubUrl: purpose.settings.endpoint,
        fetch: fetcher(attempt, { stream: false })
      }),
    options
  )
  if (typeof sha === "string" && isCommit(sha)) return sha
  throw typed(new Error(`the commit is ${JSON.stringify(sha)?.slice(0, 60)}`), purpose)
}

// The Hub's own listings are far shorter; one that does not end is not a listing.
const MAX_FILES = 200_000

/** Lists all files of a commit. A name that would leave its folder invalidates the whole listing. */
const list = async (purpose: Purpose, repo: string, commit: string, options: HubOptions) =>
  persistently(
    purpose,
    async (attempt) => {
      const files = new Map<string, RemoteFile>()
      const entries = listFiles({
        repo,
        revision: commit,
        recursive: true,
        hubUrl: purpose.settings.endpoint,
        fetch: fetcher(attempt, { stream: false })
      })
      let count = 0
      for await (const entry of entries) {
        const fault = faultOfPath(String(entry.path))
        if (fault !== undefined) {
          throw hubError(purpose, {
            code: "FILENAME",
            detail: `the listing has a file named ${JSON.stringify(entry.path).slice(0, 120)}: it ${fault}`,
            remedy: "Do not use this repository; tell its owner or the Hub"
          })
        }
        if (++count > MAX_FILES) throw typed(new Error(`a listing of more than ${MAX_FILES} files`), purpose)
        if (entry.type === "file" && (isSmall(entry.path) || /\.(safetensors|gguf|json)$/.test(entry.path))) {
          files.set(entry.path, remoteFile(entry))
        }
      }
      return files
    },
    options
  )

const fill = async (
  name: HubName,
  commit: string,
  cache: Cache,
  purpose: (operation: string) => Purpose,
  options: HubOptions
): Promise<void> => {
  const files = await list(purpose("list the files"), name.repo, commit, options)
  const unsupported = (detail: string, remedy: string) =>
    hubError(purpose("open"), { code: "UNSUPPORTED", detail, remedy })
  const progress = options.progress ?? TransferProgress.transfer({ label: formatName(name) })
  const pointer = (file: string) => path.join(cache.snapshot(commit), file)
  let [total, received] = [0, 0]

  const get = async (wanted: ReadonlyArray<RemoteFile>): Promise<void> => {
    const lacking: Array<RemoteFile> = []
    for (const file of wanted) if (!(await isFile(pointer(file.path)))) lacking.push(file)
    total += lacking.reduce((sum, { size }) => sum + size, 0)
    const failed = new AbortController()
    const one = async (file: RemoteFile): Promise<void> => {
      const own = purpose(`download ${file.path}`)
      try {
        await transfer({ ...own, signal: AbortSignal.any([own.signal, failed.signal]) }, cache, file, {
          repo: name.repo,
          commit,
          ...(options.pause === undefined ? {} : { pause: options.pause }),
          progress: (bytes) => {
            received += bytes
            progress.bytes({ received, total })
          }
        })
        await link(cache, commit, file.path, file.hash)
      } catch (cause) {
        const error = typed(cause, own)
        failed.abort(error)
        throw error
      }
    }
    // Few files of each size at a time. Every worker ends before the first error is passed on.
    const queue = lacking.toSorted((a, b) => a.size - b.size)
    const worker = async (): Promise<void> => {
      for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
        failed.signal.throwIfAborted()
        await one(file)
      }
    }
    const ends = await Promise.allSettled(Array.from({ length: Math.max(1, options.concurrency ?? 4) }, worker))
    purpose("").signal.throwIfAborted()
    if (failed.signal.aborted) throw failed.signal.reason
    for (const end of ends) if (end.status === "rejected") throw end.reason
  }

  try {
    if (name.file !== undefined) {
      const file = files.get(name.file)
      if (file === undefined) throw unsupported(`there is no ${name.file}`, choice(name, files))
      return await get([file])
    }
    const small = [...files.values()].filter((file) => isSmall(file.path))
    if (!files.has("config.json") && !files.has("adapter_config.json")) {
      throw unsupported("it has no config.json", choice(name, files))
    }
    const weights = files.get(WEIGHTS)
    const index = files.get(INDEX)
    if (weights !== undefined) return await get([...small, weights])
    if (index === undefined) {
      if (files.has("adapter_model.safetensors")) return await get(small)
      throw unsupported("it has no safetensors", choice(name, files))
    }
    await get([...small, index])
    const shards = shardsOf(await fs.readFile(pointer(INDEX), "utf8")).map((shard) => {
      const file = files.get(shard)
      if (file !== undefined && shard.endsWith(".safetensors")) return file
      throw unsupported(
        `${INDEX} names ${JSON.stringify(shard).slice(0, 120)}, which it does not hold as safetensors`,
        "Choose another revision; this upload is not whole"
      )
    })
    await get(shards)
  } finally {
    progress.end()
  }
}

const choice = ({ repo, revision }: HubName, files: ReadonlyMap<string, RemoteFile>): string => {
  const gguf = [...files.keys()].filter((file) => file.endsWith(".gguf"))
  return gguf.length > 0
    ? `Name one of its GGUF files, for instance ${repo}@${revision}:${gguf[0]} (of ${gguf.length})`
    : "Choose a repository with safetensors or GGUF; pickles (.bin) run code when read, and are not"
}
