/**
 * Assembles a trajectory from calls of a sampler.
 *
 * Each call states its whole context. A context that continues a branch is appended to that branch. Any other context
 * forks from the branch that shares the most tokens with it. Token ids are compared exactly and never decoded.
 *
 * @example
 * ```ts
 * const assembler = Assembler.open(task, 0, prompt, tokenizer)
 * const turn = assembler.sampled(prompt, completion, { temperature: 1, seconds: 0.2 })
 * assembler.answered(turn, { reward: 1, seconds: 0.01 })
 * const trajectory = assembler.end({ stopReason: "stop" })
 * ```
 */
import type * as Arr from "effect/Array"
import type { JsonObject } from "effect/Schema"
import type { Task } from "../data/Task.ts"
import type { Completion } from "../engine/Sampler.ts"
import type { ToolCall } from "../text/Conversation.ts"
import type { Tokenizer } from "../text/Tokenizer.ts"
import { type Branch, make, Producer, type StopReason, type Trajectory, type Turn } from "./Trajectory.ts"

/** Facts of a call that its completion does not state. */
export interface Sampled {
  /** Temperature of the log-probabilities. */
  readonly temperature: number
  /** Seconds that the call took. */
  readonly seconds: number
  readonly calls?: ReadonlyArray<ToolCall>
  /** {@link Producer} of the context's last tokens. Other tokens that no branch has belong to the environment. */
  readonly producers?: Uint8Array
}

/** The environment's answer to a turn. */
export interface Answered {
  readonly reward?: number
  readonly metrics?: Readonly<Record<string, number>>
  /** Seconds that the environment took. Default 0. */
  readonly seconds?: number
}

export interface End {
  readonly stopReason: StopReason
  /** Added to the last turn's reward. */
  readonly reward?: number
  /** Default `{}`. */
  readonly info?: JsonObject
  /** Metrics of the whole episode. Default `{}`. */
  readonly metrics?: Readonly<Record<string, number>>
  /** Seconds that the environment took outside of turns. Default 0. */
  readonly seconds?: number
}

export interface Assembler {
  /**
   * Records one call: the completion of `context`.
   *
   * @returns the number of the turn, from 0, for {@link Assembler.answered}
   */
  readonly sampled: (context: Uint32Array, completion: Completion, facts: Sampled) => number
  readonly answered: (turn: number, answer: Answered) => void
  readonly end: (end: End) => Trajectory
}

const concat = <Numbers extends Uint32Array | Uint8Array | Float32Array>(
  into: Numbers,
  ...parts: ReadonlyArray<Numbers>
): Numbers => {
  let at = 0
  for (const part of parts) {
    into.set(part, at)
    at += part.length
  }
  return into
}

/** Extends `branch` with given tokens, then with sampled tokens. */
const grown = (branch: Branch, given: Uint32Array, producers: Uint8Array, completion: Completion): Branch => {
  const { length } = completion.tokens
  const size = branch.tokens.length + given.length + length
  const by = new Uint8Array(length).fill(Producer.Policy)
  const none = new Float32Array(given.length)
  const never = new Uint32Array(given.length)
  return {
    ...branch,
    tokens: concat<Uint32Array>(new Uint32Array(size), branch.tokens, given, completion.tokens),
    producer: concat<Uint8Array>(new Uint8Array(size), branch.producer, producers, by),
    logprobs: concat<Float32Array>(new Float32Array(size), branch.logprobs, none, completion.logprobs),
    versions: concat<Uint32Array>(new Uint32Array(size), branch.versions, never, completion.versions)
  }
}

/** Counts the leading `tokens` that equal those of `context` from `offset` on. */
const common = (tokens: Uint32Array, context: Uint32Array, offset: number): number => {
  const most = Math.min(tokens.length, context.length - offset)
  let length = 0
  while (length < most && tokens[length] === context[offset + length]) length++
  return length
}

/**
 * Counts the leading tokens that the context shares with each branch. A parent's prefix is compared once for all
 * children.
 */
const sharedWith = (branches: ReadonlyArray<Branch>, context: Uint32Array): ReadonlyArray<number> => {
  const shared: Array<number> = []
  for (const { parent, tokens } of branches) {
    const offset = parent?.length ?? 0
    const inherited = parent === undefined ? 0 : shared[parent.branch]!
    shared.push(inherited < offset ? inherited : offset + common(tokens, context, offset))
  }
  return shared
}

