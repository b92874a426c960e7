/** Downloads one file from the Hub into a blob of the cache: resumable, bounded, its hash checked. */
import { downloadFile, fileDownloadInfo } from "@huggingface/hub"
import { createHash, type Hash } from "node:crypto"
import { createReadStream } from "node:fs"
import * as fs from "node:fs/promises"
import { setTimeout as sleep } from "node:timers/promises"
import { hasTag } from "../../../internal/hasTag.ts"
import { type Cache, claim, isFile } from "./cache.ts"
import type { RemoteFile } from "./files.ts"
import { HubError, isPassing } from "./HubError.ts"
import { fetcher, hubError, type Purpose, within } from "./request.ts"

/** Failures in a row, without a byte gained, after which a download fails. */
const ATTEMPTS = 4
// If a server asks for a longer wait, the download fails and the error states the wait.
const MAX_WAIT_SECONDS = 60
// Fewer bytes than this from a connection count as none, or a server that breaks after every byte could hold us
// forever.
const GAIN = 65536

/** Retries `attempt` if waiting may help: with the server's own delay, or one that doubles. */
export const persistently = async <A>(
  purpose: Purpose,
  attempt: (purpose: Purpose) => Promise<A>,
  options: { readonly gained?: () => boolean; readonly pause?: number } = {}
): Promise<A> => {
  let failures = 0
  for (;;) {
    const controller = new AbortController()
    try {
      return await attempt({ ...purpose, signal: AbortSignal.any([purpose.signal, controller.signal]) })
    } catch (cause) {
      purpose.signal.throwIfAborted()
      if (!(cause instanceof HubError) || !isPassing(cause)) throw cause
      failures = options.gained?.() === true ? 1 : failures + 1
      const wait = cause.retryAfter ?? (options.pause ?? 0.5) * 2 ** (failures - 1)
      if (failures >= ATTEMPTS || wait > MAX_WAIT_SECONDS) throw cause
      await sleep(wait * 1000, undefined, { signal: purpose.signal })
    } finally {
      // Closes what the attempt left open: a probe's body, a request past its deadline.
      controller.abort()
    }
  }
}

/** Makes a hash of `file`'s kind: git hashes a header first. */
const hasher = (file: RemoteFile): Hash =>
  file.hash.length === 64 ? createHash("sha256") : createHash("sha1").update(`blob ${file.size}\0`)

const hashPart = async (part: string, file: RemoteFile, signal: AbortSignal) => {
  const hash = hasher(file)
  let length = 0
  for await (const chunk of createReadStream(part, { signal })) {
    hash.update(chunk as Buffer)
    length += (chunk as Buffer).length
  }
  return { hash, length }
}

export interface TransferOptions {
  readonly repo: string
  readonly commit: string
  readonly pause?: number
  /** Reports bytes gained or, after a fresh start, lost. */
  readonly progress: (bytes: number) => void
}

/** Ensures that the blob of `file` is in the cache; does nothing if it is. */
export const transfer = async (
  purpose: Purpose,
  cache: Cache,
  file: RemoteFile,
  options: TransferOptions
): Promise<void> => {
  const blob = cache.blob(file.hash)
  if (await isFile(blob)) return options.progress(file.size)
  const { part, release } = await claim(cache, file.hash)
  try {
    const handle = await fs.open(part, "a+")
    try {
      await fill(purpose, handle, part, file, options)
      await handle.sync()
    } finally {
      await handle.close()
    }
    await fs.rename(part, blob)
  } catch (cause) {
    // Invalid bytes are useless to the next attempt.
    if (hasTag(cause, "code", "HASH") || hasTag(cause, "code", "SIZE")) await fs.rm(part, { force: true })
    throw cause
  } finally {
    release()
  }
}

