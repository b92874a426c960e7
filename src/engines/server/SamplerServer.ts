/**
 * A sampler on an inference server: vLLM, SGLang or llama.cpp.
 *
 * Requests and answers hold token ids and their log-probabilities; text is never re-encoded. Every answer is checked
 * before use. An answer that is not a sample of the request becomes an {@link EngineError} that names the fault.
 *
 * | server | start it with | other weights |
 * |---|---|---|
 * | vLLM 0.10.2+ | `--enable-lora --max-lora-rank 64`, VLLM_ALLOW_RUNTIME_LORA_UPDATING=True; `--logprobs-mode processed_logprobs` for temperatures other than 1 | adapters |
 * | SGLang 0.5.3+ | `--enable-lora --max-lora-rank 64 --lora-target-modules all` for adapters; `--enable-deterministic-inference` for seeds to take effect | adapters, whole models |
 * | llama.cpp | `llama-server -m model.gguf -np 16` | none: it only scales adapters that it was started with |
 *
 * **Log-probabilities** must be those of the tempered distribution before any filter. At temperature 1 (and 0) without
 * top-k, top-p and min-p, those of every server are. Otherwise the server is probed once, with two requests of one
 * token. The probe tells whether its log-probabilities are taken before (`raw`) or after (`processed`) its temperature:
 *
 * - A temperature other than 1 needs `processed`.
 * - top-k, top-p and min-p need `raw` on llama.cpp and on vLLM, whose processed ones are taken after the filters.
 *   SGLang's are always taken before them.
 *
 * So vLLM cannot serve both at once. A request that the server cannot serve is refused (`Unsupported`). In evaluation
 * nothing reads log-probabilities: there `logprobs: "optional"` puts NaN in place of wrong ones.
 *
 * Each sample is a request of its own, with a seed from its key, so retries and resumed runs send the same request. No
 * server promises the same answer for varying batches. The server's log-probabilities differ from the policy's by
 * rounding, because it is another engine than the trainer's: see {@link ImportanceCorrection}.
 *
 * Sources of the protocols: vLLM's `CompletionRequest`, SGLang's `GenerateReqInput` and "Sampling Parameters",
 * llama.cpp's server README.
 */
import * as Effect from "effect/Effect"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import * as HttpClient from "effect/http/HttpClient"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as Semaphore from "effect/Semaphore"
import * as Adapter from "../../engine/Adapter.ts"
import { check } from "./internal/check.ts"
import { type Client, makeClient } from "./internal/client.ts"
import { type Call, type Dialect, type Draw, drawOf, isFiltered, Unusable } from "./internal/dialect.ts"
import { llamaCpp } from "./internal/llamaCpp.ts"
import { type Meaning, meaningOf, PROBED } from "./internal/meaning.ts"
import { sglang } from "./internal/sglang.ts"
import { vllm } from "./internal/vllm.ts"
import { weightsOf } from "./internal/weights.ts"
import { EngineError, type Reason } from "../../engine/EngineError.ts"
import { type Completion, Sampler, type SampleRequest } from "../../engine/Sampler.ts"

export interface ServerOptions {
  readonly kind: "vllm" | "sglang" | "llamacpp"
  /** Address without a path, such as `http://localhost:8000`. */
  readonly url: string
  /** Name of the model, if a server holds several. Default: the server's own. */
  readonly model?: string
  /** Key that is sent as a bearer token. */
  readonly apiKey?: string
  /**
   * Size of the vocabulary, which is the policy's `info.vocabularySize`. Larger ids are invalid. Default: any id of 31
   * bits.
   */
  readonly vocabularySize?: number
  /** Most samples in flight; others wait. Default 64. */
  readonly concurrency?: number
  /**
   * Milliseconds that a whole answer may take. Default 280,000. Node's `fetch` times out after 300,000. For longer
   * answers give another `http`, such as `NodeHttpClient.layerUndici` with its own limits.
   */
  readonly deadline?: number
  /** Milliseconds that the server may take to load weights. Default: the deadline. */
  readonly updateDeadline?: number
  /** Attempts after the first, if the server is down, broke off, or answered 408, 429 or 5xx. Default 4. */
  readonly retries?: number
  /** Milliseconds before the first retry; doubled each time, unless the server states a delay. Default 500. */
  readonly pause?: number
  /** `optional`: put NaN in place of wrong log-probabilities (see above). Default `required`. */
  readonly logprobs?: "required" | "optional"
  /** Whether to probe the log-probabilities at the start, rather than when a request first needs it. Default false. */
  readonly probe?: boolean
  /** HTTP client for the requests. Default: `fetch`, without redirects. */
  readonly http?: Layer.Layer<HttpClient.HttpClient>
}

