/**
 * Continues an arithmetic sequence.
 *
 * The prompt gives the first two terms, the modulus and the number of wanted terms, as in `7,8:20,5`. The answer is
 * `9,10,11,12,13`. The task follows verl's public end-to-end toy of the same name (Apache-2.0,
 * `tests/e2e/envs/digit_completion`); the code is new. The character tokenizer makes it hard on purpose. The dense
 * reward makes it learnable from random weights.
 */
import { OptionError } from "../src/OptionError.ts"
import * as Environment from "../src/rollout/Environment.ts"
import * as Task from "../src/data/Task.ts"
import * as Tokenizer from "../src/text/Tokenizer.ts"
import type { VerifierFunction } from "../src/score/Verifier.ts"
import * as Draw from "./internal/Draw.ts"
import * as Prefix from "./internal/Prefix.ts"

/** The question, and its answer without the end of text. */
export interface DigitCompletionData {
  readonly first: number
  readonly difference: number
  readonly terms: number
  readonly answer: string
}

export interface DigitCompletionOptions {
  /** Selects the held-out prompts. Default 0. */
  readonly seed?: number
  /** Terms are numbers below this. Default 20. */
  readonly modulus?: number
  /** Differences run from 0 to this. Default 3. */
  readonly maxDifference?: number
  /** Most terms that a prompt may request, at least 1. Default 5. */
  readonly maxTerms?: number
  /**
   * Least terms that a prompt may request, so that a curriculum can begin with short answers or leave them out. Default
   * 1.
   */
  readonly minTerms?: number
  /** Share of the prompts that are held out. Default 0.2. */
  readonly heldOut?: number
}

export interface DigitCompletion {
  /** Every prompt that is not held out; 320 by default. */
  readonly tasks: Task.Source<DigitCompletionData>
  /** Held-out prompts, which are never trained on; 80 by default. */
  readonly heldOut: Task.Source<DigitCompletionData>
  /** Digits, comma, colon, end of text. */
  readonly tokenizer: Tokenizer.Tokenizer
  /** One turn, with room for the longest answer and its end. */
  readonly environment: Environment.Environment<DigitCompletionData>
  /** {@link matched}. */
  readonly reward: VerifierFunction<DigitCompletionData>
}

const tokenizer = Tokenizer.characters("0123456789,:")

/**
 * Makes the task of `terms` terms after `first` and `first + difference`, all modulo `modulus`.
 *
 * @example
 * ```ts
 * DigitCompletion.question(20, 7, 1, 5) // prompt "7,8:20,5", answer "9,10,11,12,13"
 * ```
 */
export const question = (
  modulus: number,
  first: number,
  difference: number,
  terms: number
): Task.Task<DigitCompletionData> => {
  const term = (index: number): number => (first + index * difference) % modulus
  const prompt = `${term(0)},${term(1)}:${modulus},${terms}`
  const answer = Array.from({ length: terms }, (_, index) => term(index + 2)).join(",")
  return { id: prompt, prompt, data: { first, difference, terms, answer } }
}

/**
 * Scores the share of the right answer that matches from the start, in [0, 1].
 *
 * The share counts the answer's characters, its end included. Text after the first mistake adds nothing. A score of 1
 * requires an answer that also stops in the right place. Token scores: 1/n for each matched token.
 */
export const matched: VerifierFunction<DigitCompletionData> = ({ task, trajectory }) =>
  Prefix.score(trajectory, tokenizer, task.data.answer, { end: true })

/**
 * Makes the task, its vocabulary, its environment and its reward.
 *
 * @example
 * ```ts
 * const { tasks, heldOut, tokenizer, environment, reward } = digitCompletion({ modulus: 20, maxDifference: 3, maxTerms: 5 })
 * ```
 */
export const digitCompletion = (options: DigitCompletionOptions = {}): DigitCompletion => {
  const { seed = 0, modulus = 20, maxDifference = 3, maxTerms = 5, minTerms = 1, heldOut = 0.2 } = options
  for (const [name, value, low, high] of [
    ["modulus", modulus, 2, 1e6],
    ["maxDifference", maxDifference, 0, modulus - 1],
    ["minTerms", minTerms, 1, maxTerms],
    ["maxTerms", maxTerms, 1, 9]
  ] as const) {
    if (!Number.isInteger(value) || value < low || value > high) {
      throw new OptionError({
        module: "digitCompletion",
        option: name,
        value: value,
        expected: `a whole number from ${low} to ${high}`,
        remedy: "Leave it out for the default"
      })
    }
  }
  if (!(heldOut >= 0 && heldOut < 1))
    throw new OptionError({
      module: "digitCompletion",
      option: "heldOut",
      value: heldOut,
      expected: "a number from 0 to below 1",
      remedy: "Give the share of held-out tasks"
    })
  const all: Array<Task.Task<DigitCompletionData>> = []
  for (let terms = minTerms; terms <= maxTerms; terms++) {
    for (let difference = 0; difference <= maxDifference; difference++) {
      for (let first = 0; first < modulus; first++) all.push(question(modulus, first, difference, terms))
    }
  }
  const order = Draw.shuffled(Draw.of(seed, "digitCompletion"), all)
  const kept = Math.round(all.length * heldOut)
  const name = `digitCompletion(${modulus},${maxDifference},${minTerms}-${maxTerms},${seed})`
  return {
    tasks: Task.fromArray(order.slice(kept), name),
    heldOut: Task.fromArray(order.slice(0, kept), `${name}.heldOut`),
    tokenizer,
    environment: Environment.singleTurn({
      name: "digitCompletion",
      // Longest answer: every term as long as the largest, a comma after each except the last, the end of text.
      maxTokens: maxTerms * (String(modulus - 1).length + 1)
    }),
    reward: matched
  }
}
