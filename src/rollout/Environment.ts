/**
 * How an episode of a task runs: single turn, multi-turn, with tools. An episode is single-use: `start` makes a fresh
 * one for every trajectory, and its scope ends with the episode. `singleTurn` and `multiTurn` cover the common shapes;
 * anything else implements {@link Environment} itself.
 */
import * as Effect from "effect/Effect"
import type { JsonObject } from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { Message, Prompt, Task } from "../data/Task.ts"
import { EnvironmentError } from "./internal/EnvironmentError.ts"
import type { StopReason } from "./Trajectory.ts"

export { EnvironmentError } from "./internal/EnvironmentError.ts"

/** What the policy did in one turn. */
export interface Action {
  readonly text: string
  readonly tokens: Uint32Array
  readonly stopReason: "stop" | "length" | "context"
  /** Which turn of the episode this is, from 1. */
  readonly number: number
  /** The limit of turns is reached: whatever the answer, there is no other turn. */
  readonly last: boolean
}

/**
 * What the policy reads before its next turn: text or token ids, as they are; or messages (of a tool, of the user), which
 * the tokenizer's chat template renders, the end of the policy's own turn included where it was cut off.
 */
export type Observation = string | Uint32Array | ReadonlyArray<Message>

/** What an answer may hold besides. */
export interface Answered {
  /** Data of the turn. A verifier makes it part of a reward: see `Reward.environment`. */
  readonly reward?: number
  /** Of the turn, and of the episode unless a later answer has the same name. */
  readonly metrics?: Readonly<Record<string, number>>
}

/** The end of the episode. */
export interface Done extends Answered {
  readonly done: true
  /**
   * `stop`: the policy ended its turn and there is nothing to add. `environment`: the environment cut the episode
   * short. A turn that was cut off itself keeps its own reason. Default `stop`.
   */
  readonly reason?: "stop" | "environment"
  /** Plain JSON for the verifiers. */
  readonly info?: JsonObject
}

/** An observation: it is appended to the context. */
export interface Observed extends Answered {
  readonly done: false
  readonly observation: Observation
}

/**
 * Another context: the next turn is sampled after `context` alone. The prefix that it shares with earlier contexts is found
 * by token ids. A turn that filled the model's context may be answered so, and the episode continues.
 */
export interface Replaced extends Answered {
  readonly done: false
  readonly context: Prompt
}

/** What the environment answers to a turn. */
export type Step = Done | Observed | Replaced

/** What is known at the end of an episode. */
export interface Finished extends Answered {
  /** Joined with the last answer's, over fields of the same name. */
  readonly info?: JsonObject
}

/** One run of a task, used once. */
export interface Episode {
  readonly step: (action: Action) => Effect.Effect<Step, EnvironmentError>
  /**
   * Called at every end but a failure, before the scope closes: what verifiers are to see. Its reward is added to the last
   * turn's.
   */
  readonly finish?: (stopReason: StopReason) => Effect.Effect<Finished, EnvironmentError>
}

/** Tells an episode from others of its task. */
export interface EpisodeKey {
  /** Position of the trajectory within its group, from 0. */
  readonly index: number
  /** For the environment's random numbers, from 0 to 2^32 - 1: another for every episode, the same after a retry or a resume. */
  readonly seed: number
}

/** `R`: the services that `prompt` and `start` need. An episode needs none: `start` gives it what it has. */
export interface Environment<in Data = unknown, out R = never> {
  readonly name: string
  /** Everything that changes results, for the run's record. Default: none. */
  readonly settings?: JsonObject
  /** Policy tokens per turn. */
  readonly maxTokens: number
  /** Turns after which the episode ends with `length`. Default 1. */
  readonly maxTurns?: number
  /** Strings that end a turn, besides the tokenizer's end of text. */
  readonly stop?: ReadonlyArray<string>
  /** The prompt that the policy sees, once for each group. Default: the task's own. */
  readonly prompt?: (task: Task<Data>) => Prompt | Effect.Effect<Prompt, EnvironmentError, R>
  readonly start: (task: Task<Data>, episode: EpisodeKey) => Effect.Effect<Episode, EnvironmentError, R | Scope.Scope>
}

/** A value, a promise of it, or an Effect. A throw, a rejection or a failure loses the episode. */
export type Awaitable<A, R = never> = A | Promise<A> | Effect.Effect<A, unknown, R>

/** Options that {@link singleTurn} and {@link multiTurn} share. */
export interface EnvironmentOptions<Data, R = never> {
  /** Everything that changes results, for the run's record. Default: none. */
  readonly settings?: JsonObject
  /** Policy tokens per turn. */
  readonly maxTokens: number
  /** Strings that end a turn, besides the tokenizer's end of text. */
  readonly stop?: ReadonlyArray<string>
  /** The prompt that the policy sees, once for each group. Default: the task's own. */
  readonly prompt?: (task: Task<Data>) => Awaitable<Prompt, R>
}

