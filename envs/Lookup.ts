/**
 * Ten prompts, each with a secret answer of three digits.
 *
 * This is the smallest task for learning from rewards alone.
 *
 * A policy with random weights must find every answer by trying. Nothing generalises, so the task measures the learner
 * (advantages, exploration, optimiser) and not the model.
 */
import * as Environment from "../src/rollout/Environment.ts"
import * as Task from "../src/data/Task.ts"
import * as Tokenizer from "../src/text/Tokenizer.ts"
import type { VerifierFunction } from "../src/score/Verifier.ts"
import * as Draw from "./internal/Draw.ts"
import * as Prefix from "./internal/Prefix.ts"

export interface LookupData {
  /** Three digits. */
  readonly answer: string
}

export interface LookupOptions {
  /** Fixes the answers. Default 0. */
  readonly seed?: number
}

export interface Lookup {
  /** The ten prompts, `#0=` to `#9=`. */
  readonly tasks: Task.Source<LookupData>
  /** The same ten prompts: there is nothing to generalise to. Evaluation measures whether they are memorised. */
  readonly heldOut: Task.Source<LookupData>
  /** 16 ids: ten digits, five signs, end of text. */
  readonly tokenizer: Tokenizer.Tokenizer
  /** One turn of three tokens. */
  readonly environment: Environment.Environment<LookupData>
  /** {@link matched}. */
  readonly reward: VerifierFunction<LookupData>
}

const PROMPTS = 10
const DIGITS = 3

const tokenizer = Tokenizer.characters("0123456789#?=:,")

/** Returns the three digits of prompt `index` (0 to 9). */
export const answer = (seed: number, index: number): string => {
  const draw = Draw.of(seed, `lookup/${index}`)
  return Array.from({ length: DIGITS }, () => draw.between(0, 9)).join("")
}

/**
 * Scores the share of the answer that matches from the start. It is 0, 1/3, 2/3 or 1. Token scores mark the right
 * digits.
 */
export const matched: VerifierFunction<LookupData> = ({ task, trajectory }) =>
  Prefix.score(trajectory, tokenizer, task.data.answer, { end: false })

/**
 * Makes the task, its vocabulary, its environment and its reward.
 *
 * @example
 * ```ts
 * const { tasks, tokenizer, environment, reward } = lookup({ seed: 1 })
 * ```
 */
export const lookup = (options: LookupOptions = {}): Lookup => {
  const seed = options.seed ?? 0
  const tasks = Task.fromArray(
    Array.from({ length: PROMPTS }, (_, index): Task.Task<LookupData> => ({
      id: `#${index}`,
      prompt: `#${index}=`,
      data: { answer: answer(seed, index) }
    })),
    `lookup(${seed})`
  )
  return {
    tasks,
    heldOut: tasks,
    tokenizer,
    environment: Environment.singleTurn({ name: "lookup", maxTokens: DIGITS }),
    reward: matched
  }
}
