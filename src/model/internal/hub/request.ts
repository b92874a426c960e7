/**
 * The `fetch` of the Hub's library: deadlines, bounded answers, typed errors. It sends the token only to the endpoint.
 */
import type { HubSettings } from "./settings.ts"
import { HubError } from "./HubError.ts"

/** The purpose of a request, as its errors state it. */
export interface Purpose {
  readonly model: string
  readonly operation: string
  readonly settings: HubSettings
  /** Milliseconds that one wait may take: for an answer's head, or for its next bytes. */
  readonly deadline: number
  readonly signal: AbortSignal
}

// Size of the listing of a repository of a hundred thousand files; no hub answers with more.
const MAX_ANSWER_BYTES = 64 * 2 ** 20
const MAX_ERROR_BYTES = 8192

export const hubError = (
  purpose: Pick<Purpose, "model" | "operation">,
  fields: Pick<HubError, "code" | "detail" | "remedy"> & { readonly status?: number; readonly retryAfter?: number }
): HubError => new HubError({ model: purpose.model, operation: purpose.operation, ...fields })

const timedOut = (purpose: Purpose, awaited: string): HubError =>
  hubError(purpose, {
    code: "TIMEOUT",
    detail: `${awaited} took more than ${purpose.deadline} ms`,
    remedy: "Check the network, or raise the deadline; what has arrived is kept and continued"
  })

/** Awaits `promise` until the deadline, or until the caller's signal. */
export const within = async <A>(purpose: Purpose, awaited: string, promise: Promise<A>): Promise<A> => {
  // Nothing waits for it after the deadline.
  promise.catch(() => {})
  purpose.signal.throwIfAborted()
  let timer: NodeJS.Timeout | undefined
  let abort: (() => void) | undefined
  const ended = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(timedOut(purpose, awaited)), purpose.deadline)
    abort = () => reject(purpose.signal.reason)
    purpose.signal.addEventListener("abort", abort, { once: true })
  })
  try {
    return await Promise.race([promise, ended])
  } finally {
    clearTimeout(timer)
    if (abort !== undefined) purpose.signal.removeEventListener("abort", abort)
  }
}

/** Returns the first `limit` bytes of a body, and whether there were more. */
const readBounded = async (purpose: Purpose, body: ReadableStream<Uint8Array> | null, limit: number) => {
  const chunks: Array<Uint8Array> = []
  let length = 0
  if (body === null) return { bytes: new Uint8Array(), more: false }
  const reader = body.getReader()
  try {
    while (length <= limit) {
      const { done, value } = await within(purpose, `the rest of the answer`, reader.read())
      if (done) return { bytes: Buffer.concat(chunks), more: false }
      chunks.push(value)
      length += value.length
    }
    return { bytes: Buffer.concat(chunks).subarray(0, limit), more: true }
  } finally {
    void reader.cancel().catch(() => {})
  }
}

const said = (bytes: Uint8Array): string => {
  const text = Buffer.from(bytes).toString("utf8")
  try {
    const { error } = JSON.parse(text) as { readonly error?: unknown }
    if (typeof error === "string") return error
  } catch {
    // The body is not JSON; it may be a proxy's page.
  }
  // oxlint-disable-next-line no-control-regex -- what a server says goes to a terminal
  return text.replace(/[\u0000-\u001f\u007f]+/g, " ").slice(0, 200)
}

/** Seconds, or a date. */
const retryAfter = (header: string | null): number | undefined => {
  if (header === null) return undefined
  const seconds = /^\d+$/.test(header) ? Number(header) : (Date.parse(header) - Date.now()) / 1000
  return Number.isFinite(seconds) ? Math.max(0, seconds) : undefined
}