/** Finds the branch to append to, or the place where a new branch forks. */
const placeOf = (
  branches: ReadonlyArray<Branch>,
  context: Uint32Array
): { readonly append?: number; readonly length: number; readonly parent?: NonNullable<Branch["parent"]> } => {
  const shared = sharedWith(branches, context)
  let whole = -1
  let nearest = 0
  branches.forEach(({ parent, tokens }, branch) => {
    const length = shared[branch]!
    if (length === (parent?.length ?? 0) + tokens.length && (whole < 0 || length > shared[whole]!)) whole = branch
    // The first of equals wins: it owns the tokens that the others inherit.
    if (length > shared[nearest]!) nearest = branch
  })
  if (whole >= 0) return { append: whole, length: shared[whole]! }
  const length = shared[nearest]!
  return { length, ...(length === 0 ? {} : { parent: { branch: nearest, length } }) }
}

const empty: Branch = {
  tokens: new Uint32Array(0),
  producer: new Uint8Array(0),
  logprobs: new Float32Array(0),
  versions: new Uint32Array(0)
}

/**
 * Opens the assembler of one episode.
 *
 * @param index position of the trajectory within its group, from 0
 * @param prompt token ids that the group shares; branch 0 begins with them
 */
export const open = (task: Task<any>, index: number, prompt: Uint32Array, tokenizer: Tokenizer): Assembler => {
  const given = new Uint8Array(prompt.length).fill(Producer.Template)
  const root: Branch = {
    ...empty,
    tokens: prompt,
    producer: given,
    logprobs: new Float32Array(prompt.length),
    versions: new Uint32Array(prompt.length)
  }
  const branches: [Branch, ...Array<Branch>] = [root]
  const turns: Array<Turn> = []

  const sampled = (context: Uint32Array, completion: Completion, facts: Sampled): number => {
    const { append, length, parent } = placeOf(branches, context)
    const branch = append ?? branches.length
    const old = branches[branch] ?? (parent === undefined ? empty : { ...empty, parent })
    const { producers: last = new Uint8Array(0) } = facts
    const all = new Uint8Array(context.length).fill(Producer.Environment)
    all.set(last, context.length - last.length)
    const made = grown(old, context.subarray(length), all.subarray(length), completion)
    branches[branch] = made
    turns.push({
      branch,
      start: made.tokens.length - completion.tokens.length,
      end: made.tokens.length,
      text: tokenizer.decode(completion.tokens),
      stopReason: completion.stopReason,
      temperature: facts.temperature,
      ...(facts.calls === undefined ? {} : { calls: facts.calls }),
      seconds: { sample: facts.seconds, environment: 0 }
    })
    return turns.length - 1
  }

  const answered = (turn: number, { metrics, reward, seconds = 0 }: Answered): void => {
    const old = turns[turn]
    if (old === undefined) {
      const expected = turns.length === 0 ? "no call, since nothing was sampled" : `0 to ${turns.length - 1}`
      throw new RangeError(`Assembler.answered: turn is ${turn}; expected ${expected}. Pass what \`sampled\` returned.`)
    }
    turns[turn] = {
      ...old,
      ...(reward === undefined ? {} : { reward }),
      ...(metrics === undefined ? {} : { metrics }),
      seconds: { ...old.seconds, environment: seconds }
    }
  }

  const end = ({ info = {}, metrics = {}, reward, seconds = 0, stopReason }: End): Trajectory => {
    const last = turns.at(-1)
    if (reward !== undefined && last !== undefined) {
      turns[turns.length - 1] = { ...last, reward: (last.reward ?? 0) + reward }
    }
    const total = (of: keyof Turn["seconds"]) => turns.reduce((sum, turn) => sum + turn.seconds[of], 0)
    return make(
      {
        taskId: task.id,
        index,
        branches: branches.slice() as unknown as Arr.NonEmptyReadonlyArray<Branch>,
        turns: turns.slice(),
        promptLength: prompt.length,
        stopReason,
        info,
        metrics,
        seconds: { sample: total("sample"), environment: seconds + total("environment") }
      },
      tokenizer
    )
  }

  return { sampled, answered, end }
}
