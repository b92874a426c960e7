/**
 * A trajectory: the branches of tokens of one episode, and the policy's turns in them.
 *
 * An episode whose context only grows has one branch. A replaced context begins another branch, which shares a prefix
 * with an earlier one. The tokens of turns are the only targets of training; `producer` is provenance. Text is derived
 * from token ids, never the reverse. Read trajectories through the functions of this module.
 */
import type * as Arr from "effect/Array"
import type { JsonObject } from "effect/Schema"
import type { Task } from "../data/Task.ts"
import type { ToolCall } from "../text/Conversation.ts"
import type { Tokenizer } from "../text/Tokenizer.ts"
import type { EnvironmentError } from "./internal/EnvironmentError.ts"

/** Producer of a token. */
export const Producer = { Template: 0, Environment: 1, Policy: 2 } as const
export type Producer = (typeof Producer)[keyof typeof Producer]

/**
 * Reason why an episode ended.
 *
 * `stop`: the policy ended its turn and the environment had nothing to add. `length`: a limit of turns or tokens.
 * `context`: the model's context was full. `environment`: the environment ended it.
 */
export type StopReason = "stop" | "length" | "context" | "environment"

/** A token sequence, or the part of one that no earlier branch has. */
export interface Branch {
  /**
   * The earlier branch that this one leaves, after `length` tokens of its whole sequence. Absent: it begins by itself.
   */
  readonly parent?: { readonly branch: number; readonly length: number }
  /** Own tokens, which follow the parent's. */
  readonly tokens: Uint32Array
  /** {@link Producer} of each own token. */
  readonly producer: Uint8Array
  /** Log-probability of each sampled token at its turn's temperature; 0 at every other token. */
  readonly logprobs: Float32Array
  /** Version of the weights that sampled each token; 0 at every other token. */
  readonly versions: Uint32Array
}

/** One call of the sampler. */
export interface Turn {
  readonly branch: number
  /** The turn's tokens are the branch's own tokens `start` to `end - 1`. */
  readonly start: number
  readonly end: number
  readonly text: string
  readonly stopReason: "stop" | "length" | "context"
  /** Log-probabilities are those of the distribution at this temperature. */
  readonly temperature: number
  /** Reward that the environment gave for the turn. It is data: only `Reward.environment` makes it part of a reward. */
  readonly reward?: number
  readonly calls?: ReadonlyArray<ToolCall>
  readonly metrics?: Readonly<Record<string, number>>
  readonly seconds: { readonly sample: number; readonly environment: number }
}

export interface Trajectory {
  readonly taskId: string
  /** Position within the group, 0 to G-1. Together with the task and the run's seed it keys the random numbers. */
  readonly index: number
  readonly branches: Arr.NonEmptyReadonlyArray<Branch>
  /** Turns in the order in which they were sampled. "Per policy token" always means the turns' tokens in this order. */
  readonly turns: ReadonlyArray<Turn>
  /** Number of tokens of branch 0 that were given. The whole group shares them. */
  readonly promptLength: number
  readonly stopReason: StopReason
  /** Text after the prompt of the branch that holds the last turn. */
  readonly text: string
  /** Data that the environment passes to verifiers, for instance the final state. */
  readonly info: JsonObject
  readonly metrics: Readonly<Record<string, number>>
  readonly seconds: { readonly sample: number; readonly environment: number }
}

/** The G trajectories of one task, on which group-relative advantages are computed. */
export interface Group<out Data = unknown> {
  readonly task: Task<Data>
  /** Trajectories in the order of their index. There are fewer than requested if an environment failed. */
  readonly trajectories: ReadonlyArray<Trajectory>
  /** Draw of the task stream. A task drawn again has another cursor, hence other random numbers. */
  readonly cursor?: number
  /** Failures of environments, retries included, that explain missing trajectories. */
  readonly failures?: ReadonlyArray<EnvironmentError>
}

/** Position of a branch's first own token in its whole sequence. */
const offsetOf = ({ parent }: Branch): number => parent?.length ?? 0

const branchAt = ({ branches }: Pick<Trajectory, "branches">, branch: number, caller: string): Branch => {
  const found = branches[branch]
  if (found !== undefined) return found
  const expected = `an index from 0 to ${branches.length - 1}`
  throw new RangeError(
    `Trajectory.${caller}: branch is ${branch}; expected ${expected}. Take it from a turn or a span.`
  )
}

/** Returns all tokens of a branch, its parents' included. */
export const tokensOf = (trajectory: Pick<Trajectory, "branches">, branch: number): Uint32Array => {
  let part = branchAt(trajectory, branch, "tokensOf")
  if (part.parent === undefined) return part.tokens
  let end = offsetOf(part) + part.tokens.length
  const whole = new Uint32Array(end)
  for (;;) {
    const offset = offsetOf(part)
    if (end > offset) whole.set(part.tokens.subarray(0, end - offset), offset)
    if (part.parent === undefined) return whole
    end = Math.min(end, offset)
    part = trajectory.branches[part.parent.branch]!
  }
}

