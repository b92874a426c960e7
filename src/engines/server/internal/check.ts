/** Checks on a server's answer before anything is trained on it. */
import type { Completion } from "../../../engine/Sampler.ts"
import { type Answer, type Draw, Unusable } from "./dialect.ts"

// Rounding may put the log-probability of a certain token slightly above 0.
const ROUNDING = 1e-3
// Servers write such a number for minus infinity; less likely tokens are never drawn.
const LEAST = -1000

export interface Bounds {
  readonly vocabularySize: number
  /** See `Dialect.cut`. */
  readonly cut: boolean
}

/** Returns the completion of a draw, or throws {@link Unusable}. */
export const check = (answer: Answer, draw: Draw, { cut, vocabularySize }: Bounds): Omit<Completion, "versions"> => {
  const { prompt } = answer
  if (prompt !== undefined && (prompt.length !== draw.prompt.length || prompt.some((id, t) => id !== draw.prompt[t]))) {
    throw new Unusable(
      `the server took another prompt (${prompt.length} tokens) than it was given (${draw.prompt.length}): it may cut or ` +
        "extend prompts; check its settings"
    )
  }
  if (draw.adapter !== undefined && answer.model !== undefined && answer.model !== draw.adapter) {
    throw new Unusable(
      `asked for the adapter ${draw.adapter}, the server answered with ${JSON.stringify(answer.model.slice(0, 100))}`
    )
  }
  const { length } = answer.tokens
  if (length !== answer.logprobs.length) {
    throw new Unusable(`${length} tokens and ${answer.logprobs.length} log-probabilities`)
  }
  if (length === 0 || length > draw.maxTokens) {
    throw new Unusable(`${length} tokens, where 1 to ${draw.maxTokens} were asked for`)
  }
  const isStop = (token: number) => draw.stopTokens.includes(token)
  const stopped = answer.tokens.findIndex(isStop)
  const kept = cut && stopped >= 0 ? stopped + 1 : length
  const tokens = new Uint32Array(kept)
  const logprobs = new Float32Array(kept)
  for (let t = 0; t < kept; t++) {
    const token = answer.tokens[t]!
    const logprob = answer.logprobs[t]!
    if (!Number.isInteger(token) || token < 0 || token >= vocabularySize) {
      throw new Unusable(
        `token ${t} is ${token}, beyond the vocabulary of ${vocabularySize}: the server may have another model open`
      )
    }
    if (logprob === null || !(logprob <= ROUNDING && logprob > LEAST)) {
      throw new Unusable(
        `the log-probability of token ${t} is ${logprob}, which is none: the server's numbers overflow, or are others`
      )
    }
    tokens[t] = token
    logprobs[t] = Math.min(logprob, 0)
  }
  return { tokens, logprobs, stopReason: stopReason(answer, draw, stopped, kept) }
}

const stopReason = (answer: Answer, draw: Draw, stopped: number, kept: number): Completion["stopReason"] => {
  const ended = stopped === kept - 1
  if (stopped >= 0 && !ended) {
    throw new Unusable(`token ${stopped} is a stop token, yet ${kept - 1 - stopped} more follow it`)
  }
  const { finish, matched, reason } = answer
  const strange = typeof matched === "string" && !draw.stop.includes(matched)
  if (finish !== "other" && !strange) {
    // Servers disagree on the reason if a stop token is also the last token allowed.
    if (ended || typeof matched === "string") return "stop"
    if (finish === "length") return kept === draw.maxTokens ? "length" : "context"
  }
  if (finish === "other") throw new Unusable(`the server ended the sample for another reason: ${reason}`)
  if (strange) throw new Unusable(`the server stopped at ${JSON.stringify(matched)}, for which it was not asked`)
  throw new Unusable(
    `the server stopped, but the last token (${answer.tokens[kept - 1]}) is none of the stop tokens ` +
      `[${draw.stopTokens.join(", ")}]: it drops stop tokens, or ends at others, which must then be among the request's`
  )
}
