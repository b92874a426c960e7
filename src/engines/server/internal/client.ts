/**
 * Requests to an inference server: a deadline for each, answers of bounded size, and retries after transient failures.
 * Interruption closes the connection, at which servers stop generating.
 */
import * as Effect from "effect/Effect"
import * as HttpClient from "effect/http/HttpClient"
import type * as HttpClientError from "effect/http/HttpClientError"
import * as HttpClientRequest from "effect/http/HttpClientRequest"
import type * as HttpClientResponse from "effect/http/HttpClientResponse"
import * as Stream from "effect/Stream"
import { EngineError, type Reason } from "../../../engine/EngineError.ts"
import type { Call } from "./dialect.ts"

export interface ClientOptions {
  readonly url: string
  readonly apiKey?: string
  readonly retries: number
  /** Milliseconds before the first retry; doubled each time. */
  readonly pause: number
}

export interface Limits {
  readonly operation: string
  /** Milliseconds for one attempt. */
  readonly deadline: number
  readonly bytes: number
}

// Most bytes of an error page; a proxy's page has no more information.
const MAX_ERROR_BYTES = 8192
const MAX_PAUSE = 30_000

/** A failure, and whether a retry may succeed. */
interface Failure {
  readonly error: EngineError
  readonly passing: boolean
  /** Milliseconds that the server asks to wait. */
  readonly after?: number
}

export interface Client {
  /** Returns the body of the answer as text. */
  readonly post: (call: Call, limits: Limits) => Effect.Effect<string, EngineError>
}

export const makeClient = (http: HttpClient.HttpClient, options: ClientOptions): Client => {
  const scoped = HttpClient.withScope(http)
  const base = options.url.replace(/\/+$/, "")

  const attempt = (call: Call, { bytes, deadline, operation }: Limits): Effect.Effect<string, Failure> => {
    const failed = (reason: Reason, passing: boolean, after?: number): Failure => ({
      error: new EngineError({ operation, reason }),
      passing,
      ...(after === undefined ? {} : { after })
    })
    const unavailable = (detail: string, after?: number) => failed({ _tag: "Unavailable", detail }, true, after)
    const address = `${base}${call.path}`
    const broken = (error: HttpClientError.HttpClientError): Failure =>
      error.reason._tag === "TransportError"
        ? unavailable(`${address}: ${causeOf(error)}; check that the server runs, and its address`)
        : failed(
            {
              _tag: "Config",
              option: "url",
              detail: `${address} cannot be asked: ${causeOf(error)}; give \`url\` as http://host:port`
            },
            false
          )

    const request = HttpClientRequest.post(address).pipe(
      HttpClientRequest.acceptJson,
      HttpClientRequest.bodyJsonUnsafe(call.body),
      options.apiKey === undefined ? (same) => same : HttpClientRequest.bearerToken(options.apiKey)
    )
    const exchange = Effect.gen(function* () {
      const response = yield* Effect.mapError(scoped.execute(request), broken)
      const ok = response.status >= 200 && response.status < 300
      const body = yield* read(response, ok ? bytes : MAX_ERROR_BYTES).pipe(
        Effect.catch((error) =>
          ok
            ? Effect.fail(unavailable(`${address}: the connection broke during the answer: ${causeOf(error)}`))
            : Effect.succeed({ text: "", more: false })
        )
      )
      if (!ok) {
        const { status } = response
        const said = `${address} answered ${status}: ${saidBy(body.text)}`
        if (status === 429 || status === 408 || status >= 500) {
          return yield* Effect.fail(unavailable(said, retryAfter(response.headers["retry-after"])))
        }
        const remedy = status === 401 || status === 403 ? "; check `apiKey`" : ""
        return yield* Effect.fail(failed({ _tag: "Rejected", status, detail: `${said}${remedy}` }, false))
      }
      if (body.more) {
        const detail = `${address}: the answer is longer than ${bytes} bytes`
        return yield* Effect.fail(failed({ _tag: "Format", detail }, false))
      }
      return body.text
    })
    return Effect.scoped(exchange).pipe(
      Effect.timeoutOrElse({
        duration: deadline,
        orElse: () => {
          const detail = `no whole answer of ${address} within ${deadline} ms; raise \`deadline\``
          return Effect.fail(failed({ _tag: "Deadline", milliseconds: deadline, detail }, false))
        }
      })
    )
  }

  const post = (call: Call, limits: Limits, failures = 0): Effect.Effect<string, EngineError> =>
    attempt(call, limits).pipe(
      Effect.catch(({ after, error, passing }) => {
        if (!passing) return Effect.fail(error)
        if (failures >= options.retries) {
          const { operation, reason } = error
          const detail = failures === 0 ? reason.detail : `${reason.detail} (${failures + 1} attempts)`
          return Effect.fail(new EngineError({ operation, reason: { ...reason, detail } }))
        }
        const wait = Math.min(after ?? options.pause * 2 ** failures, MAX_PAUSE)
        return Effect.flatMap(Effect.sleep(wait), () => post(call, limits, failures + 1))
      })
    )

  return { post }
}

/** Returns the first `limit` bytes as text, and whether there were more. */
const read = (
  response: HttpClientResponse.HttpClientResponse,
  limit: number
): Effect.Effect<{ readonly text: string; readonly more: boolean }, HttpClientError.HttpClientError> =>
  Effect.suspend(() => {
    const chunks: Array<Uint8Array> = []
    let length = 0
    return response.stream.pipe(
      Stream.takeWhile((chunk) => {
        chunks.push(chunk)
        length += chunk.length
        return length <= limit
      }),
      Stream.runDrain,
      Effect.catchIf(
        (error) => error.reason._tag === "EmptyBodyError",
        () => Effect.void
      ),
      Effect.map(() => ({ text: Buffer.concat(chunks).subarray(0, limit).toString("utf8"), more: length > limit }))
    )
  })

/** Returns the innermost reason, which `fetch` hides. */
const causeOf = (error: HttpClientError.HttpClientError): string => {
  let cause: unknown = error
  while (cause instanceof Error && cause.cause !== undefined) cause = cause.cause
  if (!(cause instanceof Error)) return String(cause)
  const [first] = cause instanceof AggregateError ? (cause.errors as ReadonlyArray<unknown>) : []
  return first instanceof Error ? first.message : cause.message || cause.name
}

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null

/** Returns the message in an error's body, in the form of any of the servers. */
const saidBy = (text: string): string => {
  let said: unknown = text
  try {
    const body: unknown = JSON.parse(text)
    const inner = isRecord(body) ? (body["error"] ?? body["detail"] ?? body["message"] ?? body["error_message"]) : body
    said = isRecord(inner) ? (inner["message"] ?? JSON.stringify(inner)) : inner
  } catch {
    // The body is not JSON; it may be a proxy's page.
  }
  // The server's text goes to a terminal.
  // oxlint-disable-next-line no-control-regex
  const printable = String(said).replace(/[\u0000-\u001f\u007f]+/g, " ")
  return printable.slice(0, 300)
}

/** Milliseconds, from seconds or a date in the header. */
const retryAfter = (header: string | undefined): number | undefined => {
  if (header === undefined) return undefined
  const milliseconds = /^\d+$/.test(header) ? Number(header) * 1000 : Date.parse(header) - Date.now()
  return Number.isFinite(milliseconds) ? Math.max(0, milliseconds) : undefined
}