/** Counts the tokens of a branch's whole sequence that precede the episode's own text. */
const promptEnd = (trajectory: Omit<Trajectory, "text">, branch: number): number => {
  if (branch === 0) return trajectory.promptLength
  const { parent } = trajectory.branches[branch]!
  if (parent !== undefined) {
    const end = promptEnd(trajectory, parent.branch)
    if (parent.length >= end) return end
  }
  const first = spans(trajectory).find((span) => span.branch === branch)
  return first?.start ?? tokensOf(trajectory, branch).length
}

const refuse = (field: string, value: string, expected: string): never => {
  throw new RangeError(
    `Trajectory.make: ${field} is ${value}; expected ${expected}. Build trajectories with an Assembler.`
  )
}

const isIndex = (value: number, most: number): boolean => Number.isInteger(value) && value >= 0 && value <= most

const checkBranch = (branches: ReadonlyArray<Branch>, index: number, lengths: ReadonlyArray<number>): void => {
  const { parent, ...own } = branches[index]!
  const { length } = own.tokens
  for (const field of ["producer", "logprobs", "versions"] as const) {
    const have = own[field].length
    if (have !== length) refuse(`branches[${index}].${field}.length`, String(have), `${length}, the number of tokens`)
  }
  if (parent === undefined) return
  if (!isIndex(parent.branch, index - 1)) {
    refuse(`branches[${index}].parent.branch`, String(parent.branch), "the index of an earlier branch")
  }
  const whole = lengths[parent.branch]!
  if (!isIndex(parent.length, whole)) {
    refuse(`branches[${index}].parent.length`, String(parent.length), `0 to ${whole}, the parent's whole length`)
  }
}

const checkTurn = (turn: Turn, index: number, branches: ReadonlyArray<Branch>, used: Array<number>): void => {
  const branch = branches[turn.branch]
  if (branch === undefined) {
    return refuse(`turns[${index}].branch`, String(turn.branch), `0 to ${branches.length - 1}`)
  }
  const { end, start } = turn
  const from = used[turn.branch]!
  if (!isIndex(end, branch.tokens.length) || !isIndex(start, end) || start < from) {
    const span = `from ${start} to ${end}`
    refuse(`turns[${index}]`, span, `a span within ${from} to ${branch.tokens.length} of branch ${turn.branch}`)
  }
  for (let at = start; at < end; at++) {
    const producer = branch.producer[at]!
    if (producer !== Producer.Policy) {
      refuse(`branches[${turn.branch}].producer[${at}]`, String(producer), "that of the policy within a turn's span")
    }
  }
  used[turn.branch] = end
}

/** Throws if the parts contradict each other. */
const check = ({ branches, promptLength, turns }: Omit<Trajectory, "text">): void => {
  const lengths: Array<number> = []
  branches.forEach((branch, index) => {
    checkBranch(branches, index, lengths)
    lengths.push((branch.parent?.length ?? 0) + branch.tokens.length)
  })
  const [first] = branches
  if (first.parent !== undefined) refuse("branches[0].parent", "given", "none")
  // Tokens that the group shares precede everything that the policy wrote.
  const used = branches.map((_, index) => (index === 0 ? promptLength : 0))
  if (!isIndex(promptLength, first.tokens.length)) {
    refuse("promptLength", String(promptLength), `0 to ${first.tokens.length}, the tokens of branch 0`)
  }
  turns.forEach((turn, index) => checkTurn(turn, index, branches, used))
}

/**
 * Makes a trajectory from its parts, and decodes its text.
 *
 * @throws RangeError if a parent is later or too short, if spans overlap or descend, or if the policy did not produce a
 * token of a span.
 */
export const make = (parts: Omit<Trajectory, "text">, tokenizer: Tokenizer): Trajectory => {
  check(parts)
  const branch = parts.turns.at(-1)?.branch ?? 0
  const text = tokenizer.decode(tokensOf(parts, branch).subarray(promptEnd(parts, branch)))
  return { ...parts, text }
}

/** Tokens of one turn: positions `start` to `end - 1` of {@link tokensOf} its branch. */
export interface Span {
  readonly branch: number
  readonly start: number
  readonly end: number
}

/** Lists the spans of the turns, in sampling order. A turn without tokens has an empty span. */
export const spans = ({ branches, turns }: Pick<Trajectory, "branches" | "turns">): ReadonlyArray<Span> =>
  turns.map(({ branch, end, start }) => {
    const offset = offsetOf(branches[branch]!)
    return { branch, start: offset + start, end: offset + end }
  })

