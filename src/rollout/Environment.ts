/**
 * How an episode of a task runs: single turn, multi-turn, with tools. An episode is single-use: `start` makes a fresh
 * one for every trajectory, and its scope ends with the episode. `singleTurn` and `multiTurn` cover the common shapes;
 * anything else implements {@link Environment} itself.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { Message, Prompt, Task } from "../data/Task.ts"

/** What the policy did in one turn. */
export interface Turn {
  readonly text: string
  readonly tokens: Uint32Array
  readonly stopReason: "stop" | "length" | "context"
}

/** What the environment answers: the end of the episode, or an observation after which the policy goes on. */
export type Step =
  | {
      readonly done: true
      /**
       * `stop`: the policy ended its turn and there is nothing to add. `environment`: the environment cut the episode
       * short. A turn that was cut off itself keeps its own reason. Default `stop`.
       */
      readonly reason?: "stop" | "environment"
      readonly info?: Readonly<Record<string, unknown>>
      readonly metrics?: Readonly<Record<string, number>>
    }
  | {
      readonly done: false
      /**
       * What the policy reads before its next turn: text or token ids, as they are; or messages (of a tool, of the user),
       * which the tokenizer's chat template renders, the end of the policy's own turn included where it was cut off.
       */
      readonly observation: string | Uint32Array | ReadonlyArray<Message>
    }

/** An episode that could not be run to its end, through no fault of the policy. */
export class EnvironmentError extends Schema.TaggedError<EnvironmentError>()("EnvironmentError", {
  environment: Schema.String,
  taskId: Schema.String,
  cause: Schema.Defect()
}) {
  override get message(): string {
    const cause = this.cause instanceof Error ? this.cause.message : String(this.cause)
    return `environment ${this.environment} failed on task ${this.taskId}: ${cause}`
  }
}

/** One run of a task, used once. */
export interface Episode {
  readonly step: (turn: Turn) => Effect.Effect<Step, EnvironmentError>
}

export interface Environment<in Data = unknown> {
  readonly name: string
  /** Policy tokens per turn. */
  readonly maxTokens: number
  /** Turns after which the episode ends with `length`. Default 1. */
  readonly maxTurns?: number
  /** Strings that end a turn, besides the tokenizer's end of text. */
  readonly stop?: ReadonlyArray<string>
  /** The prompt the policy sees; by default the task's own. */
  readonly prompt?: (task: Task<Data>) => Prompt
  readonly start: (task: Task<Data>) => Effect.Effect<Episode, EnvironmentError, Scope.Scope>
}

const finished: Episode = { step: () => Effect.succeed({ done: true }) }

/** One prompt, one completion: the policy's first turn is its last. */
export const singleTurn = <Data = unknown>(options: {
  readonly name?: string
  /** Longest completion. */
  readonly maxTokens: number
  readonly stop?: ReadonlyArray<string>
  readonly prompt?: (task: Task<Data>) => Prompt
}): Environment<Data> => ({ name: "single turn", ...options, maxTurns: 1, start: () => Effect.succeed(finished) })

/** What a multi-turn episode answers to a turn, and the state it goes on with. */
export type Answer<State> = Step & { readonly state?: State }

/**
 * Turns against a state: `start` makes it, `step` answers each turn with an observation or the end, and the next state
 * (the same one when left out). `step` may throw or fail: the episode then is lost, retried by the rollout, and counted.
 *
 * ```ts
 * const guess = Environment.multiTurn<number, number>({
 *   name: "guess", maxTokens: 4, maxTurns: 5,
 *   start: () => 0,
 *   step: (tries, turn, task) =>
 *     Number(turn.text) === task.data
 *       ? { done: true, info: { tries } }
 *       : { done: false, observation: Number(turn.text) < task.data ? "higher\n" : "lower\n", state: tries + 1 }
 * })
 * ```
 */
export const multiTurn = <Data, State>(options: {
  readonly name: string
  readonly maxTokens: number
  readonly maxTurns: number
  readonly stop?: ReadonlyArray<string>
  readonly prompt?: (task: Task<Data>) => Prompt
  readonly start: (task: Task<Data>) => State
  readonly step: (
    state: State,
    turn: Turn,
    task: Task<Data>
  ) => Answer<State> | Promise<Answer<State>> | Effect.Effect<Answer<State>, unknown>
}): Environment<Data> => {
  const { start, step, ...rest } = options
  return {
    ...rest,
    start: (task) => {
      const lost = (cause: unknown) => new EnvironmentError({ environment: options.name, taskId: task.id, cause })
      return Effect.try({ try: () => start(task), catch: lost }).pipe(
        Effect.map((initial): Episode => {
          let state = initial
          return {
            step: (turn) =>
              Effect.try({ try: () => step(state, turn, task), catch: lost }).pipe(
                Effect.flatMap((answer): Effect.Effect<Answer<State>, EnvironmentError> => {
                  if (Effect.isEffect(answer)) return Effect.mapError(answer, lost)
                  if (answer instanceof Promise) return Effect.tryPromise({ try: () => answer, catch: lost })
                  return Effect.succeed(answer)
                }),
                Effect.map((answer) => {
                  if (answer.state !== undefined) state = answer.state
                  return answer
                })
              )
          }
        })
      )
    }
  }
}
