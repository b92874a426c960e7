/**
 * What happened in one episode, as token ids with the log-probability and the producer of each. Masks come from
 * `producer`, never from comparing ids; `text` is derived from the ids, never the reverse.
 */
import type { EnvironmentError } from "./Environment.ts"
import type { Task } from "../data/Task.ts"

/** Who produced a token. Only `Policy` tokens are ever trained on. */
export const Producer = { Template: 0, Environment: 1, Policy: 2 } as const
export type Producer = (typeof Producer)[keyof typeof Producer]

/**
 * Why an episode ended: the policy ended its turn (`stop`) and the environment had nothing to add, a turn or token
 * limit (`length`), the model's context was full (`context`), the environment ended it (`environment`).
 */
export type StopReason = "stop" | "length" | "context" | "environment"

export interface Trajectory {
  readonly taskId: string
  /** Position within its group, 0 to G-1; with the task and the run's seed it keys the random numbers. */
  readonly index: number
  /** All tokens of the episode: prompt, policy turns, observations. */
  readonly tokens: Uint32Array
  /** {@link Producer} of each token. */
  readonly producer: Uint8Array
  /** Log-probability of each policy token at the sampling temperature; 0 at every other token. */
  readonly logprobs: Float32Array
  /** The first `promptLength` tokens were given, and are shared by the whole group. */
  readonly promptLength: number
  readonly stopReason: StopReason
  /** Text of everything after the prompt. */
  readonly text: string
  /** Text of each policy turn, in order. A single-turn episode has one. */
  readonly turns: ReadonlyArray<string>
  /** What the environment wants its verifiers to see (final state, tool log): plain, cloneable data. */
  readonly info: Readonly<Record<string, unknown>>
  readonly metrics: Readonly<Record<string, number>>
  readonly seconds: { readonly sample: number; readonly environment: number }
  /** Version of the weights that sampled the first policy token; staleness is the difference at the update. */
  readonly policyVersion: number
}

/** Tokens of one turn of the policy: positions `start` to `end - 1` of {@link tokensOf} its branch. */
export interface Span {
  readonly branch: number
  readonly start: number
  readonly end: number
}

/**
 * Spans of the policy's tokens, in the order in which they were sampled. "Per policy token" means everywhere: the tokens
 * of these spans in this order.
 */
export const spans = (trajectory: Trajectory): ReadonlyArray<Span> => {
  const { producer, promptLength } = trajectory
  const found: Array<Span> = []
  for (let end = promptLength; end < producer.length;) {
    const start = end++
    if (producer[start] !== Producer.Policy) continue
    while (end < producer.length && producer[end] === Producer.Policy) end++
    found.push({ branch: 0, start, end })
  }
  return found
}

/** How many tokens the policy produced. */
export const policyTokens = (trajectory: Trajectory): number =>
  spans(trajectory).reduce((sum, { end, start }) => sum + end - start, 0)

/** All tokens of a branch, from the first of its prompt. */
export const tokensOf = (trajectory: Trajectory, branch: number): Uint32Array => {
  if (branch !== 0)
    throw new RangeError(`Trajectory.tokensOf: branch is ${branch}; expected 0. Give an index of a branch.`)
  return trajectory.tokens
}

/** Token ids that the group was given, the first of branch 0. */
export const promptOf = (trajectory: Trajectory): Uint32Array =>
  tokensOf(trajectory, 0).subarray(0, trajectory.promptLength)

/** Token ids that the policy produced, in the order of {@link spans}. */
export const policyIds = (trajectory: Trajectory): Uint32Array =>
  Uint32Array.from(
    spans(trajectory).flatMap(({ branch, end, start }) => Array.from(tokensOf(trajectory, branch).subarray(start, end)))
  )

/** Log-probability of each policy token at its turn's temperature, in the order of {@link spans}. */
export const policyLogprobs = (trajectory: Trajectory): Float32Array =>
  Float32Array.from(spans(trajectory).flatMap(({ end, start }) => Array.from(trajectory.logprobs.subarray(start, end))))

/** All that the policy wrote, one turn a line. What its environment said is left out. */
export const policyText = ({ turns }: Trajectory): string => turns.join("\n")

/** Text of the policy's last turn: its answer. Empty if there is no turn. */
export const lastText = ({ turns }: Trajectory): string => turns.at(-1) ?? ""

/** Whether a limit of tokens or turns, or the model's context, ended the episode. */
export const isTruncated = ({ stopReason }: Trajectory): boolean => stopReason === "length" || stopReason === "context"

/** Versions of the weights between the sampling of each policy token and `now`; 0 if there is none. */
export const staleness = (trajectory: Trajectory, now: number): { readonly mean: number; readonly max: number } => {
  const behind = policyTokens(trajectory) === 0 ? 0 : now - trajectory.policyVersion
  return { mean: behind, max: behind }
}

export interface OfTextOptions {
  /** Default 0. */
  readonly index?: number
  /** Default `{}`. */
  readonly info?: Readonly<Record<string, unknown>>
  /** Texts of the policy's turns. Default: one turn, `text`. */
  readonly turns?: ReadonlyArray<string>
  /** Token ids before the policy's. Default: none. */
  readonly prompt?: Uint32Array
  /** Token ids of the policy. Default: one, which stands for all of the text. */
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
  const { prompt = new Uint32Array(0), tokens = new Uint32Array(1) } = options
  const all = Uint32Array.from([...prompt, ...tokens])
  return {
    taskId: task.id,
    index: options.index ?? 0,
    tokens: all,
    producer: Uint8Array.from(all, (_, at) => (at < prompt.length ? Producer.Template : Producer.Policy)),
    logprobs: new Float32Array(all.length),
    promptLength: prompt.length,
    stopReason: options.stopReason ?? "stop",
    text,
    turns: options.turns ?? [text],
    info: options.info ?? {},
    metrics: {},
    seconds: { sample: 0, environment: 0 },
    policyVersion: 0
  }
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
