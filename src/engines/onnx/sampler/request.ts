/** Requests of the sampler: their checks, in the native kernel's words, and the bytes that stop conditions match. */
import type { SampleRequest, StopReason } from "../../internal/nativeModel.ts"
import { EngineFailure } from "../worker/failure.ts"
import type { Shape } from "../graph/network.ts"

/** More samples than this are a mistake that would exhaust memory. */
const MAX_SAMPLES = 2 ** 20

/** Refuses a request that the model cannot continue. */
export const checkRequest = (request: SampleRequest, { context, vocabulary }: Shape): void => {
  const fail = (message: string): never => {
    throw new EngineFailure("SHAPE", `sample: ${message}`)
  }
  const { count, firstIndex, maxTokens, minP, prompt, stopStrings, temperature, topP } = request
  if (prompt.length === 0) fail("the prompt is empty: give at least one token")
  if (prompt.length >= context) {
    fail(`a prompt of ${prompt.length} tokens leaves no room in the model's context of ${context}`)
  }
  const at = prompt.findIndex((token) => token >= vocabulary)
  if (at >= 0) fail(`prompt token ${prompt[at]} at ${at} is not below vocab_size ${vocabulary}`)
  if (!(count >= 1)) fail(`samples is ${count}: use at least 1`)
  if (!(maxTokens >= 1)) fail(`max_tokens is ${maxTokens}: use at least 1`)
  if (count > MAX_SAMPLES) fail(`samples is ${count}: ask for at most ${MAX_SAMPLES} at once`)
  if (firstIndex + count - 1 > 0xffffffff) fail(`first_index ${firstIndex} + samples ${count} exceeds 32 bits`)
  const ranges = [
    ["temperature", temperature, temperature === 0 || temperature >= 1e-3, "0 or at least 0.001"],
    ["top_p", topP, topP > 0 && topP <= 1, "above 0 and at most 1"],
    ["min_p", minP, minP >= 0 && minP <= 1, "between 0 and 1"]
  ] as const
  for (const [name, value, fine, range] of ranges) {
    if (!fine || !Number.isFinite(value)) fail(`${name} is ${value}: must be ${range}`)
  }
  if (stopStrings.some((string) => string.length === 0)) fail("a stop string is empty")
}

/** Most tokens that a sample can have, prompt included. */
export const longestOf = ({ maxTokens, prompt }: SampleRequest, { context }: Shape): number =>
  Math.min(context, prompt.length + maxTokens)

/** The bytes of each token, which stop strings are matched on. */
export class Vocabulary {
  readonly #bytes: Uint8Array
  readonly #offsets: Uint32Array

  /** Token `i` is `bytes[offsets[i]..offsets[i + 1]]`. Ids beyond the table have no bytes. */
  constructor(bytes: Uint8Array, offsets: Uint32Array) {
    const ascends = offsets.every((offset, i) => i === 0 || offset >= offsets[i - 1]!)
    if (offsets[0] !== 0 || offsets.at(-1) !== bytes.length || !ascends) {
      const message = `offsets must ascend from 0 to the ${bytes.length} bytes there are`
      throw new EngineFailure("SHAPE", `set_vocabulary: ${message}`)
    }
    this.#bytes = bytes
    this.#offsets = offsets
  }

  bytes(token: number): Uint8Array {
    const end = this.#offsets[token + 1]
    return end === undefined ? new Uint8Array() : this.#bytes.subarray(this.#offsets[token], end)
  }
}

/** Decides when a sample of a request ends. */
export class StopConditions {
  readonly #tokens: ReadonlySet<number>
  readonly #strings: ReadonlyArray<Buffer>
  readonly #vocabulary: Vocabulary | undefined
  /** Bytes that an incomplete stop string can need. */
  readonly #kept: number

  constructor(request: SampleRequest, vocabulary: Vocabulary | undefined) {
    if (request.stopStrings.length > 0 && vocabulary === undefined) {
      const message = "stop strings need the bytes of the tokens: call set_vocabulary first"
      throw new EngineFailure("STATE", `sample: ${message}`)
    }
    this.#tokens = new Set(request.stopTokens)
    this.#strings = request.stopStrings.map((string) => Buffer.from(string))
    this.#vocabulary = vocabulary
    this.#kept = Math.max(1, ...this.#strings.map(({ length }) => length)) - 1
  }

  /** Tells whether a token ends the sample whose text so far ends with `tail`, and returns the tail after it. */
  ends(token: number, tail: Uint8Array): { readonly stop: boolean; readonly tail: Uint8Array } {
    if (this.#tokens.has(token)) return { stop: true, tail }
    if (this.#strings.length === 0) return { stop: false, tail }
    const text = Buffer.concat([tail, this.#vocabulary!.bytes(token)])
    // A match has to end in the new bytes.
    const stop = this.#strings.some((string) => text.includes(string, Math.max(0, tail.length + 1 - string.length)))
    return { stop, tail: text.subarray(Math.max(0, text.length - this.#kept)) }
  }
}

/** Events of a request since the last delivery. */
export class Gathered {
  readonly #sample: Array<number> = []
  readonly #token: Array<number> = []
  readonly #logprob: Array<number> = []
  readonly #finished: Array<{ readonly sample: number; readonly reason: StopReason }> = []

  get empty(): boolean {
    return this.#sample.length === 0 && this.#finished.length === 0
  }
  add(sample: number, token: number, logprob: number): void {
    this.#sample.push(sample)
    this.#token.push(token)
    this.#logprob.push(logprob)
  }
  finish(sample: number, reason: StopReason): void {
    this.#finished.push({ sample, reason })
  }
  take(version: number, done: boolean) {
    return {
      version,
      sample: Uint32Array.from(this.#sample.splice(0)),
      token: Uint32Array.from(this.#token.splice(0)),
      logprob: Float32Array.from(this.#logprob.splice(0)),
      finished: this.#finished.splice(0),
      done
    }
  }
}