/**
 * Makes a sampler on the server.
 *
 * Its errors have these reasons:
 * - `Unavailable` after all attempts, `Deadline`, and `Rejected` with the server's own words;
 * - `Format` for an answer that is not a sample of the request;
 * - `Unsupported` for log-probabilities of another meaning, and for requests that the server cannot serve;
 * - `Config` and `Shape` for invalid options and prompts;
 * - `State` after an update of a whole model that the server did not answer.
 *
 * @example
 * ```ts
 * const sampler = SamplerServer.layer({ kind: "sglang", url: "http://localhost:30000", vocabularySize: 49152 })
 * const completions = Sampler.Sampler.use((sampler) =>
 *   sampler.sample({ prompt, count: 8, maxTokens: 256, stopTokens: [2], key: { seed: 1, stream: "task#0", index: 0 } })
 * ).pipe(Effect.provide(sampler))
 * ```
 */
export const layer = (options: ServerOptions): Layer.Layer<Sampler, EngineError> => {
  const { http = FetchHttpClient.layer.pipe(Layer.provide(noRedirects)) } = options
  const start = (client: HttpClient.HttpClient) => {
    switch (options.kind) {
      case "vllm":
        return make(vllm, client, options)
      case "sglang":
        return make(sglang, client, options)
      case "llamacpp":
        return make(llamaCpp, client, options)
    }
  }
  return Layer.effect(Sampler, Effect.flatMap(HttpClient.HttpClient, start)).pipe(Layer.provide(http))
}

// A redirect would send prompts and key to another address.
const noRedirects = Layer.succeed(FetchHttpClient.RequestInit, { redirect: "error" })

// Leaves room for alternatives and texts of each token, and for the prompt's echo.
const bytesOf = ({ maxTokens, prompt }: Pick<Draw, "maxTokens" | "prompt">): number =>
  2 ** 20 + maxTokens * 4096 + prompt.length * 64

const failed = (operation: string, reason: Reason) => new EngineError({ operation, reason })

type Ask<Body> = (operation: string, call: Call, bytes: number) => Effect.Effect<Body, EngineError>

/** Makes a request and reads its answer in the server's form. */
const asking = <Body>(dialect: Dialect<Body>, client: Client, deadline: number): Ask<Body> => {
  const decode = Schema.decodeUnknownEffect(dialect.decode)
  return Effect.fnUntraced(function* (operation: string, call: Call, bytes: number) {
    const text = yield* client.post(call, { operation, deadline, bytes })
    const json = yield* Effect.try({
      try: (): unknown => JSON.parse(text),
      catch: () =>
        failed(operation, { _tag: "Format", detail: `the answer of ${call.path} is not JSON: ${excerpt(text)}` })
    })
    return yield* Effect.mapError(decode(json), (error) =>
      failed(operation, {
        _tag: "Format",
        detail: `the answer of ${call.path} is not ${dialect.name}'s: ${error.message.slice(0, 300)}`
      })
    )
  })
}

/** Tells whether the server's log-probabilities are those that a draw needs; probes the server if necessary. */
const logprobCheck = Effect.fnUntraced(function* <Body>(
  dialect: Dialect<Body>,
  ask: Ask<Body>,
  model: string | undefined
) {
  const unsupported = (what: string, detail: string): Reason => ({
    _tag: "Unsupported",
    what,
    engine: dialect.name,
    detail
  })
  let meaning: Meaning | undefined
  const probing = yield* Semaphore.make(1)
  const meant = (prompt: Uint32Array): Effect.Effect<Meaning, EngineError> =>
    probing.withPermit(
      Effect.gen(function* () {
        if (meaning !== undefined) return meaning
        const top = (temperature: number) =>
          ask("probe", dialect.probe(prompt, temperature, model), bytesOf({ prompt, maxTokens: 1 })).pipe(
            Effect.map((body) => dialect.alternatives(body))
          )
        meaning = meaningOf(yield* top(1), yield* top(PROBED))
        if (meaning !== undefined) return meaning
        const detail =
          `${dialect.name}'s log-probabilities at temperatures 1 and ${PROBED} do not tell whether they are taken before or ` +
          "after the temperature: sample at temperature 1 without filters"
        return yield* failed("probe", unsupported("log-probabilities of that distribution", detail))
      })
    )

  /** Returns why the log-probabilities of a draw would be wrong; undefined if they are right. */
  const wrong = Effect.fnUntraced(function* (
    request: SampleRequest
  ): Effect.fn.Return<EngineError | undefined, EngineError> {
    const draw = drawOf(request, 0, undefined)
    const [heated, filtered] = [draw.temperature !== 1 && draw.temperature !== 0, isFiltered(draw)]
    if (!heated && (!filtered || dialect.beforeFilters)) return undefined
    const told = yield* Effect.result(meant(request.prompt))
    if (Result.isFailure(told)) return told.failure.reason._tag === "Unsupported" ? told.failure : yield* told.failure
    const meaning = told.success
    if (heated && meaning === "raw") {
      const detail = `the server reports log-probabilities before the temperature (${draw.temperature}): ${dialect.tempered}`
      return failed("sample", unsupported(`log-probabilities at temperature ${draw.temperature}`, detail))
    }
    if (filtered && meaning === "processed" && !dialect.beforeFilters) {
      const detail =
        "the server reports log-probabilities after top-k, top-p and min-p, for which nothing can be trained: leave them out" +
        (heated ? "" : `, or start ${dialect.name} without --logprobs-mode`)
      return failed("sample", unsupported("log-probabilities before top-k, top-p and min-p", detail))
    }
    return undefined
  })
  return { meant, wrong }
})

