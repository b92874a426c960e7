/** What the servers' protocols have in common, so that everything else is written once. */
import type * as Schema from "effect/Schema"
import { hash64 } from "../../../internal/hash64.ts"
import type { SampleKey, SampleRequest, WeightUpdate } from "../../../engine/Sampler.ts"

/** One sample, with nothing left to a server's defaults. */
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
  /** The server's name of an adapter; none: its base. */
  readonly adapter?: string
}

export interface Call {
  /** After the server's address: `/v1/completions`. */
  readonly path: string
  readonly body: Readonly<Record<string, unknown>>
}

/** What a server said of one sample, not yet checked. */
export interface Answer {
  readonly tokens: ReadonlyArray<number>
  /** Null stands for a number that JSON cannot carry. */
  readonly logprobs: ReadonlyArray<number | null>
  /** `stop`: by a token or a string, `matched` where the server says which. */
  readonly finish: "stop" | "length" | "other"
  /** The server's own word for it. */
  readonly reason: string
  readonly matched?: number | string
  /** The model or adapter that drew it, where the server says so. */
  readonly model?: string
  /** The ids that the server took as the prompt, where it says so. */
  readonly prompt?: ReadonlyArray<number>
}

/** The most likely tokens at one position: log-probability by a key that is the same in every answer. */
export type Alternatives = ReadonlyMap<string, number>

/** Missing or impossible where the form of the answer is right; `remedy` is what makes the server do otherwise. */
export class Unusable extends Error {}

export interface Dialect<Body> {
  readonly name: string
  readonly decode: Schema.Codec<Body, unknown>
  readonly draw: (draw: Draw, model: string | undefined) => Call
  /** Throws {@link Unusable}. */
  readonly answer: (body: Body) => Answer
  /** Asks for one token of `prompt` at a temperature, with the most likely tokens' log-probabilities. */
  readonly probe: (prompt: Uint32Array, temperature: number, model: string | undefined) => Call
  readonly alternatives: (body: Body) => Alternatives
  /** Whether processed log-probabilities are those before top-k, top-p and min-p. */
  readonly beforeFilters: boolean
  /** What makes the server report log-probabilities of the tempered distribution. */
  readonly tempered: string
  /** The server goes on after stop tokens that are not its own: what follows is cut off here. */
  readonly cut: boolean
  /** Strings that end a sample are beyond it. */
  readonly refusesStop?: string
  /** Requests may name an adapter. */
  readonly adapters: boolean
  readonly load?: {
    /** The name is new to the server. */
    readonly adapter?: (name: string, directory: string) => Call
    readonly unload?: (name: string) => Call
    readonly model?: (directory: string) => Call
    /** Why a kind is not to be had. */
    readonly refused: (kind: WeightUpdate["kind"]) => string
  }
}

/** Of sample `index` of a key: retries and resumed runs ask for the same. */
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
