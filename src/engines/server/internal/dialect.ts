/** Common interface of the servers' protocols. */
import type * as Schema from "effect/Schema"
import { hash64 } from "../../../internal/hash64.ts"
import type { SampleKey, SampleRequest, WeightUpdate } from "../../../engine/Sampler.ts"

/** A request for one sample, which leaves nothing to a server's defaults. */
export interface Draw {
  readonly prompt: Uint32Array
  readonly maxTokens: number
  readonly temperature: number
  readonly topK: number
  readonly topP: number
  readonly minP: number
  readonly stopTokens: ReadonlyArray<number>
  readonly stop: ReadonlyArray<string>
  readonly seed: bigint
  /** The server's name of an adapter; absent for the base. */
  readonly adapter?: string
}

export interface Call {
  /** Path after the server's address: `/v1/completions`. */
  readonly path: string
  readonly body: Readonly<Record<string, unknown>>
}

/** A server's answer for one sample, not yet checked. */
export interface Answer {
  readonly tokens: ReadonlyArray<number>
  /** Log-probabilities; null stands for a number that JSON cannot represent. */
  readonly logprobs: ReadonlyArray<number | null>
  /** `stop`: by a token or a string, `matched` if the server says which. */
  readonly finish: "stop" | "length" | "other"
  /** The server's own name for the reason. */
  readonly reason: string
  readonly matched?: number | string
  /** The model or adapter that drew it, if the server says so. */
  readonly model?: string
  /** The ids that the server used as the prompt, if it says so. */
  readonly prompt?: ReadonlyArray<number>
}

/** The most likely tokens at one position: log-probability by a key that is the same in every answer. */
export type Alternatives = ReadonlyMap<string, number>

/** An answer of the right form with missing or impossible values. `remedy` says how to configure the server. */
export class Unusable extends Error {}

export interface Dialect<Body> {
  readonly name: string
  readonly decode: Schema.Codec<Body, unknown>
  readonly draw: (draw: Draw, model: string | undefined) => Call
  /** Throws {@link Unusable}. */
  readonly answer: (body: Body) => Answer
  /** Requests one token of `prompt` at a temperature, with the log-probabilities of the most likely tokens. */
  readonly probe: (prompt: Uint32Array, temperature: number, model: string | undefined) => Call
  readonly alternatives: (body: Body) => Alternatives
  /** Whether processed log-probabilities are those before top-k, top-p and min-p. */
  readonly beforeFilters: boolean
  /** Setting with which the server reports log-probabilities of the tempered distribution. */
  readonly tempered: string
  /** Whether the server continues after stop tokens that are not its own. The rest is then cut off here. */
  readonly cut: boolean
  /** Reason why the server cannot stop at strings. */
  readonly refusesStop?: string
  /** Requests may name an adapter. */
  readonly adapters: boolean
  readonly load?: {
    /** The name is new to the server. */
    readonly adapter?: (name: string, directory: string) => Call
    readonly unload?: (name: string) => Call
    readonly model?: (directory: string) => Call
    /** Says why a kind is unavailable. */
    readonly refused: (kind: WeightUpdate["kind"]) => string
  }
}

/** Seed for sample `index` of a key. Retries and resumed runs request the same. */
export const seedOf = (key: SampleKey, index: number): bigint => hash64(`${key.seed} ${key.stream} ${index}`)

export const drawOf = (request: SampleRequest, i: number, adapter: string | undefined): Draw => {
  const { temperature = 1, topK = 0, topP = 1, minP = 0 } = request
  // The most likely token passes every filter.
  const greedy = temperature === 0
  return {
    prompt: request.prompt,
    maxTokens: request.maxTokens,
    temperature,
    topK: greedy ? 0 : topK,
    topP: greedy ? 1 : topP,
    minP: greedy ? 0 : minP,
    stopTokens: request.stopTokens ?? [],
    stop: request.stop ?? [],
    seed: seedOf(request.key, request.key.index + i),
    ...(adapter === undefined ? {} : { adapter })
  }
}

export const isFiltered = ({ minP, topK, topP }: Pick<Draw, "minP" | "topK" | "topP">): boolean =>
  topK > 0 || topP < 1 || minP > 0
