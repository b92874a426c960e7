/** One episode: turns of the policy and answers of the environment, until one of them or a limit ends it. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import type { Task } from "../../data/Task.ts"
import type { EngineError } from "../../engine/EngineError.ts"
import type { Completion } from "../../engine/Sampler.ts"
import type { Tokenizer } from "../../text/Tokenizer.ts"
import * as Assembler from "../Assembler.ts"
import type { Action, Environment, EpisodeKey, Step } from "../Environment.ts"
import type { StopReason, Trajectory } from "../Trajectory.ts"
import type { EnvironmentError } from "./EnvironmentError.ts"
import { type Context, observed, promptTokens } from "./observation.ts"

/** Settings that the episodes of a group share. */
export interface Setting<in out Data, out R> {
  readonly environment: Environment<Data, R>
  readonly task: Task<Data>
  readonly tokenizer: Tokenizer
  readonly contextLength: number
  readonly temperature: number
  /** The group's prompt. */
  readonly given: Context
  /** Samples one turn of the trajectory `index`, after `turns` others. */
  readonly sample: (context: Uint32Array, turns: number, index: number) => Effect.Effect<Completion, EngineError>
  readonly lost: (cause: unknown) => EnvironmentError
  /** Bounds the time of the environment's code, and turns its defects into failures of the episode. */
  readonly guarded: <A, R2>(
    run: () => Effect.Effect<A, EnvironmentError, R2>,
    awaited: string
  ) => Effect.Effect<A, EnvironmentError, R2>
}

/** A completion and the seconds that its call took. */
export interface First {
  readonly completion: Completion
  readonly seconds: number
}

const timed = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<readonly [A, number], E, R> =>
  Effect.suspend(() => {
    const start = performance.now()
    return Effect.map(effect, (value) => [value, (performance.now() - start) / 1000] as const)
  })

/** Builds the next turn's context, or says why there is none. */
const following = (
  { contextLength, tokenizer }: Pick<Setting<never, never>, "contextLength" | "tokenizer">,
  context: Context,
  action: Action,
  step: Step
): Context | StopReason => {
  if (step.done) return action.stopReason === "stop" ? (step.reason ?? "stop") : action.stopReason
  const replaces = "context" in step
  if (!replaces && action.stopReason === "context") return "context"
  if (action.last) return "length"
  const next = replaces
    ? { asked: step.context, tokens: promptTokens(step.context, tokenizer), producers: new Uint8Array(0) }
    : observed(context, action, step.observation, tokenizer)
  if (next.tokens.length === 0) throw new Error("the context of a step has 0 tokens; expected at least 1")
  // The policy saw none of it, so the episode ends before it.
  return next.tokens.length >= contextLength ? "context" : next
}

const isJson = Schema.is(Schema.Json)

/** Refuses data that a process boundary or JSON would lose: verifiers may run elsewhere, and records are JSON. */
const plain = (info: Schema.JsonObject): Schema.JsonObject => {
  const wrong = Object.keys(info).find((field) => !isJson(info[field]))
  if (wrong === undefined) return info
  const expected = "null, booleans, finite numbers, text, lists and records of them"
  throw new TypeError(`info.${wrong} is not plain JSON; expected ${expected}. Convert it in the environment.`)
}

const turnsOf = Effect.fnUntraced(function* <Data, R>(
  setting: Setting<Data, R>,
  first: First,
  key: EpisodeKey
): Effect.fn.Return<Trajectory, EnvironmentError | EngineError, R | Scope.Scope> {
  const { environment, given, guarded, lost, task, temperature, tokenizer } = setting
  const { maxTurns = 1 } = environment
  const assembler = Assembler.open(task, key.index, given.tokens, tokenizer)
  const [running, startSeconds] = yield* timed(guarded(() => environment.start(task, key), "start"))
  let context = given
  let { completion, seconds } = first
  const metrics: Record<string, number> = {}
  for (let number = 1; ; number++) {
    const { stopReason, tokens } = completion
    const turn = assembler.sampled(context.tokens, completion, { temperature, seconds, producers: context.producers })
    const action = { text: tokenizer.decode(tokens), tokens, stopReason, number, last: number >= maxTurns }
    const [step, stepSeconds] = yield* timed(guarded(() => running.step(action), `turn ${number}`))
    assembler.answered(turn, { ...answeredOf(step), seconds: stepSeconds })
    Object.assign(metrics, step.metrics)
    const next = yield* Effect.try({ try: () => following(setting, context, action, step), catch: lost })
    if (typeof next === "string") {
      const { finish } = running
      const [end, endSeconds] =
        finish === undefined ? [{}, 0] : yield* timed(guarded(() => finish.call(running, next), "finish"))
      const info = yield* Effect.try({
        try: () => plain({ ...(step.done ? step.info : {}), ...end.info }),
        catch: lost
      })
      return assembler.end({
        stopReason: next,
        info,
        metrics: { ...metrics, ...end.metrics },
        seconds: startSeconds + endSeconds,
        ...(end.reward === undefined ? {} : { reward: end.reward })
      })
    }
    context = next
    ;[completion, seconds] = yield* timed(setting.sample(context.tokens, number, key.index))
  }
})

const answeredOf = ({ metrics, reward }: Step) => ({
  ...(reward === undefined ? {} : { reward }),
  ...(metrics === undefined ? {} : { metrics })
})

/**
 * Runs one episode from its first completion. Its scope is closed at the end. If the environment cannot close, the
 * episode is lost.
 */
export const episode = <Data, R>(
  setting: Setting<Data, R>,
  first: First,
  key: EpisodeKey
): Effect.Effect<Trajectory, EnvironmentError | EngineError, R> =>
  Effect.acquireUseRelease(
    Scope.make(),
    (scope) => Scope.provide(turnsOf(setting, first, key), scope),
    (scope, exit) => Scope.close(scope, exit).pipe(Effect.catchDefect((defect) => Effect.fail(setting.lost(defect))))
  )