/** Counts the tokens that the policy produced, over all turns. */
export const policyTokens = ({ turns }: Pick<Trajectory, "turns">): number =>
  turns.reduce((sum, { end, start }) => sum + end - start, 0)

const gather = <Numbers extends Uint32Array | Float32Array>(
  { branches, turns }: Trajectory,
  field: (branch: Branch) => Numbers,
  into: (length: number) => Numbers
): Numbers => {
  const all = into(policyTokens({ turns }))
  let at = 0
  for (const { branch, end, start } of turns) {
    all.set(field(branches[branch]!).subarray(start, end), at)
    at += end - start
  }
  return all
}

const ids = (length: number): Uint32Array => new Uint32Array(length)

/** Returns the token ids that the policy produced, turn by turn. */
export const policyIds = (trajectory: Trajectory): Uint32Array =>
  gather<Uint32Array>(trajectory, ({ tokens }) => tokens, ids)

/** Returns the log-probability of each policy token at its turn's temperature, turn by turn. */
export const policyLogprobs = (trajectory: Trajectory): Float32Array =>
  gather<Float32Array>(
    trajectory,
    ({ logprobs }) => logprobs,
    (length) => new Float32Array(length)
  )

/** Returns the version of the weights that sampled each policy token, turn by turn. */
export const policyVersions = (trajectory: Trajectory): Uint32Array =>
  gather<Uint32Array>(trajectory, ({ versions }) => versions, ids)

/** Returns the token ids that the group was given: the first `promptLength` of branch 0. */
export const promptOf = ({ branches, promptLength }: Trajectory): Uint32Array =>
  branches[0].tokens.subarray(0, promptLength)

/** Joins the texts of the policy's turns with line breaks. Observations are left out. */
export const policyText = ({ turns }: Trajectory): string => turns.map(({ text }) => text).join("\n")

/** Returns the text of the policy's last turn. It is empty if there are no turns. */
export const lastText = ({ turns }: Trajectory): string => turns.at(-1)?.text ?? ""

/** Tells whether a limit of tokens or turns, or the model's context, ended the episode. */
export const isTruncated = ({ stopReason }: Trajectory): boolean => stopReason === "length" || stopReason === "context"

/**
 * Counts the versions of the weights from a token's sampling to `now`. Mean and maximum are over the policy's tokens; 0
 * if there are none.
 */
export const staleness = (trajectory: Trajectory, now: number): { readonly mean: number; readonly max: number } => {
  const versions = policyVersions(trajectory)
  let sum = 0
  let max = 0
  for (const version of versions) {
    sum += now - version
    max = Math.max(max, now - version)
  }
  return { mean: versions.length === 0 ? 0 : sum / versions.length, max }
}

export interface OfTextOptions {
  /** Default 0. */
  readonly index?: number
  /** Default `{}`. */
  readonly info?: JsonObject
  /** Texts of the policy's turns. Default: one turn, `text`. */
  readonly turns?: ReadonlyArray<string>
  /** Token ids that precede the policy's. Default: none. */
  readonly prompt?: Uint32Array
  /** Token ids of the policy, which the last turn holds. Default: one token that stands for all of the text. */
  readonly tokens?: Uint32Array
  /** Default `stop`. */
  readonly stopReason?: StopReason
}

/**
 * Makes a trajectory from text that was not sampled, so that verifiers can judge it.
 *
 * Log-probabilities are 0.
 *
 * @example
 * ```ts
 * const trajectory = Trajectory.ofText("#### 42", task)
 * const verdict = await verifier({ task, trajectory, signal: AbortSignal.timeout(5000) })
 * ```
 */
export const ofText = (text: string, task: Task<any>, options: OfTextOptions = {}): Trajectory => {
  const { info = {}, prompt = new Uint32Array(0), stopReason = "stop", turns = [text] } = options
  const own = options.tokens ?? new Uint32Array(turns.length === 0 ? 0 : 1)
  const tokens = Uint32Array.from([...prompt, ...own])
  const seconds = { sample: 0, environment: 0 }
  const branch: Branch = {
    tokens,
    producer: new Uint8Array(tokens.length).fill(Producer.Policy, prompt.length),
    logprobs: new Float32Array(tokens.length),
    versions: new Uint32Array(tokens.length)
  }
  return {
    taskId: task.id,
    index: options.index ?? 0,
    branches: [branch],
    turns: turns.map((said, turn) => {
      const last = turn === turns.length - 1
      return {
        branch: 0,
        start: prompt.length,
        end: last ? tokens.length : prompt.length,
        text: said,
        stopReason: last && stopReason !== "environment" ? stopReason : "stop",
        temperature: 1,
        seconds
      }
    }),
    promptLength: prompt.length,
    stopReason,
    text,
    info,
    metrics: {},
    seconds
  }
}
