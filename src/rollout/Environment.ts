/**
 * How an episode of a task runs: single turn, multi-turn, or with tools.
 *
 * An episode is single-use: `start` makes a fresh one for every trajectory, and its scope ends with the episode.
 * `singleTurn` and `multiTurn` cover the common shapes. Implement {@link Environment} for any other.
 */
import * as Effect from "effect/Effect"
import type { JsonObject } from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { Message, Prompt, Task } from "../data/Task.ts"
import { EnvironmentError } from "./internal/EnvironmentError.ts"
import type { StopReason } from "./Trajectory.ts"

export { EnvironmentError } from "./internal/EnvironmentError.ts"

/** The policy's move in one turn. */
export interface Action {
  readonly text: string
  readonly tokens: Uint32Array
  readonly stopReason: "stop" | "length" | "context"
  /** Number of the turn in the episode, from 1. */
  readonly number: number
  /** Whether the limit of turns is reached. No turn follows, whatever the answer. */
  readonly last: boolean
}

/**
 * Content that the policy reads before its next turn: text, token ids or messages.
 *
 * Text and token ids are used as they are. The tokenizer's chat template renders messages (of a tool, of the user). It
 * also renders the end of the policy's turn if that turn was cut off.
 */
export type Observation = string | Uint32Array | ReadonlyArray<Message>

/** Optional fields of every answer. */
export interface Answered {
  /** Reward of the turn. It is data until a verifier uses it: see `Reward.environment`. */
  readonly reward?: number
  /** Metrics of the turn. The episode has them too, unless a later answer uses the same name. */
  readonly metrics?: Readonly<Record<string, number>>
}

/** An answer that ends the episode. */
export interface Done extends Answered {
  readonly done: true
  /**
   * `stop`: the policy ended its turn and there is nothing to add. `environment`: the environment cut the episode
   * short. A turn that was itself cut off keeps its own reason. Default `stop`.
   */
  readonly reason?: "stop" | "environment"
  /** Plain JSON for the verifiers. */
  readonly info?: JsonObject
}

/** An answer that appends an observation to the context. */
export interface Observed extends Answered {
  readonly done: false
  readonly observation: Observation
}

/**
 * An answer that replaces the context: the next turn is sampled after `context` alone.
 *
 * The prefix shared with earlier contexts is found by token ids. After a turn that filled the model's context, such an
 * answer lets the episode continue.
 */
export interface Replaced extends Answered {
  readonly done: false
  readonly context: Prompt
}

/** The environment's answer to a turn. */
export type Step = Done | Observed | Replaced

/** Facts that are known at the end of an episode. */
export interface Finished extends Answered {
  /** Joined with the last answer's `info`. Fields of the same name override it. */
  readonly info?: JsonObject
}

/** One run of a task, used once. */
export interface Episode {
  readonly step: (action: Action) => Effect.Effect<Step, EnvironmentError>
  /**
   * Tells verifiers what they need, at every end except a failure, before the scope closes. Its reward is added to the
   * last turn's.
   */
  readonly finish?: (stopReason: StopReason) => Effect.Effect<Finished, EnvironmentError>
}

/** Distinguishes an episode from others of its task. */
export interface EpisodeKey {
  /** Position of the trajectory within its group, from 0. */
  readonly index: number
  /**
   * Seed of the environment's random numbers, from 0 to 2^32 - 1. Each episode has another; a retry or a resume has the
   * same.
   */
  readonly seed: number
}

/** A kind of episode. `R` are the services that `prompt` and `start` need; an episode itself needs none. */
export interface Environment<in Data = unknown, out R = never> {
  readonly name: string
  /** Everything that changes results, for the run's record. Default: none. */
  readonly settings?: JsonObject
  /** Most policy tokens per turn. */
  readonly maxTokens: number
  /** Turns after which the episode ends with `length`. Default 1. */
  readonly maxTurns?: number
  /** Strings that end a turn, besides the tokenizer's end of text. */
  readonly stop?: ReadonlyArray<string>
  /** Makes the prompt that the policy sees, once for each group. Default: the task's own. */
  readonly prompt?: (task: Task<Data>) => Prompt | Effect.Effect<Prompt, EnvironmentError, R>
  readonly start: (task: Task<Data>, episode: EpisodeKey) => Effect.Effect<Episode, EnvironmentError, R | Scope.Scope>
}

/** A value, a promise of it, or an Effect. A throw, a rejection or a failure loses the episode. */
export type Awaitable<A, R = never> = A | Promise<A> | Effect.Effect<A, unknown, R>

/** Options that {@link singleTurn} and {@link multiTurn} share. */
export interface EnvironmentOptions<Data, R = never> {
  /** Everything that changes results, for the run's record. Default: none. */
  readonly settings?: JsonObject
  /** Most policy tokens per turn. */
  readonly maxTokens: number
  /** Strings that end a turn, besides the tokenizer's end of text. */
  readonly stop?: ReadonlyArray<string>
  /** Makes the prompt that the policy sees, once for each group. Default: the task's own. */
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

/** Makes an environment of one prompt and one completion. */
export const singleTurn = <Data = unknown, R = never>(options: SingleTurn<Data, R>): Environment<Data, R> => {
  const { name = "single turn", prompt, ...rest } = options
  return { name, ...rest, ...promptOf(name, prompt), maxTurns: 1, start: () => Effect.succeed(finished) }
}

/** A multi-turn episode's answer to a turn, and the state that it continues with. */
export type Answer<State> = Step & { readonly state?: State }

export interface MultiTurn<Data, State, R = never> extends EnvironmentOptions<Data, R> {
  readonly name: string
  readonly maxTurns: number
  readonly start: (task: Task<Data>, episode: EpisodeKey) => Awaitable<State, R>
  readonly step: (state: State, action: Action, task: Task<Data>) => Awaitable<Answer<State>, R>
  /** Tells verifiers what they need, at every end except a failure. */
  readonly finish?: (state: State, stopReason: StopReason, task: Task<Data>) => Awaitable<Finished, R>
  /** Cleans up at every end, failures and interruption included. */
  readonly close?: (state: State, task: Task<Data>) => Awaitable<unknown, R>
}

/**
 * Makes an environment of several turns that share a state.
 *
 * `start` makes the state. `step` answers each turn with an observation, another context or the end, and with the next
 * state. Without a next state the present one stays. Each function may be sync, async or an Effect with services. If
 * one throws or fails, the episode is lost, retried by the rollout, and counted.
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