export interface SingleTurn<Data, R = never> extends EnvironmentOptions<Data, R> {
  /** Default `single turn`. */
  readonly name?: string
}

const settle = <A, R>(
  make: () => Awaitable<A, R>,
  lost: (cause: unknown) => EnvironmentError
): Effect.Effect<A, EnvironmentError, R> =>
  Effect.try({ try: make, catch: lost }).pipe(
    Effect.flatMap((value): Effect.Effect<A, EnvironmentError, R> => {
      if (Effect.isEffect(value)) return Effect.mapError(value as Effect.Effect<A, unknown, R>, lost)
      if (value instanceof Promise) return Effect.tryPromise({ try: () => value, catch: lost })
      return Effect.succeed(value as A)
    })
  )

const failure = (environment: string, task: Task) => (cause: unknown) =>
  cause instanceof EnvironmentError ? cause : new EnvironmentError({ environment, taskId: task.id, cause })

const promptOf = <Data, R>(
  name: string,
  prompt: EnvironmentOptions<Data, R>["prompt"]
): Pick<Environment<Data, R>, "prompt"> =>
  prompt === undefined ? {} : { prompt: (task) => settle(() => prompt(task), failure(name, task)) }

const finished: Episode = { step: () => Effect.succeed({ done: true }) }

/** One prompt, one completion: the policy's first turn is its last. */
export const singleTurn = <Data = unknown, R = never>(options: SingleTurn<Data, R>): Environment<Data, R> => {
  const { name = "single turn", prompt, ...rest } = options
  return { name, ...rest, ...promptOf(name, prompt), maxTurns: 1, start: () => Effect.succeed(finished) }
}

/** What a multi-turn episode answers to a turn, and the state that it continues with. */
export type Answer<State> = Step & { readonly state?: State }

export interface MultiTurn<Data, State, R = never> extends EnvironmentOptions<Data, R> {
  readonly name: string
  readonly maxTurns: number
  readonly start: (task: Task<Data>, episode: EpisodeKey) => Awaitable<State, R>
  readonly step: (state: State, action: Action, task: Task<Data>) => Awaitable<Answer<State>, R>
  /** Called at every end but a failure: what verifiers are to see. */
  readonly finish?: (state: State, stopReason: StopReason, task: Task<Data>) => Awaitable<Finished, R>
  /** Cleans up at every end, failures and interruption included. */
  readonly close?: (state: State, task: Task<Data>) => Awaitable<unknown, R>
}

/**
 * Turns against a state: `start` makes it, `step` answers each turn with an observation, another context or the end, and the
 * next state (the same one when left out). Each may be sync, async or an Effect with services. If one throws or fails, the
 * episode is lost, retried by the rollout, and counted.
 *
 * @example
 * ```ts
 * const guess = Environment.multiTurn<number, number>({
 *   name: "guess", maxTokens: 4, maxTurns: 5,
 *   start: () => 0,
 *   step: (tries, action, task) =>
 *     Number(action.text) === task.data
 *       ? { done: true, reward: 1 }
 *       : { done: false, observation: Number(action.text) < task.data ? "higher\n" : "lower\n", state: tries + 1 },
 *   finish: (tries) => ({ info: { tries } })
 * })
 * ```
 */
export const multiTurn = <Data, State, R = never>(options: MultiTurn<Data, State, R>): Environment<Data, R> => {
  const { close, finish, name, prompt, start, step, ...rest } = options
  return {
    name,
    ...rest,
    ...promptOf(name, prompt),
    start: Effect.fnUntraced(function* (
      task: Task<Data>,
      key: EpisodeKey
    ): Effect.fn.Return<Episode, EnvironmentError, R | Scope.Scope> {
      const services = yield* Effect.context<R>()
      const lost = failure(name, task)
      const run = <A>(make: () => Awaitable<A, R>): Effect.Effect<A, EnvironmentError> =>
        Effect.provideContext(settle(make, lost), services)
      let state: State
      const open = Effect.tap(
        run(() => start(task, key)),
        (made) => Effect.sync(() => void (state = made))
      )
      yield* Effect.acquireRelease(open, () =>
        close === undefined ? Effect.void : Effect.orDie(run(() => close(state, task)))
      )
      return {
        step: (action) =>
          Effect.map(
            run(() => step(state, action, task)),
            (answer) => {
              if (answer.state !== undefined) state = answer.state
              return answer
            }
          ),
        ...(finish === undefined ? {} : { finish: (stopReason) => run(() => finish(state, stopReason, task)) })
      }
    })
  }
}