const make = Effect.fnUntraced(function* <Body>(
  dialect: Dialect<Body>,
  http: HttpClient.HttpClient,
  options: ServerOptions
) {
  const { concurrency = 64, deadline = 280_000, model, vocabularySize = 2 ** 31 } = options
  for (const [name, value] of Object.entries({ concurrency, deadline, vocabularySize })) {
    if (!(Number.isInteger(value) && value >= 1)) {
      const detail = `${name} is ${value}; give a whole number of 1 or more`
      return yield* failed("open", { _tag: "Config", option: name, detail })
    }
  }
  const client = makeClient(http, {
    url: options.url,
    retries: options.retries ?? 4,
    pause: options.pause ?? 500,
    ...(options.apiKey === undefined ? {} : { apiKey: options.apiKey })
  })
  const ask = asking(dialect, client, deadline)
  const { meant, wrong } = yield* logprobCheck(dialect, ask, model)
  if (options.probe === true) yield* meant(Uint32Array.of(0))

  // An update waits for the samples in flight; those that come after it wait for the update.
  const slots = yield* Semaphore.make(concurrency)
  const turnstile = yield* Semaphore.make(1)
  const weights = yield* weightsOf(dialect, client, options.updateDeadline ?? deadline, (exchange) =>
    turnstile.withPermit(slots.withPermits(concurrency)(exchange))
  )

  const complete = (request: SampleRequest, i: number, blank: boolean): Effect.Effect<Completion, EngineError> => {
    const one = Effect.gen(function* () {
      const { adapter, version } = yield* weights.serving(request.adapter)
      const draw = drawOf(request, i, adapter)
      const body = yield* ask("sample", dialect.draw(draw, model), bytesOf(draw))
      const completion = yield* Effect.try({
        try: () => check(dialect.answer(body), draw, { vocabularySize, cut: dialect.cut }),
        catch: (cause) =>
          cause instanceof Unusable
            ? failed("sample", { _tag: "Format", detail: cause.message })
            : failed("sample", { _tag: "Internal", detail: String(cause) })
      })
      if (blank) completion.logprobs.fill(Number.NaN)
      return { ...completion, versions: new Uint32Array(completion.tokens.length).fill(version) }
    })
    return Effect.andThen(turnstile.withPermit(Effect.void), slots.withPermit(one))
  }

  return {
    name: options.kind,
    engine: `${options.kind} server`,
    sample: Effect.fnUntraced(function* (request) {
      yield* refuse(dialect, request)
      const error = yield* wrong(request)
      if (error !== undefined && options.logprobs !== "optional") return yield* error
      const blank = error !== undefined
      return yield* Effect.forEach(
        Array.from({ length: request.count }, (_, i) => i),
        (i) => complete(request, i, blank),
        { concurrency: "unbounded" }
      )
    }),
    weights: weights.update === undefined ? { _tag: "Fixed" } : { _tag: "Updatable", update: weights.update }
  } satisfies Sampler["Service"]
})

const excerpt = (text: string): string => JSON.stringify(text.length > 120 ? `${text.slice(0, 120)}...` : text)

const refuse = <Body>(dialect: Dialect<Body>, { adapter, prompt, stop = [] }: SampleRequest) => {
  const lacks = (what: string, detail: string) =>
    Effect.fail(failed("sample", { _tag: "Unsupported", what, engine: dialect.name, detail }))
  if (prompt.length === 0) {
    return Effect.fail(failed("sample", { _tag: "Shape", detail: "the prompt is empty; give at least one token" }))
  }
  if (stop.length > 0 && dialect.refusesStop !== undefined) return lacks("stop strings", dialect.refusesStop)
  if (adapter !== undefined && adapter !== Adapter.base && !dialect.adapters) {
    const detail = `${dialect.name} takes no adapter (\`${adapter}\`) by name; start it with the adapter, and name none`
    return lacks("adapters by name", detail)
  }
  return Effect.void
}