const statusError = async (purpose: Purpose, response: Response): Promise<HubError> => {
  const { bytes } = await readBounded(purpose, response.body, MAX_ERROR_BYTES).catch(() => ({
    bytes: new Uint8Array()
  }))
  const { status } = response
  const reason = response.headers.get("x-error-code") ?? ""
  const detail = said(bytes) || response.headers.get("x-error-message") || response.statusText || "refused"
  const { endpoint, token } = purpose.settings
  const access =
    token === undefined ? "set HF_TOKEN to a token that may read it" : "use a token in HF_TOKEN that may read it"
  const repo = purpose.model.replace(/[@:].*$/, "")
  if (reason === "GatedRepo" || (status === 403 && reason !== "RepoNotFound")) {
    const remedy = `Ask for access at ${endpoint}/${repo}, then ${access}`
    return hubError(purpose, { code: "GATED", status, detail, remedy })
  }
  if (reason === "RevisionNotFound") {
    return hubError(purpose, { code: "NOT_FOUND", status, detail, remedy: "Check the revision after the @" })
  }
  if (reason === "EntryNotFound") {
    return hubError(purpose, { code: "NOT_FOUND", status, detail, remedy: "Check the name of the file" })
  }
  // The Hub answers 401 for missing repositories, so that it does not reveal which private ones exist.
  if (status === 401) {
    return hubError(purpose, {
      code: "GATED",
      status,
      detail,
      remedy: `Check the name; if it is private or gated, ${access}`
    })
  }
  if (status === 404) {
    return hubError(purpose, {
      code: "NOT_FOUND",
      status,
      detail,
      remedy: `Check the name; if it is private, ${access}`
    })
  }
  if (status === 429) {
    const wait = retryAfter(response.headers.get("retry-after"))
    return hubError(purpose, {
      code: "RATE_LIMITED",
      status,
      detail,
      remedy: "Try later, or set HF_TOKEN: known callers have a higher limit",
      ...(wait === undefined ? {} : { retryAfter: wait })
    })
  }
  if (status >= 500) return hubError(purpose, { code: "UNAVAILABLE", status, detail, remedy: "Try later" })
  return hubError(purpose, { code: "PROTOCOL", status, detail, remedy: `Check that ${endpoint} is a Hugging Face Hub` })
}

const unreachable = (purpose: Purpose, cause: unknown): HubError => {
  const inner = cause instanceof Error && cause.cause instanceof Error ? cause.cause : cause
  return hubError(purpose, {
    code: "UNREACHABLE",
    detail: `${purpose.settings.endpoint} was not reached: ${inner instanceof Error ? inner.message || inner.name : String(inner)}`,
    remedy: "Check the network and HF_ENDPOINT"
  })
}

/**
 * Makes the `fetch` of one purpose. With `stream` the caller reads and bounds the body; otherwise it is read here,
 * whole and bounded. `seen` is called with every successful response.
 */
export const fetcher = (
  purpose: Purpose,
  options: { readonly stream: boolean; readonly seen?: (response: Response) => void }
): typeof fetch => {
  const own = new URL(purpose.settings.endpoint).origin
  return async (input, init) => {
    const url = new URL(input instanceof Request ? input.url : input)
    const headers = new Headers(init?.headers)
    if (purpose.settings.token !== undefined && url.origin === own) {
      headers.set("authorization", `Bearer ${purpose.settings.token}`)
    }
    headers.set("user-agent", "quintain")
    const answer = await within(
      purpose,
      `an answer of ${url.host}`,
      fetch(url, { ...init, headers, signal: purpose.signal }).catch((cause: unknown) => {
        purpose.signal.throwIfAborted()
        throw unreachable(purpose, cause)
      })
    )
    if (!answer.ok) throw await statusError(purpose, answer)
    options.seen?.(answer)
    if (options.stream) return answer
    const { bytes, more } = await readBounded(purpose, answer.body, MAX_ANSWER_BYTES).catch((cause: unknown) => {
      purpose.signal.throwIfAborted()
      throw cause instanceof HubError ? cause : unreachable(purpose, cause)
    })
    if (more) {
      throw hubError(purpose, {
        code: "SIZE",
        detail: `the answer is longer than ${MAX_ANSWER_BYTES} bytes`,
        remedy: `Check that ${purpose.settings.endpoint} is a Hugging Face Hub`
      })
    }
    return new Response(bytes as Uint8Array<ArrayBuffer>, { status: answer.status, headers: answer.headers })
  }
}
