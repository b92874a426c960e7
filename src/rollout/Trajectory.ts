/**
 * What happened in one episode: branches of tokens, and the turns in which the policy wrote some of them. An episode whose
 * context only grows has one branch. A context that was replaced begins another, which shares a prefix with an earlier one.
 *
 * The tokens of turns are the only targets of training; `producer` is provenance. Text is derived from token ids, never the
 * reverse. Read trajectories through the functions of this module.
 */
import type * as Arr from "effect/Array"
import type { JsonObject } from "effect/Schema"
import type { Task } from "../data/Task.ts"
import type { ToolCall } from "../text/Conversation.ts"
import type { Tokenizer } from "../text/Tokenizer.ts"
import type { EnvironmentError } from "./internal/EnvironmentError.ts"

/** Who produced a token. */
export const Producer = { Template: 0, Environment: 1, Policy: 2 } as const
export type Producer = (typeof Producer)[keyof typeof Producer]

/**
 * Why an episode ended: the policy ended its turn (`stop`) and the environment had nothing to add, a turn or token
 * limit (`length`), the model's context was full (`context`), the environment ended it (`environment`).
 */
export type StopReason = "stop" | "length" | "context" | "environment"

/** A token string, or the part of one that no earlier branch has. */
export interface Branch {
  /** The earlier branch that this one leaves after `length` tokens of its whole string. Absent: it begins by itself. */
  readonly parent?: { readonly branch: number; readonly length: number }
  /** Own tokens, which come after the parent's. */
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
  /** What the environment gave for it. It is data: only `Reward.environment` makes it part of a reward. */
  readonly reward?: number
  readonly calls?: ReadonlyArray<ToolCall>
  readonly metrics?: Readonly<Record<string, number>>
  readonly seconds: { readonly sample: number; readonly environment: number }
}

export interface Trajectory {
  readonly taskId: string
  /** Position within its group, 0 to G-1; with the task and the run's seed it keys the random numbers. */
  readonly index: number
  readonly branches: Arr.NonEmptyReadonlyArray<Branch>
  /** In the order in which they were sampled. "Per policy token" means everywhere: the turns' tokens in this order. */
  readonly turns: ReadonlyArray<Turn>
  /** The first `promptLength` tokens of branch 0 were given, and are shared by the whole group. */
  readonly promptLength: number
  readonly stopReason: StopReason
  /** Text after the prompt of the branch that holds the last turn. */
  readonly text: string
  /** What the environment wants its verifiers to see, for instance the final state. */
  readonly info: JsonObject
  readonly metrics: Readonly<Record<string, number>>
  readonly seconds: { readonly sample: number; readonly environment: number }
}

/** The G trajectories of one task: the unit on which group-relative advantages are computed. */
export interface Group<out Data = unknown> {
  readonly task: Task<Data>
  /** In the order of their index; fewer than asked for when an environment failed. */
  readonly trajectories: ReadonlyArray<Trajectory>
  /** Which draw of the task stream this is: a task drawn again has another cursor, hence other random numbers. */
  readonly cursor?: number
  /** Why trajectories are missing: their environment failed, retries included. */
  readonly failures?: ReadonlyArray<EnvironmentError>
}

/** Position of a branch's first own token in its whole string. */
const offsetOf = ({ parent }: Branch): number => parent?.length ?? 0

const branchAt = ({ branches }: Pick<Trajectory, "branches">, branch: number, caller: string): Branch => {
  const found = branches[branch]
  if (found !== undefined) return found
  const expected = `an index from 0 to ${branches.length - 1}`
  throw new RangeError(
    `Trajectory.${caller}: branch is ${branch}; expected ${expected}. Take it from a turn or a span.`
  )
}

/** All tokens of a branch, its parents' included. */
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

/** How much of a branch's whole string comes before what was said in the episode. */
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

/** Throws unless the parts hold together. */
const check = ({ branches, promptLength, turns }: Omit<Trajectory, "text">): void => {
  const lengths: Array<number> = []
  branches.forEach((branch, index) => {
    checkBranch(branches, index, lengths)
    lengths.push((branch.parent?.length ?? 0) + branch.tokens.length)
  })
  const [first] = branches
  if (first.parent !== undefined) refuse("branches[0].parent", "given", "none")
  // The tokens that the group shares come before everything that the policy wrote.
  const used = branches.map((_, index) => (index === 0 ? promptLength : 0))
  if (!isIndex(promptLength, first.tokens.length)) {
    refuse("promptLength", String(promptLength), `0 to ${first.tokens.length}, the tokens of branch 0`)
  }
  turns.forEach((turn, index) => checkTurn(turn, index, branches, used))
}

/**
 * A trajectory of its parts, with the text that its tokens stand for.
 *
 * @throws RangeError if the parts do not hold together: a parent that is not an earlier branch or too short, spans that
 * overlap or descend, a token of a span that the policy did not produce.
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

/** Spans of the turns, in the order in which they were sampled. A turn without tokens has an empty one. */
export const spans = ({ branches, turns }: Pick<Trajectory, "branches" | "turns">): ReadonlyArray<Span> =>
  turns.map(({ branch, end, start }) => {
    const offset = offsetOf(branches[branch]!)
    return { branch, start: offset + start, end: offset + end }
  })

/** How many tokens the policy produced: those of all turns. */
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

/** Token ids that the policy produced, turn by turn. */
export const policyIds = (trajectory: Trajectory): Uint32Array =>
  gather<Uint32Array>(trajectory, ({ tokens }) => tokens, ids)

/** Log-probability of each policy token at its turn's temperature, turn by turn. */
export const policyLogprobs = (trajectory: Trajectory): Float32Array =>
  gather<Float32Array>(
    trajectory,
    ({ logprobs }) => logprobs,
    (length) => new Float32Array(length)
  )

/** Version of the weights that sampled each policy token, turn by turn. */
export const policyVersions = (trajectory: Trajectory): Uint32Array =>
  gather<Uint32Array>(trajectory, ({ versions }) => versions, ids)

/** Token ids that the group was given: the first of branch 0. */
export const promptOf = ({ branches, promptLength }: Trajectory): Uint32Array =>
  branches[0].tokens.subarray(0, promptLength)

/** All that the policy wrote, one turn a line. What its environment said is left out. */
export const policyText = ({ turns }: Trajectory): string => turns.map(({ text }) => text).join("\n")

/** Text of the policy's last turn: its answer. Empty if there is no turn. */
export const lastText = ({ turns }: Trajectory): string => turns.at(-1)?.text ?? ""

/** Whether a limit of tokens or turns, or the model's context, ended the episode. */
export const isTruncated = ({ stopReason }: Trajectory): boolean => stopReason === "length" || stopReason === "context"

/** How many versions of the weights came between the sampling of the policy's tokens and `now`; 0 if there are none. */
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
  /** Token ids before the policy's. Default: none. */
  readonly prompt?: Uint32Array
  /** Token ids of the policy, which the last turn holds. Default: one, which stands for all of the text. */
  readonly tokens?: Uint32Array
  /** Default `stop`. */
  readonly stopReason?: StopReason
}

/**
 * A trajectory of text that was not sampled here, so that verifiers can judge it. Log-probabilities are 0.
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