/** Writes the missing bytes. If earlier ones were wrong, starts again once. */
const fill = async (
  purpose: Purpose,
  handle: fs.FileHandle,
  part: string,
  file: RemoteFile,
  options: TransferOptions
): Promise<void> => {
  let { hash, length } = await hashPart(part, file, purpose.signal)
  const restart = async (): Promise<void> => {
    await handle.truncate(0)
    options.progress(-length)
    hash = hasher(file)
    length = 0
  }
  options.progress(length)
  let continued = length > 0
  if (length > file.size) await restart()
  for (;;) {
    let before = length
    if (length < file.size) {
      await persistently(
        purpose,
        async (attempt) => {
          before = length
          await receive(attempt, file, options, length, {
            restart,
            write: async (chunk) => {
              await handle.write(chunk)
              hash.update(chunk)
              length += chunk.length
              options.progress(chunk.length)
            }
          })
        },
        { gained: () => length - before >= GAIN, ...(options.pause === undefined ? {} : { pause: options.pause }) }
      )
    }
    const found = hash.digest("hex")
    if (found === file.hash) return
    if (!continued) {
      throw hubError(purpose, {
        code: "HASH",
        detail: `the hash of the contents is ${found}; the Hub announced ${file.hash}`,
        remedy: "Try again; if the error persists, a proxy or mirror changes the file"
      })
    }
    continued = false
    await restart()
  }
}

interface Sink {
  readonly restart: () => Promise<void>
  readonly write: (chunk: Uint8Array) => Promise<void>
}

/** Receives one connection's bytes from `offset` on. */
const receive = async (
  purpose: Purpose,
  file: RemoteFile,
  { commit, repo }: TransferOptions,
  offset: number,
  sink: Sink
): Promise<void> => {
  const place = { repo, path: file.path, revision: commit, hubUrl: purpose.settings.endpoint }
  const info = await fileDownloadInfo({ ...place, fetch: fetcher(purpose, { stream: true }) })
  const size = info?.size
  if (info === null || size !== file.size) {
    throw hubError(purpose, {
      code: "SIZE",
      detail: `the size is ${file.size} bytes in the listing and ${size ?? "missing"} in the file's own headers`,
      remedy: "Try again; if the error persists, the mirror is broken"
    })
  }
  // The library's stream drops the error that it fails with; this keeps it.
  let failure: unknown
  let whole = false
  const request = fetcher(purpose, { stream: true, seen: (answer) => (whole = answer.status === 200) })
  const blob = await downloadFile({
    ...place,
    downloadInfo: info,
    xet: false,
    fetch: (input, init) =>
      request(input, init).catch((cause: unknown) => {
        failure = cause
        throw cause
      })
  })
  const reader = (offset === 0 ? blob! : blob!.slice(offset, file.size)).stream().getReader()
  let received = offset
  try {
    for (;;) {
      const { done, value } = await within(purpose, `the next bytes of ${file.path}`, reader.read()).catch(
        (cause: unknown) => {
          purpose.signal.throwIfAborted()
          if (failure !== undefined) throw failure
          if (cause instanceof HubError) throw cause
          throw hubError(purpose, {
            code: "UNREACHABLE",
            detail: `the connection broke after ${received} of ${file.size} bytes`,
            remedy: "Try again: it continues where it stopped"
          })
        }
      )
      if (done) break
      if (whole && offset > 0 && received === offset) {
        // The server does not support ranges, and began with the first byte.
        await sink.restart()
        received = 0
        whole = false
      }
      received += value.length
      if (received > file.size) {
        throw hubError(purpose, {
          code: "SIZE",
          detail: `the answer is longer than the announced ${file.size} bytes`,
          remedy: "Try again; if the error persists, the mirror is broken"
        })
      }
      await sink.write(value)
    }
  } finally {
    void reader.cancel().catch(() => {})
  }
  if (received < file.size) {
    throw hubError(purpose, {
      code: "UNREACHABLE",
      detail: `the connection ended after ${received} of ${file.size} bytes`,
      remedy: "Try again: it continues where it stopped"
    })
  }
}
